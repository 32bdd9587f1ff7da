// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "vmpool/base/fd.h"

namespace granary::ctl::selftest {

// The folder of one self-test, below $TMPDIR, locked as long as its process lives. Its name is short: the agent puts
// sockets there, whose addresses are short.
class Workspace {
 public:
  static Result<Workspace> create();

  [[nodiscard]] const std::string& path() const { return path_; }
  // With everything in it. Once it is gone, nothing happens.
  Status remove();

 private:
  Workspace(std::string path, Fd lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  std::string path_;
  Fd lock_;
};

// Removes the folders, of this user, of self-tests that have ended without doing so (SIGKILL), and returns their paths.
std::vector<std::string> remove_abandoned_workspaces();

}  // namespace granary::ctl::selftest
