// SPDX-License-Identifier: Apache-2.0
#include "vmpool/spawn/vm_table.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>

#include "vmpool/base/fault.h"
#include "vmpool/base/fsd_capabilities.h"
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

Result<SocketPair> create_stream_pair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0) return SocketPair{Fd(fds[0]), Fd(fds[1])};
  return Error::last_os_error("make the stream socket of a file server");
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
  for (auto& [id, entry] : live_) {
    loop_.remove(entry.watch);
    if (entry.fsd) loop_.remove(entry.fsd->watch);
  }
}

Result<VmId> VmTable::spawn(int cgroup, bool core_scheduling) {
  const VmId id{last_.value + 1};
  const uid_t uid = GRANARY_TRY(uids_.take());
  Result<Vm> vm = start(id, {.namespaces = &files_.jail, .uid = uid, .core_scheduling = core_scheduling, .kept_capabilities = 0}, cgroup);
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
  live_.emplace(id, Entry{.vm = std::move(*vm), .watch = *watch});
  return id;
}

Result<NewFsd> VmTable::spawn_fsd(VmId id, int cgroup) {
  (void)GRANARY_TRY(live(id));
  Entry& entry = live_.at(id);
  const std::string of = "file server of VM " + std::to_string(id.value);
  if (!files_.fsd.valid()) return Error(Errc::kNotSupported, of + ": granary-spawn was started without --fsd");
  if (entry.fsd) return Error(Errc::kAlreadyRunning, of + " with pid " + std::to_string(entry.fsd->pid));
  SocketPair fuse = GRANARY_TRY(create_stream_pair());
  SocketPair control = GRANARY_TRY(create_message_socket_pair());
  const Fd listener = GRANARY_TRY(run_.listen_fsd(id));
  Result<Child> child =
      start_child({.name = "granary-fsd",
                   .vm = id,
                   .executable = files_.fsd.get(),
                   .null = files_.null.get(),
                   .inherited = {fuse.second.get(), control.second.get(), listener.get(), kOwnFiles},
                   .cgroup = cgroup,
                   .jail = {.namespaces = &files_.jail, .uid = 0, .core_scheduling = false, .kept_capabilities = fs::kept_capability_bits()}});
  if (!child) {
    (void)run_.unlink_fsd(id);
    return std::move(child).error();
  }
  fault_point("spawner.fsd-started");
  NewFsd made{.pid = child->pid, .fuse = std::move(fuse.first), .control = std::move(control.first)};
  entry.fsd.emplace(Fsd{.pid = child->pid, .pidfd = std::move(child->pidfd)});
  if (const Status watched = watch_fsd(id, made); !watched) {
    // It ends by itself, too, once nobody holds its socket.
    signal_kill(entry.fsd->pidfd);
    ::waitpid(entry.fsd->pid, nullptr, 0);
    loop_.remove(entry.fsd->watch);
    entry.fsd.reset();
    (void)run_.unlink_fsd(id);
    return watched.error();
  }
  return made;
}

Status VmTable::watch_fsd(VmId id, NewFsd& made) {
  Fsd& fsd = *live_.at(id).fsd;
  made.pidfd = GRANARY_TRY(fsd.pidfd.duplicate());
  fsd.watch = GRANARY_TRY(loop_.add(fsd.pidfd.get(), EPOLLIN, [this, id](uint32_t) { reap_fsd(id); }));
  return ok();
}

Status VmTable::take(VmId id, Vm vm) {
  if (id.value == 0 || id > last_ || live_.contains(id) || vm.pid <= 0) {
    return Error(Errc::kInvalidArgument, "take VM " + std::to_string(id.value) + " with pid " + std::to_string(vm.pid) +
                                             ": its number is in use, or its socket was never in this run directory");
  }
  const EventLoop::Token watch = GRANARY_TRY(loop_.add(vm.pidfd.get(), EPOLLIN, [this, id](uint32_t) { reap(id); }));
  live_.emplace(id, Entry{.vm = std::move(vm), .watch = watch});
  return ok();
}

Result<Vm> VmTable::start(VmId id, const Jail& jail, int cgroup) {
  SocketPair control = GRANARY_TRY(create_message_socket_pair());
  Fd status = GRANARY_TRY(create_status_page());
  const Fd listener = GRANARY_TRY(run_.listen(id));
  Child child =
      GRANARY_TRY(start_child({.name = "granary-vmm",
                               .vm = id,
                               .executable = files_.executable.get(),
                               .null = files_.null.get(),
                               .inherited = {control.second.get(), status.get(), listener.get(), files_.kvm.get()},
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
  kill_processes(found->second);
  return true;
}

void VmTable::kill_all() {
  for (auto& [id, entry] : live_) kill_processes(entry);
}

void VmTable::kill_processes(Entry& entry) {
  entry.killed = true;
  signal_kill(entry.vm.pidfd);
  if (entry.fsd) signal_kill(entry.fsd->pidfd);
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
  if (found == live_.end() || found->second.record) return;
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
  if (!found->second.fsd) return end(id, record);
  found->second.record = record;
  signal_kill(found->second.fsd->pidfd);
}

void VmTable::reap_fsd(VmId id) {
  const auto found = live_.find(id);
  if (found == live_.end() || !found->second.fsd) return;
  int wait_status = 0;
  if (::waitpid(found->second.fsd->pid, &wait_status, WNOHANG) == 0) return;
  loop_.remove(found->second.fsd->watch);
  found->second.fsd.reset();
  if (const Result<bool> gone = run_.unlink_fsd(id); !gone) {
    log_line(LogLevel::kError, "%s", gone.error().message().c_str());
  }
  if (found->second.record) return end(id, control::VmRecord(*found->second.record));
  if (found->second.killed) return;
  log_line(LogLevel::kWarn, "the file server of vm=%llu ended first, wait status %d",
           static_cast<unsigned long long>(id.value), wait_status);
}

void VmTable::end(VmId id, const control::VmRecord& record) {
  const auto found = live_.find(id);
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
