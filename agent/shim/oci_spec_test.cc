// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/oci_spec.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

namespace granary::shim {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// As containerd's CRI writes it, the parts that matter.
json sample() {
  return json::parse(R"({
    "ociVersion": "1.2.0",
    "process": {"user": {"uid": 1000, "gid": 1000}, "args": ["sh"], "env": ["A=b"], "cwd": "/", "noNewPrivileges": true,
                "capabilities": {"bounding": ["CAP_CHOWN"]}, "apparmorProfile": "cri-containerd.apparmor.d",
                "selinuxLabel": "system_u:object_r:x", "oomScoreAdj": 1000, "consoleSize": {"height": 24, "width": 80}},
    "root": {"path": "/run/containerd/io.containerd.runtime.v2.task/k8s.io/c1/rootfs", "readonly": true},
    "hostname": "pod-1",
    "mounts": [
      {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
      {"destination": "/dev/shm", "type": "bind", "source": "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/s1/shm", "options": ["rbind"]},
      {"destination": "/etc/resolv.conf", "type": "bind", "source": "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/s1/resolv.conf", "options": ["rbind", "rw"]},
      {"destination": "/etc/hosts", "type": "bind", "source": "/var/lib/kubelet/pods/u1/etc-hosts", "options": ["rbind", "rw"]},
      {"destination": "/secret", "type": "bind", "source": "/var/lib/kubelet/pods/u1/volumes/s", "options": ["rbind", "ro"]}
    ],
    "annotations": {"io.kubernetes.cri.container-type": "container"},
    "linux": {
      "resources": {"devices": [{"allow": false, "access": "rwm"}], "memory": {"limit": 67108864},
                    "cpu": {"shares": 102, "quota": 10000, "period": 100000, "cpus": "3"},
                    "hugepageLimits": [{"pageSize": "2MB", "limit": 0}]},
      "cgroupsPath": "/kubepods/pod1/c1",
      "namespaces": [{"type": "pid"}, {"type": "ipc", "path": "/proc/7/ns/ipc"}, {"type": "uts", "path": "/proc/7/ns/uts"},
                     {"type": "mount"}, {"type": "network", "path": "/proc/7/ns/net"}, {"type": "cgroup"}],
      "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
      "maskedPaths": ["/proc/kcore"], "mountLabel": "x"
    }})");
}

class OciSpec : public ::testing::Test {
 protected:
  Result<GuestSpec> translate_text(const std::string& text) {
    return translate_spec(text, {.container_id = "c1",
                                 .sandbox_id = "s1",
                                 .terminal = false,
                                 .share = [this](const std::string& path, bool read_only) -> Result<std::string> {
                                   shared_.emplace_back(path, read_only);
                                   return "/run/granary/shares/" + std::to_string(shared_.size());
                                 }});
  }
  json translate(const json& spec) {
    const Result<GuestSpec> result = translate_text(spec.dump());
    EXPECT_TRUE(result) << result.error().message();
    return result ? json::parse(result->json) : json();
  }
  Error refused(const json& spec) {
    const Result<GuestSpec> result = translate_text(spec.dump());
    EXPECT_FALSE(result);
    return result ? Error(Errc::kNotSupported, "not refused") : result.error();
  }
  std::vector<std::pair<std::string, bool>> shared_;
};

TEST_F(OciSpec, WhatAsksTheKernelStays) {
  const json before = sample();
  const json after = translate(before);
  for (const char* name : {"user", "args", "env", "cwd", "capabilities", "noNewPrivileges", "oomScoreAdj"}) {
    EXPECT_EQ(after["process"][name], before["process"][name]) << name;
  }
  EXPECT_EQ(after["linux"]["seccomp"], before["linux"]["seccomp"]);
  EXPECT_EQ(after["linux"]["maskedPaths"], before["linux"]["maskedPaths"]);
  EXPECT_EQ(after["linux"]["resources"]["memory"], before["linux"]["resources"]["memory"]);
  EXPECT_EQ(after["linux"]["resources"]["devices"], before["linux"]["resources"]["devices"]);
  EXPECT_EQ(after["annotations"], before["annotations"]);
  EXPECT_EQ(after["mounts"][0], before["mounts"][0]);
}

TEST_F(OciSpec, WhatNamesTheHostIsReplacedOrDropped) {
  const json after = translate(sample());
  EXPECT_FALSE(after["process"].contains("apparmorProfile"));
  EXPECT_FALSE(after["process"].contains("selinuxLabel"));
  EXPECT_FALSE(after["linux"].contains("mountLabel"));
  EXPECT_FALSE(after.contains("hostname"));
  EXPECT_EQ(after["root"], json({{"path", "rootfs"}, {"readonly", true}}));
  EXPECT_EQ(after["linux"]["cgroupsPath"], "/pod/c1");
  EXPECT_EQ(after["linux"]["namespaces"], json::parse(R"([{"type":"pid"},{"type":"mount"},{"type":"cgroup"}])"));
  EXPECT_EQ(after["ociVersion"], "1.0.2");
  EXPECT_EQ(after["linux"]["resources"]["cpu"], json({{"shares", 102}, {"quota", 10000}, {"period", 100000}}));
  EXPECT_FALSE(after["linux"]["resources"].contains("hugepageLimits"));
}

TEST_F(OciSpec, MountsOfThePodAreTheGuestsAndOthersAreShared) {
  const json after = translate(sample());
  EXPECT_EQ(after["mounts"][1]["source"], "/run/granary/pod/shm");
  EXPECT_EQ(after["mounts"][2]["source"], "/run/granary/pod/resolv.conf");
  EXPECT_EQ(after["mounts"][3]["source"], "/run/granary/shares/1");
  EXPECT_EQ(after["mounts"][4]["source"], "/run/granary/shares/2");
  EXPECT_EQ(after["mounts"][4]["options"], json::parse(R"(["rbind","ro"])"));
  EXPECT_THAT(shared_, ::testing::ElementsAre(std::pair("/var/lib/kubelet/pods/u1/etc-hosts", false),
                                              std::pair("/var/lib/kubelet/pods/u1/volumes/s", true)));
}

// As containerd writes it for sandboxes that are not its own.
TEST_F(OciSpec, PodFilesThatAreNotMountedAreAdded) {
  json spec = sample();
  spec["mounts"] = json::parse(R"([{"destination":"/dev/shm","type":"tmpfs","source":"shm","options":["nosuid"]},
                                   {"destination":"/etc/hosts","type":"bind","source":"/hosts-of-the-kubelet","options":["rbind"]}])");
  const json mounts = translate(spec)["mounts"];
  std::map<std::string, std::string> sources;
  for (const json& mount : mounts) sources[mount["destination"]] = mount["source"];
  EXPECT_EQ(sources, (std::map<std::string, std::string>{{"/dev/shm", "/run/granary/pod/shm"},
                                                         {"/etc/hosts", "/run/granary/shares/1"},
                                                         {"/etc/hostname", "/run/granary/pod/hostname"},
                                                         {"/etc/resolv.conf", "/run/granary/pod/resolv.conf"}}));
  spec.erase("mounts");
  EXPECT_EQ(translate(spec)["mounts"].size(), 4U);
  spec["mounts"] = json::parse(R"([{"destination":"/dev/shm","type":null,"source":"/dev/shm","options":["bind"]}])");
  EXPECT_EQ(translate(spec)["mounts"].size(), 4U);
}

