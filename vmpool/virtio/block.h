// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "vmpool/base/fd.h"
#include "vmpool/virtio/block_io.h"
#include "vmpool/virtio/device.h"
#include "vmpool/virtio/io_worker.h"

namespace granary::virtio {

// What a snapshot keeps of a block slot. The file itself is a resource of the host: it is attached again after a
// restore.
struct BlockState {
  uint64_t capacity_sectors = 0;
  uint32_t read_only = 0;
  uint32_t attached = 0;
};

// The block device (virtio 1.2, 5.2) over a raw file or block device. A slot starts empty, with capacity 0, and takes
// its file later. VIRTIO_BLK_F_RO is never offered, because features are fixed when the template is made and the file
// comes after that: writes to a read-only file end with VIRTIO_BLK_S_IOERR, and the guest mounts it read-only by its
// own means.
//
// Threads: loop thread; file I/O on the IoWorker, into and out of guest memory directly.
class Block final : public Device {
 public:
  // `worker` must outlive the device. `id`: what GET_ID answers, cut to 20 bytes.
  Block(IoWorker& worker, std::string_view id);
  ~Block() override;

  // Puts a file into the slot; `size_bytes` of it are visible, rounded down to 512. The caller then calls the
  // transport's notify_config_change(). EBUSY: the slot is taken. kInvalidArgument: the size is below one sector or beyond a
  // regular file, the file is neither regular nor a block device, or it is not open for writing although !read_only.
  Status attach(Fd file, bool read_only, uint64_t size_bytes);
  // Empties the slot, which can take another file then; the caller calls notify_config_change(). EBUSY while a request is under way:
  // the guest still uses it. kInvalidArgument: it is empty.
  Status detach();
  [[nodiscard]] bool attached() const { return file_.valid(); }

  [[nodiscard]] DeviceType type() const override { return DeviceType::kBlock; }
  [[nodiscard]] uint64_t features() const override;
  [[nodiscard]] std::span<const uint16_t> queue_sizes() const override;
  void read_config(uint32_t offset, std::span<std::byte> into) const override;
  Status activate(uint64_t features, std::span<Queue> queues, Interrupt& interrupt) override;
  // Waits for the one request that may be in the file system.
  void deactivate() override;
  Status process_queue(uint16_t index) override;
  // No request in flight. A template is made with empty slots.
  [[nodiscard]] bool quiescent() const override { return in_flight_ == 0; }
  [[nodiscard]] DeviceBlob save() const override;
  Status restore(const DeviceBlob& state) override;

 private:
  struct Request;
  Status start(Chain chain);
  void submit(std::shared_ptr<Request> request);
  void finish(Request& request);
  static void take_data(Request& request, BlockOp op, uint64_t sector, size_t bytes);
  void parse(Request& request, uint32_t type, uint64_t sector);
  void parse_range(Request& request, uint32_t type);
  [[nodiscard]] bool in_bounds(uint64_t sector, uint64_t bytes) const;

  IoWorker& worker_;
  Fd file_;
  bool read_only_ = false;
  uint64_t capacity_sectors_ = 0;
  std::array<char, 20> id_{};
  Queue* queue_ = nullptr;
  Interrupt* interrupt_ = nullptr;
  size_t in_flight_ = 0;
};

}  // namespace granary::virtio
