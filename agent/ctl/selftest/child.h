// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "agent/ctl/selftest/interrupt.h"

namespace granary::ctl::selftest {

struct ChildFiles {
  std::string output;  // where standard output goes; empty: with the errors
  std::string errors;  // where standard error goes; empty: ours
};

// A program of its own process group, so that a terminal's ^C reaches the self-test alone, which gets SIGTERM when the
// self-test's main thread ends, however that ends. Ended with its owner.
class Child {
 public:
  // The errno of what failed, execve(2) of `argv[0]` included. `environment`: NAME=VALUE, added to ours.
  static Result<Child> start(const std::vector<std::string>& argv, const std::vector<std::string>& environment,
                             const ChildFiles& files);
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)), process_(std::move(other.process_)) {}
  Child& operator=(Child&&) = delete;
  ~Child();

  [[nodiscard]] bool running();
  // Until it has ended, or one of the interrupt's signals comes: its exit code (128 + n for a signal), or nothing.
  std::optional<int> wait(Interrupt& interrupt);
  // SIGTERM; SIGKILL when it has not ended after `patience`, or at the second signal of the interrupt. How it ended.
  int end(std::chrono::milliseconds patience, Interrupt& interrupt);

 private:
  Child(pid_t pid, Fd process) : pid_(pid), process_(std::move(process)) {}
  int reap();
  pid_t pid_;
  Fd process_;
  int status_ = 0;
};

// From now on, what outlives its parent below this process becomes its child.
Status adopt_orphans();
// Waits until nothing runs below this process, and reaps what ends. What is there after `patience` should not be: it is
// ended, and returned as "process PID NAME".
std::vector<std::string> end_descendants(std::chrono::milliseconds patience, Interrupt& interrupt);

}  // namespace granary::ctl::selftest
