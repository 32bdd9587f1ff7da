// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/fuse.h>
#include <sys/uio.h>

#include <functional>
#include <span>
#include <vector>

#include "vmpool/base/event_loop.h"

namespace granary::fs {

// The server's end of the stream of FUSE messages from a VMM, which is not trusted. Reads one message at a time by the
// length in its header and never blocks: while the peer does not take a reply, the rest of that reply is kept and no
// further message is read. One thread.
class FuseChannel {
 public:
  // 1 MiB of data and a page for what comes before it, as the device has it (virtio/fs.h).
  static constexpr size_t kMaxMessageBytes = 1024 * 1024 + 4096;
  struct Handlers {
    // One whole message; it may be changed, and 8 bytes after it are zero.
    std::function<void(std::span<std::byte>)> message;
    // The peer is gone, or sent what has no message's length. Nothing is read any more.
    std::function<void(const char* why)> gone;
  };
  static Result<std::unique_ptr<FuseChannel>> create(EventLoop& loop, Fd socket, Handlers handlers);
  ~FuseChannel();
  FuseChannel(const FuseChannel&) = delete;
  FuseChannel& operator=(const FuseChannel&) = delete;

  // Sends a whole reply, now or later.
  void send(std::span<iovec> parts);
  void send_error(uint64_t unique, int error);
  [[nodiscard]] int fd() const { return socket_.get(); }

 private:
  FuseChannel(EventLoop& loop, Fd socket, Handlers handlers)
      : loop_(loop), socket_(std::move(socket)), handlers_(std::move(handlers)) {}
  void ready();
  bool flush();
  bool read_message();
  bool read_up_to(size_t bytes);
  void leave(const char* why);

  EventLoop& loop_;
  Fd socket_;
  Handlers handlers_;
  EventLoop::Token token_ = 0;
  std::vector<std::byte> in_;
  size_t in_bytes_ = 0;
  std::vector<std::byte> out_;  // of replies that the peer has not taken yet
  size_t out_sent_ = 0;
  bool gone_ = false;
};

}  // namespace granary::fs
