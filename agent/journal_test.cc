// SPDX-License-Identifier: Apache-2.0
#include "agent/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>

namespace granary::agent {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr const char* kBoot = "boot-1";

Lease lease_of(const std::string& id) {
  return {.owner_id = "owner of " + id,
          .pool = "p",
          .clone = {.id = id,
                    .vm = VmId{7},
                    .pool = "p",
                    .template_key = "key",
                    .vmm_pid = 99,
                    .socket_path = "/run/7.sock",
                    .boot_id = "b",
                    .hostname = "h",
                    .handover = std::chrono::nanoseconds(5),
                    .warm = true,
                    .residue_bytes = 4096},
          .disks = {{.path = "/d", .read_only = true}},
          .cgroup_parent = "/pod",
          .netns = "/run/netns/a",
          .net = NetWish{.allow = {"10.0.0.0/8"}},
          .address = "10.213.0.2"};
}

class JournalTest : public testing::Test {
 protected:
  JournalTest() {
    std::string name = (fs::temp_directory_path() / "granary-journal-XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  ~JournalTest() override { fs::remove_all(folder_); }

  [[nodiscard]] std::string path() const { return (folder_ / "journal").string(); }
  [[nodiscard]] std::unique_ptr<Journal> open(const std::string& boot_id = kBoot) const {
    auto journal = Journal::open(path(), boot_id);
    EXPECT_TRUE(journal) << journal.error().message();
    return *std::move(journal);
  }
  [[nodiscard]] std::string content() const { return *read_file(path()); }
  void write(const std::string& content) const { std::ofstream(path(), std::ios::binary) << content; }
  // Three clones: one under construction, one leased, one whose lease has ended.
  static void fill(Journal& journal) {
    EXPECT_TRUE(journal.creating("c1", "p", "g1"));
    EXPECT_TRUE(journal.creating("c2", "p", "g2"));
    EXPECT_TRUE(journal.spawned("c2", VmId{7}, 99, "/run/7.sock"));
    EXPECT_TRUE(journal.moving("c2", "/pod/granary-c2"));
    EXPECT_TRUE(journal.leased(lease_of("c2"), 12345));
    EXPECT_TRUE(journal.creating("c3", "p", "g3"));
    EXPECT_TRUE(journal.spawned("c3", VmId{8}, 100, "/run/8.sock"));
    EXPECT_TRUE(journal.leased(lease_of("c3"), 1));
    EXPECT_TRUE(journal.ended("c3", "released"));
  }

  // Runs `act` while the file cannot grow by more than 10 bytes.
  void with_full_disk(const std::function<void()>& act) const {
    rlimit old{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
    const auto handler = ::signal(SIGXFSZ, SIG_IGN);
    rlimit tight = old;
    tight.rlim_cur = content().size() + 10;
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
    act();
    ::setrlimit(RLIMIT_FSIZE, &old);
    ::signal(SIGXFSZ, handler);
  }

  fs::path folder_;
};

TEST_F(JournalTest, TheNextAgentKnowsWhatThisOneKnew) {
  auto first = open();
  fill(*first);
  const Journal::Clones before = first->clones();
  first.reset();
  const auto second = open();
  EXPECT_EQ(second->clones(), before);
  EXPECT_EQ(second->ignored_bytes(), 0U);
  ASSERT_TRUE(before.at("c2").lease);
  EXPECT_EQ(*before.at("c2").lease, lease_of("c2"));
  EXPECT_EQ(before.at("c2").leased_unix_ns, 12345);
  EXPECT_FALSE(before.at("c1").lease);
  EXPECT_EQ(before.at("c3").ended, "released");
  EXPECT_FALSE(before.at("c3").lease);
}

TEST_F(JournalTest, NetworkNamespacesAreKeptUntilTheyAreUnwired) {
  {
    const auto journal = open();
    EXPECT_TRUE(journal->wiring("/run/netns/a", "4:1"));
    EXPECT_TRUE(journal->wiring("/run/netns/b", "4:2"));
    EXPECT_TRUE(journal->unwired("/run/netns/a"));
    EXPECT_TRUE(journal->unwired("/run/netns/a"));
  }
  const std::map<std::string, std::string> left = {{"/run/netns/b", "4:2"}};
  EXPECT_EQ(open()->namespaces(), left);
  EXPECT_EQ(open()->namespaces(), left) << "after it was written anew";
  EXPECT_TRUE(open("boot-2")->namespaces().empty());
}

TEST_F(JournalTest, WhatIsGoneIsForgotten) {
  auto journal = open();
  fill(*journal);
  for (const char* id : {"c1", "c2", "c3", "c3", "never-was"}) EXPECT_TRUE(journal->gone(id));
  EXPECT_TRUE(journal->clones().empty());
  EXPECT_TRUE(open()->clones().empty());
}

TEST_F(JournalTest, AnotherBootsJournalIsEmpty) {
  fill(*open());
  const auto journal = open("boot-2");
  EXPECT_TRUE(journal->clones().empty());
  EXPECT_EQ(journal->ignored_bytes(), 0U);
}

TEST_F(JournalTest, ReadBackIsWhatTheFileSays) {
  const auto journal = open();
  fill(*journal);
  EXPECT_EQ(*journal->read_back(), journal->clones());
  write(content().substr(0, content().size() / 2));
  const auto damaged = journal->read_back();
  EXPECT_TRUE(!damaged || *damaged != journal->clones());
}

// A crash can cut the file anywhere: what comes before the cut counts, nothing else is made up.
TEST_F(JournalTest, EveryCutGivesAPrefix) {
  fill(*open());
  const std::string whole = content();
  const Journal::Clones all = open()->clones();
  size_t most = 0;
  for (size_t cut = 0; cut <= whole.size(); ++cut) {
    write(whole.substr(0, cut));
    const auto journal = open();
    const Journal::Clones some = journal->clones();
    EXPECT_GE(some.size(), most == all.size() ? most : 0) << cut;
    most = std::max(most, some.size());
    const bool in_a_line = cut < whole.size() && cut > 0 && whole[cut - 1] != '\n';
    EXPECT_EQ(journal->ignored_bytes() > 0, in_a_line) << cut;
  }
  EXPECT_EQ(most, all.size());
}

TEST_F(JournalTest, EveryTurnedByteIsNoticed) {
  fill(*open());
  const std::string whole = content();
  const Journal::Clones all = open()->clones();
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
    write(damaged);
    const auto journal = open();
    EXPECT_TRUE(journal->ignored_bytes() > 0 || journal->clones() == all) << at << ": " << damaged.substr(at, 20);
    EXPECT_LE(journal->clones().size(), all.size());
  }
}

TEST_F(JournalTest, HistoryIsRewrittenAway) {
  const auto journal = open();
  fill(*journal);
  for (int i = 0; i < 3000; ++i) {
    const std::string id = "x" + std::to_string(i);
    ASSERT_TRUE(journal->creating(id, "p", "g"));
    ASSERT_TRUE(journal->gone(id));
  }
  EXPECT_GE(journal->compactions(), 3U);
  EXPECT_LT(journal->records(), 1100U);
  EXPECT_EQ(*journal->read_back(), journal->clones());
  EXPECT_EQ(journal->clones().size(), 3U);
}

// A full file system: the record is refused with the remedy, what was there stays readable, and later records work
// again.
TEST_F(JournalTest, AFullDiskRefusesTheRecordOnly) {
  const auto journal = open();
  fill(*journal);
  const Journal::Clones before = journal->clones();
  Status refused = ok();
  with_full_disk([&] { refused = journal->creating("c4", "p", "g4"); });
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().is_errno(EFBIG));
  EXPECT_THAT(refused.error().message(), HasSubstr("make room"));
  EXPECT_EQ(journal->clones(), before);
  EXPECT_EQ(*journal->read_back(), before);
  EXPECT_TRUE(journal->creating("c5", "p", "g5"));
  EXPECT_EQ(open()->clones().size(), 4U);
}

// What has happened is known although it could not be written, and the file catches up.
TEST_F(JournalTest, AFullDiskLosesNoEnd) {
  const auto journal = open();
  fill(*journal);
  with_full_disk([&] {
    EXPECT_TRUE(journal->ended("c2", "released").error().is_errno(EFBIG));
    EXPECT_FALSE(journal->clones().at("c2").lease);
    (void)journal->gone("c3");  // may have found room: the file is written anew before it
    EXPECT_FALSE(journal->clones().contains("c3"));
  });
  EXPECT_TRUE(journal->creating("c4", "p", "g4"));
  const Journal::Clones next = open()->clones();
  EXPECT_EQ(next.size(), 3U);
  EXPECT_FALSE(next.at("c2").lease);
  EXPECT_FALSE(next.contains("c3"));
}

// An audit does not call a difference what the journal only has not been able to write.
TEST_F(JournalTest, ReadBackCatchesUp) {
  const auto journal = open();
  fill(*journal);
  with_full_disk([&] { EXPECT_FALSE(journal->gone("c3")); });
  EXPECT_EQ(*journal->read_back(), journal->clones());
}

TEST_F(JournalTest, TextThatIsNoUtf8IsKeptReadable) {
  const auto journal = open();
  fill(*journal);
  EXPECT_TRUE(journal->ended("c2", "panic \xff\n\x01"));
  EXPECT_THAT(open()->clones().at("c2").ended, HasSubstr("panic"));
}

TEST_F(JournalTest, AFolderThatIsNotThereIsNamed) {
  const auto journal = Journal::open("/nonexistent/journal", kBoot);
  ASSERT_FALSE(journal);
  EXPECT_THAT(journal.error().message(), HasSubstr("/nonexistent/journal"));
}

}  // namespace
}  // namespace granary::agent
