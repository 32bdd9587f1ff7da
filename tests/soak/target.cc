// SPDX-License-Identifier: Apache-2.0
#include "tests/soak/target.h"

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "vmpool/pool/process_use.h"
#include "vmpool/pool/unix_socket.h"

namespace granary::soak {
namespace {

namespace fs = std::filesystem;
using pool::SteadyClock;

constexpr size_t kLogTailBytes = 4000;

Error from_rpc(const grpc::Status& status, const std::string& what) {
  return {Errc::kVmmFailed, what + ": " + status.error_message()};
}

void set_deadline(grpc::ClientContext& context) {
  context.set_wait_for_ready(true);
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
}

}  // namespace

void end_process(pid_t& pid, int signal) {
  if (pid <= 0) return;
  ::kill(pid, signal);
  ::waitpid(std::exchange(pid, -1), nullptr, 0);
}

Result<std::unique_ptr<Target>> Target::start(const std::string& programs, const Guest& guest) {
  std::unique_ptr<Target> target(new Target);
  GRANARY_TRY(target->prepare(programs, guest));
  GRANARY_TRY(target->start_agent());
  GRANARY_TRY(target->wait_quiet(std::chrono::minutes(5)));
  return target;
}

Target::~Target() {
  end_process(agent_, SIGTERM);
  if (const pid_t last = spawner(); last > 0) ::kill(last, SIGTERM);
  if (folder_.empty()) return;
  disk_.reset();
  ::umount2(run_folder().c_str(), MNT_DETACH);
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

Status Target::prepare(const std::string& programs, const Guest& guest) {
  char name[] = "/tmp/granary-soak.XXXXXX";
  if (::mkdtemp(name) == nullptr) return Error::last_os_error("make a folder in /tmp");
  folder_ = name;
  programs_ = programs;
  fs::create_directory(run_folder());
  if (::mount("granary-soak", run_folder().c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=4m,mode=700") != 0) {
    return Error::last_os_error("mount a tmpfs (run as root)");
  }
  fs::create_directory(folder_ + "/state");
  if (auto disk = SlowDisk::mount(folder_ + "/state")) {
    disk_ = *std::move(disk);
  } else {
    std::cout << "soak: no slow disk: " << disk.error().message() << std::endl;
  }
  std::ofstream(folder_ + "/granary.yaml")
      << "run_dir: " << run_folder() << "\nstate_dir: " << folder_
      << "/state\nlog_level: info\nshutdown_grace: 0s\nguest:\n  kernel: " << guest.kernel << "\n  initramfs: \""
      << guest.initramfs << "\"\n  command_line: \"" << guest.command_line
      << "\"\npools:\n  - name: soak\n    memory: " << (guest.runs_commands() ? "128MiB" : "16MiB")
      << "\n    size: 4\n    max: 12\n    probe_timeout: 2s\n    identity_timeout: 2s\n";
  if (guest.runs_commands()) {  // an emulated node is slow
    std::ofstream(folder_ + "/granary.yaml", std::ios::app) << "    boot_timeout: 300s\n";
  }
  stub_ = stub();
  return ok();
}

std::unique_ptr<v1::Pool::Stub> Target::stub() const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::Pool::NewStub(grpc::CreateCustomChannel("unix:" + run_folder() + "/granaryd.sock",
                                                     grpc::InsecureChannelCredentials(), arguments));
}

Status Target::start_agent() {
  const std::string program = programs_ + "/granaryd";
  const std::string config = folder_ + "/granary.yaml";
  const std::string log = folder_ + "/log";
  const char* const argv[] = {program.c_str(), "--config", config.c_str(), "--skip-preflight", nullptr};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  ::posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  const int failed = ::posix_spawn(&agent_, program.c_str(), &actions, nullptr, const_cast<char**>(argv), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed == 0) return ok();
  agent_ = -1;
  return Error::from_errno(failed, "start " + program + " (is it built?)");
}

Result<v1::PoolStatus> Target::status() {
  grpc::ClientContext context;
  set_deadline(context);
  v1::StatusResponse response;
  const grpc::Status status = stub_->Status(&context, v1::StatusRequest(), &response);
  if (!status.ok()) return from_rpc(status, "Status");
  if (response.pools_size() != 1) return Error(Errc::kPoolUnknown, "the agent has no pool");
  return response.pools(0);
}

void Target::rebuild_template() const {
  grpc::ClientContext context;
  set_deadline(context);
  v1::BuildTemplateRequest request;
  request.set_pool("soak");
  request.set_force(true);
  const auto progress = stub_->BuildTemplate(&context, request);
  for (v1::BuildTemplateResponse step; progress->Read(&step);) continue;
  (void)progress->Finish();
}

Status Target::wait_quiet(std::chrono::seconds limit) {
  const auto deadline = SteadyClock::now() + limit;
  for (;;) {
    const v1::PoolStatus now = GRANARY_TRY(status());
    if (now.warm() == now.target() && now.restoring() + now.reclaiming() + now.running() == 0) return ok();
    if (SteadyClock::now() > deadline) return Error(Errc::kDeadlineExceeded, "not quiet: " + now.ShortDebugString());
    ::poll(nullptr, 0, 20);
  }
}

Result<std::vector<std::string>> Target::audit() {
  grpc::ClientContext context;
  set_deadline(context);
  v1::AuditResponse response;
  const grpc::Status status = stub_->Audit(&context, v1::AuditRequest(), &response);
  if (!status.ok()) return from_rpc(status, "Audit");
  return std::vector<std::string>(response.differences().begin(), response.differences().end());
}

pid_t Target::spawner() const {
  const auto socket =
      pool::connect_unix(run_folder() + "/spawn.sock", SOCK_SEQPACKET, SteadyClock::now() + std::chrono::seconds(1));
  ucred listener{};
  socklen_t length = sizeof(listener);
  if (!socket || ::getsockopt(socket->get(), SOL_SOCKET, SO_PEERCRED, &listener, &length) != 0) return -1;
  return listener.pid;
}

std::vector<pid_t> Target::vmms() const { return pool::children_of(spawner()); }

std::string Target::log_tail() const {
  std::ostringstream text;
  text << std::ifstream(folder_ + "/log").rdbuf();
  const std::string all = text.str();
  return all.size() > kLogTailBytes ? all.substr(all.size() - kLogTailBytes) : all;
}

}  // namespace granary::soak
