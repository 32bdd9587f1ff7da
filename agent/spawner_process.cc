// SPDX-License-Identifier: Apache-2.0
#include "agent/spawner_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <thread>

#include "agent/log_text.h"
#include "agent/spawner_unit.h"

namespace granary::agent {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kStartLimit{10};
constexpr std::chrono::milliseconds kRetry{5};
constexpr std::chrono::seconds kComesBack{10};
constexpr int kEndLimitMs = 10'000;

// What runs in the child between fork and exec: no allocation, no locks; the parent has threads.
[[noreturn]] void become_spawner(char* const* argv, int null, int log) {
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::setsid();
  if (::fork() != 0) ::_exit(0);  // so that it is nobody's child but init's
  ::dup2(null, STDIN_FILENO);
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  ::execv(argv[0], argv);
  ::_exit(127);
}

Status start(const Config& config, const SpawnerFiles& files) {
  std::vector<std::string> words{files.libexec_dir + "/granary-spawn",
                                 "--control-socket",
                                 config.spawner_socket_path(),
                                 "--run-dir",
                                 config.run_dir,
                                 "--vmm",
                                 files.libexec_dir + "/granary-vmm",
                                 "--fsd",
                                 files.libexec_dir + "/granary-fsd",
                                 "--kvm",
                                 files.kvm_path,
                                 "--transient"};
  if (const std::string shim = files.libexec_dir + "/containerd-shim-granary-v2"; ::access(shim.c_str(), X_OK) == 0) {
    words.insert(words.end(), {"--shim", shim});
  }
  for (const std::string& program : {words[0], words[6], words[8]}) {
    if (::access(program.c_str(), X_OK) != 0) return Error::last_os_error("run " + program + " (see --libexec-dir)");
  }
  if (files.as_unit) return start_spawner_unit(words);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const Fd null = GRANARY_TRY(open_file("/dev/null", O_RDONLY));
  const Fd log = GRANARY_TRY(open_file(config.run_dir + "/granary-spawn.log", O_WRONLY | O_CREAT | O_APPEND, 0600));
  const pid_t child = ::fork();
  if (child < 0) return Error::last_os_error("fork granary-spawn");
  if (child == 0) become_spawner(argv.data(), null.get(), log.get());
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  return ok();
}

Result<std::unique_ptr<pool::SpawnerClient>> connect(const Config& config) {
  return pool::SpawnerClient::connect(config.spawner_socket_path(), config.run_dir);
}

bool nobody_listens(const Error& error) { return error.is_errno(ENOENT) || error.is_errno(ECONNREFUSED); }

}  // namespace

Result<std::unique_ptr<SpawnerProcess>> SpawnerProcess::connect_or_start(const Config& config,
                                                                         const SpawnerFiles& files) {
  auto client = connect(config);
  const bool own = !client && nobody_listens(client.error());
  if (own) {
    GRANARY_TRY(start(config, files));
    const auto limit = steady_clock::now() + kStartLimit;
    while (!client && nobody_listens(client.error()) && steady_clock::now() < limit) {
      std::this_thread::sleep_for(kRetry);
      client = connect(config);
    }
  }
  if (!client) {
    const std::string log = files.as_unit ? "journalctl -u granary-spawn" : config.run_dir + "/granary-spawn.log";
    return Error(client.error().code(), client.error().context() + "; granary-spawn does not answer, see " + log);
  }
  std::unique_ptr<SpawnerProcess> process(new SpawnerProcess(config, files, *std::move(client)));
  spdlog::info("spawner {} pid={}", own ? "started" : "found", process->client().hello().pid);
  return process;
}

void SpawnerProcess::keep(std::function<void()> replaced) {
  client_->on_lost([this] {
    {
      const std::lock_guard lock(mutex_);
      lost_ = true;
    }
    changed_.notify_all();
  });
  if (!client_->connected()) lost_ = true;
  keeper_ = std::jthread([this, replaced = std::move(replaced)](const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (changed_.wait(lock, stop, [&] { return lost_; })) {
      lost_ = false;
      // An attempt that failed at its greeting tells of a lost connection too, and may have been made good since.
      if (client_->connected()) continue;
      lock.unlock();
      spdlog::error("spawner gone, running clones live on without it pid={}", client_->hello().pid);
      if (replace(stop)) replaced();
      lock.lock();
    }
  });
}

// A spawner of systemd comes back by itself, so it is waited for before another one is started.
bool SpawnerProcess::replace(const std::stop_token& stop) {
  auto start_at = steady_clock::now() + (client_->hello().transient != 0 ? kRetry : kComesBack);
  while (!stop.stop_requested()) {
    if (client_->reconnect(config_.spawner_socket_path())) {
      spdlog::warn("spawner replaced pid={}", client_->hello().pid);
      return true;
    }
    if (steady_clock::now() >= start_at) {
      if (const Status started = start(config_, files_); !started)
        spdlog::error("spawner start failed error=\"{}\"", log_value(started.error().message()));
      start_at = steady_clock::now() + kStartLimit;
    }
    std::this_thread::sleep_for(kRetry);
  }
  return false;
}

void SpawnerProcess::wait_if_unused() {
  if (!client_->connected() || client_->hello().transient == 0) return;
  const auto vms = client_->list();
  if (!vms || std::ranges::any_of(*vms, [](const control::VmRecord& record) { return record.alive != 0; })) return;
  if (const auto shims = client_->list_shims(); !shims || !shims->empty()) return;
  const pid_t pid = client_->hello().pid;
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  client_.reset();
  if (!process.valid()) return;
  pollfd fd{.fd = process.get(), .events = POLLIN, .revents = 0};
  const bool gone = ::poll(&fd, 1, kEndLimitMs) == 1;
  spdlog::info("spawner ended pid={} gone={}", pid, gone);
}

}  // namespace granary::agent
