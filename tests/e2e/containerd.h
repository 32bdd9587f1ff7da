// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/e2e/process.h"

namespace granary::e2e {

// Where a private containerd lives and what it is told. Nothing of an installed containerd is touched.
struct ContainerdSetup {
  std::string unpacked;       // folder that holds usr/bin/containerd (tests/e2e/fetch-containerd)
  std::string directory;      // empty scratch folder: configuration, root, state, sockets, logs
  // How "granary" pods start: granaryd's API socket is the remote sandbox controller (containerd >= 2); or, if that is empty,
  // by the shim in `shim_directory`, which asks the granaryd of `run_dir`.
  std::string sandbox_socket = {};
  std::string shim_directory = {};
  std::string run_dir = {};
  // An ext4 image of an empty file system: then roots of "granary" containers are copies of it, by containerd's blockfile snapshotter.
  // Empty: overlayfs. With `sandbox_socket` only.
  std::string scratch_image = {};
  std::vector<std::string> images;  // OCI tars (deploy/image/make-oci-image); one of them is kPauseImage
};

inline constexpr const char* kPauseImage = "granary.test/pause:1";
inline constexpr const char* kGranaryHandler = "granary";

// A running containerd (1.6, 1.7, 2.x) with the CRI plugin, CNI (bridge + host-local) and the runtime handlers
// "granary" and "runc".
class Containerd {
 public:
  // Null with a reason on standard error when it does not come up.
  static std::unique_ptr<Containerd> start(const ContainerdSetup& setup);

  [[nodiscard]] std::string cri_target() const { return "unix:" + socket_; }
  [[nodiscard]] Process& process() { return *process_; }
  // Killed with SIGKILL and started anew. False: it does not answer.
  bool restart();
  int ctr(std::vector<std::string> arguments, std::string* output = nullptr) const;

 private:
  Containerd() = default;
  bool launch();
  std::vector<std::string> command_;
  std::string log_path_;
  std::string binary_directory_;
  std::string socket_;
  std::unique_ptr<Process> process_;
};

}  // namespace granary::e2e
