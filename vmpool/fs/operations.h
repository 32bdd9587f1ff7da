// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vmpool/fs/file_server.h"

namespace granary::fs {

// libfuse's entry points, one for each operation; the server is the session's user data. Each answers its request
// exactly once. Arguments are as hostile as they come, but that check_message() has looked at their shape.
struct Operations {
  static FileServer& server(fuse_req_t request) { return *static_cast<FileServer*>(fuse_req_userdata(request)); }
  static void error(fuse_req_t request, int number) { ::fuse_reply_err(request, number); }
  // Answers with an entry, or why there is none; an entry whose answer cannot be sent is given back.
  static void entry(fuse_req_t request, const OrErrno<fuse_entry_param>& result);

  // operations_names.cc
  static void lookup(fuse_req_t, fuse_ino_t parent, const char* name);
  static void mknod(fuse_req_t, fuse_ino_t parent, const char* name, mode_t, dev_t);
  static void mkdir(fuse_req_t, fuse_ino_t parent, const char* name, mode_t);
  static void symlink(fuse_req_t, const char* target, fuse_ino_t parent, const char* name);
  static void link(fuse_req_t, fuse_ino_t, fuse_ino_t new_parent, const char* new_name);
  static void unlink(fuse_req_t, fuse_ino_t parent, const char* name);
  static void rmdir(fuse_req_t, fuse_ino_t parent, const char* name);
  static void rename(fuse_req_t, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
                     unsigned flags);
  static void create(fuse_req_t, fuse_ino_t parent, const char* name, mode_t, fuse_file_info*);

  // operations_inodes.cc
  static void forget(fuse_req_t, fuse_ino_t, uint64_t count);
  static void forget_multi(fuse_req_t, size_t count, fuse_forget_data*);
  static void getattr(fuse_req_t, fuse_ino_t, fuse_file_info*);
  static void setattr(fuse_req_t, fuse_ino_t, struct stat*, int to_set, fuse_file_info*);
  static void readlink(fuse_req_t, fuse_ino_t);
  static void statfs(fuse_req_t, fuse_ino_t);
  static void getxattr(fuse_req_t, fuse_ino_t, const char* name, size_t);
  static void listxattr(fuse_req_t, fuse_ino_t, size_t);
  static void removexattr(fuse_req_t, fuse_ino_t, const char* name);

  // operations_files.cc
  static void open(fuse_req_t, fuse_ino_t, fuse_file_info*);
  static void read(fuse_req_t, fuse_ino_t, size_t, off_t, fuse_file_info*);
  static void write(fuse_req_t, fuse_ino_t, const char* bytes, size_t, off_t, fuse_file_info*);
  static void flush(fuse_req_t, fuse_ino_t, fuse_file_info*);
  static void release(fuse_req_t, fuse_ino_t, fuse_file_info*);
  static void fsync(fuse_req_t, fuse_ino_t, int datasync, fuse_file_info*);
  static void fallocate(fuse_req_t, fuse_ino_t, int mode, off_t, off_t length, fuse_file_info*);
  static void lseek(fuse_req_t, fuse_ino_t, off_t, int whence, fuse_file_info*);
  static void copy_file_range(fuse_req_t, fuse_ino_t, off_t, fuse_file_info*, fuse_ino_t, off_t, fuse_file_info*,
                              size_t, int flags);
  static OrErrno<Fd> reopen(FileServer&, fuse_ino_t, int flags);
  static void getlk(fuse_req_t, fuse_ino_t, fuse_file_info*, struct flock*);
  static void setlk(fuse_req_t, fuse_ino_t, fuse_file_info*, struct flock*, int sleep);
  static void flock(fuse_req_t, fuse_ino_t, fuse_file_info*, int operation);

  // operations_directories.cc
  static void opendir(fuse_req_t, fuse_ino_t, fuse_file_info*);
  static void readdir(fuse_req_t, fuse_ino_t, size_t, off_t, fuse_file_info*);
  static void readdirplus(fuse_req_t, fuse_ino_t, size_t, off_t, fuse_file_info*);
  static void releasedir(fuse_req_t, fuse_ino_t, fuse_file_info*);
  static void fsyncdir(fuse_req_t, fuse_ino_t, int datasync, fuse_file_info*);
};

}  // namespace granary::fs
