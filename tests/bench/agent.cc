// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/agent.h"

#include <grpcpp/grpcpp.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "vmpool/pool/process_use.h"
#include "vmpool/pool/unix_socket.h"

namespace granary::bench {
namespace {

using pool::SteadyClock;
using std::chrono::minutes;

Error from_rpc(const grpc::Status& status, const std::string& what) {
  return {Errc::kVmmFailed, what + ": " + status.error_message()};
}

}  // namespace

Result<std::unique_ptr<Agent>> Agent::start(const std::string& programs, const Guest& guest, PoolSize pool) {
  std::unique_ptr<Agent> agent(new Agent);
  GRANARY_TRY(agent->launch(programs, guest, pool));
  GRANARY_TRY(agent->wait_warm(minutes(5)));
  return agent;
}

Agent::~Agent() {
  if (pid_ > 0) {
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
  }
  std::error_code ignored;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
}

Result<v1::Clone> Agent::acquire(const std::string& cgroup_parent) {
  v1::AcquireRequest request;
  request.set_cgroup_parent(cgroup_parent);
  request.set_owner_id("bench-" + std::to_string(++owners_));
  grpc::ClientContext context;
  v1::AcquireResponse response;
  const grpc::Status status = stub_->Acquire(&context, request, &response);
  if (!status.ok()) return from_rpc(status, "Acquire");
  return response.clone();
}

Status Agent::release(const v1::Clone& clone) {
  v1::ReleaseRequest request;
  request.set_clone_id(clone.id());
  grpc::ClientContext context;
  v1::ReleaseResponse response;
  const grpc::Status status = stub_->Release(&context, request, &response);
  if (!status.ok()) return from_rpc(status, "Release");
  return ok();
}

Status Agent::launch(const std::string& programs, const Guest& guest, PoolSize pool) {
  std::string name = (std::filesystem::temp_directory_path() / kFolderPattern).string();
  if (::mkdtemp(name.data()) == nullptr) return Error::last_os_error("make the folder " + name);
  folder_ = name;
  std::ofstream(folder_ + "/granary.yaml")
      << "run_dir: " << folder_ << "/run\nstate_dir: " << folder_ << "/state\nlog_level: error\n"
      << (pool.containerd_events.empty() ? "" : "containerd_events: " + pool.containerd_events + "\n")
      << "guest:\n  kernel: " << guest.kernel << "\n  initramfs: \"" << guest.initramfs << "\"\n  command_line: \""
      << guest.command_line << "\"\npools:\n  - name: bench\n"
      << "    memory: " << pool.memory_mib << "MiB\n    vcpus: 1\n    size: " << pool.size << "\n    max: " << pool.max
      << "\n";
  const std::string program = programs + "/granaryd";
  const std::string config = folder_ + "/granary.yaml";
  std::vector<const char*> words = {program.c_str(), "--config", config.c_str(), "--skip-preflight"};
  // Beside an agent in service: its slice has that one's limit.
  if (const char* const parent = std::getenv("GRANARY_BENCH_CGROUP_PARENT"); parent != nullptr) {
    words.insert(words.end(), {"--cgroup-parent", parent});
  }
  words.push_back(nullptr);
  const char* const* const argv = words.data();
  const int failed = ::posix_spawn(&pid_, program.c_str(), nullptr, nullptr, const_cast<char**>(argv), environ);
  if (failed != 0) {
    pid_ = -1;
    return Error::from_errno(failed, "start " + program + " (is it built?)");
  }
  stub_ = v1::Pool::NewStub(grpc::CreateChannel("unix:" + socket(), grpc::InsecureChannelCredentials()));
  return ok();
}

Result<v1::PoolStatus> Agent::status() {
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_deadline(std::chrono::system_clock::now() + minutes(1));
  v1::StatusResponse response;
  const grpc::Status status = stub_->Status(&context, v1::StatusRequest(), &response);
  if (!status.ok()) return from_rpc(status, "Status");
  if (response.pools_size() != 1) return Error(Errc::kPoolUnknown, "the agent has no pool");
  return response.pools(0);
}

// The kernel knows who listens on its socket.
pid_t Agent::spawner_pid() const {
  const auto socket = pool::connect_unix(folder_ + "/run/spawn.sock", SOCK_SEQPACKET, SteadyClock::now() + minutes(1));
  ucred listener{};
  socklen_t length = sizeof(listener);
  if (!socket || ::getsockopt(socket->get(), SOL_SOCKET, SO_PEERCRED, &listener, &length) != 0) return -1;
  return listener.pid;
}

std::vector<pid_t> family_of(pid_t pid) {
  std::vector<pid_t> all = {pid};
  for (size_t at = 0; at < all.size(); ++at) {
    for (const pid_t child : pool::children_of(all[at])) all.push_back(child);
  }
  return all;
}

Result<bool> Agent::is_quiet() {
  const v1::PoolStatus pool = GRANARY_TRY(status());
  if (pool.template_state().starts_with("failed")) return Error(Errc::kVmmFailed, "template " + pool.template_state());
  return pool.warm() >= pool.target() && pool.restoring() == 0 && pool.reclaiming() == 0;
}

Status Agent::wait_warm(SteadyClock::duration limit) {
  const auto deadline = SteadyClock::now() + limit;
  while (!GRANARY_TRY(is_quiet())) {
    if (::waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      return Error(Errc::kPeerGone, "granaryd ended");
    }
    if (SteadyClock::now() > deadline) return Error(Errc::kDeadlineExceeded, "the pool did not become warm");
    ::usleep(2000);
  }
  return ok();
}

Result<int> Agent::exec_true(const v1::Clone& clone) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + minutes(1));
  const auto stream = stub_->Exec(&context);
  v1::ExecRequest request;
  request.mutable_start()->set_clone_id(clone.id());
  request.mutable_start()->add_argv("/bin/true");
  stream->Write(request);
  v1::ExecResponse response;
  int code = -1;
  while (stream->Read(&response)) {
    if (response.has_exit()) code = response.exit().status();
  }
  const grpc::Status status = stream->Finish();
  if (!status.ok()) return from_rpc(status, "Exec");
  return code;
}

}  // namespace granary::bench
