// SPDX-License-Identifier: Apache-2.0
// The kill matrix: granaryd and granary-spawn killed with SIGKILL at each named step (vmpool/base/fault.h), then
// whatever a user would do next. Afterwards the audit is clean, a clone that somebody held all the time is unharmed,
// new ones can be had, and in the end nothing is left. The VMM is a stand-in, everything else is real; VMMs killed at
// their steps: pool_test.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "containerd/sandbox.grpc.pb.h"
#include "granary/v1/pool.grpc.pb.h"
#include "tests/integration/agent_bench.h"
#include "tests/integration/test_pod.h"

namespace granary::integration {
namespace {

namespace fs = std::filesystem;
namespace sandbox = containerd::services::sandbox::v1;

class KillMatrix : public testing::TestWithParam<const char*> {
 protected:
  KillMatrix() { std::ofstream(bench_.path("kernel")) << "a kernel"; }

  [[nodiscard]] std::string trigger() const { return bench_.path("fault"); }
  [[nodiscard]] std::vector<std::string> armed_environment() const {
    return {"GRANARY_FAULT=" + std::string(GetParam()) + ":" + trigger()};
  }
  void arm() const { std::ofstream(trigger()) << "x"; }
  [[nodiscard]] bool fired() const { return !fs::exists(trigger()); }
  [[nodiscard]] bool spawners() const { return std::string_view(GetParam()).starts_with("spawner."); }

  std::string acquire(const std::string& owner, const std::string& cgroup_parent = "") const {
    const Outcome taken = bench_.ctl({"acquire", "--owner", owner, "--cgroup-parent", cgroup_parent});
    EXPECT_EQ(taken.status, 0) << taken.errors;
    return taken.output.substr(0, taken.output.find('\n'));
  }
  [[nodiscard]] std::shared_ptr<grpc::Channel> channel() const {
    return grpc::CreateChannel("unix:" + bench_.socket(), grpc::InsecureChannelCredentials());
  }
  // Runs a command to its end through the agent, which granaryctl's exec and run need only to find the clone.
  grpc::Status exec_through_agent(const std::string& clone) const {
    const auto stub = v1::Pool::NewStub(channel());
    grpc::ClientContext context;
    const auto stream = stub->Exec(&context);
    v1::ExecRequest request;
    request.mutable_start()->set_clone_id(clone);
    request.mutable_start()->add_argv("echo");
    request.mutable_start()->set_has_stdin(true);
    stream->Write(request);
    request.set_close_stdin(true);
    stream->Write(request);
    for (v1::ExecResponse response; stream->Read(&response);) continue;
    return stream->Finish();
  }
  // As containerd does; each step may fail.
  void run_sandbox(const std::string& id) const {
    const auto stub = sandbox::Controller::NewStub(channel());
    const auto ask = [&](auto call, auto request, auto response) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
      request.set_sandbox_id(id);
      (void)((*stub).*call)(&context, request, &response);
    };
    using Stub = sandbox::Controller::StubInterface;
    ask(&Stub::Create, sandbox::ControllerCreateRequest(), sandbox::ControllerCreateResponse());
    ask(&Stub::Start, sandbox::ControllerStartRequest(), sandbox::ControllerStartResponse());
    ask(&Stub::Stop, sandbox::ControllerStopRequest(), sandbox::ControllerStopResponse());
    ask(&Stub::Shutdown, sandbox::ControllerShutdownRequest(), sandbox::ControllerShutdownResponse());
  }
  // One of everything that a user does; each may fail, as the process that serves it is about to die.
  void use_everything(int round, const std::string& keeper) const {
    const std::string owner = "victim" + std::to_string(round);
    const Outcome taken = bench_.ctl({"acquire", "--owner", owner, "--cgroup-parent", pod_.path(), "--wait", "5"});
    if (taken.status == 0) bench_.ctl({"release", taken.output.substr(0, taken.output.find('\n'))});
    run_sandbox(owner);
    bench_.ctl({"run", "--", "missing"});
    bench_.ctl({"template", "build", "--force"});
    const grpc::Status exec = exec_through_agent(keeper);
    if (std::string_view(GetParam()).starts_with("exec.")) {
      EXPECT_EQ(exec.error_code(), grpc::StatusCode::UNAVAILABLE);
    }
  }
  // The keeper's clone answers, others can be had and go again, and nobody finds anything amiss.
  void expect_order(const std::string& keeper) const {
    EXPECT_EQ(bench_.ctl({"exec", "-i", keeper, "--", "echo"}, "unharmed").output, "unharmed");
    EXPECT_EQ(acquire("keeper", pod_.path()), keeper);
    EXPECT_EQ(bench_.ctl({"run", "-i", "--", "echo"}, "a new one").output, "a new one");
    EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
  }

  OwnCgroups own_;
  TestPod pod_;
  AgentBench bench_;
};

TEST_P(KillMatrix, NothingIsLostOrLeft) {
  auto agent = bench_.start_agent(armed_environment());
  if (std::string_view(GetParam()).starts_with("move.") && pod_.path().empty()) {
    GTEST_SKIP() << "no cgroups can be made here";
  }
  const std::string keeper = acquire("keeper", pod_.path());
  arm();
  for (int round = 0; round < 20 && !fired(); ++round) {
    use_everything(round, keeper);
    if (!spawners() && !agent->running()) break;
    if (std::string_view(GetParam()).starts_with("journal.")) {  // at an agent's start
      agent->signal(SIGTERM);
      agent->wait();
      agent = std::make_unique<Process>(bench_.agent_command(), armed_environment());
      agent->wait();
    }
  }
  ASSERT_TRUE(fired()) << "the step " << GetParam() << " was never reached";
  if (spawners()) {
    ASSERT_TRUE(agent->wait_for("spawner replaced"));
  } else {
    if (agent->running()) agent->wait();
    agent = bench_.start_agent();
  }
  expect_order(keeper);
  EXPECT_EQ(bench_.ctl({"release", "--all"}).status, 0);
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
  agent->signal(SIGTERM);
  EXPECT_EQ(agent->wait(), 0) << agent->errors();
  EXPECT_THAT(bench_.left_behind(), testing::IsEmpty());
  EXPECT_THAT(pod_.groups(), testing::IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Agent, KillMatrix,
                         testing::Values("template.booting", "template.snapshotted", "template.written",
                                         "template.in-place", "clone.journalled", "clone.group-made", "clone.spawned",
                                         "restore.done", "restore.probed", "move.journalled", "move.done",
                                         "clone.fsd-spawned", "acquire.handed-over", "acquire.journalled", "shim.listening", "release.journalled",
                                         "reclaim.killed", "reclaim.done", "exec.started", "exec.exited",
                                         "journal.written", "journal.renamed"));
INSTANTIATE_TEST_SUITE_P(Spawner, KillMatrix,
                         testing::Values("spawner.started", "spawner.fsd-started", "spawner.kill", "spawner.reaped", "spawner.put-template"));

}  // namespace
}  // namespace granary::integration
