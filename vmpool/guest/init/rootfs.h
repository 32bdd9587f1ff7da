// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmpool/base/result.h"
#include "vmpool/guest/guest.pb.h"

// A container's root file system on its mount point. These block: for an Errand.
namespace granary::guest {

// kInvalidArgument for a request that makes no sense, without touching anything.
Status check_rootfs(const v1::Rootfs& rootfs);

// A directory is bound, with what is mounted below it; a disk is waited for, half a minute at most, then mounted.
// `disks` is /sys/block. Errors: ENOENT (no such directory or disk), ETIMEDOUT (a disk without a file), those of
// mount(2).
Status mount_rootfs(const v1::Rootfs& rootfs, const std::string& target, const std::string& disks);
// ok if nothing is mounted there. What is written is on the disk afterwards.
Status unmount_rootfs(const std::string& target);

}  // namespace granary::guest
