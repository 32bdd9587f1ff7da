// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "vmpool/pool/clone.h"
#include "vmpool/pool/test_bench.h"

namespace granary::integration {

// For tests on the real VMM with Linux guests: a pool that all tests of a program share, because its template takes
// long to boot. Register it with testing::AddGlobalTestEnvironment.
class LinuxClones : public testing::Environment {
 public:
  void SetUp() override;
  void TearDown() override;

  [[nodiscard]] pool::Pool& pool() { return *pool_; }
  [[nodiscard]] pool::TestBench& bench() { return *bench_; }
  // A clone outside of the pool that runs without any attachment, its identity applied. The caller destroys it.
  Result<std::shared_ptr<pool::Clone>> bare_clone();

 private:
  std::optional<pool::TestBench> bench_;
  std::optional<pool::CloneGroups> groups_;
  pool::CloneJournal journal_;
  std::unique_ptr<pool::Pool> pool_;
};

// What waits in these tests gives up then: long, for emulation.
pool::SteadyTime in_time();

// Shell code that goes on once a condition of the guest holds.
std::string until(const std::string& condition);

struct CommandEnd {
  int status = -1;     // as a shell gives it; -1 when the session failed
  std::string output;  // both streams
};
// Runs a shell script in the guest to its end.
CommandEnd run_script(const std::string& socket_path, const std::string& script, std::string_view input = "");

}  // namespace granary::integration
