// SPDX-License-Identifier: Apache-2.0
#include "vmpool/snapshot/snapshot_format.h"

#include <zlib.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <string>

#include "vmpool/base/machine_layout.h"

namespace granary::snapshot {
namespace {

constexpr uint64_t kMagic = 0x3150'414e'5352'4e47;  // "GNRSNAP1"

enum Kind : uint32_t { kShape = 1, kExtents, kVm, kSerial, kVcpus, kTransports };
constexpr size_t kSections = 6;
constexpr const char* kNames[kSections] = {"shape", "extents", "vm", "serial", "vcpus", "transports"};

struct Section {
  uint32_t kind;
  uint32_t checksum;
  uint64_t offset;
  uint64_t bytes;
  uint64_t count;  // of elements
};
struct FileHeader {
  uint64_t magic;
  uint32_t version;
  uint32_t checksum;  // of this struct with 0 here
  uint64_t total_bytes;
  std::array<Section, kSections> sections;
};
static_assert(sizeof(FileHeader) == 24 + kSections * 32, "no padding: every byte is checked");

// A vCPU's arrays are mostly empty: only what counts is stored, behind the fixed part.
constexpr size_t kVcpuFixedBytes = offsetof(kvm::VcpuState, msrs);
static_assert(sizeof(kvm::VcpuState) >= kVcpuFixedBytes + sizeof(kvm::VcpuState::msrs) + sizeof(kvm::VcpuState::xsave));

uint32_t checksum(std::span<const std::byte> bytes) {
  return static_cast<uint32_t>(::crc32_z(0, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
}

uint32_t header_checksum(FileHeader header) {
  header.checksum = 0;
  return checksum(std::as_bytes(std::span(&header, 1)));
}

Error corrupt(const std::string& what) {
  return {Errc::kSnapshotCorrupt, "snapshot state: " + what + "; rebuild the template"};
}

class Writer {
 public:
  Writer() : bytes_(sizeof(FileHeader)) {}

  void begin(Kind kind, uint64_t count) {
    header_.sections[kind - 1] = {kind, 0, bytes_.size(), 0, count};
    open_ = &header_.sections[kind - 1];
  }
  void put(std::span<const std::byte> from) { bytes_.insert(bytes_.end(), from.begin(), from.end()); }
  template <class T>
  void put_all(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    put(std::as_bytes(values));
  }
  void end() {
    open_->bytes = bytes_.size() - open_->offset;
    open_->checksum = checksum(std::span(bytes_).subspan(open_->offset));
  }
  std::vector<std::byte> finish() && {
    header_.magic = kMagic;
    header_.version = kFormatVersion;
    header_.total_bytes = bytes_.size();
    header_.checksum = header_checksum(header_);
    std::memcpy(bytes_.data(), &header_, sizeof(header_));
    return std::move(bytes_);
  }

 private:
  FileHeader header_{};
  Section* open_ = nullptr;
  std::vector<std::byte> bytes_;
};

void put_vcpu(Writer& writer, const kvm::VcpuState& vcpu) {
  writer.put(std::as_bytes(std::span(&vcpu, 1)).first(kVcpuFixedBytes));
  writer.put_all(std::span<const kvm_msr_entry>(vcpu.msrs).first(vcpu.msr_count));
  writer.put_all(std::span<const std::byte>(vcpu.xsave).first(vcpu.xsave_bytes));
}

// Takes values off the front of a section.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const char* name) : bytes_(bytes), name_(name) {}

  Status take(std::span<std::byte> into) {
    if (into.size() > bytes_.size()) return corrupt(std::string("section ") + name_ + " is too short for its count");
    std::memcpy(into.data(), bytes_.data(), into.size());
    bytes_ = bytes_.subspan(into.size());
    return ok();
  }
  [[nodiscard]] Status finish() const {
    if (bytes_.empty()) return ok();
    return corrupt(std::string("section ") + name_ + " has " + std::to_string(bytes_.size()) + " bytes too many");
  }

 private:
  std::span<const std::byte> bytes_;
  const char* name_;
};

struct Input {
  std::span<const std::byte> file;
  FileHeader header;

  [[nodiscard]] uint64_t count(Kind kind) const { return header.sections[kind - 1].count; }
  [[nodiscard]] Reader reader(Kind kind) const {
    const Section& section = header.sections[kind - 1];
    return {file.subspan(section.offset, section.bytes), kNames[kind - 1]};
  }
  [[nodiscard]] Status check_count(Kind kind, uint64_t low, uint64_t high) const {
    if (count(kind) >= low && count(kind) <= high) return ok();
    return corrupt(std::to_string(count(kind)) + " elements in section " + kNames[kind - 1] + ", allowed " +
                   std::to_string(low) + " to " + std::to_string(high));
  }
};

Status check_sections(const Input& input) {
  uint64_t at = sizeof(FileHeader);
  for (size_t i = 0; i < kSections; ++i) {
    const Section& section = input.header.sections[i];
    if (section.kind != i + 1 || section.offset != at || section.bytes > input.file.size() - at) {
      return corrupt(std::string("table entry of section ") + kNames[i]);
    }
    if (checksum(input.file.subspan(section.offset, section.bytes)) != section.checksum) {
      return corrupt(std::string("checksum of section ") + kNames[i]);
    }
    at += section.bytes;
  }
  return at == input.file.size() ? ok() : Status(corrupt("bytes behind the last section"));
}

Result<Input> open(std::span<const std::byte> file) {
  Input input{file, {}};
  if (file.size() < sizeof(FileHeader)) {
    return Error(Errc::kSnapshotTruncated, "snapshot state of " + std::to_string(file.size()) +
                                               " bytes, the header has " + std::to_string(sizeof(FileHeader)) +
                                               "; rebuild the template");
  }
  std::memcpy(&input.header, file.data(), sizeof(FileHeader));
  const FileHeader& header = input.header;
  if (header.magic != kMagic) return corrupt("no magic number");
  if (header.version != kFormatVersion) {
    return Error(Errc::kSnapshotVersion, "snapshot format " + std::to_string(header.version) + ", this build reads " +
                                             std::to_string(kFormatVersion) + "; rebuild the template");
  }
  if (header_checksum(header) != header.checksum) return corrupt("checksum of the header");
  if (header.total_bytes > file.size()) {
    return Error(Errc::kSnapshotTruncated, "snapshot state of " + std::to_string(file.size()) + " bytes, expected " +
                                               std::to_string(header.total_bytes) + "; rebuild the template");
  }
  if (header.total_bytes != file.size() || file.size() > kMaxStateBytes) return corrupt("size of the file");
  GRANARY_TRY(check_sections(input));
  return input;
}

// The whole section as elements of T.
template <class T>
Status take_all(const Input& input, Kind kind, std::span<T> into) {
  static_assert(std::is_trivially_copyable_v<T>);
  Reader reader = input.reader(kind);
  GRANARY_TRY(reader.take(std::as_writable_bytes(into)));
  return reader.finish();
}

Status check_extents(const Snapshot& snapshot) {
  uint64_t end = 0;
  for (const Extent& extent : snapshot.extents) {
    const uint64_t memory = snapshot.shape.memory_bytes;
    const bool fits = extent.offset >= end && extent.offset < memory && extent.bytes > 0 &&
                      extent.bytes <= memory - extent.offset && extent.offset % kPageSize == 0 &&
                      extent.bytes % kPageSize == 0;
    if (!fits) {
      return corrupt("memory extent at " + std::to_string(extent.offset) + " of " + std::to_string(extent.bytes) +
                     " bytes");
    }
    end = extent.offset + extent.bytes;
  }
  return ok();
}

Status take_vcpu(Reader& reader, kvm::VcpuState& vcpu, uint32_t id) {
  GRANARY_TRY(reader.take(std::as_writable_bytes(std::span(&vcpu, 1)).first(kVcpuFixedBytes)));
  if (vcpu.id != id || vcpu.msr_count > kvm::kMaxSavedMsrs || vcpu.xsave_bytes > kvm::kMaxXsaveBytes) {
    return corrupt("vCPU " + std::to_string(id) + " (id " + std::to_string(vcpu.id) + ", " +
                   std::to_string(vcpu.msr_count) + " MSRs, " + std::to_string(vcpu.xsave_bytes) + " bytes of XSAVE)");
  }
  GRANARY_TRY(reader.take(std::as_writable_bytes(std::span(vcpu.msrs).first(vcpu.msr_count))));
  return reader.take(std::span(vcpu.xsave).first(vcpu.xsave_bytes));
}

Status take_vcpus(const Input& input, Snapshot& snapshot) {
  GRANARY_TRY(input.check_count(kVcpus, 1, machine::kMaxVcpus));
  snapshot.vcpus.resize(input.count(kVcpus));
  Reader reader = input.reader(kVcpus);
  for (uint32_t id = 0; id < snapshot.vcpus.size(); ++id) GRANARY_TRY(take_vcpu(reader, snapshot.vcpus[id], id));
  if (snapshot.vcpus.size() != snapshot.shape.vcpus) return corrupt("number of vCPUs differs from the shape");
  return reader.finish();
}

Status take_transports(const Input& input, Snapshot& snapshot) {
  GRANARY_TRY(input.check_count(kTransports, 1, machine::kMaxVirtioSlots));
  snapshot.transports.resize(input.count(kTransports));
  GRANARY_TRY(take_all(input, kTransports, std::span(snapshot.transports)));
  for (const virtio::TransportState& transport : snapshot.transports) {
    if (transport.queue_count > virtio::kMaxQueues || transport.device.size_bytes > virtio::kMaxDeviceStateBytes) {
      return corrupt("virtio device with " + std::to_string(transport.queue_count) + " queues and " +
                     std::to_string(transport.device.size_bytes) + " bytes of state");
    }
  }
  return ok();
}

}  // namespace

std::vector<std::byte> encode(const Snapshot& snapshot) {
  Writer writer;
  writer.begin(kShape, 1);
  writer.put_all(std::span(&snapshot.shape, 1));
  writer.end();
  writer.begin(kExtents, snapshot.extents.size());
  writer.put_all(std::span<const Extent>(snapshot.extents));
  writer.end();
  writer.begin(kVm, 1);
  writer.put_all(std::span(&snapshot.vm, 1));
  writer.end();
  writer.begin(kSerial, 1);
  writer.put_all(std::span(&snapshot.serial, 1));
  writer.end();
  writer.begin(kVcpus, snapshot.vcpus.size());
  for (const kvm::VcpuState& vcpu : snapshot.vcpus) put_vcpu(writer, vcpu);
  writer.end();
  writer.begin(kTransports, snapshot.transports.size());
  writer.put_all(std::span<const virtio::TransportState>(snapshot.transports));
  writer.end();
  return std::move(writer).finish();
}

Result<Snapshot> decode(std::span<const std::byte> file) {
  const Input input = GRANARY_TRY(open(file));
  Snapshot snapshot{};
  for (const Kind kind : {kShape, kVm, kSerial}) GRANARY_TRY(input.check_count(kind, 1, 1));
  GRANARY_TRY(take_all(input, kShape, std::span(&snapshot.shape, 1)));
  GRANARY_TRY(input.check_count(kExtents, 0, kMaxExtents));
  snapshot.extents.resize(input.count(kExtents));
  GRANARY_TRY(take_all(input, kExtents, std::span(snapshot.extents)));
  GRANARY_TRY(check_extents(snapshot));
  GRANARY_TRY(take_all(input, kVm, std::span(&snapshot.vm, 1)));
  GRANARY_TRY(take_all(input, kSerial, std::span(&snapshot.serial, 1)));
  GRANARY_TRY(take_vcpus(input, snapshot));
  GRANARY_TRY(take_transports(input, snapshot));
  return snapshot;
}

}  // namespace granary::snapshot
