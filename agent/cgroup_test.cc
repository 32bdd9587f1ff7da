// SPDX-License-Identifier: Apache-2.0
// On the host's real cgroups. Skips, with the reason, where none can be made.
#include "agent/cgroup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "vmpool/base/units.h"

namespace granary::agent {
namespace {

namespace fs = std::filesystem;

class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = Cgroups::open(parent_);
    if (!opened) {
      const Error& error = opened.error();
      const bool not_here =
          error.is_errno(ENODEV) || error.is_errno(EACCES) || error.is_errno(EPERM) || error.is_errno(EROFS);
      ASSERT_TRUE(not_here) << error.message();
      GTEST_SKIP() << "no cgroups here: " << error.message();
    }
    groups_ = *std::move(opened);
  }
  void TearDown() override {
    if (groups_) {
      EXPECT_TRUE(groups_->remove_parent());
    }
    if (pods_) {
      EXPECT_TRUE(pods_->remove_parent());
    }
  }
  // A pod's group, as the kubelet would make it.
  void make_pod() {
    auto pods = Cgroups::open(pod_.substr(1));
    ASSERT_TRUE(pods) << pods.error().message();
    pods_ = *std::move(pods);
  }
  // In the hierarchy that is used last.
  [[nodiscard]] std::string last_folder(const std::string& path) const {
    return (groups_->version() == Cgroups::Version::kV1 ? "/sys/fs/cgroup/cpu" : "/sys/fs/cgroup") + path;
  }
  static bool write_file(const std::string& path, const std::string& text) {
    return bool(std::ofstream(path) << text << std::flush);
  }
  const std::string parent_ = "granary-test-" + std::to_string(getpid()) + ".slice/pool";
  const std::string pod_ = "/granary-test-" + std::to_string(getpid()) + "-pods/pod1";
  std::unique_ptr<Cgroups> pods_;
  std::unique_ptr<Cgroups> groups_;
};

