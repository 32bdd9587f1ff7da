// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <functional>

#include "vmpool/virtio/fake_driver.h"
#include "vmpool/virtio/vsock.h"

namespace granary::virtio {

// Test code: a guest's virtio-vsock driver with as much of a socket layer as a test needs.
class FakeVsockGuest {
 public:
  struct Packet {
    VsockHeader header{};
    std::string payload;
  };

  FakeVsockGuest(FakeDriver& driver, uint64_t cid, uint16_t rx_buffers, uint32_t rx_buffer_bytes = 4096);

  void send(VsockHeader header, std::string_view payload = {});
  // The header of an answer to a packet of the host: swapped addresses, this guest's credit.
  [[nodiscard]] VsockHeader reply_to(const VsockHeader& to, uint16_t op) const;
  void answer(const VsockHeader& to, uint16_t op, std::string_view payload = {}, uint32_t flags = 0);
  // The next packet that the device delivered. Its buffer goes back to the device only if `recycle`.
  std::optional<Packet> receive();
  // Gives used rx buffers back to the device, all or none from now on.
  void set_recycle(bool on);

  // Credit that is told to the host with every packet.
  uint32_t buf_alloc = 1 << 20;
  uint32_t fwd_cnt = 0;

 private:
  void post(Gpa buffer);
  FakeDriver& driver_;
  uint64_t cid_;
  uint32_t rx_buffer_bytes_;
  bool recycle_ = true;
  std::map<uint32_t, Gpa> rx_;  // by descriptor head
  std::deque<Gpa> spare_;
  Gpa tx_;
};

}  // namespace granary::virtio
