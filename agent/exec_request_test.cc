// SPDX-License-Identifier: Apache-2.0
#include "agent/exec_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace granary::agent {
namespace {

using testing::HasSubstr;

std::string refusal(const Command& command) {
  const auto exec = to_exec(command);
  if (exec) return "accepted";
  EXPECT_TRUE(exec.error().is(Errc::kInvalidArgument));
  return exec.error().message();
}

TEST(ExecRequestTest, AddsAPathOnlyWhereNoneWasGiven) {
  const auto without = to_exec({.argv = {"true"}, .env = {"A=b"}, .cwd = "/x"});
  ASSERT_TRUE(without);
  ASSERT_EQ(without->env_size(), 2);
  EXPECT_THAT(without->env(1), testing::StartsWith("PATH=/"));
  EXPECT_EQ(without->cwd(), "/x");
  const auto with = to_exec({.argv = {"true"}, .env = {"PATH=/mine"}, .cwd = ""});
  ASSERT_TRUE(with);
  EXPECT_EQ(with->env_size(), 1);
}

TEST(ExecRequestTest, TenMebibytesOfArgumentsAreRefusedWithSizeAndLimit) {
  EXPECT_THAT(refusal({.argv = {"echo", std::string(10 << 20, 'x')}, .env = {}, .cwd = ""}),
              testing::AllOf(HasSubstr("10485772 bytes"), HasSubstr(std::to_string(kMaxExecBytes))));
  EXPECT_THAT(refusal({.argv = {"echo"}, .env = {"A=" + std::string(kMaxExecBytes, 'x')}, .cwd = ""}),
              HasSubstr("the limit is"));
}

TEST(ExecRequestTest, TheLargestThatIsAcceptedFitsAFrame) {
  const auto exec =
      to_exec({.argv = {std::string(kMaxExecBytes - 4, 'x')}, .env = {}, .cwd = std::string(kMaxCwdBytes, '/')});
  ASSERT_TRUE(exec);
  EXPECT_LT(exec->ByteSizeLong() + 64, size_t{1} << 20);
}

TEST(ExecRequestTest, RefusesWhatNoProgramCanGet) {
  using namespace std::string_literals;
  EXPECT_THAT(refusal({.argv = {}, .env = {}, .cwd = ""}), HasSubstr("no command"));
  EXPECT_THAT(refusal({.argv = {""}, .env = {}, .cwd = ""}), HasSubstr("no command"));
  EXPECT_THAT(refusal({.argv = {"a", "b\0c"s}, .env = {}, .cwd = ""}), HasSubstr("argument 1 has a zero byte"));
  EXPECT_THAT(refusal({.argv = {"a"}, .env = {"novalue"}, .cwd = ""}), HasSubstr("give NAME=VALUE"));
  EXPECT_THAT(refusal({.argv = {"a"}, .env = {"=x"}, .cwd = ""}), HasSubstr("give NAME=VALUE"));
  EXPECT_THAT(refusal({.argv = {"a"}, .env = {}, .cwd = std::string(5000, 'x')}), HasSubstr("5000 bytes"));
}

}  // namespace
}  // namespace granary::agent
