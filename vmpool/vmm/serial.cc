// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/serial.h"

#include <algorithm>
#include <string>

namespace granary::vmm {
namespace {

// Register offsets; 0 and 1 are the divisor latch while LCR bit 7 is set.
enum Register : uint16_t { kData = 0, kIer = 1, kIirFcr = 2, kLcr = 3, kMcr = 4, kLsr = 5, kMsr = 6, kScr = 7 };

constexpr uint8_t kIerReceive = 0x01;
constexpr uint8_t kIerTransmit = 0x02;
constexpr uint8_t kIerMask = 0x0f;

constexpr uint8_t kIirNone = 0x01;
constexpr uint8_t kIirTransmit = 0x02;
constexpr uint8_t kIirReceive = 0x04;
constexpr uint8_t kIirFifo = 0xc0;

constexpr uint8_t kFcrEnable = 0x01;
constexpr uint8_t kFcrClearReceive = 0x02;
constexpr uint8_t kFcrKept = 0xc9;  // enable, DMA mode, trigger level; the clear bits reset themselves

constexpr uint8_t kMcrMask = 0x1f;
constexpr uint8_t kLsrDataReady = 0x01;
constexpr uint8_t kLsrOverrun = 0x02;
constexpr uint8_t kLsrTransmitterEmpty = 0x60;

}  // namespace

uint8_t Serial::interrupt_identification() const {
  const uint8_t fifo = (state_.fifo_control & kFcrEnable) != 0 ? kIirFifo : 0;
  if ((state_.interrupt_enable & kIerReceive) != 0 && state_.input_bytes > 0) return fifo | kIirReceive;
  if ((state_.interrupt_enable & kIerTransmit) != 0 && state_.transmit_interrupt_pending != 0) {
    return fifo | kIirTransmit;
  }
  return fifo | kIirNone;
}

void Serial::raise_if_pending() const {
  if ((interrupt_identification() & kIirNone) == 0) irq_.signal();
}

uint8_t Serial::modem_status() const {
  // Carrier, ring, data-set-ready and clear-to-send follow the modem control outputs in loopback (data sheet, 8.6.7).
  if (!loopback()) return 0xb0;  // DCD, DSR, CTS
  const uint8_t out = state_.modem_control;
  return static_cast<uint8_t>(((out & 0x02) << 3) | ((out & 0x01) << 5) | ((out & 0x04) << 4) | ((out & 0x08) << 4));
}

uint8_t Serial::take_input() {
  if (state_.input_bytes == 0) return 0;
  const uint8_t byte = state_.input[0];
  std::copy(state_.input.begin() + 1, state_.input.begin() + state_.input_bytes, state_.input.begin());
  --state_.input_bytes;
  return byte;
}

void Serial::put_input(uint8_t byte) {
  if (state_.input_bytes >= kInputBytes) {
    overrun_ = true;
    return;
  }
  state_.input[state_.input_bytes++] = byte;
}

uint8_t Serial::read(uint16_t offset) {
  const std::lock_guard lock(mutex_);
  switch (offset) {
    case kData:
      return divisor_latch() ? state_.divisor_low : take_input();
    case kIer:
      return divisor_latch() ? state_.divisor_high : state_.interrupt_enable;
    case kIirFcr: {
      const uint8_t iir = interrupt_identification();
      // Reading it while it names the transmitter acknowledges that cause.
      if ((iir & 0x0f) == kIirTransmit) state_.transmit_interrupt_pending = 0;
      return iir;
    }
    case kLcr:
      return state_.line_control;
    case kMcr:
      return state_.modem_control;
    case kLsr: {
      const uint8_t overrun = overrun_ ? kLsrOverrun : 0;
      overrun_ = false;
      return static_cast<uint8_t>(kLsrTransmitterEmpty | overrun | (state_.input_bytes > 0 ? kLsrDataReady : 0));
    }
    case kMsr:
      return modem_status();
    case kScr:
      return state_.scratch;
    default:
      return 0xff;
  }
}

void Serial::transmit(uint8_t byte) {
  if (loopback()) {
    put_input(byte);
  } else {
    output_(std::as_bytes(std::span(&byte, 1)));
  }
  state_.transmit_interrupt_pending = 1;
  raise_if_pending();
}

void Serial::write(uint16_t offset, uint8_t value) {
  const std::lock_guard lock(mutex_);
  switch (offset) {
    case kData:
      if (divisor_latch()) {
        state_.divisor_low = value;
      } else {
        transmit(value);
      }
      break;
    case kIer:
      if (divisor_latch()) {
        state_.divisor_high = value;
        break;
      }
      // Enabling the transmit interrupt while the transmitter is empty raises it at once; Linux relies on that.
      if ((value & kIerTransmit) != 0 && (state_.interrupt_enable & kIerTransmit) == 0) {
        state_.transmit_interrupt_pending = 1;
      }
      state_.interrupt_enable = value & kIerMask;
      raise_if_pending();
      break;
    case kIirFcr:
      if ((value & kFcrClearReceive) != 0) state_.input_bytes = 0;
      state_.fifo_control = value & kFcrKept;
      break;
    case kLcr:
      state_.line_control = value;
      break;
    case kMcr:
      state_.modem_control = value & kMcrMask;
      break;
    case kScr:
      state_.scratch = value;
      break;
    default:  // LSR and MSR are read-only
      break;
  }
}

snapshot::SerialState Serial::save() {
  const std::lock_guard lock(mutex_);
  return state_;
}

Status Serial::restore(const snapshot::SerialState& state) {
  const bool possible = state.input_bytes <= kInputBytes && (state.interrupt_enable & ~kIerMask) == 0 &&
                        (state.modem_control & ~kMcrMask) == 0 && (state.fifo_control & ~kFcrKept) == 0 &&
                        state.transmit_interrupt_pending <= 1;
  if (!possible) {
    return Error(Errc::kSnapshotCorrupt, "serial port state (input of " + std::to_string(state.input_bytes) +
                                             " bytes, IER " + std::to_string(state.interrupt_enable) + ")");
  }
  const std::lock_guard lock(mutex_);
  state_ = state;
  overrun_ = false;
  return ok();
}

}  // namespace granary::vmm
