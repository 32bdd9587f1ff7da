// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>
#include <span>

#include "vmpool/base/status_page.h"

namespace granary::vmm {

// Where both consoles end: the ring of the status page. The serial port writes on vCPU threads, the virtio console on
// the loop thread, and the ring allows one writer, hence the lock: held for one copy, never while anything else is
// taken.
class ConsoleSink {
 public:
  explicit ConsoleSink(const StatusFile& status) : status_(status) {}

  void write(std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex_);
    status_.write_console(bytes);
  }
  // Whether Linux said that it panicked, in what is still in the last few KiB.
  [[nodiscard]] bool shows_panic() {
    const std::lock_guard lock(mutex_);
    return status_.console_tail(kTailBytes).find("Kernel panic") != std::string::npos;
  }

 private:
  // A panic's register dump and back trace follow the message.
  static constexpr size_t kTailBytes = 16 * 1024;
  std::mutex mutex_;
  const StatusFile& status_;
};

}  // namespace granary::vmm
