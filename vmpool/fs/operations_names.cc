// SPDX-License-Identifier: Apache-2.0
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmpool/fs/credentials.h"
#include "vmpool/fs/operations.h"

namespace granary::fs {
namespace {

// A file that vanishes between the look at it and its creation can do so only a few times.
constexpr int kCreateAttempts = 4;

CallerCredentials caller_of(fuse_req_t request) {
  const fuse_ctx* caller = ::fuse_req_ctx(request);
  return {caller->uid, caller->gid, caller->umask};
}

// What a file is opened with; all else is the guest's own affair, or would block or wait for a terminal.
int host_flags(int guest_flags) { return guest_flags & (O_ACCMODE | O_TRUNC | O_SYNC | O_DSYNC); }

}  // namespace

void Operations::entry(fuse_req_t request, const OrErrno<fuse_entry_param>& result) {
  if (!result) return error(request, result.error());
  if (::fuse_reply_entry(request, &*result) != 0) server(request).nodes_.forget(result->ino, 1);
}

void Operations::lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  entry(request, server(request).look_up(parent, name));
}

void Operations::mknod(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, dev_t device) {
  FileServer& self = server(request);
  const OrErrno<Node*> directory = self.writable_directory(parent);
  if (!directory) return error(request, directory.error());
  const mode_t type = mode & S_IFMT;
  // A character device 0:0 opens nothing: overlayfs marks removed files with it.
  const bool is_whiteout = type == S_IFCHR && device == 0;
  if (type != S_IFREG && type != S_IFIFO && type != S_IFSOCK && !is_whiteout) return error(request, EPERM);
  int failed = 0;
  {
    const CallerCredentials caller = caller_of(request);
    if (::mknodat((*directory)->fd.get(), name, mode, 0) != 0) failed = errno;
  }
  failed != 0 ? error(request, failed) : lookup(request, parent, name);
}

void Operations::mkdir(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode) {
  const OrErrno<Node*> directory = server(request).writable_directory(parent);
  if (!directory) return error(request, directory.error());
  int failed = 0;
  {
    const CallerCredentials caller = caller_of(request);
    if (::mkdirat((*directory)->fd.get(), name, mode) != 0) failed = errno;
  }
  failed != 0 ? error(request, failed) : lookup(request, parent, name);
}

void Operations::symlink(fuse_req_t request, const char* target, fuse_ino_t parent, const char* name) {
  const OrErrno<Node*> directory = server(request).writable_directory(parent);
  if (!directory) return error(request, directory.error());
  int failed = 0;
  {
    const CallerCredentials caller = caller_of(request);
    if (::symlinkat(target, (*directory)->fd.get(), name) != 0) failed = errno;
  }
  failed != 0 ? error(request, failed) : lookup(request, parent, name);
}

void Operations::link(fuse_req_t request, fuse_ino_t id, fuse_ino_t new_parent, const char* new_name) {
  FileServer& self = server(request);
  const OrErrno<Node*> node = self.writable_node(id);
  const OrErrno<Node*> directory = self.writable_directory(new_parent);
  if (!node || !directory) return error(request, node ? directory.error() : node.error());
  if ((*node)->export_ != (*directory)->export_) return error(request, EXDEV);
  // The link of /proc stands for the inode itself, a symbolic link included.
  if (::linkat(AT_FDCWD, path_of((*node)->fd).c_str(), (*directory)->fd.get(), new_name, AT_SYMLINK_FOLLOW) != 0) {
    return error(request, errno);
  }
  lookup(request, new_parent, new_name);
}

void Operations::unlink(fuse_req_t request, fuse_ino_t parent, const char* name) {
  const OrErrno<Node*> directory = server(request).writable_directory(parent);
  if (!directory) return error(request, directory.error());
  error(request, ::unlinkat((*directory)->fd.get(), name, 0) == 0 ? 0 : errno);
}

void Operations::rmdir(fuse_req_t request, fuse_ino_t parent, const char* name) {
  const OrErrno<Node*> directory = server(request).writable_directory(parent);
  if (!directory) return error(request, directory.error());
  error(request, ::unlinkat((*directory)->fd.get(), name, AT_REMOVEDIR) == 0 ? 0 : errno);
}

void Operations::rename(fuse_req_t request, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
                        const char* new_name, unsigned flags) {
  FileServer& self = server(request);
  const OrErrno<Node*> from = self.writable_directory(parent);
  const OrErrno<Node*> to = self.writable_directory(new_parent);
  if (!from || !to) return error(request, from ? to.error() : from.error());
  if ((*from)->export_ != (*to)->export_) return error(request, EXDEV);
  if ((flags & ~unsigned{RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT}) != 0) return error(request, EINVAL);
  error(request, ::renameat2((*from)->fd.get(), name, (*to)->fd.get(), new_name, flags) == 0 ? 0 : errno);
}

// A new file is made with O_EXCL, so nothing that lies there already is opened by its name: that could be a FIFO or a
// device.
void Operations::create(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* file) {
  FileServer& self = server(request);
  OrErrno<fuse_entry_param> made = errno_of(EIO);
  OrErrno<HandleId> opened = errno_of(EIO);
  for (int attempt = 0; attempt < kCreateAttempts; ++attempt) {
    const OrErrno<Node*> directory = self.writable_directory(parent);
    if (!directory) return error(request, directory.error());
    Fd fresh;
    {
      const CallerCredentials caller = caller_of(request);
      const int flags = host_flags(file->flags) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
      fresh = Fd(::openat((*directory)->fd.get(), name, flags, mode & 07777));
    }
    if (fresh.valid()) {
      made = self.created(**directory, fresh);
      if (!made) return error(request, made.error());
      opened = self.handles_.add({.kind = Handle::Kind::kFile,
                                  .export_ = self.nodes_.find(made->ino)->export_,
                                  .file = std::move(fresh)});
      break;
    }
    if (errno != EEXIST || (file->flags & O_EXCL) != 0) return error(request, errno);
    made = self.look_up(parent, name);
    if (!made && made.error() == ENOENT) continue;
    if (!made) return error(request, made.error());
    opened = self.open_file(*self.nodes_.find(made->ino), file->flags);
    break;
  }
  if (!made || !opened) {
    if (made) self.nodes_.forget(made->ino, 1);
    return error(request, made ? opened.error() : made.error());
  }
  file->fh = *opened;
  if (::fuse_reply_create(request, &*made, file) == 0) return;
  self.handles_.release(*opened);
  self.nodes_.forget(made->ino, 1);
}

OrErrno<fuse_entry_param> FileServer::created(const Node& directory, const Fd& file) {
  Fd place(::openat(AT_FDCWD, path_of(file).c_str(), O_PATH | O_CLOEXEC));
  if (!place.valid()) return last_errno();
  return entry_of(directory.export_, std::move(place));
}

OrErrno<HandleId> FileServer::open_file(const Node& node, int guest_flags) {
  if (node.type != S_IFREG) return errno_of(node.type == S_IFDIR ? EISDIR : ENXIO);
  const bool writes = (guest_flags & O_ACCMODE) != O_RDONLY || (guest_flags & O_TRUNC) != 0;
  if (writes && node.export_->read_only) return errno_of(EROFS);
  if (handles_.is_full()) return errno_of(ENFILE);
  OrErrno<Fd> fd = reopen(node, host_flags(guest_flags));
  if (!fd) return errno_of(fd.error());
  return handles_.add({.kind = Handle::Kind::kFile,
                       .export_ = node.export_,
                       .file = std::move(*fd)});
}

}  // namespace granary::fs
