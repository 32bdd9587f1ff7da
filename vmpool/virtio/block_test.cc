// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/block.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/virtio_blk.h>
#include <unistd.h>

#include "vmpool/virtio/fake_driver.h"

namespace granary::virtio {
namespace {

constexpr uint64_t kFileBytes = 1 * kMiB;
constexpr uint32_t kSector = 512;

// A file on a real file system, already unlinked.
Fd temp_file(uint64_t size_bytes) {
  std::string path = testing::TempDir() + "granary-block-XXXXXX";
  Fd fd(::mkstemp(path.data()));
  EXPECT_TRUE(fd.valid());
  ::unlink(path.c_str());
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size_bytes)), 0);
  return fd;
}

class BlockTest : public testing::Test {
 protected:
  BlockTest()
      : loop(must(EventLoop::create())),
        worker(std::make_unique<IoWorker>(*loop)),
        block(new Block(*worker, "granary-disk-0")),
        machine(std::unique_ptr<Device>(block)),
        driver(*machine.driver),
        file(temp_file(kFileBytes)) {
    driver.start(16);
    status_at = driver.allocate(1);
  }
  void attach(bool read_only = false) {
    must(block->attach(must(file.duplicate()), read_only, kFileBytes));
    machine.transport->notify_config_change();
  }
  // One request; the segments lie between header and status.
  int request(uint32_t type, uint64_t sector, std::vector<Segment> data) {
    const virtio_blk_outhdr header{type, 0, sector};
    std::vector<Segment> chain = {{driver.place_struct(header), sizeof(header), false}};
    chain.insert(chain.end(), data.begin(), data.end());
    chain.push_back({status_at, 1, true});
    driver.bytes(status_at, 1)[0] = std::byte{0xee};
    driver.queue(0).add(chain);
    driver.kick(0);
    for (std::optional<UsedElement> used; !used;) {
      used = driver.queue(0).take_used();
      if (used)
        used_length = used->length;
      else
        must(loop->run_once(100));
    }
    return std::to_integer<int>(driver.bytes(status_at, 1)[0]);
  }
  int ranges(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags = 0) {
    const virtio_blk_discard_write_zeroes range{sector, sectors, flags};
    return request(type, 0, {{driver.place_struct(range), sizeof(range), false}});
  }

  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<IoWorker> worker;
  Block* block;
  FakeMachine machine;
  FakeDriver& driver;
  Fd file;
  Gpa status_at;
  uint32_t used_length = 0;
};

TEST_F(BlockTest, EmptySlotTakesAFileLater) {
  EXPECT_EQ(driver.config<uint64_t>(0), 0U);
  const Gpa data = driver.allocate(kSector);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 0, {{data, kSector, true}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_OK);
  driver.take_interrupt();
  attach();
  EXPECT_EQ(driver.take_interrupt() & 2, 2U);
  EXPECT_EQ(driver.config<uint64_t>(0), kFileBytes / kSector);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 0, {{data, kSector, true}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(used_length, kSector + 1);
}

TEST_F(BlockTest, ADetachedSlotIsEmptyAndTakesAnotherFile) {
  EXPECT_TRUE(block->detach().error().is(Errc::kInvalidArgument));
  attach();
  EXPECT_TRUE(block->attach(must(file.duplicate()), false, kFileBytes).error().is_errno(EBUSY));
  const Gpa data = driver.allocate(kSector);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 0, {{data, kSector, true}}), VIRTIO_BLK_S_OK);
  must(block->detach());
  EXPECT_FALSE(block->attached());
  EXPECT_EQ(driver.config<uint64_t>(0), 0U);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 0, {{data, kSector, true}}), VIRTIO_BLK_S_IOERR);
  attach();
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 0, {{data, kSector, true}}), VIRTIO_BLK_S_OK);
}

