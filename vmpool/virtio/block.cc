// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/block.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sys/stat.h>

#include <string_view>

#include "vmpool/virtio/block_io.h"
#include "vmpool/virtio/config_space.h"

namespace granary::virtio {
namespace {

constexpr std::array<uint16_t, 1> kQueueSizes = {128};
constexpr uint32_t kSectorBytes = 512;
constexpr uint32_t kMaxSegments = 126;  // a chain of the queue's size without header and status
// Discards are cheap, and so is punching; writing zeroes by hand is what bounds the second.
constexpr uint32_t kMaxDiscardSectors = 4 * 1024 * 1024;
constexpr uint32_t kMaxZeroSectors = 64 * 1024;
constexpr size_t kMaxRanges = 1;

}  // namespace

struct Block::Request {
  explicit Request(Chain c) : chain(std::move(c)) {}
  Chain chain;
  BlockJob job;
  size_t data_bytes = 0;  // that the device writes into the chain on success
  uint8_t status = VIRTIO_BLK_S_OK;
};

Block::Block(IoWorker& worker, std::string_view id) : worker_(worker) {
  std::copy_n(id.begin(), std::min(id.size(), id_.size()), id_.begin());
}

Block::~Block() { worker_.cancel(this); }

uint64_t Block::features() const {
  return 1ULL << VIRTIO_BLK_F_SEG_MAX | 1ULL << VIRTIO_BLK_F_BLK_SIZE | 1ULL << VIRTIO_BLK_F_FLUSH |
         1ULL << VIRTIO_BLK_F_DISCARD | 1ULL << VIRTIO_BLK_F_WRITE_ZEROES;
}

std::span<const uint16_t> Block::queue_sizes() const { return kQueueSizes; }

void Block::read_config(uint32_t offset, std::span<std::byte> into) const {
  virtio_blk_config config{};
  config.capacity = capacity_sectors_;
  config.seg_max = kMaxSegments;
  config.blk_size = kSectorBytes;
  config.max_discard_sectors = kMaxDiscardSectors;
  config.max_discard_seg = kMaxRanges;
  config.discard_sector_alignment = 1;
  config.max_write_zeroes_sectors = kMaxZeroSectors;
  config.max_write_zeroes_seg = kMaxRanges;
  config.write_zeroes_may_unmap = 1;
  read_config_struct(config, offset, into);
}

Status Block::attach(Fd file, bool read_only, uint64_t size_bytes) {
  if (file_.valid()) return Error::from_errno(EBUSY, "block slot already has a file");
  if (size_bytes < kSectorBytes || size_bytes > INT64_MAX) {
    return Error(Errc::kInvalidArgument,
                 "block file of " + std::to_string(size_bytes) + " bytes; at least 512 are needed");
  }
  struct stat st {};
  if (::fstat(file.get(), &st) != 0) return Error::last_os_error("fstat of a block file");
  if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
    return Error(Errc::kInvalidArgument, "block file is neither a regular file nor a block device");
  }
  if (S_ISREG(st.st_mode) && size_bytes > static_cast<uint64_t>(st.st_size)) {
    return Error(Errc::kInvalidArgument, "block file has only " + std::to_string(st.st_size) + " of the " +
                                             std::to_string(size_bytes) + " bytes it is to show");
  }
  const int mode = ::fcntl(file.get(), F_GETFL) & O_ACCMODE;
  if (mode == O_WRONLY || (!read_only && mode != O_RDWR)) {
    return Error(Errc::kInvalidArgument, "block file is not open for what the slot is to do");
  }
  file_ = std::move(file);
  read_only_ = read_only;
  capacity_sectors_ = size_bytes / kSectorBytes;
  return ok();
}

Status Block::detach() {
  if (!file_.valid()) return Error(Errc::kInvalidArgument, "block slot has no file");
  if (in_flight_ > 0) return Error::from_errno(EBUSY, "block slot: the guest still uses its file");
  file_.reset();
  read_only_ = false;
  capacity_sectors_ = 0;
  return ok();
}

Status Block::activate(uint64_t /*features*/, std::span<Queue> queues, Interrupt& interrupt) {
  queue_ = &queues[0];
  interrupt_ = &interrupt;
  return ok();
}

void Block::deactivate() {
  worker_.cancel(this);
  in_flight_ = 0;
  queue_ = nullptr;
  interrupt_ = nullptr;
}

Status Block::process_queue(uint16_t /*index*/) {
  Status done = for_each_chain(*queue_, [this](Chain chain) { return start(std::move(chain)); });
  if (queue_->should_interrupt()) interrupt_->used_buffer();
  return done;
}

bool Block::in_bounds(uint64_t sector, uint64_t bytes) const {
  return bytes % kSectorBytes == 0 && sector <= capacity_sectors_ && bytes / kSectorBytes <= capacity_sectors_ - sector;
}

Status Block::start(Chain chain) {
  const auto header = GRANARY_TRY(chain.read_struct<virtio_blk_outhdr>("a block request header"));
  // 5.2.6: the last byte of the writable part is the status; without it the driver could not learn any outcome.
  if (chain.writable_left() == 0) return Error(Errc::kDeviceInvalid, "block request without a status byte");
  auto request = std::make_shared<Request>(std::move(chain));
  parse(*request, header.type, header.sector);
  if (request->status != VIRTIO_BLK_S_OK || request->job.op == BlockOp::kNone) {
    finish(*request);
    return ok();
  }
  submit(std::move(request));
  return ok();
}

