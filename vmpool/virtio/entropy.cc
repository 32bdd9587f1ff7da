// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/entropy.h"

#include <sys/random.h>

#include "vmpool/virtio/config_space.h"

namespace granary::virtio {
namespace {

constexpr std::array<uint16_t, 1> kQueueSizes = {64};
constexpr size_t kMaxBytesPerBuffer = 64 * 1024;

Status fill(Chain chain) {
  std::array<std::byte, 256> random;
  size_t left = std::min(chain.writable_left(), kMaxBytesPerBuffer);
  while (left > 0) {
    const size_t wanted = std::min(left, random.size());  // getrandom(2) gives up to 256 bytes whole
    if (::getrandom(random.data(), wanted, 0) != static_cast<ssize_t>(wanted)) {
      return Error::last_os_error("getrandom for the guest");
    }
    chain.write(std::span(random).first(wanted));
    left -= wanted;
  }
  chain.complete();
  return ok();
}

}  // namespace

std::span<const uint16_t> Entropy::queue_sizes() const { return kQueueSizes; }

void Entropy::read_config(uint32_t /*offset*/, std::span<std::byte> into) const {
  std::fill(into.begin(), into.end(), std::byte{0});
}

Status Entropy::activate(uint64_t /*features*/, std::span<Queue> queues, Interrupt& interrupt) {
  queue_ = &queues[0];
  interrupt_ = &interrupt;
  return ok();
}

void Entropy::deactivate() {
  queue_ = nullptr;
  interrupt_ = nullptr;
}

Status Entropy::process_queue(uint16_t /*index*/) {
  Status done = for_each_chain(*queue_, fill);
  if (queue_->should_interrupt()) interrupt_->used_buffer();
  return done;
}

Status Entropy::restore(const DeviceBlob& state) { return check_blob_size(state, 0, "entropy"); }

}  // namespace granary::virtio
