// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/balloon.h"

#include <linux/virtio_balloon.h>
#include <sys/mman.h>

#include "vmpool/virtio/config_space.h"

namespace granary::virtio {
namespace {

// Queues that belong to features not offered do not count: both Linux and QEMU number those that exist one after the
// other, although 5.5.2 gives each a fixed number.
enum : uint16_t { kInflate = 0, kDeflate = 1, kReporting = 2 };
constexpr std::array<uint16_t, 3> kQueueSizes = {128, 128, 128};
constexpr uint32_t kBalloonPage = 1U << VIRTIO_BALLOON_PFN_SHIFT;
static_assert(kBalloonPage == kPageSize);
// Page numbers taken from one inflate buffer (1 GiB); Linux sends 256 at a time.
constexpr size_t kMaxPfns = 256 * 1024;

}  // namespace

uint64_t Balloon::features() const {
  return 1ULL << VIRTIO_BALLOON_F_DEFLATE_ON_OOM | 1ULL << VIRTIO_BALLOON_F_REPORTING;
}

std::span<const uint16_t> Balloon::queue_sizes() const { return kQueueSizes; }

void Balloon::set_target(uint32_t pages) {
  target_pages_ = static_cast<uint32_t>(std::min<uint64_t>(pages, memory_.size() / kBalloonPage));
}

void Balloon::read_config(uint32_t offset, std::span<std::byte> into) const {
  virtio_balloon_config config{};
  config.num_pages = target_pages_;
  config.actual = actual_pages_;
  read_config_struct(config, offset, into);
}

void Balloon::write_config(uint32_t offset, std::span<const std::byte> from) {
  // 5.5.4: the driver writes `actual`, nothing else.
  if (offset != offsetof(virtio_balloon_config, actual) || from.size() != sizeof(actual_pages_)) return;
  std::memcpy(&actual_pages_, from.data(), sizeof(actual_pages_));
}

Status Balloon::activate(uint64_t features, std::span<Queue> queues, Interrupt& interrupt) {
  features_ = features;
  queues_ = queues;
  interrupt_ = &interrupt;
  return ok();
}

void Balloon::deactivate() {
  queues_ = {};
  interrupt_ = nullptr;
}

Status Balloon::process_queue(uint16_t index) {
  Queue& queue = queues_[index];
  Status done = for_each_chain(queue, [&](Chain chain) -> Status {
    if (index == kInflate) return inflate(std::move(chain));
    if (index == kReporting && (features_ >> VIRTIO_BALLOON_F_REPORTING & 1) != 0) return report(std::move(chain));
    return ok();  // deflate: the pages come back when the guest touches them
  });
  if (queue.should_interrupt()) interrupt_->used_buffer();
  return done;
}

Status Balloon::inflate(Chain chain) {
  const size_t count = chain.readable_left() / sizeof(uint32_t);
  if (count > kMaxPfns) {
    return Error(Errc::kDeviceInvalid,
                 "balloon: " + std::to_string(count) + " pages in one buffer; at most " + std::to_string(kMaxPfns));
  }
  // Runs of neighbouring pages are given back together.
  std::byte* run = nullptr;
  uint64_t run_bytes = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto pfn = GRANARY_TRY(chain.read_struct<uint32_t>("a balloon page number"));
    const Gpa page{uint64_t{pfn} << VIRTIO_BALLOON_PFN_SHIFT};
    std::byte* at = GRANARY_TRY(memory_.range(page, kBalloonPage)).data();
    if (run != nullptr && at == run + run_bytes) {
      run_bytes += kBalloonPage;
      continue;
    }
    GRANARY_TRY(give_back(run, run_bytes));
    run = at;
    run_bytes = kBalloonPage;
  }
  GRANARY_TRY(give_back(run, run_bytes));
  chain.complete();
  return ok();
}

// 5.5.6.7: the buffer's segments are the free pages themselves.
Status Balloon::report(Chain chain) {
  std::array<iovec, 1> segment;
  while (!chain.next_writable(segment, chain.writable_left()).empty()) {
    const auto start = reinterpret_cast<uintptr_t>(segment[0].iov_base);
    const uintptr_t first = (start + kPageSize - 1) & ~(kPageSize - 1);
    const uintptr_t end = (start + segment[0].iov_len) & ~(kPageSize - 1);
    // Only whole pages; the mapping's start is page-aligned, so guest pages are host pages.
    if (end > first) GRANARY_TRY(give_back(reinterpret_cast<std::byte*>(first), end - first));
    chain.skip_writable(segment[0].iov_len);
  }
  chain.complete(0);
  return ok();
}

Status Balloon::give_back(std::byte* start, uint64_t size_bytes) {
  if (size_bytes == 0) return ok();
  if (::madvise(start, size_bytes, MADV_DONTNEED) != 0) return Error::last_os_error("balloon: madvise");
  returned_bytes_ += size_bytes;
  return ok();
}

DeviceBlob Balloon::save() const { return to_blob(BalloonState{target_pages_, actual_pages_}); }

Status Balloon::restore(const DeviceBlob& state) {
  const auto saved = GRANARY_TRY(from_blob<BalloonState>(state, "balloon"));
  if (saved.target_pages > memory_.size() / kBalloonPage) {
    return Error(Errc::kSnapshotCorrupt, "balloon state: target of " + std::to_string(saved.target_pages) + " pages");
  }
  target_pages_ = saved.target_pages;
  actual_pages_ = saved.actual_pages;
  return ok();
}

}  // namespace granary::virtio
