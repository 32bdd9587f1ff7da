// SPDX-License-Identifier: Apache-2.0
// A node whose VMM or guest kernel is replaced: its templates are others, and what runs goes on. Real processes, as in
// agent_test; CPU, microcode and host kernel are lines of the same key (template_store_test).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "tests/integration/agent_bench.h"
#include "vmpool/base/build_id.h"

namespace granary::integration {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr const char* kRebuilt = "no template for this kernel, shape, build and host";

// The program at `path` as of another build: the first byte of its build id differs. It takes the old one's place
// under its name alone, as a package manager would do it: the old one may run.
void replace_by_another_build(const std::string& path) {
  const auto before = read_build_id(path);
  ASSERT_TRUE(before) << before.error().message();
  std::string id;
  for (size_t i = 0; i < before->size(); i += 2) {
    id += static_cast<char>(std::strtoul(before->substr(i, 2).c_str(), nullptr, 16));
  }
  std::ifstream file(path, std::ios::binary);
  std::string program{std::istreambuf_iterator<char>(file), {}};
  const size_t at = program.find(id);
  ASSERT_NE(at, std::string::npos);
  program[at] = static_cast<char>(program[at] ^ 1);
  std::ofstream(path + ".new", std::ios::binary) << program;
  std::filesystem::permissions(path + ".new", std::filesystem::perms{0755});
  std::filesystem::rename(path + ".new", path);
  const auto after = read_build_id(path);
  ASSERT_TRUE(after) << after.error().message();
  ASSERT_NE(*after, *before);
}

class NodeChangeTest : public testing::Test {
 protected:
  std::string template_key() {
    return json::parse(bench_.ctl({"--output", "json", "status"}).output)["pools"][0]["template_key"];
  }
  std::string acquire(const std::string& owner) {
    const Outcome taken = bench_.ctl({"acquire", "--owner", owner});
    EXPECT_EQ(taken.status, 0) << taken.errors;
    return taken.output.substr(0, taken.output.find('\n'));
  }
  void expect_alive(const std::string& id) {
    EXPECT_EQ(bench_.ctl({"exec", "-i", id, "--", "echo"}, "still here").output, "still here");
  }
  // "me" holds `id` still; new clones come from a template that was made for the node as it is now.
  void expect_another_template(Process& agent, const std::string& old_key, const std::string& id) {
    EXPECT_NE(template_key(), old_key);
    EXPECT_THAT(agent.errors(), HasSubstr(kRebuilt));
    expect_alive(id);
    EXPECT_EQ(acquire("me"), id);
    expect_alive(acquire("you"));
    EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
  }
  void stop(Process& agent) {
    agent.signal(SIGTERM);
    EXPECT_EQ(agent.wait(), 0);
  }
  AgentBench bench_;
};

TEST_F(NodeChangeTest, AnotherGuestKernelIsAnotherTemplateAndOldClonesLiveOn) {
  auto agent = bench_.start_agent();
  const std::string old_key = template_key();
  const std::string id = acquire("me");
  stop(*agent);
  std::ofstream(bench_.path("kernel")) << "A kernel";
  agent = bench_.start_agent();
  expect_another_template(*agent, old_key, id);
}

TEST_F(NodeChangeTest, AnotherVmmBuildIsAnotherTemplateAndOldClonesLiveOn) {
  auto agent = bench_.start_agent();
  const std::string old_key = template_key();
  const std::string id = acquire("me");
  ASSERT_NO_FATAL_FAILURE(replace_by_another_build(bench_.path("libexec/granary-vmm")));
  // As docs/operations.md says: the spawner first, with an agent there that gives its successor what runs.
  const pid_t spawner = bench_.spawner_pid();
  ASSERT_GT(spawner, 0);
  ASSERT_EQ(::kill(spawner, SIGKILL), 0);
  ASSERT_TRUE(agent->wait_for("spawner replaced"));
  EXPECT_NE(bench_.spawner_pid(), spawner);
  ASSERT_TRUE(agent->wait_for(kRebuilt));  // by the agent that runs: no restart is needed
  expect_another_template(*agent, old_key, id);
}

TEST_F(NodeChangeTest, AnUnchangedNodeKeepsItsTemplate) {
  auto agent = bench_.start_agent();
  const std::string key = template_key();
  const std::string id = acquire("me");
  stop(*agent);
  agent = bench_.start_agent();
  EXPECT_EQ(template_key(), key);
  EXPECT_THAT(agent->errors(), testing::Not(HasSubstr(kRebuilt)));
  expect_alive(id);
}

}  // namespace
}  // namespace granary::integration
