// SPDX-License-Identifier: Apache-2.0
#include <sys/socket.h>

#include "vmpool/virtio/fuzz_driver.h"
#include "vmpool/virtio/vsock.h"

// Host actions: open a connection to guest port 1 (host ports count from 2^30), write to it, read from it, close it.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary;
  using namespace granary::virtio;
  static const std::unique_ptr<EventLoop> loop = must(EventLoop::create());
  FuzzInput input(data, size);
  auto device = must(Vsock::create(*loop, 3, Fd()));
  Vsock* vsock = device.get();
  FakeMachine machine(std::move(device));
  std::vector<Fd> streams;
  fuzz_device(input, machine, [&](FuzzInput& in) {
    const auto what = in.take<uint8_t>();
    int fds[2];
    if (what < 64 && streams.size() < 8 && ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0) {
      const Fd& kept = streams.emplace_back(fds[0]);
      if (!vsock->adopt(Fd(fds[1]), 1)) (void)::shutdown(kept.get(), SHUT_WR);
    } else if (!streams.empty()) {
      const size_t which = what % streams.size();
      char buffer[4096] = {};
      if (what < 128)
        (void)::send(streams[which].get(), buffer, in.take<uint16_t>() % sizeof(buffer), MSG_DONTWAIT | MSG_NOSIGNAL);
      else if (what < 192)
        (void)::recv(streams[which].get(), buffer, sizeof(buffer), MSG_DONTWAIT);
      else
        streams.erase(streams.begin() + static_cast<ptrdiff_t>(which));
    }
    must(loop->run_once(0));
  });
  return 0;
}