TEST_F(OciSpec, APodFileOfAnotherSandboxIsShared) {
  json spec = sample();
  spec["mounts"][2]["source"] = "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/s2/resolv.conf";
  EXPECT_EQ(translate(spec)["mounts"][2]["source"], "/run/granary/shares/1");
}

TEST_F(OciSpec, ASharedProcessNamespaceIsTheGuests) {
  json spec = sample();
  spec["linux"]["namespaces"][0]["path"] = "/proc/7/ns/pid";
  EXPECT_EQ(translate(spec)["linux"]["namespaces"], json::parse(R"([{"type":"mount"},{"type":"cgroup"}])"));
}

TEST_F(OciSpec, TheTerminalIsTheCallersWord) {
  const auto result =
      translate_process(R"({"args":["sh"],"terminal":false,"consoleSize":{"height":24,"width":80}})", true);
  ASSERT_TRUE(result);
  EXPECT_EQ(json::parse(result->json)["terminal"], true);
  EXPECT_EQ(result->rows, 24U);
  EXPECT_EQ(result->columns, 80U);
}

TEST_F(OciSpec, WhatCannotBeHadIsRefusedByName) {
  const auto check = [this](const char* pointer, json value, const char* text) {
    json spec = sample();
    spec[json::json_pointer(pointer)] = std::move(value);
    const Error error = refused(spec);
    EXPECT_TRUE(error.is(Errc::kNotSupported)) << pointer;
    EXPECT_THAT(error.message(), HasSubstr(text));
  };
  check("/hooks", json::parse(R"({"prestart":[{"path":"/bin/x"}]})"), "prestart");
  check("/linux/devices", json::parse(R"([{"path":"/dev/sda","type":"b","major":8,"minor":0}])"), "/dev/sda");
  check("/linux/namespaces", json::parse(R"([{"type":"user"}])"), "hostUsers");
  check("/linux/seccomp/listenerPath", "/run/x.sock", "listenerPath");
  check("/mounts/4/uidMappings", json::array(), "id-mapped");
  check("/mounts/4/options", json::parse(R"(["rbind","rshared"])"), "Bidirectional");
  check("/mounts/4/options", json::parse(R"(["rbind","idmap=x"])"), "id-mapped");
  check("/mounts/0/type", "nfs", "nfs");
  json harmless = sample();
  harmless["hooks"] = {{"prestart", json::array()}};
  harmless["linux"]["devices"] = json::parse(R"([{"path":"/dev/fuse","type":"c","major":10,"minor":229}])");
  (void)translate(harmless);
}

