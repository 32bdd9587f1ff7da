// SPDX-License-Identifier: Apache-2.0
// Disks and taps of a hand-over, on the stand-in for the VMM: it notes on the console what it gets and when it is
// unparked.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <csignal>

#include "vmpool/fs/export_client.h"
#include "vmpool/guest/guest.pb.h"
#include "vmpool/pool/test_bench.h"

namespace granary::pool {
namespace {

using testing::HasSubstr;

SteadyTime in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }
const auto kLong = std::chrono::milliseconds(60'000);

class PoolAttachTest : public testing::Test {
 protected:
  PoolAttachTest() {
    PoolSettings settings = bench.settings();
    settings.shape.devices.block_slots = 2;
    settings.shape.devices.net_slots = 1;
    settings.shape.devices.fs = 1;
    Result<std::unique_ptr<Pool>> started = Pool::start(settings, bench.resources());
    EXPECT_TRUE(started) << started.error().message();
    pool = std::move(*started);
    EXPECT_TRUE(bench.wait_until([&] { return pool->status().warm == pool->status().target; }));
  }
  static Disk disk(const std::string& text, bool read_only = false) {
    Result<Fd> file = create_memfd("disk", 4096);
    EXPECT_TRUE(file);
    EXPECT_TRUE(pwrite_all(file->get(), std::as_bytes(std::span(text)), 0));
    return {.file = std::move(*file), .read_only = read_only};
  }
  static Fd tap() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    const Fd other(ends[1]);
    return Fd(ends[0]);
  }

  TestBench bench;
  std::unique_ptr<Pool> pool;
};

TEST_F(PoolAttachTest, ARunningCloneGetsOneMoreInTheFirstFreeSlot) {
  Attachments attachments;
  attachments.disks.push_back(disk("one!"));
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong), attachments);
  ASSERT_TRUE(clone);
  EXPECT_EQ(*pool->attach(clone->id, disk("two!", true)), 1U);
  const auto full = pool->attach(clone->id, disk("more"));
  ASSERT_FALSE(full);
  EXPECT_TRUE(full.error().is(Errc::kSlotsTaken));
  EXPECT_THAT(full.error().message(), HasSubstr("all 2 disk slots"));
  EXPECT_TRUE(pool->detach(clone->id, 0));
  EXPECT_TRUE(pool->detach(clone->id, 0).error().is(Errc::kInvalidArgument));
  EXPECT_EQ(*pool->attach(clone->id, disk("more")), 0U);
  EXPECT_THAT(*pool->console(clone->id), HasSubstr("unpark\ndisk 1 ro two!\nno disk 0\ndisk 0 rw more"));
  ASSERT_TRUE(pool->release(clone->id));
  EXPECT_TRUE(pool->attach(clone->id, disk("late")).error().is(Errc::kCloneUnknown));
}

TEST_F(PoolAttachTest, AParkedCloneGetsThemInOrder) {
  Attachments attachments;
  attachments.disks.push_back(disk("one!"));
  attachments.disks.push_back(disk("two!", true));
  attachments.taps.push_back(tap());
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong), attachments);
  ASSERT_TRUE(clone) << clone.error().message();
  EXPECT_THAT(*pool->console(clone->id), HasSubstr("disk 0 rw one!\ndisk 1 ro two!\ntap 0 rw \nunpark\n"));
  EXPECT_GE(::fcntl(attachments.disks[0].file.get(), F_GETFD), 0) << "the caller's descriptors stay the caller's";
  ASSERT_TRUE(pool->release(clone->id));
  EXPECT_EQ(pool->status().leaks, 0U);
}

