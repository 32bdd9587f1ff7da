// SPDX-License-Identifier: Apache-2.0
// Calls in the wrong order, twice, or about many at once.
#include "tests/cri/cri_fixture.h"

namespace granary::cri {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

class OrderTest : public CriTest {};

TEST_F(OrderTest, APodsNameIsItsOwn) {
  const runtime::v1::PodSandboxConfig config = cri().pod_config(name());
  const std::string pod = run_pod(config);
  std::string second;
  EXPECT_FALSE(cri().run_pod(config, &second).ok());
  runtime::v1::PodSandboxStatus status;
  EXPECT_RPC(cri().pod_status(pod, &status));
  EXPECT_EQ(status.state(), runtime::v1::SANDBOX_READY);
}

TEST_F(OrderTest, ARestartedPodIsAnotherOne) {
  runtime::v1::PodSandboxConfig config = cri().pod_config(name());
  const std::string first = run_pod(config);
  EXPECT_RPC(cri().stop_pod(first));
  config.mutable_metadata()->set_attempt(1);
  const std::string second = run_pod(config);
  EXPECT_NE(first, second);
  EXPECT_EQ(run(second, script("echo again")).output, "again\n");
}

TEST_F(OrderTest, AContainerStartsOnce) {
  const std::string container = start_idle(run_pod());
  EXPECT_FALSE(cri().start(container).ok());
  EXPECT_EQ(exec(container, "echo alive").output, "alive\n");
}

TEST_F(OrderTest, OneThatWasNeverStartedIsStoppedAndRemoved) {
  const std::string pod = run_pod();
  const std::string container = create(pod, script("echo never"));
  Outcome outcome;
  EXPECT_FALSE(cri().exec(container, {"/bin/busybox", "true"}, 60, &outcome).ok());
  EXPECT_RPC(cri().stop(container, 1));
  EXPECT_RPC(cri().remove(container));
  runtime::v1::ContainerStatus gone;
  EXPECT_EQ(cri().status(container, &gone).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(OrderTest, NothingStartsInAStoppedPod) {
  const std::string pod = run_pod();
  const std::string container = create(pod, script("true"));
  EXPECT_RPC(cri().stop_pod(pod));
  EXPECT_FALSE(cri().start(container).ok());
}

TEST_F(OrderTest, TwentyContainersHaveFilesLogsAndEndsOfTheirOwn) {
  const std::string pod = run_pod();
  constexpr int kContainers = 20;
  std::vector<std::string> all;
  for (int n = 0; n < kContainers; ++n) {
    const std::string number = std::to_string(n);
    all.push_back(start(pod, script("echo " + number + " >/tmp/mine; until [ -e /go ]; do sleep 0.1; done; " +
                                    "echo $(ls /tmp) $(cat /tmp/mine); exit " + number)));
  }
  // All at once, each with its own.
  for (const std::string& one : all) EXPECT_EQ(exec(one, "touch /go").status, 0);
  for (int n = 0; n < kContainers; ++n) {
    EXPECT_EQ(wait(all.at(static_cast<size_t>(n))).exit_code(), n);
    EXPECT_EQ(log(all.at(static_cast<size_t>(n))), "mine " + std::to_string(n) + "\n");
  }
}

TEST_F(OrderTest, FiguresAreListedByPodAndLabel) {
  const std::string pod = run_pod();
  runtime::v1::ContainerConfig config = script("exec sleep 100000");
  (*config.mutable_labels())["figures"] = config.metadata().name();
  const std::string labelled = start(pod, config);
  const std::string plain = start_idle(pod);
  const auto ids = [&](const runtime::v1::ContainerStatsFilter& filter) {
    std::vector<std::string> found;
    EXPECT_RPC(cri().list_stats(filter, &found));
    return found;
  };
  runtime::v1::ContainerStatsFilter filter;
  filter.set_pod_sandbox_id(pod);
  EXPECT_THAT(ids(filter), UnorderedElementsAre(labelled, plain));
  (*filter.mutable_label_selector())["figures"] = config.metadata().name();
  EXPECT_THAT(ids(filter), ElementsAre(labelled));
  runtime::v1::ContainerStatsFilter by_id;
  by_id.set_id(plain);
  EXPECT_THAT(ids(by_id), ElementsAre(plain));
}

TEST_F(OrderTest, AReopenedLogOfAStoppedContainerIsRefused) {
  const std::string container = start(run_pod(), script("true"));
  wait(container);
  EXPECT_FALSE(cri().reopen_log(container).ok());
}

TEST_F(OrderTest, LabelsAndAnnotationsComeBack) {
  runtime::v1::ContainerConfig config = script("exec sleep 100000");
  (*config.mutable_labels())["a.label"] = "one";
  (*config.mutable_annotations())["an.annotation"] = "two";
  const runtime::v1::ContainerStatus now = status(start(run_pod(), config));
  EXPECT_EQ(now.labels().at("a.label"), "one");
  EXPECT_EQ(now.annotations().at("an.annotation"), "two");
  EXPECT_EQ(now.metadata().name(), config.metadata().name());
  EXPECT_THAT(now.log_path(), HasSubstr(config.log_path()));
}

}  // namespace
}  // namespace granary::cri
