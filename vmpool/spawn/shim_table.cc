// SPDX-License-Identifier: Apache-2.0
#include "vmpool/spawn/shim_table.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <vector>

#include "vmpool/base/container_id.h"
#include "vmpool/base/log.h"

namespace granary::spawn {
namespace {

// Default signal dispositions, an empty mask, a session of its own; standard output is the log.
class SpawnSettings {
 public:
  explicit SpawnSettings(int listener) {
    ::posix_spawn_file_actions_init(&actions_);
    ::posix_spawn_file_actions_adddup2(&actions_, listener, STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions_, STDERR_FILENO, STDOUT_FILENO);
    ::posix_spawnattr_init(&attributes_);
    sigset_t set;
    ::sigemptyset(&set);
    ::posix_spawnattr_setsigmask(&attributes_, &set);
    ::sigfillset(&set);
    ::posix_spawnattr_setsigdefault(&attributes_, &set);
    ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
  }
  ~SpawnSettings() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  Result<pid_t> spawn(const std::string& program, std::vector<std::string> words) const {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    char* const environment[] = {nullptr};
    // Our own descriptors are, but perhaps not what we inherited.
    ::syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    pid_t pid = 0;
    const int error = ::posix_spawn(&pid, program.c_str(), &actions_, &attributes_, argv.data(), environment);
    if (error != 0) return Error::from_errno(error, "start " + words[0]);
    return pid;
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

}  // namespace

control::ShimRecord shim_record(const std::string& sandbox_id, pid_t pid) {
  control::ShimRecord record{.shim = {}, .pid = pid};
  control::set_text(record.shim.sandbox_id, sandbox_id);
  return record;
}

ShimTable::ShimTable(EventLoop& loop, Fd executable, OnEnded on_ended)
    : loop_(loop), executable_(std::move(executable)), on_ended_(std::move(on_ended)) {}

ShimTable::~ShimTable() {
  for (const auto& [id, entry] : shims_) loop_.remove(entry.watch);
}

Result<const ShimTable::Shim*> ShimTable::start(const ShimPlan& plan) {
  if (!is_id(plan.sandbox_id)) return Error(Errc::kInvalidArgument, "a sandbox id: 1 to 128 of a-z A-Z 0-9 _ . -");
  if (!executable_.valid()) {
    return Error(Errc::kNotSupported, "granary-spawn was started without --shim: no pod can have containers");
  }
  if (shims_.contains(plan.sandbox_id)) return Error::from_errno(EEXIST, "shim of sandbox " + plan.sandbox_id);
  std::vector<std::string> words = {"containerd-shim-granary-v2",
                                    "--sandbox",
                                    plan.sandbox_id,
                                    "--clone",
                                    plan.clone_id,
                                    "--guest",
                                    plan.guest_socket,
                                    "--agent",
                                    plan.agent_socket};
  if (!plan.events_socket.empty()) words.insert(words.end(), {"--events", plan.events_socket});
  if (!plan.netns.empty()) words.insert(words.end(), {"--netns", plan.netns});
  const std::string program = "/proc/self/fd/" + std::to_string(executable_.get());
  Shim shim;
  shim.pid = GRANARY_TRY(SpawnSettings(plan.listener).spawn(program, std::move(words)));
  // It is not reaped yet, so its number is still its own.
  shim.pidfd = Fd(static_cast<int>(::syscall(SYS_pidfd_open, shim.pid, 0)));
  const pid_t pid = shim.pid;
  Result<const Shim*> watched =
      shim.pidfd.valid() ? watch(plan.sandbox_id, std::move(shim)) : Error::last_os_error("pidfd_open of a shim");
  if (!watched) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  return watched;
}

Status ShimTable::take(const std::string& sandbox_id, Shim shim) {
  if (!is_id(sandbox_id) || shim.pid <= 0)
    return Error(Errc::kInvalidArgument, "take a shim without sandbox or process");
  if (shims_.contains(sandbox_id)) return Error::from_errno(EEXIST, "shim of sandbox " + sandbox_id);
  GRANARY_TRY(watch(sandbox_id, std::move(shim)));
  return ok();
}

Result<const ShimTable::Shim*> ShimTable::watch(const std::string& sandbox_id, Shim shim) {
  const EventLoop::Token token =
      GRANARY_TRY(loop_.add(shim.pidfd.get(), EPOLLIN, [this, sandbox_id](uint32_t) { reap(sandbox_id); }));
  return &shims_.emplace(sandbox_id, Entry{std::move(shim), token}).first->second.shim;
}

Result<const ShimTable::Shim*> ShimTable::find(const std::string& sandbox_id) const {
  const auto found = shims_.find(sandbox_id);
  if (found == shims_.end()) return Error::from_errno(ENOENT, "shim of sandbox " + sandbox_id.substr(0, kMaxIdBytes));
  return &found->second.shim;
}

bool ShimTable::stop(const std::string& sandbox_id) {
  const auto found = shims_.find(sandbox_id);
  if (found == shims_.end()) return false;
  // ESRCH: it ended by itself; its pidfd says so to the loop.
  ::syscall(SYS_pidfd_send_signal, found->second.shim.pidfd.get(), SIGKILL, nullptr, 0);
  return true;
}

void ShimTable::stop_all() {
  for (const auto& [id, entry] : shims_) stop(id);
}

void ShimTable::reap(const std::string& sandbox_id) {
  const auto found = shims_.find(sandbox_id);
  if (found == shims_.end()) return;
  int wait_status = 0;
  // Less than 0: no child of ours.
  if (::waitpid(found->second.shim.pid, &wait_status, WNOHANG) == 0) return;
  const control::ShimRecord record = shim_record(sandbox_id, found->second.shim.pid);
  log_line(LogLevel::kInfo, "shim ended sandbox=%s pid=%d wait_status=%d", record.shim.sandbox_id, record.pid,
           wait_status);
  loop_.remove(found->second.watch);
  shims_.erase(found);
  on_ended_(record);
}

control::ShimList ShimTable::list_after(const std::string& sandbox_id) const {
  control::ShimList list{};
  for (auto at = shims_.upper_bound(sandbox_id); at != shims_.end(); ++at) {
    if (list.count == list.shims.size()) {
      list.more = 1;
      break;
    }
    list.shims[list.count++] = shim_record(at->first, at->second.shim.pid);
  }
  return list;
}

}  // namespace granary::spawn
