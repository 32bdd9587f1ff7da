// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>

#include <cerrno>
#include <string>

#include "vmpool/spawn/jail.h"

namespace granary::spawn {
namespace {

constexpr uint64_t kHighestUid = 0x7fff'ffff;

// The kernel looks the uid up in a hash table first, so this costs next to nothing for one that nobody has.
bool somebody_has(uid_t uid) {
  errno = 0;
  return ::getpriority(PRIO_USER, uid) != -1 || errno != ESRCH;
}

}  // namespace

Result<UidSlots> UidSlots::create(UidRange range, uint32_t first) {
  if (range.base > 0 && range.count > 0 && uint64_t{range.base} + range.count - 1 <= kHighestUid) {
    return UidSlots(range, first);
  }
  return Error(Errc::kInvalidArgument, "uids " + std::to_string(range.base) + " and the next " +
                                           std::to_string(range.count) +
                                           ": at least one is needed, from 1 to 2147483647 (--uid-base, --uid-count)");
}

Result<uid_t> UidSlots::take() {
  for (uint32_t tried = 0; tried < range_.count; ++tried) {
    const uid_t uid = range_.base + next_;
    next_ = (next_ + 1) % range_.count;
    if (taken_.contains(uid) || somebody_has(uid)) continue;
    taken_.insert(uid);
    return uid;
  }
  return Error::from_errno(EUSERS, "a uid for a VMM: all " + std::to_string(range_.count) + " from " +
                                       std::to_string(range_.base) + " on are in use; end VMs or raise --uid-count");
}

}  // namespace granary::spawn
