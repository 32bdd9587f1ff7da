// SPDX-License-Identifier: Apache-2.0
#include <sys/socket.h>

#include "vmpool/virtio/fs.h"
#include "vmpool/virtio/fuzz_driver.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary;
  using namespace granary::virtio;
  static const std::unique_ptr<EventLoop> loop = must(EventLoop::create());
  FuzzInput input(data, size);
  Fs* fs = nullptr;
  Fd server;
  FakeMachine machine([&](const GuestMemory&) {
    auto device = std::make_unique<Fs>(*loop, "granary");
    fs = device.get();
    return device;
  });
  // What the server does: it answers the message that it got last (odd), or sends anything; now and then it goes.
  fuse_in_header last{};
  fuzz_device(input, machine, [&](FuzzInput& in) {
    int fds[2];
    if (!fs->attached() && ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0) {
      server = Fd(fds[0]);
      must(fs->attach(Fd(fds[1])));
    }
    (void)::recv(server.get(), &last, sizeof(last), MSG_DONTWAIT);
    const auto act = in.take<uint8_t>();
    const std::span<const uint8_t> body = in.take_bytes(in.take<uint8_t>());
    if ((act & 1) != 0) {
      const fuse_out_header header{static_cast<uint32_t>(sizeof(fuse_out_header) + body.size()), 0, last.unique};
      (void)::send(server.get(), &header, sizeof(header), MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    if (!body.empty()) (void)::send(server.get(), body.data(), body.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (act == 254) server.reset();
    must(loop->run_once(0));
  });
  return 0;
}
