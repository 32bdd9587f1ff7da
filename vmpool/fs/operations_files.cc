// SPDX-License-Identifier: Apache-2.0
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vmpool/fs/content_stamp.h"
#include "vmpool/fs/operations.h"

namespace granary::fs {
namespace {

// Longer copies come back short, so that others have their turn.
constexpr size_t kMaxCopyBytes = 16 * 1024 * 1024;
constexpr size_t kMaxReadBytes = 1024 * 1024;
constexpr size_t kKeptBufferBytes = 160 * 1024;

}  // namespace

void Operations::open(fuse_req_t request, fuse_ino_t id, fuse_file_info* file) {
  FileServer& self = server(request);
  const OrErrno<Node*> node = self.node(id);
  if (!node) return error(request, node.error());
  const OrErrno<HandleId> opened = self.open_file(**node, file->flags);
  if (!opened) return error(request, opened.error());
  file->fh = *opened;
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  file->keep_cache = is_as_cached(**node, self.handles_.find(*opened, Handle::Kind::kFile)->file, now);
  if (::fuse_reply_open(request, file) != 0) self.handles_.release(*opened);
}

void Operations::read(fuse_req_t request, fuse_ino_t /*id*/, size_t size, off_t offset, fuse_file_info* file) {
  FileServer& self = server(request);
  const Handle* handle = self.handles_.find(file->fh, Handle::Kind::kFile);
  if (handle == nullptr) return error(request, EBADF);
  if (offset < 0) return error(request, EINVAL);
  size = std::min(size, kMaxReadBytes);
  if (self.buffer_.size() < size) self.buffer_.resize(size);
  const ssize_t n = ::pread(handle->file.get(), self.buffer_.data(), size, offset);
  if (n < 0) return error(request, errno);
  ::fuse_reply_buf(request, reinterpret_cast<const char*>(self.buffer_.data()), static_cast<size_t>(n));
  if (self.buffer_.size() > kKeptBufferBytes) std::vector<std::byte>().swap(self.buffer_);
}

// The host's file is never opened with O_APPEND: what the guest's kernel writes back for a mapping may come by a handle
// of somebody who appends. Whether one appends can change after open(2) (F_SETFL), so each write says it.
void Operations::write(fuse_req_t request, fuse_ino_t /*id*/, const char* bytes, size_t size, off_t offset,
                       fuse_file_info* file) {
  const Handle* handle = server(request).handles_.find(file->fh, Handle::Kind::kFile);
  if (handle == nullptr) return error(request, EBADF);
  if (offset < 0) return error(request, EINVAL);
  const bool appends = (file->flags & O_APPEND) != 0 && file->writepage == 0;
  const iovec part{const_cast<char*>(bytes), size};
  const ssize_t n = ::pwritev2(handle->file.get(), &part, 1, offset, appends ? RWF_APPEND : 0);
  n < 0 ? error(request, errno) : void(::fuse_reply_write(request, static_cast<size_t>(n)));
}

void Operations::flush(fuse_req_t request, fuse_ino_t id, fuse_file_info* file) {
  FileServer& self = server(request);
  self.locks_->release(id, file->lock_owner);
  const Handle* handle = self.handles_.find(file->fh, Handle::Kind::kFile);
  if (handle == nullptr) return error(request, EBADF);
  // Some file systems tell of failed writes at close(2) only.
  const int copy = ::fcntl(handle->file.get(), F_DUPFD_CLOEXEC, 0);
  error(request, copy < 0 || ::close(copy) != 0 ? errno : 0);
}

void Operations::release(fuse_req_t request, fuse_ino_t id, fuse_file_info* file) {
  FileServer& self = server(request);
  self.locks_->release(id, file->lock_owner);
  self.handles_.release(file->fh);
  self.locks_->retry();  // a flock went with it
  error(request, 0);
}

void Operations::fsync(fuse_req_t request, fuse_ino_t /*id*/, int datasync, fuse_file_info* file) {
  const Handle* handle = server(request).handles_.find(file->fh, Handle::Kind::kFile);
  if (handle == nullptr) return error(request, EBADF);
  const int done = datasync != 0 ? ::fdatasync(handle->file.get()) : ::fsync(handle->file.get());
  error(request, done == 0 ? 0 : errno);
}

void Operations::fallocate(fuse_req_t request, fuse_ino_t /*id*/, int mode, off_t offset, off_t length,
                           fuse_file_info* file) {
  const Handle* handle = server(request).handles_.find(file->fh, Handle::Kind::kFile);
  if (handle == nullptr) return error(request, EBADF);
  error(request, ::fallocate(handle->file.get(), mode, offset, length) == 0 ? 0 : errno);
}

void Operations::lseek(fuse_req_t request, fuse_ino_t /*id*/, off_t offset, int whence, fuse_file_info* file) {
  const Handle* handle = server(request).handles_.find(file->fh, Handle::Kind::kFile);
  if (handle == nullptr) return error(request, EBADF);
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return error(request, EINVAL);
  const off_t found = ::lseek(handle->file.get(), offset, whence);
  found < 0 ? error(request, errno) : void(::fuse_reply_lseek(request, found));
}

void Operations::copy_file_range(fuse_req_t request, fuse_ino_t /*id*/, off_t offset, fuse_file_info* file,
                                 fuse_ino_t /*to_id*/, off_t to_offset, fuse_file_info* to_file, size_t length,
                                 int flags) {
  FileServer& self = server(request);
  const Handle* from = self.handles_.find(file->fh, Handle::Kind::kFile);
  const Handle* to = self.handles_.find(to_file->fh, Handle::Kind::kFile);
  if (from == nullptr || to == nullptr) return error(request, EBADF);
  const ssize_t n = ::copy_file_range(from->file.get(), &offset, to->file.get(), &to_offset,
                                      std::min(length, kMaxCopyBytes), static_cast<unsigned>(flags));
  n < 0 ? error(request, errno) : void(::fuse_reply_write(request, static_cast<size_t>(n)));
}

// Read-only for an owner of shared locks where it cannot be more: a running program cannot be opened for writing.
static std::function<OrErrno<Fd>()> lock_opener(FileServer& self, OrErrno<Fd> (*reopen)(FileServer&, fuse_ino_t, int),
                                                fuse_ino_t id) {
  return [&self, reopen, id]() -> OrErrno<Fd> {
    OrErrno<Fd> fd = reopen(self, id, O_RDWR);
    return fd ? std::move(fd) : reopen(self, id, O_RDONLY);
  };
}

OrErrno<Fd> Operations::reopen(FileServer& self, fuse_ino_t id, int flags) {
  const OrErrno<Node*> node = self.node(id);
  if (!node) return errno_of(node.error());
  if ((*node)->type != S_IFREG) return errno_of(EINVAL);
  if ((*node)->export_->read_only && flags != O_RDONLY) return errno_of(EROFS);
  return self.reopen(**node, flags);
}

void Operations::getlk(fuse_req_t request, fuse_ino_t id, fuse_file_info* file, struct flock* lock) {
  FileServer& self = server(request);
  const OrErrno<struct flock> found =
      self.locks_->get(id, file->lock_owner, *lock, lock_opener(self, &Operations::reopen, id));
  found ? void(::fuse_reply_lock(request, &*found)) : error(request, found.error());
}

void Operations::setlk(fuse_req_t request, fuse_ino_t id, fuse_file_info* file, struct flock* lock, int sleep) {
  FileServer& self = server(request);
  const auto attempt = [&self, id, owner = file->lock_owner, lock = *lock] {
    return self.locks_->set(id, owner, lock, lock_opener(self, &Operations::reopen, id));
  };
  const auto answer = [request](int failed) { error(request, failed); };
  if (lock->l_type != F_UNLCK && sleep != 0) return self.locks_->wait(self.unique_, attempt, answer);
  answer(attempt());
  if (lock->l_type == F_UNLCK) self.locks_->retry();
}

void Operations::flock(fuse_req_t request, fuse_ino_t /*id*/, fuse_file_info* file, int operation) {
  FileServer& self = server(request);
  const int kind = operation & ~LOCK_NB;
  const auto attempt = [&self, handle_id = file->fh, kind] {
    const Handle* handle = self.handles_.find(handle_id, Handle::Kind::kFile);
    if (handle == nullptr) return EBADF;
    return ::flock(handle->file.get(), kind | LOCK_NB) == 0 ? 0 : errno;
  };
  const auto answer = [request](int failed) { error(request, failed); };
  if (kind != LOCK_UN && (operation & LOCK_NB) == 0) return self.locks_->wait(self.unique_, attempt, answer);
  answer(attempt());
  if (kind == LOCK_UN) self.locks_->retry();
}

}  // namespace granary::fs
