// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/entropy.h"
#include "vmpool/virtio/fuzz_driver.h"
#include "vmpool/virtio/mmio_transport.h"

// First byte 0xff: the rest is a TransportState to be restored; otherwise register accesses.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary;
  using namespace granary::virtio;
  FakeMachine machine(std::make_unique<Entropy>());
  FuzzInput input(data, size);
  if (size > 0 && data[0] == 0xff) {
    (void)input.take<uint8_t>();
    if (machine.transport->restore(input.take<TransportState>())) machine.driver->kick(0);
    return 0;
  }
  fuzz_device(input, machine, [&](FuzzInput& in) {
    std::array<std::byte, 8> bytes{};
    const std::span<std::byte> part = std::span(bytes).first(size_t{1} << in.take<uint8_t>() % 4);
    const auto offset = in.take<uint16_t>();
    if (!machine.transport->fast_access(offset, false, part)) machine.transport->read(offset, part);
    if (!machine.transport->fast_access(offset, true, part)) machine.transport->write(offset, part);
    machine.transport->notify_config_change();
  });
  return 0;
}
