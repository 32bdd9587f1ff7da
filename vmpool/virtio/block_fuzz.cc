// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/block.h"
#include "vmpool/virtio/fuzz_driver.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary;
  using namespace granary::virtio;
  constexpr uint64_t kFileBytes = 64 * 1024;
  static const std::unique_ptr<EventLoop> loop = must(EventLoop::create());
  static IoWorker worker(*loop);
  FuzzInput input(data, size);
  Block* block = nullptr;
  FakeMachine machine([&](const GuestMemory&) {
    auto device = std::make_unique<Block>(worker, "fuzz");
    block = device.get();
    return device;
  });
  fuzz_device(input, machine, [&](FuzzInput& in) {
    const auto what = in.take<uint8_t>();
    if (what < 128)
      must(loop->run_once(0));
    else if (!block->attached())
      must(block->attach(must(create_memfd("fuzz", kFileBytes)), what == 255, kFileBytes));
  });
  return 0;
}
