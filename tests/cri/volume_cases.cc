// SPDX-License-Identifier: Apache-2.0
// Volumes beyond plain ones: links, propagation, mounts below them.
#include <sys/mount.h>

#include <filesystem>
#include <fstream>

#include "tests/cri/cri_fixture.h"

namespace granary::cri {
namespace {

namespace fs = std::filesystem;

class VolumeTest : public CriTest {
 protected:
  static runtime::v1::Mount& mount(runtime::v1::ContainerConfig& config, const std::string& from) {
    auto& added = *config.add_mounts();
    added.set_host_path(from);
    added.set_container_path("/data");
    return added;
  }
  // A tmpfs on the host with one file, until the case ends.
  class HostMount {
   public:
    explicit HostMount(std::string path) : path_(std::move(path)) {
      fs::create_directories(path_);
      EXPECT_EQ(::mount("tmpfs", path_.c_str(), "tmpfs", 0, "size=64k"), 0);
      std::ofstream(path_ + "/word") << "mounted\n";
    }
    ~HostMount() { ::umount2(path_.c_str(), MNT_DETACH); }
    HostMount(const HostMount&) = delete;
    HostMount& operator=(const HostMount&) = delete;

   private:
    std::string path_;
  };
};

TEST_F(VolumeTest, ALinkToAFolderIsFollowed) {
  fs::create_directory(folder() + "/real");
  std::ofstream(folder() + "/real/word") << "followed\n";
  fs::create_symlink("real", folder() + "/link");
  runtime::v1::ContainerConfig config = script("cat /data/word");
  mount(config, folder() + "/link");
  EXPECT_EQ(run(run_pod(), config).output, "followed\n");
}

TEST_F(VolumeTest, TwoContainersShareAVolume) {
  const std::string pod = run_pod();
  runtime::v1::ContainerConfig config = script("exec sleep 100000");
  mount(config, folder());
  const std::string writer = start(pod, config);
  config.mutable_metadata()->set_name(name());
  const std::string reader = start(pod, config);
  EXPECT_EQ(exec(writer, "echo shared >/data/word; mv /data/word /data/moved").status, 0);
  EXPECT_EQ(exec(reader, "cat /data/moved; ls /data").output, "shared\nmoved\n");
}

TEST_F(VolumeTest, WhatIsMountedBelowAVolumeBeforeIsPartOfIt) {
  const HostMount below(folder() + "/below");
  runtime::v1::ContainerConfig config = script("cat /data/below/word");
  mount(config, folder());
  EXPECT_EQ(run(run_pod(), config).output, "mounted\n");
}

TEST_F(VolumeTest, WhatIsMountedOnTheHostLaterStaysOutOfAPrivateVolume) {
  fs::create_directory(folder() + "/later");
  runtime::v1::ContainerConfig config = script("exec sleep 100000");
  mount(config, folder());
  const std::string container = start(run_pod(), config);
  const HostMount later(folder() + "/later");
  const Outcome seen = exec(container, "ls /data/later");
  EXPECT_EQ(seen.status, 0) << seen.errors;
  EXPECT_EQ(seen.output, "");
}

TEST_F(VolumeTest, WhatIsMountedOnTheHostLaterArrivesWhereThatIsAskedFor) {
  if (is_granary()) GTEST_SKIP() << "an export is a clone of its mount (docs/design.md, Storage)";
  // It must lie below a mount that is shared, as /var/lib/kubelet is.
  const std::string shared = folder() + "/shared";
  fs::create_directories(shared + "/later");
  ASSERT_EQ(::mount(shared.c_str(), shared.c_str(), nullptr, MS_BIND, nullptr), 0);
  ASSERT_EQ(::mount(nullptr, shared.c_str(), nullptr, MS_SHARED, nullptr), 0);
  runtime::v1::ContainerConfig config = script("exec sleep 100000");
  mount(config, shared).set_propagation(runtime::v1::PROPAGATION_HOST_TO_CONTAINER);
  const std::string container = start(run_pod(), config);
  {
    const HostMount later(shared + "/later");
    EXPECT_EQ(exec(container, "cat /data/later/word").output, "mounted\n");
  }
  ::umount2(shared.c_str(), MNT_DETACH);
}

// What a container mounts stays in its kernel: asked for, it is refused, not silently left out.
TEST_F(VolumeTest, PropagationToTheHostIsRefusedByAGuest) {
  if (!is_granary()) GTEST_SKIP() << "about Granary";
  fs::create_directory(folder() + "/shared");
  ASSERT_EQ(::mount((folder() + "/shared").c_str(), (folder() + "/shared").c_str(), nullptr, MS_BIND, nullptr), 0);
  ASSERT_EQ(::mount(nullptr, (folder() + "/shared").c_str(), nullptr, MS_SHARED, nullptr), 0);
  runtime::v1::ContainerConfig config = script("true");
  mount(config, folder() + "/shared").set_propagation(runtime::v1::PROPAGATION_BIDIRECTIONAL);
  const std::string container = create(run_pod(), config);
  const grpc::Status started = cri().start(container);
  EXPECT_FALSE(started.ok());
  EXPECT_THAT(started.error_message(), ::testing::HasSubstr("Bidirectional"));
  ::umount2((folder() + "/shared").c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace granary::cri
