// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/fd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

namespace granary {
namespace {

// One system call that transfers bytes, repeated until `total` are done. `call(done)` transfers from that point on.
template <class Call>
Status transfer_all(size_t total, const char* what, Call call) {
  for (size_t done = 0; done < total;) {
    const ssize_t n = call(done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::last_os_error(what);
    if (n == 0) return Error::from_errno(ENODATA, what);
    done += static_cast<size_t>(n);
  }
  return ok();
}

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

Result<Fd> Fd::duplicate() const {
  Fd copy(::fcntl(fd_, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return Error::last_os_error("duplicate a file descriptor");
  return copy;
}

Result<Fd> open_file(const std::string& path, int flags, unsigned mode) {
  Fd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd.valid()) return Error::last_os_error("open " + path);
  return fd;
}

Result<Fd> create_memfd(const char* name, uint64_t size_bytes) {
  Fd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return Error::last_os_error(std::string("memfd_create ") + name);
  if (size_bytes > 0 && ::ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0) {
    return Error::last_os_error(std::string("size memfd ") + name);
  }
  return fd;
}

Status seal_memfd(int fd) {
  if (::fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) {
    return Error::last_os_error("seal a memfd");
  }
  return ok();
}

Result<uint64_t> file_size(int fd) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return Error::last_os_error("fstat");
  return static_cast<uint64_t>(st.st_size);
}

Status pread_all(int fd, std::span<std::byte> into, uint64_t offset) {
  return transfer_all(into.size(), "read", [&](size_t done) {
    // preadv and pwritev, which block devices need anyway: two system calls less that a VMM must be allowed.
    const iovec part{.iov_base = into.data() + done, .iov_len = into.size() - done};
    return ::preadv(fd, &part, 1, static_cast<off_t>(offset + done));
  });
}

Status pwrite_all(int fd, std::span<const std::byte> from, uint64_t offset) {
  return transfer_all(from.size(), "write", [&](size_t done) {
    const iovec part{.iov_base = const_cast<std::byte*>(from.data()) + done, .iov_len = from.size() - done};
    return ::pwritev(fd, &part, 1, static_cast<off_t>(offset + done));
  });
}

Status write_all(int fd, std::span<const std::byte> from) {
  return transfer_all(from.size(), "write", [&](size_t done) {
    return ::write(fd, from.data() + done, from.size() - done);
  });
}

Result<std::string> read_file(const std::string& path, size_t limit_bytes) {
  const Fd fd = GRANARY_TRY(open_file(path, O_RDONLY));
  std::string text;
  char buffer[16384];
  for (;;) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::last_os_error("read " + path);
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > limit_bytes) return Error::from_errno(EFBIG, "read " + path);
  }
}

Status set_nonblocking(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    return Error::last_os_error("set O_NONBLOCK");
  }
  return ok();
}

}  // namespace granary
