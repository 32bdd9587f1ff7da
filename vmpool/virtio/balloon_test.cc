// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/balloon.h"

#include <gtest/gtest.h>

#include "vmpool/virtio/fake_driver.h"

namespace granary::virtio {
namespace {

class BalloonTest : public testing::Test {
 protected:
  BalloonTest()
      : machine([this](const GuestMemory& memory) {
          auto device = std::make_unique<Balloon>(memory);
          balloon = device.get();
          return device;
        }),
        driver(*machine.driver) {
    driver.start(8);
  }
  void inflate(std::vector<uint32_t> pfns) {
    const Gpa at = driver.place(std::as_bytes(std::span(pfns)));
    driver.queue(0).add({{at, static_cast<uint32_t>(pfns.size() * 4), false}});
    driver.kick(0);
  }
  void mark(uint32_t first_page, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) byte_of(first_page + i) = std::byte{0x5a};
  }
  std::byte& byte_of(uint32_t page) { return driver.bytes(Gpa{page * kPageSize}, 1)[0]; }
  static constexpr std::byte kMarked{0x5a};

  Balloon* balloon = nullptr;
  FakeMachine machine;
  FakeDriver& driver;
};

TEST_F(BalloonTest, TargetAndActualAreInConfigSpace) {
  balloon->set_target(100);
  EXPECT_EQ(driver.config<uint32_t>(0), 100U);
  const uint32_t actual = 60;
  machine.transport->write(0x104, std::as_bytes(std::span(&actual, 1)));
  EXPECT_EQ(balloon->actual_pages(), 60U);
  EXPECT_EQ(driver.config<uint32_t>(4), 60U);
  machine.transport->write(0x100, std::as_bytes(std::span(&actual, 1)));
  EXPECT_EQ(driver.config<uint32_t>(0), 100U) << "the target is the host's";
  balloon->set_target(~0U);
  EXPECT_EQ(driver.config<uint32_t>(0), 8 * kMiB / kPageSize);
}

TEST_F(BalloonTest, InflatedPagesGoBackToTheHost) {
  mark(1000, 5);
  inflate({1000, 1001, 1003});
  EXPECT_TRUE(driver.queue(0).take_used());
  EXPECT_EQ(balloon->returned_bytes(), 3 * kPageSize);
  EXPECT_EQ(byte_of(1000), std::byte{0});
  EXPECT_EQ(byte_of(1001), std::byte{0});
  EXPECT_EQ(byte_of(1002), kMarked);
  EXPECT_EQ(byte_of(1003), std::byte{0});
  EXPECT_EQ(byte_of(1004), kMarked);
}

TEST_F(BalloonTest, DeflateOnlyAnswers) {
  mark(1000, 1);
  const uint32_t pfn = 1000;
  driver.queue(1).add({{driver.place_struct(pfn), 4, false}});
  driver.kick(1);
  EXPECT_TRUE(driver.queue(1).take_used());
  EXPECT_EQ(byte_of(1000), kMarked);
}

TEST_F(BalloonTest, ReportedRangesGoBackWholePagesOnly) {
  mark(1000, 5);
  const Gpa start{1000 * kPageSize + 100};
  driver.queue(2).add({{start, 3 * kPageSize, true}});
  driver.kick(2);
  EXPECT_EQ(driver.queue(2).take_used()->length, 0U);
  EXPECT_EQ(byte_of(1000), kMarked);
  EXPECT_EQ(byte_of(1001), std::byte{0});
  EXPECT_EQ(byte_of(1002), std::byte{0});
  EXPECT_EQ(byte_of(1003), kMarked);
  EXPECT_EQ(balloon->returned_bytes(), 2 * kPageSize);
}

TEST_F(BalloonTest, ReportedTemplatePagesShowTheTemplateAgain) {
  const Fd file = must(create_memfd("template", kPageSize));
  const std::byte old{0x11};
  must(pwrite_all(file.get(), std::span(&old, 1), 0));
  must(machine.memory->mapping().overlay_private(1000 * kPageSize, kPageSize, file.get(), 0));
  mark(1000, 1);
  driver.queue(2).add({{Gpa{1000 * kPageSize}, kPageSize, true}});
  driver.kick(2);
  EXPECT_EQ(byte_of(1000), old);
}

TEST_F(BalloonTest, PagesOutsideMemoryNeedReset) {
  inflate({1000, 0xd0000});
  EXPECT_TRUE(driver.needs_reset());
  driver.start(8);
  inflate({~0U});
  EXPECT_TRUE(driver.needs_reset());
}

TEST_F(BalloonTest, ReportingWithoutTheFeatureDoesNothing) {
  driver.start(8, 1ULL << 5);
  mark(1000, 1);
  driver.queue(2).add({{Gpa{1000 * kPageSize}, kPageSize, true}});
  driver.kick(2);
  EXPECT_EQ(byte_of(1000), kMarked);
}

TEST_F(BalloonTest, SnapshotKeepsBothNumbers) {
  balloon->set_target(100);
  TransportState state = must(machine.transport->save());
  const auto restored = [&] {
    MmioTransport other(std::make_unique<Balloon>(*machine.memory), *machine.memory, must(EventFd::create()),
                        must(EventFd::create()));
    return other.restore(state);
  };
  EXPECT_TRUE(restored());
  state.device.bytes[3] = std::byte{0xff};
  const Status s = restored();
  ASSERT_FALSE(s);
  EXPECT_TRUE(s.error().is(Errc::kSnapshotCorrupt));
}

}  // namespace
}  // namespace granary::virtio
