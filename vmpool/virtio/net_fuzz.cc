// SPDX-License-Identifier: Apache-2.0
#include <sys/socket.h>

#include "vmpool/virtio/fuzz_driver.h"
#include "vmpool/virtio/net.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary;
  using namespace granary::virtio;
  static const std::unique_ptr<EventLoop> loop = must(EventLoop::create());
  FuzzInput input(data, size);
  Net* net = nullptr;
  Fd wire;
  FakeMachine machine([&](const GuestMemory&) {
    auto device = std::make_unique<Net>(*loop, MacAddress{2, 0, 0, 0, 0, 1});
    net = device.get();
    return device;
  });
  fuzz_device(input, machine, [&](FuzzInput& in) {
    int fds[2];
    if (!wire.valid() && ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) == 0) {
      wire = Fd(fds[0]);
      must(net->attach(Fd(fds[1])));
    }
    const std::span<const uint8_t> frame = in.take_bytes(in.take<uint8_t>());
    std::array<std::byte, 64> taken;  // a wire that nobody reads is full
    if (frame.empty()) (void)::recv(wire.get(), taken.data(), taken.size(), MSG_DONTWAIT);
    if (!frame.empty()) (void)::send(wire.get(), frame.data(), frame.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    must(loop->run_once(0));
  });
  return 0;
}
