// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/mapping.h"

#include <sys/mman.h>

#include <utility>

#include "vmpool/base/units.h"

namespace granary {

Result<Mapping> Mapping::anonymous(size_t size_bytes) {
  void* p = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return Error::last_os_error("map " + std::to_string(size_bytes) + " bytes");
  return Mapping(static_cast<std::byte*>(p), size_bytes);
}

Result<Mapping> Mapping::shared_file(int fd, size_t size_bytes, bool writable) {
  void* p = ::mmap(nullptr, size_bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED,
                   fd, 0);
  if (p == MAP_FAILED) return Error::last_os_error("map a file");
  return Mapping(static_cast<std::byte*>(p), size_bytes);
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    if (data_ != nullptr) ::munmap(data_, size_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Status Mapping::overlay_private(size_t offset, size_t length, int fd, uint64_t file_offset) {
  if (offset % kPageSize != 0 || length % kPageSize != 0 || file_offset % kPageSize != 0 ||
      length == 0 || offset > size_ || length > size_ - offset) {
    return Error::from_errno(EINVAL, "overlay of a file on memory: unaligned or out of range");
  }
  void* p = ::mmap(data_ + offset, length, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, static_cast<off_t>(file_offset));
  if (p == MAP_FAILED) return Error::last_os_error("map a template's memory copy-on-write");
  return ok();
}

}  // namespace granary
