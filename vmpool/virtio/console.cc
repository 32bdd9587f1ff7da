// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/console.h"

#include "vmpool/virtio/config_space.h"

namespace granary::virtio {
namespace {

constexpr uint16_t kRx = 0;
constexpr uint16_t kTx = 1;
constexpr std::array<uint16_t, 2> kQueueSizes = {64, 64};
constexpr size_t kPieceBytes = 4096;
// Output taken from one buffer; Linux writes at most a page. The rest of a larger one is dropped.
constexpr size_t kMaxOutputBytes = 64 * 1024;

}  // namespace

std::span<const uint16_t> Console::queue_sizes() const { return kQueueSizes; }

void Console::read_config(uint32_t /*offset*/, std::span<std::byte> into) const {
  std::fill(into.begin(), into.end(), std::byte{0});
}

Status Console::activate(uint64_t /*features*/, std::span<Queue> queues, Interrupt& interrupt) {
  queues_ = queues;
  interrupt_ = &interrupt;
  return ok();
}

void Console::deactivate() {
  queues_ = {};
  interrupt_ = nullptr;
}

size_t Console::write_input(std::span<const std::byte> bytes) {
  const size_t taken = input_.push(bytes);
  // A broken ring is reported by the driver's next kick.
  (void)send_input();
  return taken;
}

Status Console::process_queue(uint16_t index) {
  if (index == kRx) return send_input();
  Status done = for_each_chain(queues_[kTx], [this](Chain chain) { return take_output(std::move(chain)); });
  if (queues_[kTx].should_interrupt()) interrupt_->used_buffer();
  return done;
}

Status Console::take_output(Chain chain) {
  std::array<std::byte, kPieceBytes> piece;
  for (size_t taken = 0; taken < kMaxOutputBytes && chain.readable_left() > 0;) {
    const size_t n = chain.read(piece);
    taken += n;
    sink_(std::span(piece).first(n));
  }
  chain.complete();
  return ok();
}

Status Console::send_input() {
  if (queues_.empty()) return ok();
  while (!input_.empty()) {
    std::optional<Chain> chain = GRANARY_TRY(queues_[kRx].pop());
    if (!chain) break;
    while (!input_.empty() && chain->writable_left() > 0) input_.pop(chain->write(input_.front()));
    chain->complete();
  }
  if (queues_[kRx].should_interrupt()) interrupt_->used_buffer();
  return ok();
}

Status Console::restore(const DeviceBlob& state) { return check_blob_size(state, 0, "console"); }

}  // namespace granary::virtio
