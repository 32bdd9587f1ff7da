// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/operations.h"

namespace granary::fs {

// No access, ioctl, bmap and poll: the guest's kernel answers those itself.
const fuse_lowlevel_ops kOperations = [] {
  fuse_lowlevel_ops all{};
  all.lookup = Operations::lookup;
  all.forget = Operations::forget;
  all.forget_multi = Operations::forget_multi;
  all.getattr = Operations::getattr;
  all.setattr = Operations::setattr;
  all.readlink = Operations::readlink;
  all.mknod = Operations::mknod;
  all.mkdir = Operations::mkdir;
  all.unlink = Operations::unlink;
  all.rmdir = Operations::rmdir;
  all.symlink = Operations::symlink;
  all.rename = Operations::rename;
  all.link = Operations::link;
  all.open = Operations::open;
  all.read = Operations::read;
  all.write = Operations::write;
  all.flush = Operations::flush;
  all.release = Operations::release;
  all.fsync = Operations::fsync;
  all.opendir = Operations::opendir;
  all.readdir = Operations::readdir;
  all.readdirplus = Operations::readdirplus;
  all.releasedir = Operations::releasedir;
  all.fsyncdir = Operations::fsyncdir;
  all.statfs = Operations::statfs;
  all.getxattr = Operations::getxattr;
  all.listxattr = Operations::listxattr;
  all.removexattr = Operations::removexattr;
  all.create = Operations::create;
  all.getlk = Operations::getlk;
  all.setlk = Operations::setlk;
  all.flock = Operations::flock;
  all.fallocate = Operations::fallocate;
  all.lseek = Operations::lseek;
  all.copy_file_range = Operations::copy_file_range;
  return all;
}();

}  // namespace granary::fs
