// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "vmpool/virtio/fake_driver.h"
#include "vmpool/virtio/queue.h"

// The input is the ring memory itself: features, layout, then the bytes of 64 KiB at 0x1000. Every chain is read,
// written and returned; what the queue hands out must lie in guest memory.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary;
  using namespace granary::virtio;
  static const GuestMemory memory = must(GuestMemory::create(1 * kMiB));
  struct Prefix {
    uint8_t features;
    uint8_t size_log2;
    uint16_t descriptors;
    uint16_t avail;
    uint16_t used;
    uint16_t start;
  } prefix{};
  if (size < sizeof(prefix)) return 0;
  std::memcpy(&prefix, data, sizeof(prefix));
  const std::span<const std::byte> rings = std::as_bytes(std::span(data + sizeof(prefix), size - sizeof(prefix)));
  std::fill(memory.mapping().data(), memory.mapping().data() + 0x12000, std::byte{0});
  must(memory.write_bytes(Gpa{0x1000}, rings.first(std::min<size_t>(rings.size(), 0x10000))));

  Queue queue;
  const QueueLayout layout{1U << (prefix.size_log2 % 12), Gpa{0x1000U + prefix.descriptors},
                           Gpa{0x1000U + prefix.avail}, Gpa{0x1000U + prefix.used}};
  if (!queue.configure(memory, layout, 1024, uint64_t{prefix.features} << 28, prefix.start, prefix.start)) return 0;
  std::vector<Chain> held;
  for (size_t i = 0; i < 64; ++i) {
    Result<std::optional<Chain>> popped = queue.pop();
    if (!popped || !*popped) break;
    Chain chain = **std::move(popped);
    std::array<std::byte, 64> bytes{};
    chain.read(bytes);
    chain.write(bytes);
    std::array<iovec, 4> segments;
    for (const iovec& segment : chain.next_writable(segments, chain.writable_left())) {
      const auto* at = static_cast<const std::byte*>(segment.iov_base);
      if (at < memory.mapping().data() || at + segment.iov_len > memory.mapping().data() + memory.size()) std::abort();
    }
    chain.patch(i % 128, bytes);
    if (i % 3 == 0)
      held.push_back(std::move(chain));
    else if (i % 3 == 1)
      chain.complete();
    (void)queue.should_interrupt();
  }
  held.clear();
  if (queue.in_flight() != 0) std::abort();
  return 0;
}
