// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <deque>
#include <functional>
#include <map>
#include <optional>

#include "vmpool/base/control_protocol.h"
#include "vmpool/base/event_loop.h"
#include "vmpool/spawn/jail.h"
#include "vmpool/spawn/run_directory.h"

namespace granary::spawn {

// What every VMM is started from and in, opened once.
struct VmmFiles {
  Fd executable;  // granary-vmm
  Fd kvm;         // /dev/kvm
  Fd null;        // /dev/null
  JailNamespaces jail;
};

// A live VMM process and what lets a restarted agent take it up again.
struct Vm {
  pid_t pid = 0;
  Fd pidfd;
  Fd control;  // the agent's end of its control socket
  Fd status;   // its status page
  uid_t uid = 0;
};

// The VMM processes of this spawner and the exit records of those that ended: the newest kRecordLimit, until forgotten.
// It is their parent and only reaper. Belongs to the event loop's thread.
class VmTable {
 public:
  static constexpr size_t kRecordLimit = 4096;
  using OnEnded = std::function<void(const control::VmRecord&)>;

  // `on_ended` is called for each VMM after it is reaped and its socket path is gone. Numbers start after `last_used`.
  VmTable(EventLoop& loop, VmmFiles files, UidSlots uids, const RunDirectory& run, VmId last_used, OnEnded on_ended);
  ~VmTable();

  // `cgroup`: directory of a cgroup v2 group or -1. On failure nothing stays behind. EUSERS: no uid is left.
  Result<VmId> spawn(int cgroup, bool core_scheduling);
  // Watches a VM that an earlier spawner left: its number is free, yet below those that spawn() will give. kInvalidArgument
  // otherwise.
  Status take(VmId id, Vm vm);
  // kCloneUnknown: never spawned; kCloneGone: ended (the message says how).
  [[nodiscard]] Result<const Vm*> live(VmId vm) const;
  // True: killed, `on_ended` follows; false: had ended before. kCloneUnknown.
  Result<bool> kill(VmId vm);
  void kill_all();
  // Drops an exit record; kInvalidArgument for a live VM. Idempotent.
  Status forget(VmId vm);

  // Live VMs first, then the newest exit records.
  [[nodiscard]] control::VmList list() const;
  // Both by their numbers, from the first that is greater.
  [[nodiscard]] control::VmList list_after(VmId id) const;
  [[nodiscard]] size_t live_count() const { return live_.size(); }

 private:
  struct Entry {
    Vm vm;
    EventLoop::Token watch = 0;
  };

  Result<Vm> start(VmId id, const Jail& jail, int cgroup);
  // The process was reaped, or never was.
  void free_names(VmId id, uid_t uid);
  void reap(VmId id);
  void remember(const control::VmRecord& record);

  EventLoop& loop_;
  VmmFiles files_;
  UidSlots uids_;
  const RunDirectory& run_;
  VmId last_;
  OnEnded on_ended_;
  std::map<VmId, Entry> live_;
  std::map<VmId, control::VmRecord> ended_;
  std::deque<VmId> ended_order_;
};

}  // namespace granary::spawn
