// SPDX-License-Identifier: Apache-2.0
#include "agent/networks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>

#include "netplumb/test_netns.h"

namespace granary::agent {
namespace {

using testing::HasSubstr;

class NetworksTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!pod_.valid()) GTEST_SKIP() << "network namespaces cannot be made here (needs root and iproute2)";
    ASSERT_EQ(pod_.run("ip link add eth0 type veth peer p; ip link set eth0 up; ip addr add 10.19.0.2/24 dev eth0"), 0);
    std::string name = (std::filesystem::temp_directory_path() / "granary-networks-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    auto journal = Journal::open(folder_ + "/journal", "boot-1");
    ASSERT_TRUE(journal) << journal.error().message();
    journal_ = *std::move(journal);
    networks_ = std::make_unique<Networks>(*journal_);
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  // Its taps are closed, as after the hand-over.
  void wire() const {
    const auto wired = networks_->wire(pod_.path(), 2);
    ASSERT_TRUE(wired) << wired.error().message();
  }
  [[nodiscard]] bool has_tap() const { return pod_.run("ls -d /sys/class/net/gtap* >/dev/null 2>&1") == 0; }
  static void with_limit(decltype(RLIMIT_NOFILE) what, rlim_t limit, const std::function<void()>& act) {
    rlimit old{};
    ASSERT_EQ(::getrlimit(what, &old), 0);
    const rlimit tight{limit, old.rlim_max};
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    ASSERT_EQ(::setrlimit(what, &tight), 0);
    act();
    ::setrlimit(what, &old);
    std::signal(SIGXFSZ, handler);
  }
  static void without_descriptors(const std::function<void()>& act) { with_limit(RLIMIT_NOFILE, 3, act); }

  const netplumb::TestNetns pod_{"networks"};
  std::string folder_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<Networks> networks_;
};

TEST_F(NetworksTest, WhatCannotBeOpenedNowIsNotTakenForGone) {
  wire();
  without_descriptors([&] {
    const Status refused = networks_->unwire(pod_.path());
    ASSERT_FALSE(refused);
    EXPECT_TRUE(refused.error().is_errno(EMFILE));
  });
  EXPECT_TRUE(journal_->namespaces().contains(pod_.path()));
  EXPECT_TRUE(networks_->unwire(pod_.path()));
  EXPECT_FALSE(has_tap());
  EXPECT_TRUE(journal_->namespaces().empty());
}

TEST_F(NetworksTest, WhatNobodyHasIsTakenAwayByTheNextOne) {
  wire();
  EXPECT_TRUE(networks_->wire(pod_.path(), 2).error().is_errno(EBUSY)) << "a clone has it";
  without_descriptors([&] { EXPECT_EQ(networks_->unwire_others({}).size(), 1U); });
  wire();
  EXPECT_TRUE(networks_->wire(pod_.path(), 2).error().is_errno(EBUSY)) << "another clone has it";
  EXPECT_TRUE(networks_->give_up(pod_.path()));
  EXPECT_FALSE(has_tap());
}

TEST_F(NetworksTest, LoopbackIsForwardedWhereAskedAndPutBackInOrder) {
  const std::string rules = "nft list ruleset";
  wire();
  EXPECT_EQ(pod_.output(rules), "");
  ASSERT_TRUE(networks_->unwire(pod_.path()));
  const std::string before = pod_.dump();
  ASSERT_TRUE(networks_->wire(pod_.path(), 2, {.forward_loopback = true}));
  EXPECT_THAT(pod_.output(rules), HasSubstr("tcp redirect to :1"));
  ASSERT_TRUE(networks_->unwire(pod_.path()));
  EXPECT_EQ(pod_.output(rules), "");
  EXPECT_EQ(pod_.dump(), before);
}

TEST_F(NetworksTest, ANamespaceThatLostItsPathIsStillPutBackInOrder) {
  const std::string before = pod_.dump();
  const std::string path = folder_ + "/mounted";
  std::ofstream(path).flush();
  ASSERT_EQ(::mount(pod_.path().c_str(), path.c_str(), nullptr, MS_BIND, nullptr), 0);
  const auto wired = networks_->wire(path, 2);
  ASSERT_EQ(::umount2(path.c_str(), MNT_DETACH), 0);
  std::filesystem::remove(path);
  ASSERT_TRUE(wired) << wired.error().message();
  EXPECT_TRUE(has_tap());
  EXPECT_TRUE(networks_->unwire(path));
  EXPECT_EQ(pod_.dump(), before);
  EXPECT_TRUE(journal_->namespaces().empty());
}

// Told again, it would take away what the namespace's next clone has.
TEST_F(NetworksTest, ItIsUnwiredAlsoWhenTheJournalHasNoRoom) {
  wire();
  with_limit(RLIMIT_FSIZE, journal_->bytes() + 1, [&] { EXPECT_TRUE(networks_->unwire(pod_.path())); });
  EXPECT_TRUE(journal_->namespaces().empty());
  EXPECT_FALSE(has_tap());
}

TEST_F(NetworksTest, WithoutRoomInTheJournalNothingIsWired) {
  const std::string before = pod_.dump();
  with_limit(RLIMIT_FSIZE, journal_->bytes() + 1, [&] {
    const auto refused = networks_->wire(pod_.path(), 2);
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().message(), HasSubstr("make room"));
  });
  EXPECT_EQ(pod_.dump(), before);
  wire();
}

}  // namespace
}  // namespace granary::agent
