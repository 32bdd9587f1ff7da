// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/file_server.h"

#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstring>

#include "vmpool/base/log.h"
#include "vmpool/fs/export_client.h"
#include "vmpool/fs/message_check.h"
#include "vmpool/fs/operations.h"
#include "vmpool/fs/xattr_names.h"

namespace granary::fs {
namespace {

// Host devices are told apart by the upper bits of an inode's number, because the guest sees one device.
constexpr unsigned kDeviceShift = 48;
constexpr uint64_t kMaxDevice = 0xffff;
constexpr uint32_t kMaxWriteBytes = 256 * 1024;
constexpr unsigned kMaxBackground = 64;

// One name in a directory, pinned. Neither a symbolic link nor a magic one is followed.
OrErrno<Fd> open_entry(int directory, const char* name) {
  open_how how{};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  Fd fd(static_cast<int>(::syscall(SYS_openat2, directory, name, &how, sizeof(how))));
  if (!fd.valid()) return last_errno();
  return fd;
}

ssize_t reply_writev(int /*fd*/, iovec* parts, int count, void* server);
ssize_t no_read(int /*fd*/, void* /*buffer*/, size_t /*size*/, void* /*server*/) {
  errno = EINVAL;  // messages are given to the session one by one
  return -1;
}

void initialise(void* /*server*/, fuse_conn_info* connection) {
  // The guest clears set-uid bits itself: this process could not without dropping a capability around each write.
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_HANDLE_KILLPRIV);
  // ACLs count, and a directory's default ACL takes the umask's place.
  const unsigned acls = FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK;
  if ((connection->capable & acls) == acls) connection->want |= acls;
  connection->max_write = kMaxWriteBytes;
  connection->max_background = kMaxBackground;
}

// A hostile guest makes libfuse talk.
void be_silent(enum fuse_log_level /*level*/, const char* /*format*/, va_list /*arguments*/) {}

}  // namespace

Result<std::unique_ptr<FileServer>> FileServer::create(EventLoop& loop, Fd fuse_socket, const Limits& limits,
                                                       std::function<void()> gone) {
  std::unique_ptr<FileServer> server(new FileServer(loop, limits));
  GRANARY_TRY(server->open(std::move(fuse_socket), std::move(gone)));
  return server;
}

FileServer::FileServer(EventLoop& loop, const Limits& limits)
    : nodes_(limits.nodes),
      handles_(limits.handles / 2),
      locks_(std::make_unique<LockTable>(loop, limits.handles / 2)),
      loop_(loop) {}

Status FileServer::open(Fd fuse_socket, std::function<void()> gone) {
  ::fuse_set_log_func(be_silent);
  char name[] = "granary-fsd";
  char* arguments[] = {name, nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, arguments);
  fuse_lowlevel_ops operations = kOperations;
  operations.init = initialise;
  session_ = ::fuse_session_new(&args, &operations, sizeof(operations), this);
  ::fuse_opt_free_args(&args);  // it makes a list of its own of them
  if (session_ == nullptr) return Error(Errc::kInvalidArgument, "libfuse makes no session");
  Fd duplicate = GRANARY_TRY(fuse_socket.duplicate());
  channel_ = GRANARY_TRY(FuseChannel::create(loop_, std::move(fuse_socket),
                                             {.message = [this](std::span<std::byte> message) { on_message(message); },
                                              .gone =
                                                  [gone = std::move(gone)](const char* why) {
                                                    log_line(LogLevel::kInfo, "the VMM is gone: %s", why);
                                                    gone();
                                                  }}));
  const fuse_custom_io io{.writev = reply_writev, .read = no_read, .splice_receive = nullptr, .splice_send = nullptr};
  // It closes its descriptor with the session.
  if (::fuse_session_custom_io(session_, &io, duplicate.get()) != 0) {
    return Error(Errc::kInvalidArgument, "libfuse takes no socket");
  }
  (void)duplicate.release();
  return ok();
}

FileServer::~FileServer() {
  locks_.reset();  // who waits is answered while there is a session
  if (session_ != nullptr) ::fuse_session_destroy(session_);
}

