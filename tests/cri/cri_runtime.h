// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/e2e/containerd.h"

namespace granary::cri {

// A containerd of our own with one runtime handler under test; for "granary" a granaryd with a pool of Linux guests, too.
// From the environment (tests/cri/run sets it): GRANARY_CRI_HANDLER, GRANARY_CONTAINERD, GRANARY_PAUSE_IMAGE,
// GRANARY_BUSYBOX_IMAGE, GRANARY_CRI_OWN_SHIM (not empty: containerd starts Granary's shim, which takes its pod itself), GRANARY_BIN, GRANARY_GUEST (a folder with vmlinuz and initramfs.cpio).
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

  // Kills with SIGKILL one of our processes by its program's name: containerd or granaryd, which is then started anew,
  // granary-spawn, or the shim, granary-vmm or granary-fsd of the only pod. False: there is none, or it did not come back.
  bool kill(const std::string& victim);
  // What `granaryctl audit` prints.
  [[nodiscard]] std::string audit() const;
  // What containerd still has: containers, tasks, mounts, FIFOs, by name.
  [[nodiscard]] std::vector<std::string> leftovers() const;

 private:
  Runtime() = default;
  bool start_agent();
  [[nodiscard]] pid_t process_of(const std::string& victim) const;

  std::string handler_;
  std::string folder_;
  int agents_ = 0;
  std::unique_ptr<e2e::Process> agent_;
  std::unique_ptr<e2e::Containerd> containerd_;
};

}  // namespace granary::cri
