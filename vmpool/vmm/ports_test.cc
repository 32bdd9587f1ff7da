// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/ports.h"

#include <gtest/gtest.h>

#include <initializer_list>

#include "vmpool/base/machine_layout.h"

namespace granary::vmm {
namespace {

class PortsTest : public testing::Test {
 protected:
  std::optional<PortEvent> write(uint16_t port, std::initializer_list<uint8_t> values) {
    std::vector<std::byte> data;
    for (const uint8_t v : values) data.push_back(std::byte{v});
    return ports_.write(port, data);
  }
  uint8_t read(uint16_t port) {
    std::byte value{0x42};
    ports_.read(port, {&value, 1});
    return std::to_integer<uint8_t>(value);
  }
  void print(std::string_view text) {
    for (const char c : text) EXPECT_FALSE(write(machine::kSerialPort, {static_cast<uint8_t>(c)}));
  }
  static EndState end_of(const std::optional<PortEvent>& event) {
    return event && std::holds_alternative<End>(*event) ? std::get<End>(*event).state : EndState::kRunning;
  }

  Fd page_ = *StatusFile::create();
  StatusFile status_ = *StatusFile::map(page_.get(), true);
  ConsoleSink console_{status_};
  Serial serial_{*EventFd::create(), [this](std::span<const std::byte> bytes) { console_.write(bytes); }};
  Ports ports_{serial_, console_};
};

TEST_F(PortsTest, UnknownPortsReadOnesAndIgnoreWrites) {
  for (const int number : {0x00, 0x70, 0x2f8, 0xcf8, 0xffff}) {
    const auto port = static_cast<uint16_t>(number);
    EXPECT_EQ(read(port), 0xff) << port;
    EXPECT_FALSE(write(port, {0xfe})) << port;
  }
}

TEST_F(PortsTest, WideAccessesAreBytesAtConsecutivePorts) {
  std::byte wide[4] = {};
  ports_.read(machine::kSleepStatusPort, wide);
  EXPECT_EQ(wide[0], std::byte{0});
  EXPECT_EQ(wide[1], std::byte{0});
  EXPECT_EQ(wide[2], std::byte{0xff});
  ports_.read(0xffff, wide);  // wraps around
  EXPECT_EQ(wide[3], std::byte{0xff});
  EXPECT_EQ(end_of(write(machine::kSleepControlPort, {0x34, 0x00})), EndState::kShutdown);
}

TEST_F(PortsTest, SleepNeedsTypeAndEnable) {
  EXPECT_EQ(end_of(write(machine::kSleepControlPort, {machine::kSleepTypeS5 << 2})), EndState::kRunning);
  EXPECT_EQ(end_of(write(machine::kSleepControlPort, {3 << 2 | 1 << 5})), EndState::kRunning);
  EXPECT_EQ(end_of(write(machine::kSleepControlPort, {machine::kSleepTypeS5 << 2 | 1 << 5})), EndState::kShutdown);
}

TEST_F(PortsTest, ResetsAreReboots) {
  EXPECT_EQ(end_of(write(machine::kResetPort, {0})), EndState::kRunning);
  EXPECT_EQ(end_of(write(machine::kResetPort, {machine::kResetValue})), EndState::kReboot);
  EXPECT_EQ(end_of(write(machine::kI8042CommandPort, {0xd1})), EndState::kRunning);
  EXPECT_EQ(end_of(write(machine::kI8042CommandPort, {0xfe})), EndState::kReboot);
}

TEST_F(PortsTest, ResetAfterAKernelPanicIsAPanic) {
  print("[    1.0] Kernel panic - not syncing: no init\n");
  EXPECT_EQ(end_of(write(machine::kI8042CommandPort, {0xfe})), EndState::kPanic);
}

TEST_F(PortsTest, AnnouncedResetIsARebootWhateverWasPrinted) {
  print("a test says Kernel panic\n");
  EXPECT_TRUE(write(machine::kDoorbellPort, {static_cast<uint8_t>(machine::Doorbell::kOrderlyShutdown)}));
  EXPECT_EQ(end_of(write(machine::kI8042CommandPort, {0xfe})), EndState::kReboot);
}

TEST_F(PortsTest, Pvpanic) {
  EXPECT_EQ(read(machine::kPvpanicPort), 1);
  EXPECT_EQ(end_of(write(machine::kPvpanicPort, {2})), EndState::kRunning);
  EXPECT_EQ(end_of(write(machine::kPvpanicPort, {1})), EndState::kPanic);
}

TEST_F(PortsTest, DoorbellCarriesItsValue) {
  const std::optional<PortEvent> event = write(machine::kDoorbellPort, {0x13});
  ASSERT_TRUE(event && std::holds_alternative<Ring>(*event));
  EXPECT_EQ(std::get<Ring>(*event).value, 0x13);
}

}  // namespace
}  // namespace granary::vmm
