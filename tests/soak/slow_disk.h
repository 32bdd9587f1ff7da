// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include "vmpool/base/result.h"

namespace granary::soak {

// A file system over a folder that takes its time: each read, write and fsync in it waits as long as it was told. Served
// by a process of its own through FUSE; the mount goes with the object.
class SlowDisk {
 public:
  // Over `folder`, of which it becomes the mount point; while this process has one thread. ENOENT, EPERM: no FUSE here.
  static Result<std::unique_ptr<SlowDisk>> mount(const std::string& folder);
  ~SlowDisk();
  SlowDisk(const SlowDisk&) = delete;
  SlowDisk& operator=(const SlowDisk&) = delete;

  void set_delay(std::chrono::milliseconds delay);

 private:
  explicit SlowDisk(std::string folder) : folder_(std::move(folder)) {}

  std::string folder_;
  std::atomic<int64_t>* delay_ms_ = nullptr;  // shared with the server
  pid_t server_ = -1;
};

}  // namespace granary::soak
