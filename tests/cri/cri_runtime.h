// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "tests/e2e/containerd.h"

namespace granary::cri {

// A containerd of our own with one runtime handler under test; for "granary" a granaryd with a pool of Linux guests, too.
// From the environment (tests/cri/run sets it): GRANARY_CRI_HANDLER, GRANARY_CONTAINERD, GRANARY_PAUSE_IMAGE,
// GRANARY_BUSYBOX_IMAGE, GRANARY_BIN, GRANARY_GUEST (a folder with vmlinuz and initramfs.cpio).
class Runtime {
 public:
  static bool is_asked_for();
  // Null when it does not come up, or was not asked for; why stands on standard error.
  static std::unique_ptr<Runtime> start();
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  [[nodiscard]] const std::string& handler() const { return handler_; }
  [[nodiscard]] std::string target() const { return containerd_->cri_target(); }
  [[nodiscard]] const std::string& folder() const { return folder_; }

 private:
  Runtime() = default;
  bool start_agent();

  std::string handler_;
  std::string folder_;
  std::unique_ptr<e2e::Process> agent_;
  std::unique_ptr<e2e::Containerd> containerd_;
};

}  // namespace granary::cri
