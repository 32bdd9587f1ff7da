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
  Fd fsd;         // granary-fsd; none: there are no file servers
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

// A file server that was just started, with the other ends of its sockets.
struct NewFsd {
  pid_t pid = 0;
  Fd fuse = {};     // for its VMM
  Fd control = {};  // of exports
  Fd pidfd = {};
};

// The VMM processes of this spawner and the exit records of those that ended: the newest kRecordLimit, until forgotten.
// It is their parent and only reaper, and that of their file servers, at most one for each VM, which end with it.
// Belongs to the event loop's thread.
class VmTable {
 public:
  static constexpr size_t kRecordLimit = 4096;
  using OnEnded = std::function<void(const control::VmRecord&)>;

  // `on_ended` is called for each VMM after it and its file server are reaped and their socket paths are gone. Numbers
  // start after `last_used`.
  VmTable(EventLoop& loop, VmmFiles files, UidSlots uids, const RunDirectory& run, VmId last_used, OnEnded on_ended);
  ~VmTable();

  // `cgroup`: directory of a cgroup v2 group or -1. On failure nothing stays behind. EUSERS: no uid is left.
  Result<VmId> spawn(int cgroup, bool core_scheduling);
  // kNotSupported: without --fsd; kAlreadyRunning: the VM has one; the errors of live().
  Result<NewFsd> spawn_fsd(VmId vm, int cgroup);
  // Watches a VM that an earlier spawner left: its number is free, yet below those that spawn() will give.
  // kInvalidArgument otherwise.
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
  struct Fsd {
    pid_t pid = 0;
    Fd pidfd = {};
    EventLoop::Token watch = 0;
  };
  struct Entry {
    Vm vm;
    EventLoop::Token watch = 0;
    std::optional<Fsd> fsd = {};
    bool killed = false;
    std::optional<control::VmRecord> record = {};  // the VMM is reaped, its file server not yet
  };

  Result<Vm> start(VmId id, const Jail& jail, int cgroup);
  // The process was reaped, or never was.
  void free_names(VmId id, uid_t uid);
  void reap(VmId id);
  Status watch_fsd(VmId id, NewFsd& made);
  void reap_fsd(VmId id);
  void end(VmId id, const control::VmRecord& record);
  static void kill_processes(Entry& entry);
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
