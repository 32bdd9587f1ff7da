// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/fuse.h>

#include <memory>
#include <string_view>
#include <vector>

#include "vmpool/base/fd.h"
#include "vmpool/virtio/device.h"

namespace granary::virtio {

// The configuration space (virtio 1.2, 5.11.4).
struct FsConfig {
  std::array<char, 36> tag{};  // padded with NULs
  uint32_t num_request_queues = 0;
};
static_assert(sizeof(FsConfig) == 40);

// What a snapshot keeps of the device: what its driver has read. Nothing is mounted in a template.
struct FsState {
  FsConfig config;
  uint32_t attached = 0;
};

// The file system device (virtio 1.2, 5.11): a high-priority queue and one request queue, no notification queue. It
// carries FUSE messages between the driver's buffers and a stream socket to a granary-fsd, which is attached late. Both
// ends are hostile, and the loop never blocks:
//
// - Of a request its header is copied and checked (its length is the chain's, at most kMaxMessageBytes); the rest goes
//   from guest memory to the socket. A full socket makes the driver's requests wait in their rings.
// - On the socket a request has a number of ours in the place of the driver's `unique`: a driver that uses one twice
//   confuses only itself, and a reply is for a request that waits or it is none.
// - A reply goes straight into its request's buffer. One that is longer ends that request with EIO. One that nobody
//   waits for, or that cannot be one, closes the socket.
// - FUSE_FORGET and FUSE_BATCH_FORGET have no reply. Neither has FUSE_INTERRUPT: it goes to the server if what it
//   interrupts is still there, and its buffer comes back at once.
//
// While there is no server, be it not attached yet or gone, every request ends with ENOTCONN at once. It does not wait:
// a driver cannot take a request back, and a mount without a server would hang its caller, PID 1, for good.
//
// A reset by the driver closes the socket once anything was sent over it, because a server serves one mount.
class Fs final : public Device {
 public:
  // A message of either direction, header included: 1 MiB of data and a page for what comes before it.
  static constexpr size_t kMaxMessageBytes = 1024 * 1024 + 4096;
  static constexpr uint16_t kHighPriorityQueue = 0;
  static constexpr uint16_t kRequestQueue = 1;

  // `tag`: what the guest mounts, at most 36 bytes.
  Fs(EventLoop& loop, std::string_view tag);
  ~Fs() override;

  // Takes the socket of a server. kInvalidArgument: there is one already, or it is no socket.
  Status attach(Fd socket);
  [[nodiscard]] bool attached() const { return socket_.valid(); }

  [[nodiscard]] DeviceType type() const override { return DeviceType::kFs; }
  [[nodiscard]] uint64_t features() const override { return 0; }
  [[nodiscard]] std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> into) const override;
  Status activate(uint64_t features, std::span<Queue> queues, Interrupt& interrupt) override;
  void deactivate() override;
  Status process_queue(uint16_t index) override;
  // No server: a template is made before there is one.
  [[nodiscard]] bool quiescent() const override { return !attached() && in_flight_ == 0; }
  [[nodiscard]] DeviceBlob save() const override;
  Status restore(const DeviceBlob& state) override;

  [[nodiscard]] size_t in_flight() const { return in_flight_; }

 private:
  struct Outgoing;
  struct Incoming;
  struct Request;

  Status run_queues();
  Result<bool> next_message(Queue& queue);
  Status take(Chain chain);
  Status take_request(Chain chain, fuse_in_header header);
  Status take_interrupt(Chain chain, fuse_in_header header);
  void put_out(Chain chain, const fuse_in_header& header, std::span<const std::byte> body);
  Status refuse(Chain chain, uint64_t unique, int error);
  bool send_message();
  void message_sent();
  void receive_replies();
  bool receive_reply();
  bool read_some(std::span<iovec> into, size_t& bytes);
  bool begin_reply();
  void end_reply();
  [[nodiscard]] Request* waiting(uint64_t number);
  void end_request(Request& request, int error);

  void lose_server(const char* why);
  void socket_ready();
  void go_on_later();
  void run();
  void raise_interrupts();

  EventLoop& loop_;
  FsConfig config_;
  Fd socket_;
  EventLoop::Token watch_ = 0;
  bool used_ = false;  // something was sent to this server
  std::span<Queue> queues_;
  Interrupt* interrupt_ = nullptr;
  bool failed_ = false;
  bool goes_on_later_ = false;
  std::vector<Request> requests_;  // one for each descriptor that the request queue can have
  size_t in_flight_ = 0;
  uint32_t generation_ = 0;
  std::unique_ptr<Outgoing> outgoing_;  // begun, and not sent to its end yet
  std::unique_ptr<Incoming> incoming_;
  std::shared_ptr<int> alive_;
};

}  // namespace granary::virtio
