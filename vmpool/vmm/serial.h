// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>

#include "vmpool/base/event_loop.h"
#include "vmpool/base/result.h"
#include "vmpool/snapshot/serial_state.h"

namespace granary::vmm {

// A 16550A UART (PC16550D data sheet), as far as Linux's 8250 driver looks: all registers, divisor latch, FIFO
// identification, loopback, receive and transmit interrupts. Output leaves at once, so the transmitter is always empty.
// Nobody types on this port: what it receives is what the guest sent to itself in loopback, bounded, the rest flagged
// as overrun.
//
// Threads: vCPU threads call read() and write(), the loop thread everything else. The registers are behind a mutex of
// their own instead of a hand-over, because two thread switches per console byte would multiply a guest's boot time.
class Serial {
 public:
  static constexpr size_t kInputBytes = std::tuple_size_v<decltype(snapshot::SerialState::input)>;
  using Output = std::function<void(std::span<const std::byte>)>;

  // `irq` is raised (edge) for every new interrupt cause; `output` gets each byte sent, on the calling thread.
  Serial(EventFd irq, Output output) : irq_(std::move(irq)), output_(std::move(output)) {}

  // `offset`: register 0-7, as an offset from the port base.
  [[nodiscard]] uint8_t read(uint16_t offset);
  void write(uint16_t offset, uint8_t value);

  [[nodiscard]] const EventFd& irq() const { return irq_; }
  [[nodiscard]] snapshot::SerialState save();
  // kSnapshotCorrupt for anything that save() cannot have written.
  Status restore(const snapshot::SerialState& state);

 private:
  [[nodiscard]] bool divisor_latch() const { return (state_.line_control & 0x80) != 0; }
  [[nodiscard]] bool loopback() const { return (state_.modem_control & 0x10) != 0; }
  [[nodiscard]] uint8_t interrupt_identification() const;
  uint8_t take_input();
  void put_input(uint8_t byte);
  void transmit(uint8_t byte);
  void raise_if_pending() const;
  [[nodiscard]] uint8_t modem_status() const;

  EventFd irq_;
  Output output_;
  std::mutex mutex_;
  snapshot::SerialState state_;
  bool overrun_ = false;
};

}  // namespace granary::vmm
