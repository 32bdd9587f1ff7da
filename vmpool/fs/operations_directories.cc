// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "vmpool/fs/operations.h"

namespace granary::fs {
namespace {

constexpr size_t kMaxListBytes = 64 * 1024;

bool is_dot(const char* name) { return std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0; }

}  // namespace

void Operations::opendir(fuse_req_t request, fuse_ino_t id, fuse_file_info* file) {
  FileServer& self = server(request);
  Handle handle{.kind = Handle::Kind::kRoot};
  if (id == FUSE_ROOT_ID) {
    handle.names = {".", ".."};
    for (const auto& [name, unused] : self.exports_) handle.names.push_back(name);
  } else {
    const OrErrno<Node*> node = self.node(id);
    if (!node) return error(request, node.error());
    if ((*node)->type != S_IFDIR) return error(request, ENOTDIR);
    OrErrno<Fd> fd = self.reopen(**node, O_RDONLY | O_DIRECTORY);
    if (!fd) return error(request, fd.error());
    handle.kind = Handle::Kind::kDirectory;
    handle.export_ = (*node)->export_;
    handle.directory.reset(::fdopendir(fd->get()));
    if (!handle.directory) return error(request, errno);
    (void)fd->release();
  }
  const OrErrno<HandleId> opened = self.handles_.add(std::move(handle));
  if (!opened) return error(request, opened.error());
  file->fh = *opened;
  if (::fuse_reply_open(request, file) != 0) self.handles_.release(*opened);
}

// One page of a listing: takes entries from wherever the guest was until one does not fit. An offset that is none of
// ours finds other entries, or none.
class Listing {
 public:
  Listing(fuse_req_t request, size_t size, bool plus)
      : request_(request), bytes_(std::min(size, kMaxListBytes)), plus_(plus) {}

  // False: it does not fit.
  bool add(const char* name, const fuse_entry_param& entry, off_t next) {
    const size_t room = bytes_.size() - used_;
    const size_t needed = plus_ ? ::fuse_add_direntry_plus(request_, bytes_.data() + used_, room, name, &entry, next)
                                : ::fuse_add_direntry(request_, bytes_.data() + used_, room, name, &entry.attr, next);
    if (needed > room) return false;
    used_ += needed;
    return true;
  }
  [[nodiscard]] bool is_empty() const { return used_ == 0; }
  [[nodiscard]] bool plus() const { return plus_; }
  void reply() { ::fuse_reply_buf(request_, bytes_.data(), used_); }

 private:
  fuse_req_t request_;
  std::vector<char> bytes_;
  size_t used_ = 0;
  bool plus_;
};

// With its attributes where they are asked for and there is room for its inode, else by its name only.
fuse_entry_param FileServer::listed(bool plus, int directory, const std::shared_ptr<const Export>& in, const char* name,
                                    const struct stat& hint) {
  fuse_entry_param entry{};
  entry.attr = hint;
  if (!plus || is_dot(name) || nodes_.is_nearly_full()) return entry;
  OrErrno<fuse_entry_param> found = in ? look_up_in(directory, in, name) : look_up_export(name);
  return found ? *found : entry;
}

void FileServer::list_root(const Handle& handle, off_t offset, Listing& listing) {
  for (auto at = static_cast<size_t>(std::max<off_t>(offset, 0)); at < handle.names.size(); ++at) {
    struct stat hint {};
    hint.st_ino = FUSE_ROOT_ID;
    hint.st_mode = S_IFDIR;
    const char* name = handle.names[at].c_str();
    const fuse_entry_param entry = listed(listing.plus(), -1, nullptr, name, hint);
    if (listing.add(name, entry, static_cast<off_t>(at) + 1)) continue;
    if (entry.ino != 0) nodes_.forget(entry.ino, 1);
    return;
  }
}

int FileServer::list(Handle& handle, off_t offset, Listing& listing) {
  if (offset != handle.position) ::seekdir(handle.directory.get(), offset);
  handle.position = offset;
  for (;;) {
    errno = 0;
    const dirent* found = ::readdir(handle.directory.get());
    if (found == nullptr) return errno;
    struct stat hint {};
    struct stat own {};
    hint.st_mode = static_cast<mode_t>(found->d_type << 12);
    // The directory's device makes the entry's number what its attributes say, but for mounts. What lies above an
    // export is not told.
    if (::fstat(::dirfd(handle.directory.get()), &own) != 0) return errno;
    hint.st_dev = own.st_dev;
    hint.st_ino = std::strcmp(found->d_name, "..") == 0 ? own.st_ino : found->d_ino;
    hint = to_guest(hint);
    const fuse_entry_param entry =
        listed(listing.plus(), ::dirfd(handle.directory.get()), handle.export_, found->d_name, hint);
    const long next = ::telldir(handle.directory.get());
    if (!listing.add(found->d_name, entry, next)) {
      if (entry.ino != 0) nodes_.forget(entry.ino, 1);
      ::seekdir(handle.directory.get(), handle.position);
      return 0;
    }
    handle.position = next;
  }
}

void FileServer::reply_listing(fuse_req_t request, HandleId id, size_t size, off_t offset, bool plus) {
  Listing listing(request, size, plus);
  if (const Handle* root = handles_.find(id, Handle::Kind::kRoot)) {
    list_root(*root, offset, listing);
  } else if (Handle* handle = handles_.find(id, Handle::Kind::kDirectory)) {
    const int failed = list(*handle, offset, listing);
    // What is listed is counted already; the next page tells the error.
    if (failed != 0 && listing.is_empty()) return Operations::error(request, failed);
  } else {
    return Operations::error(request, EBADF);
  }
  listing.reply();
}

void Operations::readdir(fuse_req_t request, fuse_ino_t /*id*/, size_t size, off_t offset, fuse_file_info* file) {
  server(request).reply_listing(request, file->fh, size, offset, false);
}

void Operations::readdirplus(fuse_req_t request, fuse_ino_t /*id*/, size_t size, off_t offset, fuse_file_info* file) {
  server(request).reply_listing(request, file->fh, size, offset, true);
}

void Operations::releasedir(fuse_req_t request, fuse_ino_t /*id*/, fuse_file_info* file) {
  server(request).handles_.release(file->fh);
  error(request, 0);
}

void Operations::fsyncdir(fuse_req_t request, fuse_ino_t /*id*/, int datasync, fuse_file_info* file) {
  const Handle* handle = server(request).handles_.find(file->fh, Handle::Kind::kDirectory);
  if (handle == nullptr) return error(request, EBADF);
  const int fd = ::dirfd(handle->directory.get());
  error(request, (datasync != 0 ? ::fdatasync(fd) : ::fsync(fd)) == 0 ? 0 : errno);
}

}  // namespace granary::fs
