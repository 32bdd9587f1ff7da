// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace granary::e2e {

// A child process with its output in a log file; terminated (SIGTERM, then SIGKILL) with its owner.
class Process {
 public:
  Process(std::vector<std::string> argv, std::string log_path);
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process();

  [[nodiscard]] pid_t pid() const { return pid_; }
  void kill_now();
  // SIGTERM, then waits; the exit code (128 + n for a signal), or -1 when it had to be killed after `limit`.
  int terminate(std::chrono::seconds limit = std::chrono::seconds(30));
  [[nodiscard]] std::string log() const;

 private:
  std::string log_path_;
  pid_t pid_ = -1;
};

// Runs a command to its end; its exit code, output appended to *output when given.
int run_command(const std::vector<std::string>& argv, std::string* output = nullptr);

// Polls `condition` until it holds; false when `limit` has passed first.
bool wait_until(const std::function<bool()>& condition, std::chrono::seconds limit);

}  // namespace granary::e2e