TEST_F(PoolAttachTest, AFileServerIsThereBeforeTheGuestRunsAndGoesWithIt) {
  Attachments attachments;
  attachments.shares = true;
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong), attachments);
  ASSERT_TRUE(clone) << clone.error().message();
  EXPECT_THAT(*pool->console(clone->id), HasSubstr("file server 0 rw \nunpark\n"));
  const std::string path = fs::export_socket_beside(clone->socket_path);
  Result<fs::ExportClient> exports = fs::ExportClient::connect(path);
  ASSERT_TRUE(exports) << exports.error().message();
  const Fd root = *open_file("/", O_PATH);
  EXPECT_TRUE(exports->add("root", root.get(), true));
  ASSERT_TRUE(pool->release(clone->id));
  EXPECT_TRUE(exports->remove("root").error().is(Errc::kPeerGone));
  EXPECT_TRUE(fs::ExportClient::connect(path).error().is_errno(ENOENT));
  EXPECT_EQ(pool->status().leaks, 0U);
}

TEST_F(PoolAttachTest, AFileServerGoesAlsoWhenTheSpawnerHasGone) {
  Attachments attachments;
  attachments.shares = true;
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong), attachments);
  ASSERT_TRUE(clone) << clone.error().message();
  const std::string path = fs::export_socket_beside(clone->socket_path);
  const Result<fs::ExportClient> exports = fs::ExportClient::connect(path);
  ASSERT_TRUE(exports);
  bench.kill_spawner();
  ASSERT_TRUE(pool->release(clone->id));
  EXPECT_TRUE(fs::ExportClient::connect(path).error().is_errno(ENOENT));
}

TEST_F(PoolAttachTest, MoreThanTheShapeHasCostsNoClone) {
  Attachments attachments;
  for (int i = 0; i < 3; ++i) attachments.disks.push_back(disk("disk"));
  const Result<CloneInfo> disks = pool->acquire({}, in(kLong), attachments);
  ASSERT_FALSE(disks);
  EXPECT_TRUE(disks.error().is(Errc::kInvalidArgument));
  EXPECT_THAT(disks.error().message(), HasSubstr("3 disks, but clones of pool test have slots for 2"));
  attachments = {};
  for (int i = 0; i < 2; ++i) attachments.taps.push_back(tap());
  EXPECT_TRUE(pool->acquire({}, in(kLong), attachments).error().is(Errc::kInvalidArgument));
  EXPECT_EQ(pool->status().warm, 3U);
  EXPECT_EQ(pool->status().reclaimed, 0U);
}

TEST_F(PoolAttachTest, ARefusedFileEndsTheCloneAndTheAcquire) {
  bench.set_behaviour("error-at-attach");
  Attachments attachments;
  attachments.disks.push_back(disk("disk"));
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong), attachments);
  ASSERT_FALSE(clone);
  EXPECT_TRUE(clone.error().is(Errc::kSnapshotRestoreFailed)) << clone.error().message();
  EXPECT_THAT(clone.error().message(), HasSubstr("fake refuses attach"));
  const PoolStatus status = pool->status();
  EXPECT_EQ(status.reclaimed, 1U) << "its clone is gone before the caller hears of it, and it is the only one";
  EXPECT_EQ(status.running, 0U);
  EXPECT_EQ(status.last_error, "") << "the caller's mistake is not the pool's";
}

std::shared_ptr<const guest::v1::Network> network(int links) {
  auto network = std::make_shared<guest::v1::Network>();
  for (int i = 0; i < links; ++i) network->add_links()->set_name("eth" + std::to_string(i));
  return network;
}

TEST_F(PoolAttachTest, TheNetworkComesWithTheIdentity) {
  Attachments attachments;
  attachments.taps.push_back(tap());
  attachments.network = network(1);
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong), attachments);
  ASSERT_TRUE(clone) << clone.error().message();
  const std::string console = *pool->console(clone->id);
  EXPECT_LT(console.find("tap 0 rw"), console.find("network 1 links\n")) << console;
}