TEST_F(BlockTest, WritesAndReadsBack) {
  attach();
  const std::string first(kSector, 'a');
  const std::string second(2 * kSector, 'b');
  EXPECT_EQ(
      request(VIRTIO_BLK_T_OUT, 3, {{driver.place(first), kSector, false}, {driver.place(second), 2 * kSector, false}}),
      VIRTIO_BLK_S_OK);
  EXPECT_EQ(used_length, 1U);
  EXPECT_EQ(request(VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_OK);
  std::string on_disk(3 * kSector, '\0');
  must(pread_all(file.get(), std::as_writable_bytes(std::span(on_disk)), 3 * kSector));
  EXPECT_EQ(on_disk, first + second);
  const Gpa back = driver.allocate(3 * kSector);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 3, {{back, kSector, true}, {back + kSector, 2 * kSector, true}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(driver.text(back, 3 * kSector), first + second);
  EXPECT_TRUE(block->quiescent());
}

TEST_F(BlockTest, RefusesWhatLiesBeyondTheEndOrIsUnaligned) {
  attach();
  const Gpa data = driver.allocate(4 * kSector);
  const uint64_t end = kFileBytes / kSector;
  for (const uint64_t sector : std::initializer_list<uint64_t>{end, end - 1, ~0ULL, ~0ULL / 512, 1ULL << 55}) {
    EXPECT_EQ(request(VIRTIO_BLK_T_IN, sector, {{data, 2 * kSector, true}}), VIRTIO_BLK_S_IOERR) << sector;
    EXPECT_EQ(request(VIRTIO_BLK_T_OUT, sector, {{data, 2 * kSector, false}}), VIRTIO_BLK_S_IOERR) << sector;
  }
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 0, {{data, 100, true}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_OUT, 0, {{data, 513, false}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(must(file_size(file.get())), kFileBytes);
}

TEST_F(BlockTest, ReadOnlyFileRefusesEveryChange) {
  attach(true);
  const Gpa data = driver.place(std::string(kSector, 'x'));
  EXPECT_EQ(request(VIRTIO_BLK_T_OUT, 0, {{data, kSector, false}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_DISCARD, 0, 8), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 0, {{data, kSector, true}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(driver.text(data, kSector), std::string(kSector, '\0'));
}

TEST_F(BlockTest, DiscardAndWriteZeroes) {
  attach();
  const std::string ones(64 * 1024, '1');
  must(pwrite_all(file.get(), std::as_bytes(std::span(ones)), 0));
  EXPECT_EQ(ranges(VIRTIO_BLK_T_WRITE_ZEROES, 8, 8), VIRTIO_BLK_S_OK);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_WRITE_ZEROES, 24, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), VIRTIO_BLK_S_OK);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_DISCARD, 40, 8), VIRTIO_BLK_S_OK);
  std::string on_disk(32 * kSector, '?');
  must(pread_all(file.get(), std::as_writable_bytes(std::span(on_disk)), 0));
  const std::string one(8 * kSector, '1');
  const std::string zero(8 * kSector, '\0');
  EXPECT_TRUE(on_disk == one + zero + one + zero);
  EXPECT_EQ(must(file_size(file.get())), kFileBytes);
}

TEST_F(BlockTest, BadRangesAreRefused) {
  attach();
  EXPECT_EQ(ranges(VIRTIO_BLK_T_DISCARD, 0, 8, 1), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_WRITE_ZEROES, 0, 64 * 1024 + 1), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_DISCARD, ~0ULL, 8), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(ranges(VIRTIO_BLK_T_DISCARD, 0, ~0U), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_DISCARD, 0, {}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_DISCARD, 0, {{driver.allocate(32), 32, false}}), VIRTIO_BLK_S_IOERR);
}

TEST_F(BlockTest, GetIdAndUnknownRequests) {
  const Gpa id = driver.allocate(32);
  EXPECT_EQ(request(VIRTIO_BLK_T_GET_ID, 0, {{id, 20, true}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(driver.text(id, 20), std::string("granary-disk-0\0\0\0\0\0\0", 20));
  EXPECT_EQ(request(VIRTIO_BLK_T_GET_ID, 0, {{id, 19, true}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(99, 0, {}), VIRTIO_BLK_S_UNSUPP);
}

TEST_F(BlockTest, RequestsThatCannotBeAnsweredNeedReset) {
  driver.queue(0).add({{driver.allocate(16), 16, false}});  // no status byte
  driver.kick(0);
  EXPECT_TRUE(driver.needs_reset());
  driver.start(16);
  driver.queue(0).add({{driver.allocate(16), 15, false}, {status_at, 1, true}});  // header too short
  driver.kick(0);
  EXPECT_TRUE(driver.needs_reset());
}

TEST_F(BlockTest, ResetWithRequestsInFlightForgetsThem) {
  attach();
  const virtio_blk_outhdr header{VIRTIO_BLK_T_IN, 0, 0};
  const Gpa header_at = driver.place_struct(header);
  const Gpa data = driver.allocate(kSector);
  for (int i = 0; i < 5; ++i) {
    driver.queue(0).add({{header_at, sizeof(header), false}, {data, kSector, true}, {status_at, 1, true}});
  }
  driver.kick(0);
  EXPECT_FALSE(machine.transport->save()) << "requests are in flight until the loop has run";
  driver.reset();
  must(loop->run_once(0));
  EXPECT_EQ(driver.queue(0).used_index(), 0);
  EXPECT_TRUE(block->quiescent());
  driver.start(16);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 0, {{data, kSector, true}}), VIRTIO_BLK_S_OK);
}

TEST_F(BlockTest, AttachChecksItsFile) {
  const auto refused = [&](Fd fd, bool read_only, uint64_t size) {
    const Status s = block->attach(std::move(fd), read_only, size);
    return !s && s.error().is(Errc::kInvalidArgument);
  };
  EXPECT_TRUE(refused(must(file.duplicate()), false, 511));
  EXPECT_TRUE(refused(must(file.duplicate()), false, kFileBytes + 512));
  EXPECT_TRUE(refused(must(open_file("/dev/null", O_RDWR)), false, 512));
  EXPECT_TRUE(refused(must(open_file("/proc/self/exe", O_RDONLY)), false, 512));
}

TEST_F(BlockTest, SnapshotHoldsAnEmptySlot) {
  const TransportState state = must(machine.transport->save());
  const auto fresh = [&] {
    return std::make_unique<MmioTransport>(std::make_unique<Block>(*worker, "x"), *machine.memory,
                                           must(EventFd::create()), must(EventFd::create()));
  };
  EXPECT_TRUE(fresh()->restore(state));
  attach();
  const Status s = fresh()->restore(must(machine.transport->save()));
  ASSERT_FALSE(s);
  EXPECT_TRUE(s.error().is(Errc::kSnapshotCorrupt));
}

}  // namespace
}  // namespace granary::virtio
