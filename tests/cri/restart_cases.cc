// SPDX-License-Identifier: Apache-2.0
// The restart matrix: each of Granary's processes, and containerd, killed with SIGKILL while a pod is at each phase. A
// killed containerd, granaryd or granary-spawn costs no pod; a killed shim or VMM costs its own, told as such; a killed
// file server costs its pod's files. Afterwards the audit is clean and containerd has nothing left.
#include <algorithm>
#include <memory>
#include <thread>

#include "tests/cri/cri_fixture.h"

namespace granary::cri {
namespace {

using ::testing::IsEmpty;

enum class Phase { kPodReady, kCreated, kRunning, kExecuting };

class RestartTest : public CriTest, public ::testing::WithParamInterface<std::tuple<std::string, Phase>> {
 protected:
  void SetUp() override {
    CriTest::SetUp();
    if (!IsSkipped() && !is_granary() && victim() != "containerd") GTEST_SKIP() << "about Granary's processes";
  }
  [[nodiscard]] static std::string victim() { return std::get<0>(GetParam()); }
  [[nodiscard]] static Phase phase() { return std::get<1>(GetParam()); }
  [[nodiscard]] static bool costs_no_pod() {
    return victim() == "containerd" || victim() == "granaryd" || victim() == "granary-spawn";
  }

  runtime::v1::PodSandboxState state(const std::string& pod) {
    runtime::v1::PodSandboxStatus status;
    return cri().pod_status(pod, &status).ok() ? status.state() : runtime::v1::SANDBOX_NOTREADY;
  }
  // As it was before: what was created can be started, what ran runs and takes commands.
  void expect_unharmed(const std::string& pod, const std::string& container) {
    // A restarted granaryd is found again by containerd within a second or so.
    EXPECT_TRUE(eventually([&] { return state(pod) == runtime::v1::SANDBOX_READY; }));
    if (container.empty()) return (void)start_idle(pod);
    if (phase() == Phase::kCreated) {
      EXPECT_EQ(status(container).state(), runtime::v1::CONTAINER_CREATED);
      EXPECT_RPC(cri().start(container));
    }
    EXPECT_EQ(status(container).state(), runtime::v1::CONTAINER_RUNNING);
    EXPECT_EQ(exec(container, "echo unharmed").output, "unharmed\n");
    EXPECT_RPC(cri().stop(container, 0));
    EXPECT_EQ(wait(container).exit_code(), 137);
  }
  void expect_lost(const std::string& pod, const std::string& container) {
    EXPECT_TRUE(eventually([&] { return state(pod) == runtime::v1::SANDBOX_NOTREADY; }));
    if (container.empty() || phase() == Phase::kCreated) return;
    // Of a task whose shim is gone containerd asks nobody any more: 255 is its "unknown".
    EXPECT_EQ(wait(container).exit_code(), victim() == "shim" ? 255 : 137);
  }
  void expect_nothing_left() {
    if (is_granary()) {
      EXPECT_TRUE(eventually([&] { return runtime().audit() == "no differences\n"; })) << runtime().audit();
    }
    EXPECT_THAT(runtime().leftovers(), IsEmpty());
  }
};

TEST_P(RestartTest, CostsWhatItMustAndLeavesNothing) {
  const std::string pod = run_pod();
  std::string container;
  if (phase() == Phase::kCreated) container = create(pod, script("exec sleep 100000"));
  if (phase() == Phase::kRunning || phase() == Phase::kExecuting) container = start_idle(pod);
  std::jthread executing;
  // Before the thread is joined, also where a check fails: its command ends with its pod.
  const std::shared_ptr<void> ending(nullptr, [this](void*) { end_pods(); });
  if (phase() == Phase::kExecuting) {
    executing = std::jthread([&] {
      Client client(runtime().target(), cri().handler(), "");
      Outcome ignored;
      (void)client.exec(container, {"/bin/busybox", "sh", "-c", "echo >/began; exec sleep 100000"}, 0, &ignored);
    });
    EXPECT_TRUE(eventually([&] { return exec(container, "test -e /began").status == 0; }));
  }
  ASSERT_TRUE(runtime().kill(victim()));
  reconnect();
  if (costs_no_pod()) {
    expect_unharmed(pod, container);
  } else if (victim() != "granary-fsd") {
    expect_lost(pod, container);
  } else if (phase() == Phase::kRunning || phase() == Phase::kExecuting) {
    Outcome read;
    const grpc::Status asked = cri().exec(container, {"/bin/busybox", "cat", "/bin/busybox"}, 60, &read);
    EXPECT_TRUE(!asked.ok() || read.status != 0) << "it has its files yet";
    EXPECT_RPC(cri().stop(container, 0));
  }
  // The next pod is served as if nothing had been.
  EXPECT_EQ(run(run_pod(), script("echo served")).output, "served\n");
  end_pods();
  expect_nothing_left();
}

std::string name_of(const ::testing::TestParamInfo<RestartTest::ParamType>& info) {
  std::string name = std::get<0>(info.param);
  std::erase(name, '-');
  switch (std::get<1>(info.param)) {
    case Phase::kPodReady:
      return name + "_PodReady";
    case Phase::kCreated:
      return name + "_Created";
    case Phase::kRunning:
      return name + "_Running";
    default:
      return name + "_Executing";
  }
}
INSTANTIATE_TEST_SUITE_P(Matrix, RestartTest,
                         ::testing::Combine(::testing::Values("containerd", "granaryd", "granary-spawn", "shim",
                                                              "granary-vmm", "granary-fsd"),
                                            ::testing::Values(Phase::kPodReady, Phase::kCreated, Phase::kRunning,
                                                              Phase::kExecuting)),
                         name_of);

}  // namespace
}  // namespace granary::cri
