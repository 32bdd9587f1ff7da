// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <google/protobuf/repeated_field.h>

#include <string>
#include <utility>
#include <vector>

#include "containerd/task.pb.h"
#include "vmpool/base/fd.h"

namespace granary::shim {

// The file system of an image file or block device, which the guest mounts itself.
struct BlockRoot {
  Fd file;
  std::string type;                  // ext4, erofs …
  std::vector<std::string> options;  // of mount(8)
  bool read_only = false;
};

using Mounts = google::protobuf::RepeatedPtrField<containerd::task::v3::Mount>;

// How a container's root file system, which containerd gives as one mount that nobody has made yet, gets into the
// guest: a file system on a file or block device (blockfile, devmapper) as a disk, as long as the clone has one that is
// free; everything else (overlay, bind) is mounted here and shared.
bool is_block_root(const Mounts& mounts);
// kInvalidArgument: no mounts, or what is neither file nor block device; kNotSupported: several mounts; errno with the
// path: it cannot be opened.
Result<BlockRoot> open_block_root(const Mounts& mounts);

// A root file system that is mounted on this host as long as the object lives.
class MountedRoot {
 public:
  // At `target`, which is made if need be; a file system in a regular file through a loop device, which goes with the
  // mount. kInvalidArgument: no mounts, too many options; kNotSupported: several mounts, or options longer than the
  // kernel takes; the errno of mount(2) with type, source and options.
  static Result<MountedRoot> mount(const Mounts& mounts, const std::string& target);
  ~MountedRoot();
  MountedRoot(MountedRoot&& other) noexcept : target_(std::exchange(other.target_, {})), read_only_(other.read_only_) {}
  MountedRoot& operator=(MountedRoot&& other) noexcept {
    std::swap(target_, other.target_);
    read_only_ = other.read_only_;
    return *this;
  }

  [[nodiscard]] const std::string& path() const { return target_; }
  [[nodiscard]] bool read_only() const { return read_only_; }

 private:
  MountedRoot(std::string target, bool read_only) : target_(std::move(target)), read_only_(read_only) {}

  std::string target_;  // empty: moved away
  bool read_only_ = false;
};

}  // namespace granary::shim
