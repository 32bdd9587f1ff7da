// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <optional>
#include <set>

#include "vmpool/base/fd.h"

namespace granary::spawn {

// The namespaces that all VMMs share, made once and kept as descriptors:
//   mount  an empty, read-only tmpfs is the root, the host's tree is detached (pivot_root(2)); nothing is mounted in
//          the host's tree for it, not even for a moment
//   net    no device but a loopback that is down
//   ipc    nothing; uts: the host name "granary-vmm"
// They live as long as a descriptor of them or a process in them.
struct JailNamespaces {
  // Needs CAP_SYS_ADMIN. Errors: the errno of the step that failed, with its name and what to do.
  static Result<JailNamespaces> create();

  Fd mount;
  Fd net;
  Fd ipc;
  Fd uts;
};

// Numbers that serve as user and as group id of one VMM each.
struct UidRange {
  // Above every range that systemd and container engines hand out and below the 31-bit edge
  // (https://systemd.io/UIDS-GIDS/, "unused").
  static constexpr uint32_t kDefaultBase = 0x7000'0000;
  static constexpr uint32_t kDefaultCount = 65'536;
  uint32_t base = kDefaultBase;
  uint32_t count = kDefaultCount;
};

// Gives every live VMM a uid of its own. A uid is free again only when its process was reaped; freed ones are used as
// late as possible. A uid of which any process of this host lives is left out: VMMs that outlived an earlier spawner,
// or another spawner's.
class UidSlots {
 public:
  // The first uid given is the range's number `first` (modulo its size). Two spawners that start at different places do
  // not meet between a look at who has a uid and its use. kInvalidArgument: a range that holds root, ends above
  // 2^31 - 1 or is empty.
  static Result<UidSlots> create(UidRange range, uint32_t first = 0);

  // EUSERS: none is free.
  Result<uid_t> take();
  void give_back(uid_t uid) { taken_.erase(uid); }
  [[nodiscard]] size_t taken() const { return taken_.size(); }

 private:
  UidSlots(UidRange range, uint32_t first) : range_(range), next_(first % range.count) {}

  UidRange range_;
  uint32_t next_;  // offset in the range
  std::set<uid_t> taken_;
};

// What start_child() locks a process into.
struct Jail {
  const JailNamespaces* namespaces = nullptr;
  uid_t uid = 0;
  bool core_scheduling = false;  // control::kSpawnCoreScheduling
  // Bits of the capabilities that are left to it; none for a VMM. A process with some has a uid of 0 and the limits of
  // files and threads of the spawner.
  uint64_t kept_capabilities = 0;
};

// A failed step of a process's birth. Lies in memory that the child shares, so it is plain.
struct FailedStep {
  const char* step = nullptr;  // nullptr: none
  int error = 0;
  const char* remedy = "";
};

// Locks the calling process in for good: core-scheduling cookie, namespaces, umask, limits, no groups, uid and gid, no capabilities but the kept ones
// (bounding set included), no_new_privs. Its own pid namespace it must have been born with. False with `failed` filled in.
//
// For a child that shares its parent's memory until exec: allocates nothing, and system calls that the C library would
// make for all threads are made directly. (libcap-ng is no help here: it reads /proc, which is gone by now, through
// stdio.)
bool enter_jail(const Jail& jail, FailedStep& failed);

}  // namespace granary::spawn
