// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/reaper.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>

namespace granary::guest {
namespace {

// As many as Linux has process numbers by default.
constexpr size_t kMostOrphans = 32768;

// Kills every process whose session is `session`: job control and daemons leave the process group, not the session.
// Correct only while the session's leader has not been reaped, for so long its number cannot be used again.
void kill_session(pid_t session) {
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", code)) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid > 0 && ::getsid(pid) == session) ::kill(pid, SIGKILL);
  }
}

}  // namespace

Result<std::unique_ptr<Reaper>> Reaper::create(EventLoop& loop) {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGCHLD);
  if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return Error::last_os_error("block SIGCHLD");
  Fd signals(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.valid()) return Error::last_os_error("signalfd for SIGCHLD");
  std::unique_ptr<Reaper> reaper(new Reaper(loop, std::move(signals)));
  reaper->token_ = GRANARY_TRY(loop.add(reaper->signals_.get(), EPOLLIN, [r = reaper.get()](uint32_t) { r->reap(); }));
  return reaper;
}

Reaper::~Reaper() {
  for (auto& [pid, child] : children_) loop_.remove(child.kill_timer);
  loop_.remove(token_);
}

void Reaper::watch(pid_t pid, Callback callback) { children_[pid].callback = std::move(callback); }

bool Reaper::adopt(pid_t pid, Callback callback) {
  // One that lives, or is still to be reaped, is not the one of an older ending with its number.
  siginfo_t info{};
  if (::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0) {
    watch(pid, std::move(callback));
    return true;
  }
  const auto found = orphans_.find(pid);
  if (found == orphans_.end()) return false;
  children_[pid] = {.callback = std::move(callback), .reaped = found->second};
  orphans_.erase(found);
  // From the loop, as every other ending is told.
  loop_.post([this, pid] {
    const auto child = children_.find(pid);
    if (child == children_.end() || !child->second.reaped) return;
    const Child told = std::move(child->second);
    children_.erase(child);
    if (told.callback) told.callback(*told.reaped);
  });
  return true;
}

void Reaper::condemn(pid_t pid) {
  const auto found = children_.find(pid);
  if (found == children_.end()) return;
  found->second.callback = nullptr;
  if (found->second.reaped) return;
  // The child may not have reached setsid(2) yet: then only its own pid works.
  for (const pid_t target : {pid, -pid}) {
    ::kill(target, SIGHUP);
    ::kill(target, SIGCONT);
  }
  found->second.kill_timer = loop_.call_at(EventLoop::Clock::now() + kHangupGrace, [pid] {
    ::kill(pid, SIGKILL);
    kill_session(pid);
  });
}

void Reaper::reap() {
  std::array<signalfd_siginfo, 16> pending;
  while (::read(signals_.get(), pending.data(), sizeof(pending)) > 0) {
  }
  for (;;) {
    siginfo_t info{};
    // Looked at first and reaped afterwards: until then the pid belongs to this child for certain.
    if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return;
    Ending ending;
    (info.si_code == CLD_EXITED ? ending.code : ending.signal) = info.si_status;
    finish(info.si_pid, ending);
  }
}

void Reaper::finish(pid_t pid, Ending ending) {
  Callback callback;
  if (const auto found = children_.find(pid); found != children_.end()) {
    if (found->second.kill_timer != 0) {
      loop_.remove(found->second.kill_timer);
      kill_session(pid);
    }
    callback = std::move(found->second.callback);
    children_.erase(found);
  } else if (orphan_watches_ > 0 && (orphans_.size() < kMostOrphans || orphans_.contains(pid))) {
    orphans_[pid] = ending;
  }
  ::waitpid(pid, nullptr, 0);
  if (callback) callback(ending);
}

}  // namespace granary::guest