namespace {

ssize_t reply_writev(int /*fd*/, iovec* parts, int count, void* server) {
  size_t bytes = 0;
  for (int i = 0; i < count; ++i) bytes += parts[i].iov_len;
  static_cast<FileServer*>(server)->send(std::span(parts, static_cast<size_t>(count)));
  return static_cast<ssize_t>(bytes);
}

}  // namespace

void FileServer::on_message(std::span<std::byte> message) {
  fuse_in_header header{};
  std::memcpy(&header, message.data(), sizeof(header));
  unique_ = header.unique;
  const int error = check_message(message);
  const bool has_reply =
      header.opcode != FUSE_FORGET && header.opcode != FUSE_BATCH_FORGET && header.opcode != FUSE_INTERRUPT;
  if (error != 0) {
    if (has_reply) channel_->send_error(header.unique, error);
    return;
  }
  if (header.opcode == FUSE_INTERRUPT) {
    // libfuse would keep those whose request it does not know, without end.
    fuse_interrupt_in body{};
    std::memcpy(&body, message.data() + sizeof(header), sizeof(body));
    return locks_->interrupt(body.unique);
  }
  // Version 3.14 of libfuse looks for the name behind a longer structure than the one that is sent.
  if (header.opcode == FUSE_SETXATTR) return set_attribute(message);
  fuse_buf buffer{};
  buffer.size = message.size();
  buffer.mem = message.data();
  ::fuse_session_process_buf(session_, &buffer);
}

Status FileServer::add_export(const std::string& name, Fd fd, bool read_only) {
  struct stat st {};
  if (!is_export_name(name)) {
    return Error(Errc::kInvalidArgument, "export \"" + name + "\": a name has 1 to 64 characters of a-z, 0-9 and -");
  }
  if (exports_.contains(name)) return Error::from_errno(EEXIST, "export \"" + name + "\"");
  if (exports_.size() >= kMaxExports) {
    return Error::from_errno(ENFILE, "export \"" + name + "\": there are " + std::to_string(kMaxExports) + " already");
  }
  if (::fstatat(fd.get(), "", &st, AT_EMPTY_PATH) != 0) return Error::last_os_error("export \"" + name + "\"");
  if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) {
    return Error(Errc::kInvalidArgument, "export \"" + name + "\": neither a directory nor a regular file");
  }
  // Whatever it was opened for: from here on it is a place only.
  Fd place(::openat(AT_FDCWD, path_of(fd).c_str(), O_PATH | O_CLOEXEC));
  if (!place.valid()) return Error::last_os_error("export \"" + name + "\"");
  exports_.emplace(
      name,
      std::make_shared<Export>(Export{
          .number = next_export_++, .name = name, .read_only = read_only, .gone = false, .fd = std::move(place)}));
  return ok();
}

Status FileServer::remove_export(const std::string& name) {
  const auto found = exports_.find(name);
  if (found == exports_.end()) return Error::from_errno(ENOENT, "export \"" + name + "\"");
  const std::shared_ptr<Export> gone = std::move(found->second);
  exports_.erase(found);
  gone->gone = true;
  gone->fd.reset();
  handles_.close_export(*gone);
  nodes_.close_export(*gone, [this](NodeId id) { locks_->release_all(id); });
  locks_->retry();  // who waits for a lock in it waits for nothing
  return ok();
}

OrErrno<Node*> FileServer::node(fuse_ino_t id) {
  Node* found = nodes_.find(id);
  if (found == nullptr || !found->fd.valid()) return errno_of(ESTALE);
  return found;
}

OrErrno<Node*> FileServer::writable_node(fuse_ino_t id) {
  if (id == FUSE_ROOT_ID) return errno_of(EROFS);
  OrErrno<Node*> found = node(id);
  if (found && (*found)->export_->read_only) return errno_of(EROFS);
  return found;
}

OrErrno<Node*> FileServer::writable_directory(fuse_ino_t id) {
  OrErrno<Node*> found = writable_node(id);
  if (found && (*found)->type != S_IFDIR) return errno_of(ENOTDIR);
  return found;
}

OrErrno<fuse_entry_param> FileServer::look_up(fuse_ino_t parent, const char* name) {
  if (parent == FUSE_ROOT_ID) return look_up_export(name);
  const OrErrno<Node*> directory = node(parent);
  if (!directory) return errno_of(directory.error());
  if ((*directory)->type != S_IFDIR) return errno_of(ENOTDIR);
  return look_up_in((*directory)->fd.get(), (*directory)->export_, name);
}

