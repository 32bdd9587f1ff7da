// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/sandbox_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "agent/shim/loop_fixture.h"
#include "agent/shim/oci_spec.h"

namespace granary::shim {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// As containerd 1.7 writes it for a pod of a kubelet.
json pod_spec() {
  return json::parse(R"({
    "hostname": "web", "process": {"args": ["/pause"]},
    "annotations": {"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "s1",
      "io.kubernetes.cri.sandbox-memory": "268435456", "io.kubernetes.cri.sandbox-cpu-quota": "150000",
      "io.kubernetes.cri.sandbox-cpu-period": "100000", "granary.dev/pool": "large"},
    "mounts": [{"destination": "/dev/shm", "source": "/run/c/sandboxes/s1/shm", "type": "bind"},
               {"destination": "/etc/resolv.conf", "source": "/var/c/sandboxes/s1/resolv.conf", "type": "bind"}],
    "linux": {"cgroupsPath": "/kubepods/burstable/pod12/s1", "sysctl": {"net.ipv4.ip_forward": "1"},
      "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                     {"type": "network", "path": "/var/run/netns/cni-1"}]}})");
}

Result<SandboxSpec> read(const json& spec) { return read_sandbox_spec(spec.dump(), "k8s.io"); }

std::string refusal(const json& spec) {
  const auto result = read(spec);
  return result ? "accepted" : result.error().message();
}

json without_namespace(const std::string& type) {
  json spec = pod_spec();
  json& list = spec["linux"]["namespaces"];
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i]["type"] == type) list.erase(i);
  }
  return spec;
}

TEST(SandboxSpecTest, APodOfAKubeletIsRead) {
  const auto spec = read(pod_spec());
  ASSERT_TRUE(spec) << spec.error().message();
  EXPECT_EQ(spec->hostname, "web");
  EXPECT_EQ(spec->netns, "/var/run/netns/cni-1");
  EXPECT_EQ(spec->cgroup_parent, "/kubepods/burstable/pod12");
  EXPECT_EQ(spec->pool, "large");
  EXPECT_EQ(spec->resolv_conf, "/var/c/sandboxes/s1/resolv.conf");
  EXPECT_EQ(spec->pod.limits().memory_bytes(), 268435456U);
  EXPECT_EQ(spec->pod.limits().cpu_quota_us(), 150000U);
  EXPECT_EQ(spec->pod.limits().cpu_period_us(), 100000U);
  ASSERT_EQ(spec->pod.sysctls_size(), 1);
  EXPECT_EQ(spec->pod.sysctls(0).name(), "net.ipv4.ip_forward");
}

TEST(SandboxSpecTest, APodWithoutLimitsCgroupAndNetworkIsRead) {
  json spec = pod_spec();
  spec["annotations"]["io.kubernetes.cri.sandbox-cpu-quota"] = "-1";
  spec["annotations"].erase("io.kubernetes.cri.sandbox-memory");
  spec["linux"]["cgroupsPath"] = "/k8s.io/s1";  // where containerd puts what has no parent
  spec["linux"]["namespaces"][4].erase("path");
  spec.erase("mounts");
  const auto result = read(spec);
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(result->cgroup_parent, "");
  EXPECT_EQ(result->netns, "");
  EXPECT_EQ(result->resolv_conf, "");
  EXPECT_EQ(result->pod.limits().memory_bytes(), 0U);
  EXPECT_EQ(result->pod.limits().cpu_quota_us(), 0U);
}

TEST(SandboxSpecTest, SystemdsFormOfACgroupStays) {
  json spec = pod_spec();
  spec["linux"]["cgroupsPath"] = "kubepods-pod12.slice:cri-containerd:s1";
  EXPECT_EQ(read(spec)->cgroup_parent, "kubepods-pod12.slice:cri-containerd:s1");
}

TEST(SandboxSpecTest, NamespacesOfTheHostAreRefusedByTheirName) {
  EXPECT_THAT(refusal(without_namespace("network")), HasSubstr("hostNetwork: true cannot work in a microVM"));
  EXPECT_THAT(refusal(without_namespace("pid")), HasSubstr("hostPID"));
  EXPECT_THAT(refusal(without_namespace("ipc")), HasSubstr("hostIPC"));
  json spec = pod_spec();
  spec["linux"]["namespaces"].push_back({{"type", "user"}});
  EXPECT_THAT(refusal(spec), HasSubstr("hostUsers"));
}

