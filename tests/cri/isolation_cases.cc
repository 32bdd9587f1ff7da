// SPDX-License-Identifier: Apache-2.0
// Volumes and security contexts.
#include <filesystem>
#include <fstream>

#include "tests/cri/cri_fixture.h"

namespace granary::cri {
namespace {

using ::testing::HasSubstr;

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void mount(runtime::v1::ContainerConfig& config, const std::string& from, const std::string& to, bool read_only) {
  auto* const added = config.add_mounts();
  added->set_host_path(from);
  added->set_container_path(to);
  added->set_readonly(read_only);
}

runtime::v1::LinuxContainerSecurityContext& security(runtime::v1::ContainerConfig& config) {
  return *config.mutable_linux_config()->mutable_security_context();
}

TEST_F(CriTest, AVolumeIsReadAndWritten) {
  std::ofstream(folder() + "/in") << "from the host\n";
  runtime::v1::ContainerConfig config = script("cat /data/in; mkdir /data/sub; echo from the pod >/data/sub/out");
  mount(config, folder(), "/data", false);
  const Outcome outcome = run(run_pod(), config);
  EXPECT_EQ(outcome.output, "from the host\n") << outcome.errors;
  EXPECT_EQ(text_of(folder() + "/sub/out"), "from the pod\n");
}

TEST_F(CriTest, AReadOnlyVolumeAndASingleFileAre) {
  std::ofstream(folder() + "/word") << "secret\n";
  runtime::v1::ContainerConfig config =
      script("cat /data/word /etc/word; echo x 2>/dev/null >/data/new && echo written; echo x 2>/dev/null >/etc/word && echo changed; true");
  mount(config, folder(), "/data", true);
  mount(config, folder() + "/word", "/etc/word", true);
  EXPECT_EQ(run(run_pod(), config).output, "secret\nsecret\n");
  EXPECT_FALSE(std::filesystem::exists(folder() + "/new"));
}

// As the kubelet updates ConfigMaps and tokens.
TEST_F(CriTest, ASwappedLinkOnTheHostIsSeen) {
  namespace fs = std::filesystem;
  for (const char* version : {"one", "two"}) {
    fs::create_directory(folder() + "/.." + version);
    std::ofstream(folder() + "/.." + version + "/key") << version << "\n";
  }
  fs::create_symlink("..one", folder() + "/..data");
  fs::create_symlink("..data/key", folder() + "/key");
  runtime::v1::ContainerConfig config = script("exec sleep 100000");
  mount(config, folder(), "/config", true);
  const std::string container = start(run_pod(), config);
  EXPECT_EQ(exec(container, "cat /config/key").output, "one\n");
  fs::create_symlink("..two", folder() + "/..next");
  fs::rename(folder() + "/..next", folder() + "/..data");
  EXPECT_TRUE(eventually([&] { return exec(container, "cat /config/key").output == "two\n"; }));
}

TEST_F(CriTest, AMissingVolumeIsNamed) {
  const std::string pod = run_pod();
  runtime::v1::ContainerConfig config = script("true");
  mount(config, folder() + "/absent/deep", "/data", false);
  std::string id;
  const grpc::Status created = cri().create(pod, cri().pod_config(name()), config, &id);
  // containerd makes a missing host path where it can; then it is there, and empty.
  if (created.ok()) {
    EXPECT_TRUE(std::filesystem::exists(folder() + "/absent/deep"));
  } else {
    EXPECT_THAT(created.error_message(), HasSubstr("absent"));
  }
}

TEST_F(CriTest, UserGroupAndSupplementaryGroups) {
  runtime::v1::ContainerConfig config = script("id -u; id -g; grep ^Groups: /proc/self/status | tr -d '\\t'");
  security(config).mutable_run_as_user()->set_value(1234);
  security(config).mutable_run_as_group()->set_value(2345);
  security(config).add_supplemental_groups(3456);
  const Outcome outcome = run(run_pod(), config);
  EXPECT_THAT(outcome.output, HasSubstr("1234\n2345\n")) << outcome.errors;
  EXPECT_THAT(outcome.output, HasSubstr("3456"));
}

TEST_F(CriTest, AReadOnlyRootIs) {
  runtime::v1::ContainerConfig config = script("echo x 2>/dev/null >/new && echo written; true");
  security(config).set_readonly_rootfs(true);
  const Outcome outcome = run(run_pod(), config);
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.output, "");
}

TEST_F(CriTest, NoNewPrivilegesAndSeccompAreSet) {
  runtime::v1::ContainerConfig config = script("grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'");
  security(config).set_no_new_privs(true);
  security(config).mutable_seccomp()->set_profile_type(runtime::v1::SecurityProfile::RuntimeDefault);
  EXPECT_EQ(run(run_pod(), config).output, "NoNewPrivs:1\nSeccomp:2\n");
}

TEST_F(CriTest, CapabilitiesAreAddedAndDropped) {
  runtime::v1::ContainerConfig config = script("grep ^CapEff: /proc/self/status | tr -d '\\t'");
  security(config).mutable_capabilities()->add_drop_capabilities("ALL");
  security(config).mutable_capabilities()->add_add_capabilities("NET_BIND_SERVICE");
  EXPECT_EQ(run(run_pod(), config).output, "CapEff:0000000000000400\n");
}

TEST_F(CriTest, MaskedAndReadOnlyPathsAre) {
  runtime::v1::ContainerConfig config = script("wc -c </proc/version; echo 1 2>/dev/null >/proc/sys/vm/drop_caches && echo written; true");
  security(config).add_masked_paths("/proc/version");
  security(config).add_readonly_paths("/proc/sys");
  EXPECT_EQ(run(run_pod(), config).output, "0\n");
}

}  // namespace
}  // namespace granary::cri
