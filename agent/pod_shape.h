// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "vmpool/base/result.h"

namespace granary::agent {

// What a pod's limits ask of its guest; 0: no limit is known.
struct PodNeeds {
  uint64_t memory_bytes = 0;
  unsigned vcpus = 0;

  // From CFS quota and period in microseconds (a period of 0 is 100 ms): as many vCPUs as can use the quota up.
  static unsigned vcpus_of(int64_t quota_us, int64_t period_us);
};

struct PoolShape {
  std::string pool;
  uint64_t memory_bytes = 0;
  unsigned vcpus = 0;
};

// What of a shape's memory is left for a pod: the guest's kernel and init have the rest.
uint64_t memory_for_pod(uint64_t shape_bytes);

// The pool with the least memory, then the fewest vCPUs, that has room for the pod; of equals the first. A pod that asks for
// nothing gets the first. `shapes` is not empty. kInvalidArgument: none has room; says what the largest has.
Result<std::string> smallest_fit(std::span<const PoolShape> shapes, const PodNeeds& needs);
// kInvalidArgument: the pod has no room in this pool, which was chosen for it.
Status check_fit(const PoolShape& shape, const PodNeeds& needs);

}  // namespace granary::agent
