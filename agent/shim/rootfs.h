// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <google/protobuf/repeated_field.h>

#include <string>
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

// How a container's root file system, which containerd gives as mounts that nobody has made yet, gets into the guest.
// One mount of a file system on a file or block device (blockfile, devmapper) becomes a disk. Everything else (overlay,
// bind) needs virtio-fs: kNotSupported, with the remedy. kInvalidArgument: no mounts, options that are none; errno with
// the path: it cannot be opened.
Result<BlockRoot> open_block_root(const google::protobuf::RepeatedPtrField<containerd::task::v3::Mount>& mounts);

}  // namespace granary::shim
