// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "vmpool/base/event_loop.h"
#include "vmpool/base/fd.h"
#include "vmpool/virtio/device.h"
#include "vmpool/virtio/vsock_muxer.h"

namespace granary::virtio {

// What a snapshot keeps of a vsock device. There is never an open connection in it (see Vsock::quiescent).
struct VsockState {
  uint64_t guest_cid = 0;
  uint32_t next_host_port = 0;
  uint32_t reserved = 0;
};

// The virtio socket device (virtio 1.2, 5.10), carried in user space. Connections are opened by the host only: through
// the listener, or with adopt(). What the guest asks for is refused with RST, because nothing listens on the host.
//
// Host side of the listener, a SOCK_STREAM unix socket: the client writes "CONNECT <port>\n" (decimal, at most 32
// bytes) and gets "OK <host port>\n" once the guest accepted; from then on bytes flow both ways, and shutdown(2) is
// carried as half-close. Refusal, reset and time-out close the connection. The listener is served while the driver is
// active.
//
// Loop thread only.
class Vsock final : public Device {
 public:
  // `listener`: a listening unix stream socket, or invalid for none; made non-blocking.
  static Result<std::unique_ptr<Vsock>> create(EventLoop& loop, uint64_t guest_cid, Fd listener,
                                               VsockOptions options = {});
  ~Vsock() override;

  // Opens a connection to `guest_port` that carries what the other end of `stream` writes and reads, without the text
  // handshake: the other end sees end of file if the guest refuses. kNotSupported while no driver is active;
  // EMFILE beyond options.max_connections.
  Status adopt(Fd stream, uint32_t guest_port);

  // Connections that exist on either side, half-closed and not yet accepted ones included.
  [[nodiscard]] size_t open_connections() const { return muxer_.size(); }
  // Packets dropped or answered with RST because they were malformed or belonged to no connection.
  [[nodiscard]] uint64_t refused_packets() const { return muxer_.refused_packets(); }

  [[nodiscard]] DeviceType type() const override { return DeviceType::kVsock; }
  [[nodiscard]] uint64_t features() const override;
  [[nodiscard]] std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> into) const override;
  Status activate(uint64_t features, std::span<Queue> queues, Interrupt& interrupt) override;
  void deactivate() override;
  Status process_queue(uint16_t index) override;
  // No connection open and no packet waiting for the guest.
  [[nodiscard]] bool quiescent() const override;
  [[nodiscard]] DeviceBlob save() const override;
  Status restore(const DeviceBlob& state) override;

 private:
  Vsock(EventLoop& loop, uint64_t guest_cid, Fd listener, VsockOptions options);
  Status process_tx();
  Status receive_from_guest(Chain chain);
  Status pump_rx();
  // From host-side events, where no transport listens for an error.
  void pump();
  // After whatever else the loop has to do.
  void continue_later();

  EventLoop& loop_;
  uint64_t guest_cid_;
  VsockMuxer muxer_;
  std::span<Queue> queues_;
  Interrupt* interrupt_ = nullptr;
  bool tx_waits_ = false;  // replies are backed up: process the tx queue again when they are gone
  bool failed_ = false;
  bool continues_ = false;
  std::shared_ptr<int> alive_;  // for tasks posted to the loop
};

}  // namespace granary::virtio
