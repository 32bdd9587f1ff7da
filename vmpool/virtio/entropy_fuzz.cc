// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/entropy.h"
#include "vmpool/virtio/fuzz_driver.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary::virtio;
  FuzzInput input(data, size);
  FakeMachine machine([](const granary::GuestMemory&) { return std::make_unique<Entropy>(); });
  fuzz_device(input, machine, [](FuzzInput&) {});
  return 0;
}
