// SPDX-License-Identifier: Apache-2.0
// What containers may do, and whose processes they see.
#include <fstream>

#include "tests/cri/cri_fixture.h"

namespace granary::cri {
namespace {

using ::testing::HasSubstr;

class SecurityTest : public CriTest {
 protected:
  static runtime::v1::LinuxContainerSecurityContext& security(runtime::v1::ContainerConfig& config) {
    return *config.mutable_linux_config()->mutable_security_context();
  }
};

TEST_F(SecurityTest, OnlyAPrivilegedContainerMounts) {
  const std::string pod_name = name();
  runtime::v1::PodSandboxConfig pod_config = cri().pod_config(pod_name);
  pod_config.mutable_linux_config()->mutable_security_context()->set_privileged(true);
  const std::string pod = run_pod(pod_config);
  const std::string text = "mkdir /tmp/m; mount -t tmpfs none /tmp/m 2>/dev/null && echo mounted; true";
  EXPECT_EQ(run(pod, script(text)).output, "");
  runtime::v1::ContainerConfig config = script(text);
  security(config).set_privileged(true);
  EXPECT_EQ(run(pod, config).output, "mounted\n");
}

TEST_F(SecurityTest, AnUnprivilegedContainerHasTheDefaultsOnly) {
  const Outcome outcome =
      run(run_pod(), script("grep -E '^(CapEff|NoNewPrivs):' /proc/self/status | tr -d '\\t'; id -u"));
  EXPECT_EQ(outcome.output, "CapEff:00000000a80425fb\nNoNewPrivs:0\n0\n") << outcome.errors;
}

TEST_F(SecurityTest, AProfileOfTheHostForbidsASystemCall) {
  std::ofstream(folder() + "/profile.json") << R"({"defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]})";
  runtime::v1::ContainerConfig config = script("mkdir /tmp/m; touch /tmp/f && echo touched");
  security(config).mutable_seccomp()->set_profile_type(runtime::v1::SecurityProfile::Localhost);
  security(config).mutable_seccomp()->set_localhost_ref(folder() + "/profile.json");
  const Outcome outcome = run(run_pod(), config);
  EXPECT_EQ(outcome.output, "touched\n");
  EXPECT_THAT(outcome.errors, HasSubstr("Operation not permitted"));
}

TEST_F(SecurityTest, WithoutAProfileNothingIsFiltered) {
  runtime::v1::ContainerConfig config = script("grep ^Seccomp: /proc/self/status | tr -d '\\t'");
  security(config).mutable_seccomp()->set_profile_type(runtime::v1::SecurityProfile::Unconfined);
  EXPECT_EQ(run(run_pod(), config).output, "Seccomp:0\n");
}

TEST_F(SecurityTest, ExecHasTheContainersUserAndLimits) {
  runtime::v1::ContainerConfig config = script("exec sleep 100000");
  security(config).mutable_run_as_user()->set_value(1234);
  security(config).mutable_run_as_group()->set_value(2345);
  security(config).set_no_new_privs(true);
  const std::string container = start(run_pod(), config);
  EXPECT_EQ(exec(container, "id -u; id -g; grep ^NoNewPrivs: /proc/self/status | tr -d '\\t'").output,
            "1234\n2345\nNoNewPrivs:1\n");
}

TEST_F(SecurityTest, APodsIpcIsSharedByItsContainersAlone) {
  const std::string pod = run_pod();
  const std::string other = run_pod();
  const std::string in_pod = "readlink /proc/self/ns/ipc";
  const std::string one = start_idle(pod);
  EXPECT_EQ(exec(one, "touch /dev/shm/mine").status, 0);
  const std::string first = exec(one, in_pod).output;
  EXPECT_EQ(exec(start_idle(pod), in_pod).output, first);
  EXPECT_THAT(first, HasSubstr("ipc:["));
  EXPECT_EQ(exec(start_idle(other), "ls /dev/shm").output, "");
}

// As an ephemeral container of kubectl debug.
TEST_F(SecurityTest, AContainerSeesTheProcessesOfItsTarget) {
  const std::string pod = run_pod();
  runtime::v1::ContainerConfig config = script("exec sleep 4242");
  security(config).mutable_namespace_options()->set_pid(runtime::v1::CONTAINER);
  const std::string target = start(pod, config);
  config = script("exec sleep 100000");
  security(config).mutable_namespace_options()->set_pid(runtime::v1::TARGET);
  security(config).mutable_namespace_options()->set_target_id(target);
  const std::string debugger = start(pod, config);
  // With runc it is process 1 there; in a guest the debugger sees all of the pod's.
  EXPECT_EQ(exec(debugger,
                 "for p in /proc/[0-9]*; do tr '\\0' ' ' 2>/dev/null <$p/cmdline; echo; done | grep -xc 'sleep 4242 '")
                .output,
            "1\n");
}

TEST_F(SecurityTest, HostNamespacesAreRefusedByAGuest) {
  if (!is_granary()) GTEST_SKIP() << "about Granary";
  for (const char* what : {"hostNetwork", "hostPID", "hostIPC"}) {
    runtime::v1::PodSandboxConfig config = cri().pod_config(name());
    auto& options = *config.mutable_linux_config()->mutable_security_context()->mutable_namespace_options();
    if (what == std::string("hostNetwork")) options.set_network(runtime::v1::NODE);
    if (what == std::string("hostPID")) options.set_pid(runtime::v1::NODE);
    if (what == std::string("hostIPC")) options.set_ipc(runtime::v1::NODE);
    std::string id;
    const grpc::Status refused = cri().run_pod(config, &id);
    EXPECT_FALSE(refused.ok()) << what;
    EXPECT_THAT(refused.error_message(), HasSubstr(what));
  }
}

}  // namespace
}  // namespace granary::cri
