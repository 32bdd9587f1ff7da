// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "vmpool/base/fd.h"

namespace granary::integration {

// A child process with pipes on its standard streams; what it writes is collected on threads.
class Process {
 public:
  // `environment`: NAME=VALUE, added to this program's own.
  explicit Process(const std::vector<std::string>& argv, const std::vector<std::string>& environment = {});
  // If it still runs: `endings`, one after the other, until it ends; SIGKILL unless others are set.
  ~Process();
  void end_with(std::vector<int> endings) { endings_ = std::move(endings); }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void write(const std::string& text) const;
  void close_stdin() { stdin_.reset(); }
  void signal(int number) const;
  [[nodiscard]] bool running() const;
  // Exit code, or 128 + signal.
  int wait();
  // Waits until standard output or error has this text (true), or ended without (false).
  bool wait_for(const std::string& text);
  [[nodiscard]] std::string output() const;
  [[nodiscard]] std::string errors() const;
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  void collect(Fd from, std::string& into);

  pid_t pid_ = -1;
  std::vector<int> endings_;
  Fd stdin_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::string output_;
  std::string errors_;
  int open_streams_ = 2;
  std::vector<std::jthread> collectors_;
};

struct Outcome {
  int status = 0;
  std::string output;
  std::string errors;
};
// Runs to the end with this standard input.
Outcome run_to_end(const std::vector<std::string>& argv, const std::string& input = "");

// A folder with a configuration, granary-spawn and a stand-in for granary-vmm (vmpool/pool/fake_vmm.cc): everything
// that granaryd needs on a host without KVM.
class AgentBench {
 public:
  AgentBench();
  ~AgentBench();
  AgentBench(const AgentBench&) = delete;
  AgentBench& operator=(const AgentBench&) = delete;

  // `pool` is YAML inside the one pool, `top` at the top; the defaults suit most tests.
  void configure(const std::string& pool = "size: 2", const std::string& top = "shutdown_grace: 0s",
                 const std::string& name = "a") const;
  [[nodiscard]] std::vector<std::string> agent_command() const;
  // Starts granaryd and waits until it is ready and its pool is warm. Its spawner ends with it or with the bench.
  std::unique_ptr<Process> start_agent(const std::vector<std::string>& environment = {}) const;
  Outcome ctl(const std::vector<std::string>& arguments, const std::string& input = "") const;
  std::unique_ptr<Process> start_ctl(const std::vector<std::string>& arguments) const;
  [[nodiscard]] std::vector<std::string> ctl_command(std::vector<std::string> arguments) const;
  // Of the spawner that listens now; -1 when none does.
  [[nodiscard]] pid_t spawner_pid() const;
  [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }
  [[nodiscard]] std::string socket() const { return path("run/granaryd.sock"); }
  // What is left in the run directory, the spawner's log and lock files aside.
  [[nodiscard]] std::vector<std::string> left_behind() const;

 private:
  void end_spawner() const;
  std::filesystem::path folder_;
};

}  // namespace granary::integration
