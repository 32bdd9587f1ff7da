// SPDX-License-Identifier: Apache-2.0
#include "vmpool/spawn/vm_table.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>

#include "vmpool/base/fault.h"
#include "vmpool/base/log.h"
#include "vmpool/spawn/child_setup.h"

namespace granary::spawn {
namespace {

constexpr int kLostExitCode = 137;

Error unknown(VmId vm) { return {Errc::kCloneUnknown, "VM " + std::to_string(vm.value) + " at the spawner"}; }

void signal_kill(const Fd& pidfd) {
  // ESRCH: it ended by itself; its pidfd says so to the loop.
  ::syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
}

// A page whose size its writer can no longer change: a reader that mapped it would die of SIGBUS otherwise.
Result<Fd> create_status_page() {
  Fd fd = GRANARY_TRY(StatusFile::create());
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return Error::last_os_error("seal the size of a status page");
  }
  return fd;
}

// The kernel killed it for a system call that its filter forbids. Readers of the page shall see that, too.
EndState note_violation(const Fd& status) {
  if (const Result<StatusFile> page = StatusFile::map(status.get(), true); page) {
    page->overrule_end(EndState::kSeccompViolation, SIGSYS, "a system call that the VMM's seccomp filter forbids");
  }
  return EndState::kSeccompViolation;
}

// The VMM's own word on how it ended; without one it is lost, whatever the wait status says but for one.
EndState end_state_of(const Fd& status, int wait_status) {
  if (WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGSYS) return note_violation(status);
  uint32_t value = 0;
  const Status read =
      pread_all(status.get(), std::as_writable_bytes(std::span(&value, 1)), offsetof(StatusPage, end_state));
  return read && is_written_end(value) ? static_cast<EndState>(value) : EndState::kLost;
}

}  // namespace

VmTable::VmTable(EventLoop& loop, VmmFiles files, UidSlots uids, const RunDirectory& run, VmId last_used,
                 OnEnded on_ended)
    : loop_(loop),
      files_(std::move(files)),
      uids_(std::move(uids)),
      run_(run),
      last_(last_used),
      on_ended_(std::move(on_ended)) {}

VmTable::~VmTable() {
  for (auto& [id, entry] : live_) loop_.remove(entry.watch);
}

Result<VmId> VmTable::spawn(int cgroup, bool core_scheduling) {
  const VmId id{last_.value + 1};
  const uid_t uid = GRANARY_TRY(uids_.take());
  Result<Vm> vm = start(id, {.namespaces = &files_.jail, .uid = uid, .core_scheduling = core_scheduling}, cgroup);
  if (!vm) {
    free_names(id, uid);
    return std::move(vm).error();
  }
  Result<EventLoop::Token> watch = loop_.add(vm->pidfd.get(), EPOLLIN, [this, id](uint32_t) { reap(id); });
  last_ = id;
  fault_point("spawner.started");
  if (!watch) {
    // It cannot be watched, so it is ended on the spot.
    signal_kill(vm->pidfd);
    ::waitpid(vm->pid, nullptr, 0);
    free_names(id, uid);
    return std::move(watch).error();
  }
  live_.emplace(id, Entry{std::move(*vm), *watch});
  return id;
}

Status VmTable::take(VmId id, Vm vm) {
  if (id.value == 0 || id > last_ || live_.contains(id) || vm.pid <= 0) {
    return Error(Errc::kInvalidArgument, "take VM " + std::to_string(id.value) + " with pid " + std::to_string(vm.pid) +
                                             ": its number is in use, or its socket was never in this run directory");
  }
  const EventLoop::Token watch = GRANARY_TRY(loop_.add(vm.pidfd.get(), EPOLLIN, [this, id](uint32_t) { reap(id); }));
  live_.emplace(id, Entry{std::move(vm), watch});
  return ok();
}

Result<Vm> VmTable::start(VmId id, const Jail& jail, int cgroup) {
  SocketPair control = GRANARY_TRY(create_message_socket_pair());
  Fd status = GRANARY_TRY(create_status_page());
  const Fd listener = GRANARY_TRY(run_.listen(id));
  Child child = GRANARY_TRY(start_child({.vm = id,
                                         .executable = files_.executable.get(),
                                         .null = files_.null.get(),
                                         .control = control.second.get(),
                                         .status = status.get(),
                                         .listener = listener.get(),
                                         .kvm = files_.kvm.get(),
                                         .cgroup = cgroup,
                                         .jail = jail}));
  return Vm{child.pid, std::move(child.pidfd), std::move(control.first), std::move(status), jail.uid};
}

