// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/fake_vsock_guest.h"

#include <algorithm>

namespace granary::virtio {
namespace {

constexpr uint16_t kRx = 0;
constexpr uint16_t kTx = 1;
constexpr uint32_t kTxBytes = 64 * 1024 + sizeof(VsockHeader);

}  // namespace

FakeVsockGuest::FakeVsockGuest(FakeDriver& driver, uint64_t cid, uint16_t rx_buffers, uint32_t rx_buffer_bytes)
    : driver_(driver), cid_(cid), rx_buffer_bytes_(rx_buffer_bytes), tx_(driver.allocate(kTxBytes)) {
  for (uint16_t i = 0; i < rx_buffers; ++i) post(driver_.allocate(rx_buffer_bytes_));
  driver_.kick(kRx);
}

void FakeVsockGuest::post(Gpa buffer) { rx_[driver_.queue(kRx).add({{buffer, rx_buffer_bytes_, true}})] = buffer; }

void FakeVsockGuest::set_recycle(bool on) {
  recycle_ = on;
  if (!on) return;
  while (!spare_.empty()) {
    post(spare_.front());
    spare_.pop_front();
  }
  driver_.kick(kRx);
}

void FakeVsockGuest::send(VsockHeader header, std::string_view payload) {
  const std::span<std::byte> buffer = driver_.bytes(tx_, kTxBytes);
  std::memcpy(buffer.data(), &header, sizeof(header));
  std::copy(payload.begin(), payload.end(), reinterpret_cast<char*>(buffer.data()) + sizeof(header));
  FakeQueue& queue = driver_.queue(kTx);
  if (payload.empty()) {
    queue.add({{tx_, sizeof(header), false}});
  } else {
    queue.add({{tx_, sizeof(header), false}, {tx_ + sizeof(header), static_cast<uint32_t>(payload.size()), false}});
  }
  driver_.kick(kTx);
  while (queue.take_used()) {
  }
}

VsockHeader FakeVsockGuest::reply_to(const VsockHeader& to, uint16_t op) const {
  VsockHeader header{};
  header.src_cid = cid_;
  header.dst_cid = 2;
  header.src_port = to.dst_port;
  header.dst_port = to.src_port;
  header.type = VIRTIO_VSOCK_TYPE_STREAM;
  header.op = op;
  header.buf_alloc = buf_alloc;
  header.fwd_cnt = fwd_cnt;
  return header;
}

void FakeVsockGuest::answer(const VsockHeader& to, uint16_t op, std::string_view payload, uint32_t flags) {
  VsockHeader header = reply_to(to, op);
  header.len = static_cast<uint32_t>(payload.size());
  header.flags = flags;
  send(header, payload);
}

std::optional<FakeVsockGuest::Packet> FakeVsockGuest::receive() {
  const std::optional<UsedElement> used = driver_.queue(kRx).take_used();
  if (!used) return std::nullopt;
  const Gpa buffer = rx_.at(used->id);
  rx_.erase(used->id);
  Packet packet;
  std::memcpy(&packet.header, driver_.bytes(buffer, sizeof(VsockHeader)).data(), sizeof(VsockHeader));
  packet.payload = driver_.text(buffer + sizeof(VsockHeader), used->length - sizeof(VsockHeader));
  if (recycle_) {
    post(buffer);
    driver_.kick(kRx);
  } else {
    spare_.push_back(buffer);
  }
  return packet;
}

}  // namespace granary::virtio
