// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "vmpool/virtio/fake_driver.h"
#include "vmpool/virtio/fs.h"

namespace granary::virtio {

inline constexpr uint16_t kHigh = Fs::kHighPriorityQueue;
inline constexpr uint16_t kRequests = Fs::kRequestQueue;

// An fs device, its driver, and the server's end of its socket.
class FsTest : public testing::Test {
 protected:
  FsTest()
      : loop(must(EventLoop::create())),
        fs(new Fs(*loop, "granary")),
        machine(std::unique_ptr<Device>(fs)),
        driver(*machine.driver) {
    driver.start(64);
  }
  void attach() {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    server = Fd(fds[0]);
    must(fs->attach(Fd(fds[1])));
  }
  static std::string message(uint32_t opcode, uint64_t unique, std::string_view payload = {}, int64_t len_offset = 0) {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(static_cast<int64_t>(sizeof(header) + payload.size()) + len_offset);
    header.opcode = opcode;
    header.unique = unique;
    return std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + std::string(payload);
  }
  // Makes the message available with room for a reply of `room` bytes and kicks. Returns where the reply will be.
  Gpa request(std::string_view bytes, uint32_t room = 80, uint16_t queue = kRequests) {
    const Gpa reply = driver.allocate(room + 1);
    std::vector<Segment> segments = {{driver.place(bytes), static_cast<uint32_t>(bytes.size()), false}};
    if (room > 0) segments.push_back({reply, room, true});
    driver.queue(queue).add(segments);
    driver.kick(queue);
    return reply;
  }
  Gpa request(uint32_t opcode, uint64_t unique, std::string_view payload = {}, uint32_t room = 80) {
    return request(message(opcode, unique, payload), room);
  }
  void run() { must(loop->run_once(0)); }

  // What the server has got: the header of its next message, whose body is in `body` then.
  fuse_in_header receive() {
    fuse_in_header header{};
    if (::recv(server.get(), &header, sizeof(header), MSG_WAITALL) != sizeof(header)) return {};
    body.resize(header.len - sizeof(header));
    if (!body.empty() && ::recv(server.get(), body.data(), body.size(), MSG_WAITALL) < 0) return {};
    return header;
  }
  [[nodiscard]] bool server_has_nothing() const {
    char byte = 0;
    return ::recv(server.get(), &byte, 1, MSG_PEEK) < 0 && errno == EAGAIN;
  }
  [[nodiscard]] bool server_was_closed() const {
    char byte = 0;
    const ssize_t n = ::recv(server.get(), &byte, 1, MSG_PEEK);
    return n == 0 || (n < 0 && errno == ECONNRESET);
  }
  void send(std::string_view bytes) {
    ASSERT_EQ(::send(server.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  static std::string reply_bytes(uint64_t unique, int32_t error, std::string_view payload, int64_t len_offset = 0) {
    const fuse_out_header header{
        static_cast<uint32_t>(static_cast<int64_t>(sizeof(fuse_out_header) + payload.size()) + len_offset), error,
        unique};
    return std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + std::string(payload);
  }
  void reply(uint64_t unique, int32_t error = 0, std::string_view payload = {}) {
    send(reply_bytes(unique, error, payload));
    run();
  }
  [[nodiscard]] fuse_out_header header_at(Gpa at) const {
    fuse_out_header header{};
    std::memcpy(&header, driver.bytes(at, sizeof(header)).data(), sizeof(header));
    return header;
  }
  std::optional<UsedElement> used(uint16_t queue = kRequests) { return driver.queue(queue).take_used(); }

  std::unique_ptr<EventLoop> loop;
  Fs* fs;
  FakeMachine machine;
  FakeDriver& driver;
  Fd server;
  std::string body;
};

}  // namespace granary::virtio
