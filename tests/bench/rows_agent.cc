// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "granary/v1/pool.grpc.pb.h"
#include "tests/bench/rows.h"

namespace granary::bench {
namespace {

using pool::SteadyClock;
using std::chrono::minutes;

Error from_rpc(const grpc::Status& status, const std::string& what) {
  return {Errc::kVmmFailed, what + ": " + status.error_message()};
}

// A granaryd of its own in a folder of its own, with one pool of four clones of `guest`; ended with its owner.
class Agent {
 public:
  static Result<std::unique_ptr<Agent>> start(const std::string& programs, const Guest& guest) {
    std::unique_ptr<Agent> agent(new Agent);
    GRANARY_TRY(agent->launch(programs, guest));
    GRANARY_TRY(agent->wait_warm(minutes(5)));
    return agent;
  }
  ~Agent() {
    if (pid_ > 0) {
      ::kill(pid_, SIGTERM);
      ::waitpid(pid_, nullptr, 0);
    }
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  }
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  Result<v1::Clone> acquire() {
    v1::AcquireRequest request;
    request.set_owner_id("bench-" + std::to_string(++owners_));
    grpc::ClientContext context;
    v1::AcquireResponse response;
    const grpc::Status status = stub_->Acquire(&context, request, &response);
    if (!status.ok()) return from_rpc(status, "Acquire");
    return response.clone();
  }
  Status release(const v1::Clone& clone) {
    v1::ReleaseRequest request;
    request.set_clone_id(clone.id());
    grpc::ClientContext context;
    v1::ReleaseResponse response;
    const grpc::Status status = stub_->Release(&context, request, &response);
    if (!status.ok()) return from_rpc(status, "Release");
    return ok();
  }
  // Until the pool is full again and reclaims nothing, so that the next request meets a quiet agent.
  Status wait_warm(SteadyClock::duration limit = minutes(1));
  // Runs /bin/true in the clone; its exit code.
  Result<int> exec_true(const v1::Clone& clone);

 private:
  Agent() = default;
  Status launch(const std::string& programs, const Guest& guest);
  Result<bool> is_quiet();

  std::string folder_;
  pid_t pid_ = -1;
  unsigned owners_ = 0;
  std::unique_ptr<v1::Pool::Stub> stub_;
};

Status Agent::launch(const std::string& programs, const Guest& guest) {
  char name[] = "/tmp/granary-bench.XXXXXX";
  if (::mkdtemp(name) == nullptr) return Error::last_os_error("make a folder in /tmp");
  folder_ = name;
  std::ofstream(folder_ + "/granary.yaml")
      << "run_dir: " << folder_ << "/run\nstate_dir: " << folder_ << "/state\nlog_level: error\n"
      << "guest:\n  kernel: " << guest.kernel << "\n  initramfs: \"" << guest.initramfs << "\"\n  command_line: \""
      << guest.command_line << "\"\npools:\n  - name: bench\n"
      << "    memory: 256MiB\n    vcpus: 1\n    size: 4\n    max: 8\n";
  const std::string program = programs + "/granaryd";
  const std::string config = folder_ + "/granary.yaml";
  const char* const argv[] = {program.c_str(), "--config", config.c_str(), "--skip-preflight", nullptr};
  const int failed = ::posix_spawn(&pid_, program.c_str(), nullptr, nullptr, const_cast<char**>(argv), environ);
  if (failed != 0) {
    pid_ = -1;
    return Error::from_errno(failed, "start " + program + " (is it built?)");
  }
  stub_ = v1::Pool::NewStub(
      grpc::CreateChannel("unix:" + folder_ + "/run/granaryd.sock", grpc::InsecureChannelCredentials()));
  return ok();
}

Result<bool> Agent::is_quiet() {
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_deadline(std::chrono::system_clock::now() + minutes(1));
  v1::StatusResponse response;
  const grpc::Status status = stub_->Status(&context, v1::StatusRequest(), &response);
  if (!status.ok()) return from_rpc(status, "Status");
  if (response.pools_size() != 1) return Error(Errc::kPoolUnknown, "the agent has no pool");
  const v1::PoolStatus& pool = response.pools(0);
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

constexpr unsigned kDevices = 14;  // a pool's default set
// After the last clone's end and the refill, until the kernel is done with what they left (RCU, cgroups).
constexpr unsigned kRestUs = 50'000;

Result<Row> acquire_warm(const Settings& settings, const Guest& guest) {
  Row row{"acquire_warm",
          guest.name,
          "us",
          "Acquire RPC sent to an agent at rest -> reply: a warm clone runs with its identity acknowledged; " +
              std::to_string(kDevices) + " devices",
          {},
          ""};
  const auto agent = GRANARY_TRY(Agent::start(settings.programs, guest));
  const unsigned n = guest.name == "tiny" ? settings.n : std::min(settings.n, 10U);
  for (unsigned i = 0; i < n; ++i) {
    ::usleep(kRestUs);
    const auto start = SteadyClock::now();
    const v1::Clone clone = GRANARY_TRY(agent->acquire());
    const auto took = SteadyClock::now() - start;
    if (clone.warm()) row.samples.push_back(microseconds(took));
    GRANARY_TRY(agent->release(clone));
    GRANARY_TRY(agent->wait_warm());
  }
  return row;
}

Result<Row> exec_true(const Settings& settings, const Guest& guest) {
  Row row{"exec_true",
          guest.name,
          "ms",
          "Exec RPC of /bin/true sent to a running clone -> exit code and end of stream; " + std::to_string(kDevices) +
              " devices",
          {},
          ""};
  const auto agent = GRANARY_TRY(Agent::start(settings.programs, guest));
  const v1::Clone clone = GRANARY_TRY(agent->acquire());
  for (unsigned i = 0; i < std::min(settings.n, 30U); ++i) {
    const auto start = SteadyClock::now();
    const int code = GRANARY_TRY(agent->exec_true(clone));
    if (code != 0) return Error(Errc::kVmmFailed, "/bin/true ended with " + std::to_string(code));
    row.samples.push_back(microseconds(SteadyClock::now() - start) / 1e3);
  }
  GRANARY_TRY(agent->release(clone));
  return row;
}

}  // namespace

std::vector<RowSpec> agent_rows(const Settings& settings) {
  std::vector<RowSpec> rows = {{"acquire_warm", "tiny", [&] { return acquire_warm(settings, settings.tiny); }}};
  for (const Guest& guest : settings.linux_guests) {
    rows.push_back({"acquire_warm", guest.name, [&settings, guest] { return acquire_warm(settings, guest); }});
    rows.push_back({"exec_true", guest.name, [&settings, guest] { return exec_true(settings, guest); }});
  }
  return rows;
}

}  // namespace granary::bench
