// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/guest/guest.pb.h"
#include "vmpool/guest/init/system.h"

namespace granary::guest {

// The clone's identity: absent until every step of it succeeded, and then the same for good. While it is absent nothing
// of a workload may run. All clones of a template start with none.
class GuestIdentity {
 public:
  explicit GuestIdentity(System& system) : system_(system) {}

  [[nodiscard]] bool applied() const { return !clone_uuid_.empty(); }

  // IdentityApplied; or Failure: INVALID before anything was changed (a field out of bounds, another identity in
  // place), IDENTITY naming the step and its errno, or NETWORK naming what the kernel
  // refused. A failed identity may be sent again. The identity that is in place
  // already is answered without being applied again.
  v1::Reply apply(const v1::Identity& identity);

 private:
  [[nodiscard]] Status check(const v1::Identity& identity) const;
  Status apply_steps(const v1::Identity& identity);

  System& system_;
  std::string clone_uuid_;
  std::string boot_id_;
};

}  // namespace granary::guest
