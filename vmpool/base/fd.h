// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "vmpool/base/result.h"

namespace granary {

// Owns one file descriptor. Move-only; the descriptor is closed with its owner, also when it is overwritten by a move
// assignment. get() borrows, release() gives away. -1 means "owns none".
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept;
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd();

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset() { *this = Fd(); }
  // A second descriptor for the same open file (F_DUPFD_CLOEXEC).
  [[nodiscard]] Result<Fd> duplicate() const;

 private:
  int fd_ = -1;
};

// open(2) with O_CLOEXEC; the error names the path.
Result<Fd> open_file(const std::string& path, int flags, unsigned mode = 0600);
// An anonymous file, sealable (memfd_create(2)).
Result<Fd> create_memfd(const char* name, uint64_t size_bytes = 0);
// Seals an anonymous file against every later change of content and size.
Status seal_memfd(int fd);
Result<uint64_t> file_size(int fd);

// Reads or writes the whole span at an offset, going on after EINTR and short counts; a premature end of file is
// kSnapshotTruncated's cousin ENODATA.
Status pread_all(int fd, std::span<std::byte> into, uint64_t offset);
Status pwrite_all(int fd, std::span<const std::byte> from, uint64_t offset);
// The same on streams.
Status write_all(int fd, std::span<const std::byte> from);
// The whole of a small file (at most `limit_bytes`).
Result<std::string> read_file(const std::string& path, size_t limit_bytes = 1 << 20);

Status set_nonblocking(int fd);

}  // namespace granary