// A child that waits until its pipe is closed.
class Sleeper {
 public:
  Sleeper() {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    pid_ = fork();
    if (pid_ == 0) {
      close(ends[1]);
      char byte;
      _exit(read(ends[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(ends[0]);
    stop_ = Fd(ends[1]);
  }
  ~Sleeper() { end(); }
  void end() {
    stop_.reset();
    if (pid_ > 0) waitpid(std::exchange(pid_, 0), nullptr, 0);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  Fd stop_;
};

TEST_F(CgroupTest, CreateAndRemoveAreIdempotent) {
  const auto first = groups_->create("clone-a");
  ASSERT_TRUE(first) << first.error().message();
  EXPECT_EQ(first->valid(), groups_->version() == Cgroups::Version::kV2);
  EXPECT_TRUE(groups_->create("clone-a"));
  const auto removed = groups_->remove("clone-a");
  ASSERT_TRUE(removed) << removed.error().message();
  EXPECT_TRUE(*removed);
  const auto again = groups_->remove("clone-a");
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_FALSE(*again);
}

TEST_F(CgroupTest, AGroupWithAProcessIsNotRemovedAndTheProcessStays) {
  ASSERT_TRUE(groups_->create("clone-b"));
  Sleeper sleeper;
  const auto added = groups_->add("clone-b", sleeper.pid());
  ASSERT_TRUE(added) << added.error().message();
  const auto busy = groups_->remove("clone-b");
  ASSERT_FALSE(busy);
  EXPECT_TRUE(busy.error().is_errno(EBUSY)) << busy.error().message();
  EXPECT_THAT(busy.error().message(), testing::HasSubstr(std::to_string(sleeper.pid())));
  EXPECT_FALSE(groups_->remove_parent());
  const auto membership = read_file("/proc/" + std::to_string(sleeper.pid()) + "/cgroup");
  ASSERT_TRUE(membership);
  EXPECT_THAT(*membership, testing::HasSubstr("/pool/clone-b"));
  sleeper.end();
  const auto removed = groups_->remove("clone-b");
  ASSERT_TRUE(removed) << removed.error().message();
  EXPECT_TRUE(*removed);
}

TEST_F(CgroupTest, OnlyTheOnlyAgentRemovesLeftovers) {
  ASSERT_TRUE(groups_->create("clone-d"));
  ASSERT_TRUE(groups_->create("clone-e"));
  Sleeper sleeper;
  ASSERT_TRUE(groups_->add("clone-e", sleeper.pid()));
  {
    const auto other = Cgroups::open(parent_);
    ASSERT_TRUE(other) << other.error().message();
    EXPECT_EQ((*other)->remove_leftovers(), 0u);
    EXPECT_EQ(groups_->remove_leftovers(), 0u);
  }
  EXPECT_EQ(groups_->remove_leftovers(), 1u);
  sleeper.end();
  EXPECT_EQ(groups_->remove_leftovers(), 1u);
}

// A child with a second thread that uses so much more memory each time it is told to.
class Eater {
 public:
  static constexpr size_t kBite = 8 * kMiB;
  Eater() {
    int orders[2];
    int answers[2];
    EXPECT_EQ(pipe(orders) + pipe(answers), 0);
    pid_ = fork();
    if (pid_ == 0) {
      close(orders[1]);
      std::thread([] { pause(); }).detach();
      for (char byte = 0; read(orders[0], &byte, 1) == 1;) {
        std::memset(new char[kBite], 1, kBite);
        if (write(answers[1], &byte, 1) != 1) break;
      }
      _exit(0);
    }
    close(orders[0]);
    close(answers[1]);
    orders_ = Fd(orders[1]);
    answers_ = Fd(answers[0]);
  }
  ~Eater() { end(); }
  void eat() const {
    char byte = 0;
    EXPECT_EQ(write(orders_.get(), &byte, 1) + read(answers_.get(), &byte, 1), 2);
  }
  void end() {
    orders_.reset();
    if (pid_ > 0) waitpid(std::exchange(pid_, 0), nullptr, 0);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  Fd orders_;
  Fd answers_;
};

TEST_F(CgroupTest, WhatIsTouchedAfterTheMoveIsTheOwners) {
  ASSERT_NO_FATAL_FAILURE(make_pod());
  const auto pod = groups_->find_pod(pod_);
  ASSERT_TRUE(pod) << pod.error().message();
  const std::string own = *pod + "/granary-x";
  ASSERT_TRUE(groups_->create("clone-x"));
  Eater eater;
  ASSERT_TRUE(groups_->add("clone-x", eater.pid()));
  eater.eat();
  const auto made = groups_->create(own);
  ASSERT_TRUE(made) << made.error().message();
  const auto moved = groups_->add(own, eater.pid());
  ASSERT_TRUE(moved) << moved.error().message();
  for (const auto& thread : fs::directory_iterator("/proc/" + std::to_string(eater.pid()) + "/task")) {
    EXPECT_THAT(*read_file((thread.path() / "cgroup").string()), testing::HasSubstr(own)) << "a thread stayed";
  }
  eater.eat();
  eater.eat();
  EXPECT_TRUE(groups_->contains(own));
  EXPECT_GE(*groups_->memory_bytes(*pod), 2 * Eater::kBite);
  EXPECT_GE(*groups_->memory_bytes("clone-x"), Eater::kBite);
  EXPECT_LT(*groups_->memory_bytes("clone-x"), 2 * Eater::kBite);
  EXPECT_FALSE(groups_->remove(own)) << "a process is in it";
  eater.end();
  for (const std::string& name : {own, std::string("clone-x")}) {
    const auto removed = groups_->remove(name);
    ASSERT_TRUE(removed) << removed.error().message();
    EXPECT_TRUE(*removed);
    EXPECT_FALSE(groups_->contains(name));
  }
}

// In the emulated node, where systemd runs.
TEST_F(CgroupTest, BelowASliceItIsAScopeOfSystemds) {
  if (!systemd_runs()) GTEST_SKIP() << "systemd does not run this host";
  ASSERT_EQ(std::system("systemctl start granarytest-pod1.slice"), 0);
  const auto pod = groups_->find_pod("granarytest-pod1.slice:cri-containerd:abc");
  ASSERT_TRUE(pod) << pod.error().message();
  const std::string own = *pod + "/granary-x";
  ASSERT_TRUE(groups_->create("clone-s"));
  Eater eater;
  ASSERT_TRUE(groups_->add("clone-s", eater.pid()));
  const auto made = groups_->create(own);
  ASSERT_TRUE(made) << made.error().message();
  EXPECT_FALSE(made->valid());
  const auto moved = groups_->add(own, eater.pid());
  ASSERT_TRUE(moved) << moved.error().message();
  EXPECT_THAT(*read_file("/proc/" + std::to_string(eater.pid()) + "/cgroup"), testing::HasSubstr(own + ".scope"));
  EXPECT_EQ(std::system("systemctl is-active --quiet granary-x.scope"), 0);
  EXPECT_EQ(std::system("[ $(systemctl show -P CollectMode granary-x.scope) = inactive-or-failed ]"), 0);
  eater.eat();
  EXPECT_GE(*groups_->memory_bytes(own), Eater::kBite);
  const auto twice = groups_->add(own, eater.pid());
  ASSERT_FALSE(twice);
  EXPECT_THAT(twice.error().message(), testing::HasSubstr("systemd: start granary-x.scope"));
  eater.end();
  EXPECT_TRUE(groups_->remove(own));
  EXPECT_FALSE(groups_->contains(own));
  EXPECT_TRUE(groups_->remove("clone-s"));
  EXPECT_EQ(std::system("systemctl stop granarytest.slice; ! systemctl is-active --quiet granary-x.scope"), 0);
}

TEST_F(CgroupTest, APodsMemoryLimitIsSeen) {
  ASSERT_NO_FATAL_FAILURE(make_pod());
  const std::string pod = *groups_->find_pod(pod_);
  EXPECT_FALSE(*groups_->has_memory_limit(pod));
  for (const std::string& file :
       {"/sys/fs/cgroup/memory" + pod + "/memory.limit_in_bytes", "/sys/fs/cgroup" + pod + "/memory.max"}) {
    if (fs::exists(file)) std::ofstream(file) << "104857600";
  }
  EXPECT_TRUE(*groups_->has_memory_limit(pod));
}

TEST_F(CgroupTest, APodsGroupIsNeverMade) {
  const auto found = groups_->find_pod("/granary-test-none/pod1");
  ASSERT_FALSE(found);
  EXPECT_TRUE(found.error().is_errno(ENOENT)) << found.error().message();
  const auto made = groups_->create("/granary-test-none/pod1/granary-x");
  ASSERT_FALSE(made);
  EXPECT_TRUE(made.error().is_errno(ENOENT)) << made.error().message();
  EXPECT_FALSE(groups_->contains("/granary-test-none"));
  EXPECT_FALSE(*groups_->remove("/granary-test-none/pod1/granary-x"));
}

TEST_F(CgroupTest, APodThatGoesMeanwhileLeavesNothingInAnyHierarchy) {
  ASSERT_NO_FATAL_FAILURE(make_pod());
  const std::string own = pod_ + "/granary-x";
  ASSERT_EQ(rmdir(last_folder(pod_).c_str()), 0);
  const auto made = groups_->create(own);
  ASSERT_FALSE(made);
  EXPECT_TRUE(made.error().is_errno(ENOENT)) << made.error().message();
  EXPECT_THAT(made.error().message(), testing::HasSubstr(last_folder(own)));
  const auto removed = groups_->remove(own);
  ASSERT_TRUE(removed) << removed.error().message();
  EXPECT_EQ(*removed, groups_->version() == Cgroups::Version::kV1) << "made in the others";
  EXPECT_FALSE(groups_->contains(own));
  ASSERT_EQ(mkdir(last_folder(pod_).c_str(), 0755), 0);
}

TEST_F(CgroupTest, APodWithProcessesOfItsOwnServes) {
  ASSERT_NO_FATAL_FAILURE(make_pod());
  const std::string own = pod_ + "/granary-x";
  Sleeper pods;
  Sleeper vmm;
  ASSERT_TRUE(groups_->add(pod_, pods.pid()));
  ASSERT_TRUE(groups_->find_pod(pod_));
  ASSERT_TRUE(groups_->create(own));
  const auto moved = groups_->add(own, vmm.pid());
  ASSERT_TRUE(moved) << moved.error().message();
  vmm.end();
  EXPECT_TRUE(groups_->remove(own));
}

TEST_F(CgroupTest, WhatIsNoGroupOrHasNoMemoryControllerIsRefusedWithARemedy) {
  ASSERT_NO_FATAL_FAILURE(make_pod());
  const auto refused = [&](const std::string& parent) {
    const auto found = groups_->find_pod(parent);
    return found ? "found" : found.error().message();
  };
  EXPECT_THAT(refused(pod_ + "/cgroup.procs"), testing::HasSubstr("give one that is there"));
  if (groups_->version() == Cgroups::Version::kV1) return;  // there each controller has a hierarchy
  const std::string below = pod_ + "/a";
  ASSERT_EQ(mkdir(last_folder(below).c_str(), 0755), 0);
  EXPECT_THAT(refused(below), testing::HasSubstr("/a has no memory controller; enable it in its parent's"));
  ASSERT_TRUE(write_file(last_folder(below) + "/cgroup.type", "threaded"));
  EXPECT_THAT(refused(below), testing::HasSubstr("/a is of type \"threaded\""));
  EXPECT_THAT(refused(pod_), testing::HasSubstr("/pod1 is of type \"domain threaded\""));
  ASSERT_EQ(rmdir(last_folder(below).c_str()), 0);
  EXPECT_EQ(refused(pod_), "found");
}

TEST_F(CgroupTest, ALimitIsLoweredOnlyOnceLessIsUsed) {
  const auto in_force = [&] {
    for (const std::string& file :
         {"/sys/fs/cgroup/memory/" + parent_ + "/memory.limit_in_bytes", "/sys/fs/cgroup/" + parent_ + "/memory.max"}) {
      if (const auto text = read_file(file)) return std::strtoull(text->c_str(), nullptr, 10) / kMiB;
    }
    return 0ULL;
  };
  ASSERT_TRUE(groups_->create("clone-l"));
  ASSERT_TRUE(groups_->reserve("clone-l", 16 * kMiB));
  ASSERT_TRUE(groups_->limit(64 * kMiB));
  EXPECT_EQ(in_force(), 80u);
  ASSERT_TRUE(groups_->reserve("clone-m", 16 * kMiB + 1));
  EXPECT_EQ(in_force(), 96u) << "at once";
  Eater eater;
  ASSERT_TRUE(groups_->add("clone-l", eater.pid()));
  eater.eat();
  ASSERT_TRUE(groups_->limit(kMiB));
  EXPECT_EQ(in_force(), 33u);
  EXPECT_TRUE(groups_->remove("clone-m"));
  ASSERT_TRUE(groups_->limit(kMiB));
  EXPECT_EQ(in_force(), 17u);
  eater.eat();
  ASSERT_TRUE(groups_->reserve("clone-l", kMiB));
  EXPECT_EQ(in_force(), 17u) << "more than that is used";
  eater.end();
  ASSERT_TRUE(groups_->limit(kMiB));
  EXPECT_EQ(in_force(), 2u);
  EXPECT_TRUE(groups_->remove("clone-l"));
  ASSERT_TRUE(groups_->limit(std::nullopt));
  EXPECT_TRUE(in_force() == 0 || in_force() > 1u << 30) << in_force();
}

TEST_F(CgroupTest, AddingAMissingProcessNamesIt) {
  ASSERT_TRUE(groups_->create("clone-c"));
  const auto added = groups_->add("clone-c", 0x3ffffff);
  ASSERT_FALSE(added);
  EXPECT_THAT(added.error().message(), testing::HasSubstr("67108863"));
  EXPECT_TRUE(groups_->remove("clone-c"));
}

}  // namespace
}  // namespace granary::agent