void VmTable::free_names(VmId id, uid_t uid) {
  uids_.give_back(uid);
  if (const Result<bool> gone = run_.unlink(id); !gone) {
    log_line(LogLevel::kError, "%s", gone.error().message().c_str());
  }
}

Result<const Vm*> VmTable::live(VmId vm) const {
  if (const auto found = live_.find(vm); found != live_.end()) return &found->second.vm;
  if (vm.value == 0 || vm > last_) return unknown(vm);
  const auto record = ended_.find(vm);
  const char* how = record == ended_.end() ? "forgotten" : to_string(static_cast<EndState>(record->second.end_state));
  return Error(Errc::kCloneGone, "VM " + std::to_string(vm.value) + " has ended: " + how);
}

Result<bool> VmTable::kill(VmId vm) {
  if (vm.value == 0 || vm > last_) return unknown(vm);
  const auto found = live_.find(vm);
  if (found == live_.end()) return false;
  fault_point("spawner.kill");
  signal_kill(found->second.vm.pidfd);
  return true;
}

void VmTable::kill_all() {
  for (const auto& [id, entry] : live_) signal_kill(entry.vm.pidfd);
}

Status VmTable::forget(VmId vm) {
  if (live_.contains(vm)) {
    return Error(Errc::kInvalidArgument, "forget VM " + std::to_string(vm.value) + ": it is alive; kill it first");
  }
  if (ended_.erase(vm) > 0) std::erase(ended_order_, vm);
  return ok();
}

void VmTable::reap(VmId id) {
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  int wait_status = 0;
  const pid_t reaped = ::waitpid(found->second.vm.pid, &wait_status, WNOHANG);
  if (reaped == 0) return;
  if (reaped < 0) wait_status = kLostExitCode << 8;  // no child of ours: only its parent could have known
  const control::VmRecord record{
      .vm_id = id.value,
      .pid = found->second.vm.pid,
      .alive = 0,
      .wait_status = wait_status,
      .end_state = static_cast<uint32_t>(end_state_of(found->second.vm.status, wait_status))};
  fault_point("spawner.reaped");
  loop_.remove(found->second.watch);
  const uid_t uid = found->second.vm.uid;
  live_.erase(found);
  free_names(id, uid);
  remember(record);
  on_ended_(record);
}

void VmTable::remember(const control::VmRecord& record) {
  ended_.emplace(VmId{record.vm_id}, record);
  ended_order_.push_back(VmId{record.vm_id});
  if (ended_order_.size() <= kRecordLimit) return;
  ended_.erase(ended_order_.front());
  ended_order_.pop_front();
}

namespace {

void add(control::VmList& list, const control::VmRecord& record) {
  if (list.count == list.vms.size()) {
    list.more = 1;
  } else {
    list.vms[list.count++] = record;
  }
}

control::VmRecord record_of_live(VmId id, const Vm& vm) {
  return {.vm_id = id.value, .pid = vm.pid, .alive = 1, .wait_status = 0, .end_state = 0};
}

}  // namespace

control::VmList VmTable::list() const {
  control::VmList list{};
  for (const auto& [id, entry] : live_) add(list, record_of_live(id, entry.vm));
  for (auto it = ended_order_.rbegin(); it != ended_order_.rend(); ++it) add(list, ended_.at(*it));
  return list;
}

control::VmList VmTable::list_after(VmId id) const {
  control::VmList list{};
  auto live = live_.upper_bound(id);
  auto ended = ended_.upper_bound(id);
  while (list.more == 0 && (live != live_.end() || ended != ended_.end())) {
    if (ended == ended_.end() || (live != live_.end() && live->first < ended->first)) {
      add(list, record_of_live(live->first, live->second.vm));
      ++live;
    } else {
      add(list, ended->second);
      ++ended;
    }
  }
  return list;
}

}  // namespace granary::spawn
