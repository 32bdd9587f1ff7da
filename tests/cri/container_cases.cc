// SPDX-License-Identifier: Apache-2.0
// Containers: life, ends, output, commands in them, resources.
#include <filesystem>
#include <fstream>

#include "tests/cri/cri_fixture.h"

namespace granary::cri {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

TEST_F(CriTest, ContainerGoesFromCreatedToExited) {
  const std::string pod = run_pod();
  const std::string container = create(pod, script("exit 0"));
  EXPECT_EQ(status(container).state(), runtime::v1::CONTAINER_CREATED);
  EXPECT_RPC(cri().start(container));
  const runtime::v1::ContainerStatus ended = wait(container);
  EXPECT_EQ(ended.exit_code(), 0);
  EXPECT_EQ(ended.reason(), "Completed");
  EXPECT_GE(ended.started_at(), ended.created_at());
  EXPECT_GE(ended.finished_at(), ended.started_at());
}

TEST_F(CriTest, ExitCodesAndSignalsAreTold) {
  const std::string pod = run_pod();
  EXPECT_EQ(wait(start(pod, script("exit 7"))).exit_code(), 7);
  // A child, because the first process of a pid namespace is not ended by its own signals.
  const runtime::v1::ContainerStatus killed = wait(start(pod, script("/bin/busybox sh -c 'kill -9 $$'; exit $?")));
  EXPECT_EQ(killed.exit_code(), 137);
  EXPECT_EQ(killed.reason(), "Error");
}

TEST_F(CriTest, AMissingCommandFailsAtStart) {
  const std::string pod = run_pod();
  runtime::v1::ContainerConfig config = script("");
  config.clear_command();
  config.add_command("/no/such/program");
  const std::string container = create(pod, config);
  const grpc::Status started = cri().start(container);
  EXPECT_FALSE(started.ok());
  EXPECT_THAT(started.error_message(), HasSubstr("/no/such/program"));
  EXPECT_EQ(wait(container).reason(), "StartError");
}

TEST_F(CriTest, StopSendsTermAndAfterTheTimeoutKills) {
  const std::string pod = run_pod();
  const std::string polite = start(pod, script("trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done"));
  EXPECT_TRUE(eventually([&] { return log(polite) == "up\n"; }));
  EXPECT_RPC(cri().stop(polite, 60));
  EXPECT_EQ(wait(polite).exit_code(), 5);
  const std::string deaf = start(pod, script("trap '' TERM; echo up; while :; do sleep 0.1; done"));
  EXPECT_TRUE(eventually([&] { return log(deaf) == "up\n"; }));
  EXPECT_RPC(cri().stop(deaf, 1));
  EXPECT_EQ(wait(deaf).exit_code(), 137);
  EXPECT_RPC(cri().stop(deaf, 1));
}

TEST_F(CriTest, RemoveEndsARunningContainerAndIsIdempotent) {
  const std::string container = start_idle(run_pod());
  EXPECT_RPC(cri().remove(container));
  EXPECT_RPC(cri().remove(container));
  runtime::v1::ContainerStatus gone;
  EXPECT_EQ(cri().status(container, &gone).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(CriTest, ContainersAreListedByPodStateAndLabel) {
  const std::string pod = run_pod();
  runtime::v1::ContainerConfig config = script("exec sleep 100000");
  (*config.mutable_labels())["role"] = config.metadata().name();
  const std::string labelled = start(pod, config);
  const std::string created = create(pod, script("true"));
  const auto ids = [&](const runtime::v1::ContainerFilter& filter) {
    std::vector<std::string> found;
    EXPECT_RPC(cri().list(filter, &found));
    return found;
  };
  runtime::v1::ContainerFilter of_pod;
  of_pod.set_pod_sandbox_id(pod);
  EXPECT_THAT(ids(of_pod), UnorderedElementsAre(labelled, created));
  of_pod.mutable_state()->set_state(runtime::v1::CONTAINER_RUNNING);
  EXPECT_THAT(ids(of_pod), ElementsAre(labelled));
  runtime::v1::ContainerFilter by_label;
  (*by_label.mutable_label_selector())["role"] = config.metadata().name();
  EXPECT_THAT(ids(by_label), ElementsAre(labelled));
}

TEST_F(CriTest, ARestartedContainerIsAnotherOneInTheSamePod) {
  const std::string pod = run_pod();
  runtime::v1::ContainerConfig config = script("echo once");
  const std::string first = start(pod, config);
  wait(first);
  config.mutable_metadata()->set_attempt(1);
  const std::string second = start(pod, config);
  EXPECT_EQ(wait(second).exit_code(), 0);
  EXPECT_NE(first, second);
}

TEST_F(CriTest, EnvironmentArgumentsAndFolderArrive) {
  runtime::v1::ContainerConfig config = script("echo \"$0 $1 $GREETING $(pwd)\"");
  config.add_args("zero");
  config.add_args("one two");
  config.set_working_dir("/tmp");
  auto* const variable = config.add_envs();
  variable->set_key("GREETING");
  variable->set_value("hello world");
  EXPECT_EQ(run(run_pod(), config).output, "zero one two hello world /tmp\n");
}

TEST_F(CriTest, OutputGoesToTheLogByStreamAndAfterReopening) {
  const std::string pod = run_pod();
  const std::string container = start(
      pod, script("echo out; echo err >&2; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo more; exec sleep 100000"));
  EXPECT_TRUE(eventually([&] { return log(container, "stdout") == "out\n" && log(container, "stderr") == "err\n"; }));
  const std::string path = status(container).log_path();
  std::filesystem::rename(path, path + ".1");
  EXPECT_RPC(cri().reopen_log(container));
  EXPECT_EQ(exec(container, "touch /tmp/go").status, 0);
  EXPECT_TRUE(eventually([&] { return log(container) == "more\n"; }));
}

TEST_F(CriTest, MuchOutputIsWhole) {
  const Outcome outcome = run(run_pod(), script("i=0; while [ $i -lt 20000 ]; do echo line-$i; i=$((i+1)); done"));
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 20000);
  EXPECT_THAT(outcome.output, ::testing::EndsWith("line-19999\n"));
}

TEST_F(CriTest, ATerminalHasOneStream) {
  runtime::v1::ContainerConfig config = script("test -t 1 && echo terminal; echo err >&2");
  config.set_tty(true);
  const std::string container = start(run_pod(), config);
  EXPECT_EQ(wait(container).exit_code(), 0);
  EXPECT_THAT(log(container), HasSubstr("terminal"));
  EXPECT_EQ(log(container, "stderr"), "");
}

TEST_F(CriTest, ExecSyncGivesStreamsAndExitCode) {
  const std::string container = start_idle(run_pod());
  const Outcome outcome = exec(container, "echo out; echo err >&2; exit 9");
  EXPECT_EQ(outcome.status, 9);
  EXPECT_EQ(outcome.output, "out\n");
  EXPECT_EQ(outcome.errors, "err\n");
  Outcome none;
  EXPECT_FALSE(cri().exec(container, {"/no/such/program"}, 60, &none).ok());
  EXPECT_EQ(exec(container, "echo still here").output, "still here\n");
}

TEST_F(CriTest, ExecSyncEndsAtItsTimeout) {
  const std::string container = start_idle(run_pod());
  Outcome outcome;
  // The brackets keep the counting shell itself out.
  const auto count = [&](const std::string& pattern) {
    const std::string all = "for p in /proc/[0-9]*; do tr '\\0' ' ' 2>/dev/null <$p/cmdline; echo; done";
    return exec(container, all + " | grep -c '" + pattern + "'").output;
  };
  const grpc::Status timed_out = cri().exec(container, {"/bin/busybox", "sleep", "31415"}, 1, &outcome);
  EXPECT_EQ(timed_out.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << timed_out.error_message();
  EXPECT_EQ(count("sleep 10000[0]"), "1\n") << "the container's own";
  EXPECT_TRUE(eventually([&] { return count("sleep 3141[5]") == "0\n"; }));
}

TEST_F(CriTest, ExecInAnExitedContainerIsRefused) {
  const std::string container = start(run_pod(), script("exit 0"));
  wait(container);
  Outcome outcome;
  EXPECT_FALSE(cri().exec(container, {"/bin/busybox", "true"}, 60, &outcome).ok());
}

TEST_F(CriTest, StatsCountWhatAContainerUses) {
  const std::string container = start(run_pod(), script("i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; exec sleep 100000"));
  runtime::v1::ContainerStats stats;
  EXPECT_TRUE(eventually([&] {
    return cri().stats(container, &stats).ok() && stats.cpu().usage_core_nano_seconds().value() > 1'000'000;
  })) << stats.ShortDebugString();
  EXPECT_GT(stats.memory().working_set_bytes().value(), 0U);
}

TEST_F(CriTest, AContainerBeyondItsMemoryIsOomKilledAndItsNeighbourLives) {
  const std::string pod = run_pod();
  const std::string neighbour = start_idle(pod);
  runtime::v1::ContainerConfig config = script("x=a; while :; do x=$x$x; done");
  config.mutable_linux_config()->mutable_resources()->set_memory_limit_in_bytes(24 << 20);
  const runtime::v1::ContainerStatus ended = wait(start(pod, config));
  EXPECT_EQ(ended.reason(), "OOMKilled");
  EXPECT_EQ(ended.exit_code(), 137);
  EXPECT_EQ(exec(neighbour, "echo alive").output, "alive\n");
}

// "oom_kill" of /proc/vmstat: whatever the kernel below the pods has killed for want of memory since it booted.
std::string host_oom_kills() {
  std::ifstream vmstat("/proc/vmstat");
  for (std::string name, value; vmstat >> name >> value;) {
    if (name == "oom_kill") return value;
  }
  return "";
}

TEST_F(CriTest, AnUnboundedAllocatorIsOomKilledInItsGuestAlone) {
  if (!is_granary()) GTEST_SKIP() << "would take the host's memory";
  const std::string before = host_oom_kills();
  ASSERT_NE(before, "");
  const std::string pod = run_pod();
  const std::string neighbour = start_idle(pod);
  const runtime::v1::ContainerStatus ended = wait(start(pod, script("exec tail /dev/zero")));
  EXPECT_EQ(ended.reason(), "OOMKilled");
  EXPECT_EQ(ended.exit_code(), 137);
  EXPECT_EQ(exec(neighbour, "echo alive").output, "alive\n");
  EXPECT_EQ(run(pod, script("echo the next")).output, "the next\n");
  EXPECT_EQ(host_oom_kills(), before);
}

TEST_F(CriTest, UpdateTakesEffectAtOnce) {
  const std::string pod = run_pod();
  runtime::v1::ContainerConfig config = script("exec sleep 100000");
  config.mutable_linux_config()->mutable_resources()->set_memory_limit_in_bytes(64 << 20);
  const std::string container = start(pod, config);
  const std::string needs_32_mib = "dd if=/dev/zero of=/dev/null bs=32M count=1 2>/dev/null";
  EXPECT_EQ(exec(container, needs_32_mib).status, 0);
  runtime::v1::LinuxContainerResources smaller;
  smaller.set_memory_limit_in_bytes(16 << 20);
  EXPECT_RPC(cri().update(container, smaller));
  EXPECT_EQ(exec(container, needs_32_mib).status, 137);
}

TEST_F(CriTest, AThousandProcessesComeAndGo) {
  const Outcome outcome = run(run_pod(), script("i=0; while [ $i -lt 1000 ]; do /bin/busybox true & i=$((i+1)); done; wait; echo all"));
  EXPECT_EQ(outcome.output, "all\n") << outcome.errors;
}

}  // namespace
}  // namespace granary::cri
