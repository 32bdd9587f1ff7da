// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "vmpool/base/status_page.h"
#include "vmpool/vmm/console_sink.h"
#include "vmpool/vmm/serial.h"

namespace granary::vmm {

// Why a VM ended; goes into the status page and the kEnded event.
struct End {
  EndState state = EndState::kInternalError;
  int32_t detail = 0;
  std::string reason;
};
// The guest wrote the doorbell port.
struct Ring {
  uint8_t value = 0;
};
using PortEvent = std::variant<Ring, End>;

// The I/O ports of machine_layout.h: serial, i8042 reset, ACPI sleep and reset, pvpanic, doorbell. All others read as
// ones and ignore writes. A wide access is that many accesses of one byte at consecutive ports, as on an ISA bus.
//
// Threads: vCPU threads call read() and write(), several at once.
class Ports {
 public:
  Ports(Serial& serial, ConsoleSink& console) : serial_(serial), console_(console) {}

  void read(uint16_t port, std::span<std::byte> data);
  // What the loop thread must hear of, if anything. At most the first event of a wide access counts.
  std::optional<PortEvent> write(uint16_t port, std::span<const std::byte> data);

 private:
  [[nodiscard]] uint8_t read_byte(uint16_t port);
  std::optional<PortEvent> write_byte(uint16_t port, uint8_t value);
  Ring ring(uint8_t value);
  End reset(const char* how);

  Serial& serial_;
  ConsoleSink& console_;
  // Set by Doorbell::kOrderlyShutdown: a reset that follows is meant, whatever the console shows.
  std::atomic<bool> orderly_ = false;
};

}  // namespace granary::vmm
