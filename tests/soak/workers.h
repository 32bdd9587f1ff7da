// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/soak/target.h"

namespace granary::soak {

// Threads that take clones, use them and give them back, again and again, as callers do that do not know what else goes
// on: a call that fails is tried again as long as that makes sense. Each says what it is at, so that one that is stuck
// can be named.
class Workers {
 public:
  // Stops by itself after `cycles` in all. `commands`: run one in each clone and compare its output.
  Workers(const Target& target, unsigned threads, unsigned cycles, bool commands);
  ~Workers();

  [[nodiscard]] bool done() const { return running_ == 0; }
  [[nodiscard]] unsigned cycles() const { return std::min(begun_.load(), cycles_); }
  // What a thread has been at for longer than `limit`; empty: none.
  [[nodiscard]] std::string stuck(std::chrono::seconds limit) const;
  // "acquire ok" 9000, "acquire RESOURCE_EXHAUSTED" 12 …
  [[nodiscard]] std::map<std::string, unsigned> outcomes() const;
  // Answers that no fault excuses: a wrong output, a code that says that the caller is wrong.
  [[nodiscard]] std::vector<std::string> wrongs() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Place {
    std::string step;
    Clock::time_point since;
    std::string last_error;
  };
  void work(unsigned thread, const std::stop_token& stop);
  void cycle(v1::Pool::Stub& stub, unsigned thread, unsigned number);
  std::string acquire(v1::Pool::Stub& stub, const std::string& owner);
  void run_command(v1::Pool::Stub& stub, const std::string& clone, unsigned number);
  // Until the agent says that the owner holds nothing.
  void release(v1::Pool::Stub& stub, const std::string& owner, unsigned thread);
  void enter(unsigned thread, const std::string& step);
  void note(unsigned thread, const std::string& error);
  void count(const std::string& step, const grpc::Status& status);

  const Target& target_;
  const unsigned cycles_;
  const bool commands_;
  std::atomic<unsigned> begun_ = 0;
  std::atomic<unsigned> running_;
  mutable std::mutex mutex_;
  std::vector<Place> places_;
  std::map<std::string, unsigned> outcomes_;
  std::vector<std::string> wrongs_;
  std::vector<std::jthread> threads_;
};

}  // namespace granary::soak
