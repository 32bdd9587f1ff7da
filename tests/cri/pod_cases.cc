// SPDX-License-Identifier: Apache-2.0
// Pod sandboxes: life, idempotence, lists, what a pod's containers share.
#include "tests/cri/cri_fixture.h"

namespace granary::cri {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST_F(CriTest, PodIsReadyWithAnAddress) {
  const std::string pod = run_pod();
  runtime::v1::PodSandboxStatus status;
  EXPECT_RPC(cri().pod_status(pod, &status));
  EXPECT_EQ(status.state(), runtime::v1::SANDBOX_READY);
  EXPECT_FALSE(status.network().ip().empty());
  EXPECT_GT(status.created_at(), 0);
  EXPECT_EQ(status.runtime_handler(), cri().handler());
}

TEST_F(CriTest, PodStopAndRemoveAreIdempotent) {
  const std::string pod = run_pod();
  EXPECT_RPC(cri().stop_pod(pod));
  EXPECT_RPC(cri().stop_pod(pod));
  runtime::v1::PodSandboxStatus status;
  EXPECT_RPC(cri().pod_status(pod, &status));
  EXPECT_EQ(status.state(), runtime::v1::SANDBOX_NOTREADY);
  EXPECT_RPC(cri().remove_pod(pod));
  EXPECT_RPC(cri().remove_pod(pod));
  EXPECT_EQ(cri().pod_status(pod, &status).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(CriTest, PodsAreListedByIdStateAndLabel) {
  runtime::v1::PodSandboxConfig config = cri().pod_config(name());
  (*config.mutable_labels())["case"] = config.metadata().name();
  const std::string pod = run_pod(config);
  const std::string other = run_pod();
  const auto ids = [&](const runtime::v1::PodSandboxFilter& filter) {
    std::vector<std::string> found;
    EXPECT_RPC(cri().list_pods(filter, &found));
    return found;
  };
  runtime::v1::PodSandboxFilter by_label;
  (*by_label.mutable_label_selector())["case"] = config.metadata().name();
  EXPECT_THAT(ids(by_label), ElementsAre(pod));
  runtime::v1::PodSandboxFilter by_id;
  by_id.set_id(other);
  EXPECT_THAT(ids(by_id), ElementsAre(other));
  EXPECT_RPC(cri().stop_pod(other));
  runtime::v1::PodSandboxFilter ready;
  ready.mutable_state()->set_state(runtime::v1::SANDBOX_READY);
  EXPECT_THAT(ids(ready), Contains(pod));
  EXPECT_THAT(ids(ready), Not(Contains(other)));
}

TEST_F(CriTest, StoppingAPodEndsItsContainers) {
  const std::string pod = run_pod();
  const std::string container = start_idle(pod);
  EXPECT_RPC(cri().stop_pod(pod));
  EXPECT_EQ(status(container).state(), runtime::v1::CONTAINER_EXITED);
  EXPECT_RPC(cri().remove_pod(pod));
  runtime::v1::ContainerStatus gone;
  EXPECT_EQ(cri().status(container, &gone).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(CriTest, ContainersHaveThePodsHostnameAndResolver) {
  runtime::v1::PodSandboxConfig config = cri().pod_config(name());
  config.set_hostname("the-pod");
  config.mutable_dns_config()->add_servers("192.0.2.53");
  config.mutable_dns_config()->add_searches("svc.test");
  config.mutable_dns_config()->add_options("ndots:5");
  const std::string pod = run_pod(config);
  const Outcome outcome = run(pod, script("hostname; cat /etc/resolv.conf"));
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  for (const char* line : {"the-pod\n", "nameserver 192.0.2.53", "search svc.test", "options ndots:5"}) {
    EXPECT_THAT(outcome.output, HasSubstr(line));
  }
}

TEST_F(CriTest, ContainersHaveThePodsSysctls) {
  runtime::v1::PodSandboxConfig config = cri().pod_config(name());
  (*config.mutable_linux_config()->mutable_sysctls())["net.ipv4.ip_unprivileged_port_start"] = "77";
  (*config.mutable_linux_config()->mutable_sysctls())["kernel.shm_rmid_forced"] = "1";
  const Outcome outcome =
      run(run_pod(config), script("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced"));
  EXPECT_EQ(outcome.output, "77\n1\n") << outcome.errors;
}

TEST_F(CriTest, ContainersShareThePodsLoopbackAndItsAddress) {
  const std::string pod = run_pod();
  runtime::v1::PodSandboxStatus status;
  EXPECT_RPC(cri().pod_status(pod, &status));
  const std::string server = start(pod, script("echo hello >/tmp/index.html; exec httpd -f -p 8080 -h /tmp"));
  const std::string client = start_idle(pod);
  Outcome got;
  EXPECT_TRUE(eventually([&] {
    got = exec(client, "wget -q -O - http://127.0.0.1:8080/ && wget -q -O - http://" + status.network().ip() + ":8080/");
    return got.status == 0;
  })) << got.errors;
  EXPECT_EQ(got.output, "hello\nhello\n");
}

TEST_F(CriTest, ContainersShareThePodsMemoryFolder) {
  const std::string pod = run_pod();
  const std::string writer = start_idle(pod);
  const std::string reader = start_idle(pod);
  EXPECT_EQ(exec(writer, "echo shared >/dev/shm/word").status, 0);
  EXPECT_EQ(exec(reader, "cat /dev/shm/word").output, "shared\n");
}

TEST_F(CriTest, PodPidNamespaceIsSharedAndContainersIsNot) {
  const auto in = [&](const std::string& pod, runtime::v1::NamespaceMode mode) {
    runtime::v1::ContainerConfig config = script("exec sleep 4242");
    config.mutable_linux_config()->mutable_security_context()->mutable_namespace_options()->set_pid(mode);
    return start(pod, config);
  };
  const std::string alone = in(run_pod(), runtime::v1::CONTAINER);
  EXPECT_EQ(exec(alone, "cat /proc/1/cmdline | tr '\\0' ' '").output, "sleep 4242 ");
  const std::string pod = run_pod();
  const std::string first = in(pod, runtime::v1::POD);
  const std::string second = in(pod, runtime::v1::POD);
  EXPECT_EQ(exec(second, "for p in /proc/[0-9]*; do tr '\\0' ' ' 2>/dev/null <$p/cmdline; echo; done | grep -xc 'sleep 4242 '")
                .output,
            "2\n");
  EXPECT_FALSE(first.empty());
}

TEST_F(CriTest, AnUnknownContainerOrPodIsNotFound) {
  runtime::v1::PodSandboxStatus pod;
  EXPECT_EQ(cri().pod_status("nobody", &pod).error_code(), grpc::StatusCode::NOT_FOUND);
  runtime::v1::ContainerStatus container;
  EXPECT_EQ(cri().status("nobody", &container).error_code(), grpc::StatusCode::NOT_FOUND);
  // containerd 1.6 says NOT_FOUND, later ones that it is done.
  const grpc::Status stopped = cri().stop_pod("nobody");
  EXPECT_TRUE(stopped.ok() || stopped.error_code() == grpc::StatusCode::NOT_FOUND) << stopped.error_message();
  EXPECT_RPC(cri().remove("nobody"));
}

}  // namespace
}  // namespace granary::cri
