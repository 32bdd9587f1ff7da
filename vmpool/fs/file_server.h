// SPDX-License-Identifier: Apache-2.0
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "vmpool/base/event_loop.h"
#include "vmpool/fs/confine.h"
#include "vmpool/fs/fuse_channel.h"
#include "vmpool/fs/handle_table.h"
#include "vmpool/fs/lock_table.h"
#include "vmpool/fs/node_table.h"

namespace granary::fs {

class Listing;

// How long the guest believes a name or attributes. A ConfigMap's new files must be seen within a second of its
// symbolic link's swap, which takes both; less costs a message for each component of each path that the guest walks.
inline constexpr double kTimeoutSeconds = 0.5;

// The FUSE server of one guest: its root directory has an entry for each export, and below those are the host's
// directories and files. One mount, one thread; file I/O blocks it, locks that wait do not.
//
// The guest is hostile. It names inodes and open files by ids of the tables, and names in directories one at a time: no
// path is ever walked, no symbolic link of an export is ever followed here. Only regular files and directories are
// opened. Mounts below an export are crossed, as a recursive bind mount would show them; ".." does not exist, so the
// way out of an export is never taken. Device nodes cannot be made: one of a guest's would be one of the host's.
//
// Needs the working directory to be this process's /proc/self/fd, by which it gets from an O_PATH descriptor to the
// inode: nothing else is ever looked up from there.
class FileServer {
 public:
  static constexpr size_t kMaxExports = 1024;

  // `gone`: the VMM has closed the socket or sent garbage.
  static Result<std::unique_ptr<FileServer>> create(EventLoop& loop, Fd fuse_socket, const Limits& limits,
                                                    std::function<void()> gone);
  ~FileServer();
  FileServer(const FileServer&) = delete;
  FileServer& operator=(const FileServer&) = delete;

  // See ExportClient for both.
  Status add_export(const std::string& name, Fd fd, bool read_only);
  Status remove_export(const std::string& name);

  // Sends a reply that libfuse made.
  void send(std::span<iovec> reply) { channel_->send(reply); }
  [[nodiscard]] size_t nodes() const { return nodes_.size(); }
  [[nodiscard]] size_t handles() const { return handles_.size(); }

 private:
  friend struct Operations;
  FileServer(EventLoop& loop, const Limits& limits);
  Status open(Fd fuse_socket, std::function<void()> gone);
  void on_message(std::span<std::byte> message);
  void set_attribute(std::span<const std::byte> message);

  // An entry of a directory, or of the root, with its attributes; the guest holds it once more.
  OrErrno<fuse_entry_param> look_up(fuse_ino_t parent, const char* name);
  OrErrno<fuse_entry_param> look_up_export(const std::string& name);
  OrErrno<fuse_entry_param> look_up_in(int directory, std::shared_ptr<const Export> in, const char* name);
  OrErrno<fuse_entry_param> created(const Node& directory, const Fd& file);
  OrErrno<fuse_entry_param> entry_of(std::shared_ptr<const Export> in, Fd fd);
  // A live node. ESTALE: no such id, or its export is gone.
  OrErrno<Node*> node(fuse_ino_t id);
  // The same where something is to be changed. EROFS; of the root: EROFS, too.
  OrErrno<Node*> writable_node(fuse_ino_t id);
  OrErrno<Node*> writable_directory(fuse_ino_t id);
  // The inode behind an O_PATH descriptor, opened; regular files and directories only.
  OrErrno<Fd> reopen(const Node& node, int flags);
  OrErrno<HandleId> open_file(const Node& node, int guest_flags);
  OrErrno<struct stat> attributes(fuse_ino_t id, const fuse_file_info* file);
  [[nodiscard]] struct stat root_attributes() const;
  struct stat to_guest(struct stat st);

  // operations_directories.cc
  void reply_listing(fuse_req_t request, HandleId id, size_t size, off_t offset, bool plus);
  int list(Handle& handle, off_t offset, Listing& listing);
  void list_root(const Handle& handle, off_t offset, Listing& listing);
  fuse_entry_param listed(bool plus, int directory, const std::shared_ptr<const Export>& in, const char* name,
                          const struct stat& hint);

  std::map<std::string, std::shared_ptr<Export>> exports_;
  uint64_t next_export_ = 1;
  NodeTable nodes_;
  HandleTable handles_;
  std::unique_ptr<LockTable> locks_;
  std::map<dev_t, uint64_t> devices_;  // host devices by the order in which they were seen
  uint64_t unique_ = 0;                // of the message that is being served
  std::vector<std::byte> buffer_;      // what reads read into
  EventLoop& loop_;
  std::unique_ptr<FuseChannel> channel_;
  fuse_session* session_ = nullptr;
};

// The path of an open descriptor for calls that take nothing else, relative to the working directory.
inline std::string path_of(const Fd& fd) { return std::to_string(fd.get()); }

// The table of operations for libfuse.
extern const fuse_lowlevel_ops kOperations;

}  // namespace granary::fs
