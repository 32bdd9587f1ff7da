// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/ports.h"

#include "vmpool/base/machine_layout.h"

namespace granary::vmm {
namespace {

constexpr uint16_t kSerialRegisters = 8;
constexpr uint8_t kI8042PulseReset = 0xfe;
constexpr uint8_t kPvpanicPanicked = 1;  // also the set of events the guest may report, which a read returns

// ACPI 6.4, 4.8.3.7: SLP_TYP in bits 2-4, SLP_EN in bit 5.
constexpr uint8_t kSleepEnable = 1 << 5;
constexpr uint8_t sleep_type(uint8_t value) { return (value >> 2) & 7; }

bool is_serial(uint16_t port) { return port >= machine::kSerialPort && port < machine::kSerialPort + kSerialRegisters; }

}  // namespace

void Ports::read(uint16_t port, std::span<std::byte> data) {
  for (std::byte& b : data) b = static_cast<std::byte>(read_byte(port++));
}

uint8_t Ports::read_byte(uint16_t port) {
  if (is_serial(port)) return serial_.read(static_cast<uint16_t>(port - machine::kSerialPort));
  switch (port) {
    // i8042 status: both buffers empty, so that a driver which waits for that before the reset command does not spin.
    case machine::kI8042CommandPort:
    case machine::kSleepControlPort:
    case machine::kSleepStatusPort:
    case machine::kResetPort:
      return 0;
    case machine::kPvpanicPort:
      return kPvpanicPanicked;
    default:
      return 0xff;
  }
}

std::optional<PortEvent> Ports::write(uint16_t port, std::span<const std::byte> data) {
  std::optional<PortEvent> first;
  for (const std::byte b : data) {
    std::optional<PortEvent> event = write_byte(port++, std::to_integer<uint8_t>(b));
    if (event && !first) first = std::move(event);
  }
  return first;
}

std::optional<PortEvent> Ports::write_byte(uint16_t port, uint8_t value) {
  if (is_serial(port)) {
    serial_.write(static_cast<uint16_t>(port - machine::kSerialPort), value);
    return {};
  }
  switch (port) {
    case machine::kDoorbellPort:
      return ring(value);
    case machine::kI8042CommandPort:
      if (value == kI8042PulseReset) return reset("i8042 reset");
      return {};
    case machine::kResetPort:
      if (value == machine::kResetValue) return reset("ACPI reset");
      return {};
    case machine::kSleepControlPort:
      if ((value & kSleepEnable) == 0 || sleep_type(value) != machine::kSleepTypeS5) return {};
      return End{EndState::kShutdown, 0, "guest powered off (ACPI S5)"};
    case machine::kPvpanicPort:
      if ((value & kPvpanicPanicked) == 0) return {};
      return End{EndState::kPanic, value, "guest kernel reported a panic (pvpanic)"};
    default:
      return {};
  }
}

Ring Ports::ring(uint8_t value) {
  if (value == static_cast<uint8_t>(machine::Doorbell::kOrderlyShutdown)) orderly_ = true;
  return Ring{value};
}

End Ports::reset(const char* how) {
  if (!orderly_ && console_.shows_panic()) {
    return End{EndState::kPanic, 0, std::string(how) + " after \"Kernel panic\" on the console"};
  }
  return End{EndState::kReboot, 0, std::string("guest asked for a reset (") + how + ")"};
}

}  // namespace granary::vmm
