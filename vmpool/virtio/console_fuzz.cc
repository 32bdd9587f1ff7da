// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/console.h"
#include "vmpool/virtio/fuzz_driver.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary::virtio;
  FuzzInput input(data, size);
  Console* console = nullptr;
  FakeMachine machine([&](const granary::GuestMemory&) {
    auto device = std::make_unique<Console>([](std::span<const std::byte>) {});
    console = device.get();
    return device;
  });
  fuzz_device(input, machine,
              [&](FuzzInput& in) { console->write_input(std::as_bytes(in.take_bytes(in.take<uint8_t>()))); });
  return 0;
}
