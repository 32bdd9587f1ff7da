// SPDX-License-Identifier: Apache-2.0
// The commands start and delete.
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <csignal>
#include <cstring>

#include "agent/shim/oci_spec.h"
#include "agent/shim/own_names.h"
#include "agent/shim/pod_clone.h"
#include "agent/shim/rpc_status.h"
#include "agent/shim/runtime_command.h"
#include "agent/shim/timestamp.h"
#include "agent/shim/ttrpc_client.h"
#include "agent/shim/ttrpc_server.h"
#include "containerd/task.pb.h"
#include "vmpool/base/log.h"

namespace granary::shim {
namespace {

constexpr const char* kShimName = "granary-shim";  // of the process, as main.cc sets it
constexpr int kUnmounts = 16;                      // at one place, one over the other
// containerd ends a delete after 5 s, and calls it also for a shim that has been told to end and tells its last events.
constexpr int kOwnEndMs = 2000;
constexpr std::chrono::seconds kReleaseLimit{2};

std::string address_of(const std::string& socket) { return "unix://" + socket; }

Result<Membership> membership_of(const RuntimeCommand& command) {
  const std::string config = GRANARY_TRY(read_file(command.bundle + "/config.json", kMaxSpecBytes + 1));
  return read_membership(config, command.id);
}

// The shims' folder, held so that two starts for one sandbox come one after the other.
Result<Fd> lock_folder(const std::string& run_dir) {
  const std::string folder = own_shims_folder(run_dir);
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    const Error error = Error::last_os_error("make " + folder);
    if (!error.is_errno(ENOENT)) return error;
    return Error(error.code(), error.context() + ": granaryd has not run here with run_dir " + run_dir +
                                   "; start it, or name its run_dir by ConfigPath");
  }
  Fd lock = GRANARY_TRY(open_file(folder, O_RDONLY | O_DIRECTORY));
  if (::flock(lock.get(), LOCK_EX) != 0) return Error::last_os_error("lock " + folder);
  return lock;
}

// Whether a shim does at `socket`.
Result<bool> listens(const std::string& socket) {
  const Result<Fd> peer = ttrpc::connect_unix(socket);
  if (peer) return true;
  if (peer.error().is_errno(ENOENT) || peer.error().is_errno(ECONNREFUSED)) return false;
  return peer.error();
}

void remove_socket(const std::string& socket) {
  if (::unlink(socket.c_str()) != 0 && errno != ENOENT) {
    log_line(LogLevel::kWarn, "remove %s: %s", socket.c_str(), std::strerror(errno));
  }
}

// containerd that restarts finds the shim by this.
Status write_address(const std::string& bundle, const std::string& address) {
  const std::string fresh = bundle + "/.address";
  const Fd file = GRANARY_TRY(open_file(fresh, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  GRANARY_TRY(write_all(file.get(), std::as_bytes(std::span(address))));
  if (::rename(fresh.c_str(), (bundle + "/address").c_str()) != 0)
    return Error::last_os_error("write " + bundle + "/address");
  return ok();
}

// delete gets no options: the run_dir that start had is that of the address which it left.
std::string started_under(const RuntimeCommand& command) {
  const std::string tail = own_shim_socket("", command.id);
  const Result<std::string> address = read_file(command.bundle + "/address", PATH_MAX);
  const std::string head = address_of("/");
  if (!address || !address->starts_with(head) || !address->ends_with(tail)) return command.run_dir;
  return address->substr(head.size() - 1, address->size() - head.size() + 1 - tail.size());
}

// containerd reads a shim's log lines from the FIFO "log" of its bundle. Not there, or not read: they are lost.
Result<Fd> open_log(const std::string& bundle) {
  Fd log(::open((bundle + "/log").c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (log.valid()) return log;
  return open_file("/dev/null", O_WRONLY);
}

class FileActions {
 public:
  FileActions() { ::posix_spawn_file_actions_init(&actions_); }
  ~FileActions() { ::posix_spawn_file_actions_destroy(&actions_); }
  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;
  void give(int fd, int as) { ::posix_spawn_file_actions_adddup2(&actions_, fd, as); }
  [[nodiscard]] const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
};

// Out of containerd's session, holding nothing of its: containerd waits for the end of this command's output.
Status spawn(const RuntimeCommand& command, const std::string& sandbox_id, const Fd& listener,
             const std::string& program) {
  const Fd log = GRANARY_TRY(open_log(command.bundle));
  const Fd nothing = GRANARY_TRY(open_file("/dev/null", O_WRONLY));
  FileActions files;
  files.give(listener.get(), STDIN_FILENO);
  files.give(nothing.get(), STDOUT_FILENO);
  files.give(log.get(), STDERR_FILENO);
  posix_spawnattr_t attributes{};
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  std::vector<std::string> words = {"containerd-shim-granary-v2", "--sandbox", sandbox_id, "--agent",
                                    agent_socket_in(command.run_dir)};
  if (!command.events_socket.empty()) words.insert(words.end(), {"--events", command.events_socket});
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int error = ::posix_spawn(nullptr, program.c_str(), files.get(), &attributes, argv.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  return error == 0 ? ok() : Status(Error::from_errno(error, "start " + program));
}

Status start_new(const RuntimeCommand& command, const std::string& sandbox_id, const std::string& socket,
                 const std::string& program) {
  remove_socket(socket);
  const Fd listener = GRANARY_TRY(ttrpc::listen_unix(socket));
  Status started = spawn(command, sandbox_id, listener, program);
  if (!started) remove_socket(socket);
  return started;
}

// The shim whose socket a peer listens on: its pid as SO_PEERCRED gives it is that of listen(2)'s caller.
void end_shim(const std::string& socket) {
  const Result<Fd> peer = ttrpc::connect_unix(socket);
  if (!peer) return;
  ucred owner{};
  socklen_t size = sizeof(owner);
  if (::getsockopt(peer->get(), SOL_SOCKET, SO_PEERCRED, &owner, &size) != 0 || owner.pid <= 0) return;
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, owner.pid, 0)));
  const Result<std::string> name = read_file("/proc/" + std::to_string(owner.pid) + "/comm");
  // The number may be another process's by now, but then this socket would not have answered.
  if (!process.valid() || !name || *name != std::string(kShimName) + "\n") return;
  pollfd end{.fd = process.get(), .events = POLLIN, .revents = 0};
  if (::poll(&end, 1, kOwnEndMs) == 1) return;
  ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0);
}

void release_clone(const std::string& run_dir, const std::string& sandbox_id) {
  const auto loop = EventLoop::create();
  if (!loop) return log_line(LogLevel::kWarn, "%s", loop.error().message().c_str());
  PodClone clone(**loop, agent_socket_in(run_dir), sandbox_id);
  clone.give_back([] { return true; }, [&] { (*loop)->stop(); });
  (*loop)->call_at(EventLoop::Clock::now() + kReleaseLimit, [&] {
    log_line(LogLevel::kWarn, "clone of sandbox %s: the agent has not taken it back yet", sandbox_id.c_str());
    (*loop)->stop();
  });
  (void)(*loop)->run();
}

void unmount_root(const std::string& bundle) {
  const std::string root = bundle + "/rootfs";
  for (int i = 0; i < kUnmounts && ::umount2(root.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0; ++i) {
  }
}

}  // namespace

Result<std::string> start_shim(const RuntimeCommand& command, const std::string& program) {
  const Membership member = GRANARY_TRY(membership_of(command));
  const Fd lock = GRANARY_TRY(lock_folder(command.run_dir));
  const std::string socket = own_shim_socket(command.run_dir, member.sandbox_id);
  const bool runs = GRANARY_TRY(listens(socket));
  if (!runs && !member.is_sandbox) {
    return rpc_error(Rpc::kFailedPrecondition,
                     "container " + command.id + ": its sandbox " + member.sandbox_id + " has no shim");
  }
  // Before the shim is there: whatever ends this command, `delete` finds what it started.
  GRANARY_TRY(write_address(command.bundle, address_of(socket)));
  const Status started = runs ? ok() : start_new(command, member.sandbox_id, socket, program);
  if (started) return address_of(socket);
  ::unlink((command.bundle + "/address").c_str());
  return started.error();
}

std::string delete_leftovers(const RuntimeCommand& command) {
  unmount_root(command.bundle);
  const Result<Membership> member = membership_of(command);
  // Without its specification it may be a sandbox, and of another container there is nothing by its own name.
  if (!member || member->is_sandbox) {
    const std::string run_dir = started_under(command);
    const std::string socket = own_shim_socket(run_dir, command.id);
    end_shim(socket);
    remove_socket(socket);
    release_clone(run_dir, command.id);
  }
  containerd::task::v3::DeleteResponse response;
  response.set_exit_status(128 + SIGKILL);
  set_time(*response.mutable_exited_at(), std::chrono::system_clock::now());
  return response.SerializeAsString();
}

}  // namespace granary::shim
