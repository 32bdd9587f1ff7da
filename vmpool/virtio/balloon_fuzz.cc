// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/balloon.h"
#include "vmpool/virtio/fuzz_driver.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary::virtio;
  FuzzInput input(data, size);
  Balloon* balloon = nullptr;
  FakeMachine machine([&](const granary::GuestMemory& memory) {
    auto device = std::make_unique<Balloon>(memory);
    balloon = device.get();
    return device;
  });
  fuzz_device(input, machine, [&](FuzzInput& in) { balloon->set_target(in.take<uint32_t>()); });
  return 0;
}