TEST_F(OciSpec, WrongTypesAreInvalid) {
  for (const char* pointer :
       {"/process", "/process/consoleSize", "/root", "/root/readonly", "/linux", "/linux/namespaces",
        "/linux/namespaces/0", "/linux/namespaces/0/type", "/linux/resources", "/linux/resources/cpu", "/linux/seccomp",
        "/mounts", "/mounts/0", "/mounts/0/type", "/mounts/0/destination", "/mounts/4/source", "/mounts/4/options",
        "/mounts/4/options/0"}) {
    json spec = sample();
    spec[json::json_pointer(pointer)] = 7;
    EXPECT_TRUE(refused(spec).is(Errc::kInvalidArgument)) << pointer;
  }
  for (const char* name : {"process", "linux"}) {
    json spec = sample();
    spec.erase(name);
    EXPECT_TRUE(refused(spec).is(Errc::kInvalidArgument)) << name;
  }
  json relative = sample();
  relative["mounts"][4]["source"] = "etc/passwd";
  EXPECT_TRUE(refused(relative).is(Errc::kInvalidArgument));
}

TEST_F(OciSpec, TextsThatAreNoSpecAreInvalid) {
  std::string deep(100'000, '[');
  for (const std::string& text : {std::string(), std::string("{"), std::string("[]"), std::string("null"), deep,
                                  "{\"a\":" + deep + std::string(100'000, ']') + "}", std::string("{\"a\":\"\xff\"}"),
                                  std::string(kMaxSpecBytes + 1, ' ')}) {
    const auto result = translate_text(text);
    ASSERT_FALSE(result);
    EXPECT_TRUE(result.error().is(Errc::kInvalidArgument));
    EXPECT_LT(result.error().message().size(), 300U);
  }
}

TEST_F(OciSpec, AShareThatFailsNamesTheMount) {
  const auto result = translate_spec(sample().dump(), {.container_id = "c1",
                                                       .sandbox_id = "s1",
                                                       .terminal = false,
                                                       .share = [](const std::string&, bool) -> Result<std::string> {
                                                         return Error(Errc::kNotSupported, "no shares here");
                                                       }});
  ASSERT_FALSE(result);
  EXPECT_TRUE(result.error().is(Errc::kNotSupported));
  EXPECT_THAT(result.error().message(), HasSubstr("etc-hosts"));
  EXPECT_THAT(result.error().message(), HasSubstr("no shares here"));
}

TEST_F(OciSpec, ResourcesBecomeLimits) {
  const auto limits = read_resources(
      R"({"memory":{"limit":1048576},"cpu":{"shares":1024,"quota":50000,"period":100000},"pids":{"limit":-1}})");
  ASSERT_TRUE(limits);
  EXPECT_EQ(*limits,
            (GuestLimits{
                .memory_bytes = 1048576, .cpu_quota_us = 50000, .cpu_period_us = 100000, .cpu_weight = 39, .pids = 0}));
  EXPECT_EQ(read_resources(R"({"cpu":{"shares":2}})")->cpu_weight, 1U);
  EXPECT_EQ(read_resources(R"({"cpu":{"shares":262144}})")->cpu_weight, 10000U);
  EXPECT_EQ(*read_resources("{}"), GuestLimits{});
  for (const char* wrong : {R"({"memory":[]})", R"({"memory":{"limit":"1"}})", R"({"cpu":{"quota":1.5}})", "7"}) {
    EXPECT_FALSE(read_resources(wrong)) << wrong;
  }
}

}  // namespace
}  // namespace granary::shim
