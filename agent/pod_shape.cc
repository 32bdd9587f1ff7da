// SPDX-License-Identifier: Apache-2.0
#include "agent/pod_shape.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "vmpool/base/units.h"

namespace granary::agent {
namespace {

constexpr int64_t kDefaultPeriodUs = 100'000;
// Of 512 MiB and 2 GiB Debian's kernel leaves MemAvailable 84 and 200 MiB less (docs/specification.md): its code, slabs and
// init are the same in each, page structures and reserves grow with the memory.
constexpr uint64_t kGuestBytes = 72 * kMiB;
constexpr uint64_t kGuestShare = 16;

bool has_room(const PoolShape& shape, const PodNeeds& needs) {
  return memory_for_pod(shape.memory_bytes) >= needs.memory_bytes && shape.vcpus >= needs.vcpus;
}

std::string text_of(const PodNeeds& needs) {
  return "the pod's limits ask for " + std::to_string(needs.memory_bytes / kMiB) + " MiB and " +
         std::to_string(needs.vcpus) + " vCPUs";
}

std::string text_of(const PoolShape& shape) {
  return "pool " + shape.pool + " has " + std::to_string(memory_for_pod(shape.memory_bytes) / kMiB) +
         " MiB for pods (`memory` less what the guest's kernel needs) and " + std::to_string(shape.vcpus) + " vCPUs";
}

}  // namespace

unsigned PodNeeds::vcpus_of(int64_t quota_us, int64_t period_us) {
  if (quota_us <= 0) return 0;
  const int64_t period = period_us > 0 ? period_us : kDefaultPeriodUs;
  const int64_t whole = quota_us / period + (quota_us % period != 0 ? 1 : 0);
  return static_cast<unsigned>(std::min<int64_t>(whole, std::numeric_limits<unsigned>::max()));
}

uint64_t memory_for_pod(uint64_t shape_bytes) {
  const uint64_t taken = kGuestBytes + shape_bytes / kGuestShare;
  return shape_bytes > taken ? shape_bytes - taken : 0;
}

Result<std::string> smallest_fit(std::span<const PoolShape> shapes, const PodNeeds& needs) {
  if (needs.memory_bytes == 0 && needs.vcpus == 0) return shapes.front().pool;
  const auto size = [](const PoolShape& shape) { return std::tuple(shape.memory_bytes, shape.vcpus); };
  const PoolShape* best = nullptr;
  for (const PoolShape& shape : shapes) {
    if (has_room(shape, needs) && (best == nullptr || size(shape) < size(*best))) best = &shape;
  }
  if (best != nullptr) return best->pool;
  const PoolShape& largest = *std::ranges::max_element(shapes, {}, size);
  return Error(Errc::kInvalidArgument, text_of(needs) + ", and no pool has room for it; the largest, " +
                                           text_of(largest) + "; add a larger pool or lower the limits");
}

Status check_fit(const PoolShape& shape, const PodNeeds& needs) {
  if (has_room(shape, needs)) return ok();
  return Error(Errc::kInvalidArgument,
               text_of(needs) + ", but " + text_of(shape) + "; choose another pool or lower the limits");
}

}  // namespace granary::agent
