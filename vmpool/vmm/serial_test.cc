// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/serial.h"

#include <gtest/gtest.h>

#include <string>

namespace granary::vmm {
namespace {

class SerialTest : public testing::Test {
 protected:
  [[nodiscard]] bool interrupted() const { return serial_.irq().drain() != 0; }

  std::string sent_;
  Serial serial_{*EventFd::create(), [this](std::span<const std::byte> bytes) {
                   for (const std::byte b : bytes) sent_.push_back(static_cast<char>(b));
                 }};
};

TEST_F(SerialTest, SendsAtOnceAndIsAlwaysReady) {
  serial_.write(0, 'h');
  serial_.write(0, 'i');
  EXPECT_EQ(sent_, "hi");
  EXPECT_EQ(serial_.read(5), 0x60);
  EXPECT_FALSE(interrupted());
}

TEST_F(SerialTest, DivisorLatchHidesDataAndInterruptEnable) {
  serial_.write(3, 0x83);
  serial_.write(0, 0x0c);
  serial_.write(1, 0x01);
  EXPECT_EQ(serial_.read(0), 0x0c);
  EXPECT_EQ(serial_.read(1), 0x01);
  serial_.write(3, 0x03);
  EXPECT_EQ(serial_.read(1), 0x00);
  EXPECT_EQ(serial_.read(3), 0x03);
  EXPECT_EQ(sent_, "");
}

// Linux 8250 autoconfig: IER keeps its low four bits, loopback reflects MCR in MSR, IIR shows enabled FIFOs, SCR holds.
TEST_F(SerialTest, LooksLikeA16550A) {
  serial_.write(1, 0x00);
  EXPECT_EQ(serial_.read(1) & 0x0f, 0x00);
  serial_.write(1, 0x0f);
  EXPECT_EQ(serial_.read(1) & 0x0f, 0x0f);
  serial_.write(1, 0x00);
  serial_.write(4, 0x10 | 0x0a);  // loopback, OUT2, RTS
  EXPECT_EQ(serial_.read(6) & 0xf0, 0x90);
  serial_.write(4, 0x00);
  EXPECT_EQ(serial_.read(6) & 0xf0, 0xb0);
  serial_.write(2, 0x01);
  EXPECT_EQ(serial_.read(2) >> 6, 3);
  serial_.write(2, 0x00);
  EXPECT_EQ(serial_.read(2) >> 6, 0);
  serial_.write(7, 0xa5);
  EXPECT_EQ(serial_.read(7), 0xa5);
}

TEST_F(SerialTest, TransmitInterruptWhenEnabledAndAfterEachByte) {
  serial_.write(1, 0x02);
  EXPECT_TRUE(interrupted());
  EXPECT_EQ(serial_.read(2) & 0x0f, 0x02);
  EXPECT_EQ(serial_.read(2) & 0x0f, 0x01) << "reading acknowledges";
  serial_.write(0, 'x');
  EXPECT_TRUE(interrupted());
  EXPECT_EQ(serial_.read(2) & 0x0f, 0x02);
}

TEST_F(SerialTest, LoopbackReceivesBoundedInputInOrder) {
  serial_.write(1, 0x01);
  serial_.write(4, 0x10);
  for (size_t i = 0; i < Serial::kInputBytes + 5; ++i) serial_.write(0, static_cast<uint8_t>(i));
  EXPECT_TRUE(interrupted());
  EXPECT_EQ(serial_.read(2) & 0x0f, 0x04);
  EXPECT_EQ(serial_.read(5) & 0x03, 0x03) << "data and overrun";
  EXPECT_EQ(serial_.read(5) & 0x03, 0x01) << "overrun is told once";
  for (size_t i = 0; i < Serial::kInputBytes; ++i) ASSERT_EQ(serial_.read(0), static_cast<uint8_t>(i));
  EXPECT_EQ(serial_.read(5) & 0x01, 0x00);
  EXPECT_EQ(sent_, "");
}

TEST_F(SerialTest, FifoClearDropsInput) {
  serial_.write(4, 0x10);
  serial_.write(0, 1);
  serial_.write(2, 0x03);
  EXPECT_EQ(serial_.read(5) & 0x01, 0x00);
}

TEST_F(SerialTest, StateSurvivesARestore) {
  serial_.write(3, 0x03);
  serial_.write(4, 0x10);
  serial_.write(0, 'z');
  serial_.write(7, 0x77);
  Serial other(*EventFd::create(), [](std::span<const std::byte>) {});
  ASSERT_TRUE(other.restore(serial_.save()));
  EXPECT_EQ(other.read(3), 0x03);
  EXPECT_EQ(other.read(7), 0x77);
  EXPECT_EQ(other.read(0), 'z');
}

TEST_F(SerialTest, ImpossibleStateIsCorrupt) {
  const snapshot::SerialState good = serial_.save();
  for (auto spoil : {+[](snapshot::SerialState& s) { s.input_bytes = Serial::kInputBytes + 1; },
                     +[](snapshot::SerialState& s) { s.interrupt_enable = 0x10; },
                     +[](snapshot::SerialState& s) { s.modem_control = 0x20; },
                     +[](snapshot::SerialState& s) { s.fifo_control = 0x02; },
                     +[](snapshot::SerialState& s) { s.transmit_interrupt_pending = 2; }}) {
    snapshot::SerialState bad = good;
    spoil(bad);
    const Status status = serial_.restore(bad);
    ASSERT_FALSE(status);
    EXPECT_TRUE(status.error().is(Errc::kSnapshotCorrupt));
  }
}

}  // namespace
}  // namespace granary::vmm
