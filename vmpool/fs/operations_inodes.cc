// SPDX-License-Identifier: Apache-2.0
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <climits>
#include <cstring>

#include "vmpool/fs/operations.h"
#include "vmpool/fs/xattr_names.h"

namespace granary::fs {
namespace {

timespec time_of(int to_set, int bit, int now_bit, const timespec& given) {
  if ((to_set & now_bit) != 0) return {.tv_sec = 0, .tv_nsec = UTIME_NOW};
  if ((to_set & bit) != 0) return given;
  return {.tv_sec = 0, .tv_nsec = UTIME_OMIT};
}

int set_mode(const Node& node, mode_t mode) {
  if (node.type == S_IFLNK) return EOPNOTSUPP;
  return ::fchmodat(AT_FDCWD, path_of(node.fd).c_str(), mode & 07777, 0) == 0 ? 0 : errno;
}

int set_owner(const Node& node, const struct stat& st, int to_set) {
  const uid_t uid = (to_set & FUSE_SET_ATTR_UID) != 0 ? st.st_uid : static_cast<uid_t>(-1);
  const gid_t gid = (to_set & FUSE_SET_ATTR_GID) != 0 ? st.st_gid : static_cast<gid_t>(-1);
  return ::fchownat(node.fd.get(), "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 ? 0 : errno;
}

int set_times(const Node& node, const struct stat& st, int to_set) {
  const timespec times[] = {time_of(to_set, FUSE_SET_ATTR_ATIME, FUSE_SET_ATTR_ATIME_NOW, st.st_atim),
                            time_of(to_set, FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_MTIME_NOW, st.st_mtim)};
  return ::utimensat(AT_FDCWD, path_of(node.fd).c_str(), times, 0) == 0 ? 0 : errno;
}

int set_size(const Fd& file, off_t size) { return ::ftruncate(file.get(), size) == 0 ? 0 : errno; }

}  // namespace

void Operations::forget(fuse_req_t request, fuse_ino_t id, uint64_t count) {
  FileServer& self = server(request);
  if (self.nodes_.forget(id, count)) self.locks_->release_all(id);
  ::fuse_reply_none(request);
}

void Operations::forget_multi(fuse_req_t request, size_t count, fuse_forget_data* forgets) {
  FileServer& self = server(request);
  for (const fuse_forget_data& each : std::span(forgets, count)) {
    if (self.nodes_.forget(each.ino, each.nlookup)) self.locks_->release_all(each.ino);
  }
  ::fuse_reply_none(request);
}

void Operations::getattr(fuse_req_t request, fuse_ino_t id, fuse_file_info* file) {
  const OrErrno<struct stat> st = server(request).attributes(id, file);
  st ? ::fuse_reply_attr(request, &*st, kTimeoutSeconds) : ::fuse_reply_err(request, st.error());
}

void Operations::setattr(fuse_req_t request, fuse_ino_t id, struct stat* st, int to_set, fuse_file_info* file) {
  constexpr int kOwner = FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
  constexpr int kTimes = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW;
  FileServer& self = server(request);
  const OrErrno<Node*> node = self.writable_node(id);
  int failed = node ? 0 : node.error();
  // The owner first: a change of it clears bits that a new mode may set.
  if (failed == 0 && (to_set & kOwner) != 0) failed = set_owner(**node, *st, to_set);
  if (failed == 0 && (to_set & FUSE_SET_ATTR_MODE) != 0) failed = set_mode(**node, st->st_mode);
  if (failed == 0 && (to_set & FUSE_SET_ATTR_SIZE) != 0) {
    const Handle* handle = file != nullptr ? self.handles_.find(file->fh, Handle::Kind::kFile) : nullptr;
    if (handle != nullptr) {
      failed = set_size(handle->file, st->st_size);
    } else {
      const OrErrno<Fd> opened = (*node)->type == S_IFREG ? self.reopen(**node, O_WRONLY) : errno_of(EINVAL);
      failed = opened ? set_size(*opened, st->st_size) : opened.error();
    }
  }
  if (failed == 0 && (to_set & kTimes) != 0) failed = set_times(**node, *st, to_set);
  if (failed != 0) return error(request, failed);
  getattr(request, id, nullptr);
}

void Operations::readlink(fuse_req_t request, fuse_ino_t id) {
  const OrErrno<Node*> node = server(request).node(id);
  if (!node) return error(request, node.error());
  char target[PATH_MAX];
  const ssize_t n = ::readlinkat((*node)->fd.get(), "", target, sizeof(target) - 1);
  if (n < 0) return error(request, errno == ENOENT ? EINVAL : errno);  // readlinkat(2) says so of what is no link
  target[n] = '\0';
  ::fuse_reply_readlink(request, target);
}

void Operations::statfs(fuse_req_t request, fuse_ino_t id) {
  struct statvfs fs {};
  fs.f_bsize = fs.f_frsize = 4096;
  fs.f_namemax = NAME_MAX;
  if (id != FUSE_ROOT_ID) {
    const OrErrno<Node*> node = server(request).node(id);
    if (!node) return error(request, node.error());
    if (::fstatvfs((*node)->fd.get(), &fs) != 0) return error(request, errno);
  }
  ::fuse_reply_statfs(request, &fs);
}

void Operations::getxattr(fuse_req_t request, fuse_ino_t id, const char* name, size_t size) {
  if (id == FUSE_ROOT_ID) return error(request, ENODATA);
  const OrErrno<Node*> node = server(request).node(id);
  if (!node) return error(request, node.error());
  if (!is_served_attribute(name)) return error(request, EOPNOTSUPP);
  std::vector<char> value(std::min<size_t>(size, XATTR_SIZE_MAX));
  const ssize_t n = ::getxattr(path_of((*node)->fd).c_str(), name, value.data(), value.size());
  if (n < 0) return error(request, errno);
  const auto bytes = static_cast<size_t>(n);
  size == 0 ? ::fuse_reply_xattr(request, bytes) : ::fuse_reply_buf(request, value.data(), bytes);
}

void Operations::listxattr(fuse_req_t request, fuse_ino_t id, size_t size) {
  if (id == FUSE_ROOT_ID) return size == 0 ? void(::fuse_reply_xattr(request, 0)) : error(request, 0);
  const OrErrno<Node*> node = server(request).node(id);
  if (!node) return error(request, node.error());
  std::vector<char> names(XATTR_LIST_MAX);
  const ssize_t n = ::listxattr(path_of((*node)->fd).c_str(), names.data(), names.size());
  if (n < 0) return error(request, errno);
  std::string served;
  for (const char* name = names.data(); name < names.data() + n; name += std::strlen(name) + 1) {
    if (is_served_attribute(name)) served.append(name, std::strlen(name) + 1);
  }
  if (size == 0) {
    ::fuse_reply_xattr(request, served.size());
  } else if (served.size() > size) {
    error(request, ERANGE);
  } else {
    ::fuse_reply_buf(request, served.data(), served.size());
  }
}

void Operations::removexattr(fuse_req_t request, fuse_ino_t id, const char* name) {
  const OrErrno<Node*> node = server(request).writable_node(id);
  if (!node) return error(request, node.error());
  if (!is_served_attribute(name)) return error(request, EOPNOTSUPP);
  error(request, ::removexattr(path_of((*node)->fd).c_str(), name) == 0 ? 0 : errno);
}

}  // namespace granary::fs