// A network namespace in which somebody has a tap open does not go.
TEST_F(PoolAttachTest, ItsNetworkIsTakenAwayOnceNobodyHasTheTapAndAgainUntilThatSucceeds) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  const Fd wire(ends[1]);
  const auto is_open = [&] {
    char byte = 0;
    return ::recv(wire.get(), &byte, 1, MSG_DONTWAIT) != 0;
  };
  std::atomic<int> calls = 0;
  std::atomic<bool> was_open = false;
  Attachments attachments;
  attachments.taps.emplace_back(ends[0]);
  attachments.unwire = [&]() -> Status {
    was_open = was_open || is_open();
    return ++calls == 1 ? Status(Error::from_errno(EBUSY, "asked to fail")) : ok();
  };
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong), attachments);
  ASSERT_TRUE(clone) << clone.error().message();
  attachments.taps.clear();
  EXPECT_TRUE(is_open()) << "the VMM has it";
  ASSERT_TRUE(pool->release(clone->id));
  ASSERT_TRUE(bench.wait_until([&] { return pool->status().reclaimed == 1; }));
  EXPECT_EQ(calls, 2);
  EXPECT_FALSE(was_open);
  EXPECT_EQ(pool->status().leaks, 1U);
  EXPECT_THAT(bench.last_text("reclaim-failed"), HasSubstr("network (asked to fail"));
}

TEST_F(PoolAttachTest, ANetworkThatNoGuestCouldTakeCostsNoClone) {
  Attachments attachments;
  attachments.network = network(2);
  EXPECT_THAT(pool->acquire({}, in(kLong), attachments).error().message(),
              HasSubstr("2 links, but clones of pool test have slots for 1"));
  auto bad = std::make_shared<guest::v1::Network>(*network(1));
  bad->mutable_links(0)->set_mtu(1);
  attachments.network = bad;
  const Result<CloneInfo> none = pool->acquire({}, in(kLong), attachments);
  EXPECT_TRUE(none.error().is(Errc::kInvalidArgument)) << none.error().message();
  EXPECT_EQ(pool->status().reclaimed, 0U);
}

TEST_F(PoolAttachTest, ANetworkThatTheGuestRefusesEndsTheCloneAndTheAcquire) {
  bench.set_behaviour("refuse-network");
  Attachments attachments;
  attachments.network = network(1);
  const Result<CloneInfo> none = pool->acquire({}, in(kLong), attachments);
  ASSERT_FALSE(none);
  EXPECT_TRUE(none.error().is(Errc::kInvalidArgument)) << none.error().message();
  EXPECT_THAT(none.error().message(), HasSubstr("fake refuses its network"));
  EXPECT_EQ(pool->status().reclaimed, 1U) << "and no other clone is tried";
}

TEST_F(PoolAttachTest, AVmmThatDiesOfItIsReplaced) {
  bench.set_behaviour("die-at-attach");
  Attachments attachments;
  attachments.disks.push_back(disk("disk"));
  const Result<CloneInfo> none = pool->acquire({}, in(std::chrono::milliseconds(1)), attachments);
  ASSERT_FALSE(none);
  EXPECT_TRUE(none.error().is(Errc::kPoolEmpty)) << none.error().message();
  EXPECT_THAT(none.error().message(), HasSubstr("last error: hand-over:"));
  bench.set_behaviour("");
  EXPECT_TRUE(pool->acquire({}, in(kLong), attachments));
}

TEST_F(PoolAttachTest, ACloneThatFailsLaterIsGoneBeforeTheNextGetsItsDisk) {
  bench.set_behaviour("fail-identity");
  Attachments attachments;
  attachments.disks.push_back(disk("disk"));
  ASSERT_FALSE(pool->acquire({}, in(std::chrono::milliseconds(1)), attachments));
  EXPECT_GE(pool->status().reclaimed, 1U);
  EXPECT_EQ(pool->status().reclaimed, bench.events("clone-failed"));
  bench.set_behaviour("");
  const Result<CloneInfo> clone = pool->acquire({}, in(kLong), attachments);
  ASSERT_TRUE(clone) << clone.error().message();
  EXPECT_THAT(*pool->console(clone->id), HasSubstr("disk 0 rw disk\nunpark\n"));
}

}  // namespace
}  // namespace granary::pool
