// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "vmpool/base/result.h"

namespace granary::ctl {

// A command to run in a clone, with this process's standard streams.
struct SessionOptions {
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string cwd;
  bool interactive = false;  // forward standard input
  bool tty = false;          // a terminal in the guest; if interactive, ours is in raw mode meanwhile
};

// What can be refused before a clone is taken: kInvalidArgument.
Status check_session(const SessionOptions& options);

// Runs it over the per-clone socket. Output that our reader does not take stops the command's output, and so for input.
// SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to the command; in raw mode ^C is no signal but a byte of its input.
// The command's status as a shell gives it: its exit code, 127 not found, 126 not executable, 128 + n for signal n.
// Errors: kPeerGone when the clone went first.
Result<int> run_session(const std::string& socket_path, const SessionOptions& options);

}  // namespace granary::ctl
