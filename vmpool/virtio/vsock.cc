// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/vsock.h"

#include <linux/virtio_vsock.h>

#include "vmpool/virtio/config_space.h"

namespace granary::virtio {
namespace {

constexpr uint16_t kRx = 0;
constexpr uint16_t kTx = 1;
constexpr std::array<uint16_t, 3> kQueueSizes = {256, 256, 16};
constexpr uint64_t kFeatureStream = 1;  // VIRTIO_VSOCK_F_STREAM (5.10.3)
// Packets for the guest per turn of the loop.
constexpr int kPumpBatch = 256;

}  // namespace

Result<std::unique_ptr<Vsock>> Vsock::create(EventLoop& loop, uint64_t guest_cid, Fd listener, VsockOptions options) {
  if (listener.valid()) GRANARY_TRY(set_nonblocking(listener.get()));
  return std::unique_ptr<Vsock>(new Vsock(loop, guest_cid, std::move(listener), options));
}

Vsock::Vsock(EventLoop& loop, uint64_t guest_cid, Fd listener, VsockOptions options)
    : loop_(loop),
      guest_cid_(guest_cid),
      muxer_(loop, guest_cid, std::move(listener), options, [this] { pump(); }),
      alive_(std::make_shared<int>(0)) {}

Vsock::~Vsock() = default;

uint64_t Vsock::features() const { return kFeatureStream; }

std::span<const uint16_t> Vsock::queue_sizes() const { return kQueueSizes; }

void Vsock::read_config(uint32_t offset, std::span<std::byte> into) const {
  const virtio_vsock_config config{guest_cid_};
  read_config_struct(config, offset, into);
}

Status Vsock::activate(uint64_t /*features*/, std::span<Queue> queues, Interrupt& interrupt) {
  queues_ = queues;
  interrupt_ = &interrupt;
  failed_ = false;
  return muxer_.start();
}

void Vsock::deactivate() {
  muxer_.stop();
  queues_ = {};
  interrupt_ = nullptr;
  tx_waits_ = false;
}

Status Vsock::adopt(Fd stream, uint32_t guest_port) { return muxer_.adopt(std::move(stream), guest_port); }

Status Vsock::process_queue(uint16_t index) {
  if (failed_) return Error(Errc::kDeviceInvalid, "vsock: a ring or an rx buffer was unusable when the host had data");
  // The event queue's buffers are never used: see restore().
  if (index == kTx) GRANARY_TRY(process_tx());
  return pump_rx();
}

Status Vsock::process_tx() {
  Queue& tx = queues_[kTx];
  tx_waits_ = false;
  for (uint32_t n = 0;; ++n) {
    // 5.10.6.1: answers need rx buffers; while too many wait for those, take nothing that could cause another.
    if (!muxer_.can_receive()) tx_waits_ = true;
    if (n == tx.size()) tx.yield();
    if (tx_waits_ || n == tx.size()) break;
    std::optional<Chain> chain = GRANARY_TRY(tx.pop());
    if (!chain) break;
    GRANARY_TRY(receive_from_guest(*std::move(chain)));
  }
  if (tx.should_interrupt()) interrupt_->used_buffer();
  return ok();
}

Status Vsock::receive_from_guest(Chain chain) {
  const auto header = GRANARY_TRY(chain.read_struct<VsockHeader>("a vsock packet header"));
  muxer_.receive(header, chain);
  return ok();
}

Status Vsock::pump_rx() {
  if (queues_.empty()) return ok();
  Queue& rx = queues_[kRx];
  for (int n = 0; muxer_.has_output(); ++n) {
    if (n == kPumpBatch) {
      continue_later();
      break;
    }
    std::optional<Chain> chain = GRANARY_TRY(rx.pop());
    if (!chain) break;
    if (!GRANARY_TRY(muxer_.send(*chain))) {
      rx.put_back(*std::move(chain));
      break;
    }
    chain->complete();
  }
  if (rx.should_interrupt()) interrupt_->used_buffer();
  if (tx_waits_ && muxer_.can_receive()) continue_later();
  return ok();
}

void Vsock::continue_later() {
  if (std::exchange(continues_, true)) return;
  loop_.post([this, alive = std::weak_ptr(alive_)] {
    if (alive.expired()) return;
    continues_ = false;
    if (tx_waits_ && !queues_.empty() && !failed_) failed_ = !process_tx();
    pump();
  });
}

void Vsock::pump() {
  if (failed_) return;
  // The transport hears of it with the driver's next kick.
  failed_ = !pump_rx();
}

bool Vsock::quiescent() const { return muxer_.size() == 0 && !muxer_.has_output() && !tx_waits_; }

DeviceBlob Vsock::save() const { return to_blob(VsockState{guest_cid_, muxer_.next_host_port(), 0}); }

// No VIRTIO_VSOCK_EVENT_TRANSPORT_RESET is sent after a restore. The event (5.10.6.7) says that connections were
// interrupted and that the context id may have changed; a snapshot has neither (quiescent(), and the id is part of the
// template). Linux would reset its connected sockets and re-read the id; listening sockets survive it, so the event
// would be harmless, but it costs a wake-up and an interrupt in every clone. Host ports go on where the template
// stopped, so that a late packet for one of its old connections meets none of ours.
Status Vsock::restore(const DeviceBlob& state) {
  const auto saved = GRANARY_TRY(from_blob<VsockState>(state, "vsock"));
  if (saved.guest_cid != guest_cid_ || saved.reserved != 0 || saved.next_host_port < VsockMuxer::kFirstHostPort ||
      saved.next_host_port == ~0U) {
    return Error(Errc::kSnapshotCorrupt, "vsock state: cid " + std::to_string(saved.guest_cid) + ", next port " +
                                             std::to_string(saved.next_host_port));
  }
  muxer_.set_next_host_port(saved.next_host_port);
  return ok();
}

}  // namespace granary::virtio