// Sets what to do, or a status that refuses it.
void Block::parse(Request& request, uint32_t type, uint64_t sector) {
  Chain& chain = request.chain;
  BlockJob& job = request.job;
  const size_t in_bytes = chain.writable_left() - 1;
  job.file = file_.get();
  switch (type) {
    case VIRTIO_BLK_T_IN:
      if (in_bounds(sector, in_bytes)) return take_data(request, BlockOp::kRead, sector, in_bytes);
      break;
    case VIRTIO_BLK_T_OUT:
      if (in_bounds(sector, chain.readable_left()) && !read_only_) {
        return take_data(request, BlockOp::kWrite, sector, chain.readable_left());
      }
      break;
    case VIRTIO_BLK_T_FLUSH:
      job.op = file_.valid() ? BlockOp::kFlush : BlockOp::kNone;
      return;
    case VIRTIO_BLK_T_GET_ID:
      if (in_bytes < id_.size()) break;
      chain.write(std::as_bytes(std::span(id_)));
      request.data_bytes = id_.size();
      return;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
      return parse_range(request, type);
    default:
      request.status = VIRTIO_BLK_S_UNSUPP;
      return;
  }
  request.status = VIRTIO_BLK_S_IOERR;
}

void Block::take_data(Request& request, BlockOp op, uint64_t sector, size_t bytes) {
  if (bytes == 0) return;  // nothing to do, and that succeeds
  Chain& chain = request.chain;
  request.job.op = op;
  request.job.offset = sector * kSectorBytes;
  request.job.segments.resize(chain.segment_count());
  const std::span<iovec> used = op == BlockOp::kRead ? chain.next_writable(request.job.segments, bytes)
                                                     : chain.next_readable(request.job.segments, bytes);
  request.job.segments.resize(used.size());
  request.data_bytes = op == BlockOp::kRead ? bytes : 0;
}

void Block::parse_range(Request& request, uint32_t type) {
  const bool discard = type == VIRTIO_BLK_T_DISCARD;
  request.status = VIRTIO_BLK_S_IOERR;
  // One range per request is what the config space allows.
  if (request.chain.readable_left() != sizeof(virtio_blk_discard_write_zeroes) || read_only_) return;
  virtio_blk_discard_write_zeroes range;
  request.chain.read(std::as_writable_bytes(std::span(&range, 1)));
  const uint32_t allowed_flags = discard ? 0 : uint32_t{VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP};
  if ((range.flags & ~allowed_flags) != 0) {
    request.status = VIRTIO_BLK_S_UNSUPP;  // 5.2.6.2
    return;
  }
  const uint32_t limit = discard ? kMaxDiscardSectors : kMaxZeroSectors;
  const uint64_t bytes = uint64_t{range.num_sectors} * kSectorBytes;
  if (range.num_sectors > limit || !in_bounds(range.sector, bytes)) return;
  request.status = VIRTIO_BLK_S_OK;
  if (bytes == 0) return;
  request.job.op = discard ? BlockOp::kDiscard : BlockOp::kWriteZeroes;
  request.job.unmap = range.flags != 0;
  request.job.offset = range.sector * kSectorBytes;
  request.job.length = bytes;
}

void Block::submit(std::shared_ptr<Request> request) {
  ++in_flight_;
  const auto work = [request] { request->status = run_block_job(request->job) ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR; };
  const auto done = [this, request] {
    --in_flight_;
    finish(*request);
    if (queue_->should_interrupt()) interrupt_->used_buffer();
  };
  if (worker_.submit(this, work, done)) return;
  --in_flight_;
  request->status = VIRTIO_BLK_S_IOERR;
  finish(*request);
}

void Block::finish(Request& request) {
  Chain& chain = request.chain;
  const bool good = request.status == VIRTIO_BLK_S_OK;
  if (request.job.op == BlockOp::kRead && good) chain.skip_writable(request.data_bytes);
  const std::byte status{request.status};
  const size_t data_written = good ? request.data_bytes : 0;
  // The status byte is the last of the writable part, wherever the data before it ended.
  chain.patch(chain.writable_size() - 1, std::span(&status, 1));
  const bool contiguous = data_written + 1 == chain.writable_size();
  if (contiguous) chain.skip_writable(1);
  chain.complete(static_cast<uint32_t>(contiguous ? data_written + 1 : data_written));
}

DeviceBlob Block::save() const {
  return to_blob(BlockState{capacity_sectors_, read_only_ ? 1U : 0U, file_.valid() ? 1U : 0U});
}

Status Block::restore(const DeviceBlob& state) {
  const auto saved = GRANARY_TRY(from_blob<BlockState>(state, "block"));
  // A template is made with empty slots: the file of a clone is attached after its restore.
  if (saved.capacity_sectors != 0 || saved.read_only != 0 || saved.attached != 0) {
    return Error(Errc::kSnapshotCorrupt,
                 "block state: a file was attached (capacity " + std::to_string(saved.capacity_sectors) + " sectors)");
  }
  return ok();
}

}  // namespace granary::virtio