OrErrno<fuse_entry_param> FileServer::look_up_in(int directory, std::shared_ptr<const Export> in, const char* name) {
  OrErrno<Fd> fd = open_entry(directory, name);
  if (!fd) return errno_of(fd.error());
  return entry_of(std::move(in), std::move(*fd));
}

OrErrno<fuse_entry_param> FileServer::look_up_export(const std::string& name) {
  const auto found = exports_.find(name);
  if (found == exports_.end()) return errno_of(ENOENT);
  Fd fd(::fcntl(found->second->fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!fd.valid()) return last_errno();
  OrErrno<fuse_entry_param> entry = entry_of(found->second, std::move(fd));
  // Another export of the same name is another file, at once.
  if (entry) entry->entry_timeout = 0;
  return entry;
}

OrErrno<fuse_entry_param> FileServer::entry_of(std::shared_ptr<const Export> in, Fd fd) {
  struct stat st {};
  if (::fstatat(fd.get(), "", &st, AT_EMPTY_PATH) != 0) return last_errno();
  const OrErrno<NodeId> id = nodes_.look_up(std::move(in), std::move(fd), st);
  if (!id) return errno_of(id.error());
  fuse_entry_param entry{};
  entry.ino = *id;
  entry.attr = to_guest(st);
  entry.attr_timeout = kTimeoutSeconds;
  entry.entry_timeout = kTimeoutSeconds;
  return entry;
}

OrErrno<Fd> FileServer::reopen(const Node& node, int flags) {
  if (node.type != S_IFREG && node.type != S_IFDIR) return errno_of(ENXIO);
  // Reading through a read-only export changes nothing, the time of access included.
  const int quiet = node.export_->read_only ? O_NOATIME : 0;
  Fd fd(::openat(AT_FDCWD, path_of(node.fd).c_str(), flags | quiet | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid()) return last_errno();
  return fd;
}

OrErrno<struct stat> FileServer::attributes(fuse_ino_t id, const fuse_file_info* file) {
  if (id == FUSE_ROOT_ID) return root_attributes();
  const Handle* handle = file != nullptr ? handles_.find(file->fh, Handle::Kind::kFile) : nullptr;
  struct stat st {};
  if (handle != nullptr) {
    if (::fstat(handle->file.get(), &st) != 0) return last_errno();
    return to_guest(st);
  }
  const OrErrno<Node*> found = node(id);
  if (!found) return errno_of(found.error());
  if (::fstatat((*found)->fd.get(), "", &st, AT_EMPTY_PATH) != 0) return last_errno();
  return to_guest(st);
}

struct stat FileServer::root_attributes() const {
  struct stat st {};
  st.st_ino = FUSE_ROOT_ID;
  st.st_mode = S_IFDIR | 0555;
  st.st_nlink = 2 + exports_.size();
  return st;
}

struct stat FileServer::to_guest(struct stat st) {
  const uint64_t next = std::min<uint64_t>(devices_.size(), kMaxDevice);
  const uint64_t device = next < kMaxDevice ? devices_.emplace(st.st_dev, next).first->second : next;
  st.st_ino ^= device << kDeviceShift;
  return st;
}

void FileServer::set_attribute(std::span<const std::byte> message) {
  fuse_in_header header{};
  fuse_setxattr_in body{};
  std::memcpy(&header, message.data(), sizeof(header));
  std::memcpy(&body, message.data() + sizeof(header), FUSE_COMPAT_SETXATTR_IN_SIZE);
  const char* name = reinterpret_cast<const char*>(message.data()) + sizeof(header) + FUSE_COMPAT_SETXATTR_IN_SIZE;
  const char* value = name + std::strlen(name) + 1;
  const OrErrno<Node*> found = writable_node(header.nodeid);
  int error = found ? 0 : found.error();
  if (error == 0 && !is_served_attribute(name)) error = EOPNOTSUPP;
  if (error == 0 &&
      ::setxattr(path_of((*found)->fd).c_str(), name, value, body.size, static_cast<int>(body.flags)) != 0) {
    error = errno;
  }
  channel_->send_error(header.unique, error);
}

}  // namespace granary::fs