TEST(SandboxSpecTest, MalformedSpecificationsAreRefused) {
  EXPECT_FALSE(read_sandbox_spec("{", "k8s.io"));
  EXPECT_FALSE(read_sandbox_spec("[]", "k8s.io"));
  EXPECT_FALSE(read_sandbox_spec(std::string(kMaxSpecBytes + 1, ' '), "k8s.io"));
  EXPECT_THAT(refusal(json::object()), HasSubstr("linux is missing"));
  json spec = pod_spec();
  spec["annotations"]["io.kubernetes.cri.sandbox-memory"] = "1G";
  EXPECT_THAT(refusal(spec), HasSubstr("\"1G\", no whole number"));
  spec = pod_spec();
  spec["annotations"] = 7;
  EXPECT_THAT(refusal(spec), HasSubstr("annotations is a number"));
  spec = pod_spec();
  spec["linux"]["sysctl"]["a"] = 1;
  EXPECT_THAT(refusal(spec), HasSubstr("sysctl \"a\" is a number"));
  spec = pod_spec();
  spec["linux"]["namespaces"] = {1};
  EXPECT_THAT(refusal(spec), HasSubstr("an element of namespaces"));
}

TEST(MembershipTest, OfContainerdAndOfCrio) {
  const auto sandbox = read_membership(pod_spec().dump(), "s1");
  ASSERT_TRUE(sandbox) << sandbox.error().message();
  EXPECT_TRUE(sandbox->is_sandbox);
  EXPECT_EQ(sandbox->sandbox_id, "s1");
  const auto crio = read_membership(
      R"({"annotations":{"io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.cri-o.SandboxID":"s2"}})", "c1");
  ASSERT_TRUE(crio) << crio.error().message();
  EXPECT_FALSE(crio->is_sandbox);
  EXPECT_EQ(crio->sandbox_id, "s2");
}

TEST(MembershipTest, WhatIsNoPodsIsRefused) {
  const auto text = [](const json& annotations, const std::string& id) {
    const auto result = read_membership(json{{"annotations", annotations}}.dump(), id);
    return result ? "accepted" : result.error().message();
  };
  EXPECT_THAT(text(json::object(), "c1"), HasSubstr("container \"c1\" belongs to no pod"));
  EXPECT_THAT(text({{"io.kubernetes.cri.container-type", "container"}}, "c1"), HasSubstr("sandbox-id"));
  EXPECT_THAT(
      text({{"io.kubernetes.cri.container-type", "container"}, {"io.kubernetes.cri.sandbox-id", "../../etc"}}, "c1"),
      HasSubstr("1 to 128 of"));
  EXPECT_THAT(text({{"io.kubernetes.cri.container-type", "sandbox"}, {"io.kubernetes.cri.sandbox-id", "s2"}}, "s1"),
              HasSubstr("names another sandbox"));
}

class PodFilesTest : public LoopTest {};

TEST_F(PodFilesTest, TheRuntimesFilesGoToTheGuest) {
  std::ofstream(directory_ + "/resolv.conf") << "nameserver 10.0.0.1\n";
  std::ofstream(directory_ + "/hosts") << "127.0.0.1 localhost\n";
  SandboxSpec spec;
  spec.resolv_conf = directory_ + "/resolv.conf";
  ASSERT_TRUE(read_pod_files(spec));
  EXPECT_EQ(spec.pod.resolv_conf(), "nameserver 10.0.0.1\n");
  EXPECT_EQ(spec.pod.hosts(), "127.0.0.1 localhost\n");
  EXPECT_EQ(spec.pod.hostname(), "");  // CRI-O has it elsewhere
  std::ofstream(directory_ + "/hosts") << std::string(300'000, 'x');
  const Status too_long = read_pod_files(spec);
  ASSERT_FALSE(too_long);
  EXPECT_TRUE(too_long.error().is_errno(EFBIG));
}

}  // namespace
}  // namespace granary::shim
