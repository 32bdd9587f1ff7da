// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

namespace granary::snapshot {

// The guest-visible registers of the serial port and its unread input. Plain data, stored as it is.
struct SerialState {
  uint8_t interrupt_enable = 0;
  uint8_t line_control = 0;
  uint8_t modem_control = 0;
  uint8_t scratch = 0;
  uint8_t divisor_low = 0;
  uint8_t divisor_high = 0;
  uint8_t fifo_control = 0;
  uint8_t transmit_interrupt_pending = 0;  // 0 or 1
  uint32_t input_bytes = 0;                // <= input.size()
  std::array<uint8_t, 64> input{};
};

}  // namespace granary::snapshot
