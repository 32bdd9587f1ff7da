// SPDX-License-Identifier: Apache-2.0
// granaryd, granary-spawn and granaryctl as real processes; only the VMM is a stand-in. Its "echo" copies stdin to
// stdout, writes "started" to stderr and exits with 7 once stdin is closed; every other command is missing, but
// "noexec" is not executable.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/integration/agent_bench.h"

namespace granary::integration {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

constexpr int kPatienceMs = 60'000;

Fd pidfd_of(pid_t pid) { return Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }
bool has_ended(const Fd& pidfd, int within_ms) {
  pollfd ended{.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  return ::poll(&ended, 1, within_ms) == 1;
}

class AgentTest : public testing::Test {
 protected:
  std::string acquire(const std::string& owner) {
    const Outcome taken = bench_.ctl({"acquire", "--owner", owner});
    EXPECT_EQ(taken.status, 0) << taken.errors;
    return taken.output.substr(0, taken.output.find('\n'));
  }
  json clones() { return json::parse(bench_.ctl({"--output", "json", "ls"}).output)["clones"]; }
  json clone(const std::string& id) {
    for (const json& clone : clones()) {
      if (clone["id"] == id) return clone;
    }
    ADD_FAILURE() << "no clone " << id;
    return {};
  }
  size_t clones_in_state(const std::string& state) {
    size_t n = 0;
    for (const json& clone : clones()) n += clone["state"] == state ? 1 : 0;
    return n;
  }
  AgentBench bench_;
};

TEST_F(AgentTest, RunCarriesStdioAndTheExitCode) {
  const auto agent = bench_.start_agent();
  const Outcome run = bench_.ctl({"run", "-i", "-v", "--info", bench_.path("info"), "--", "echo"}, "hello");
  EXPECT_EQ(run.status, 7) << run.errors;
  EXPECT_EQ(run.output, "hello");
  EXPECT_THAT(run.errors, testing::AllOf(HasSubstr("started"), HasSubstr("boot id fake-boot-id"), HasSubstr("pool a")));
  std::ifstream info(bench_.path("info"));
  const json clone = json::parse(info);
  EXPECT_EQ(clone["boot_id"], "fake-boot-id");
  EXPECT_EQ(clone["pool"], "a");
  EXPECT_GT(std::stoll(clone["handover_ns"].get<std::string>()), 0);
  // run returned: its clone is proven gone already.
  EXPECT_THAT(bench_.ctl({"ls"}).output, Not(HasSubstr(clone["id"].get<std::string>())));
}

TEST_F(AgentTest, LargeInputSurvivesBothWays) {
  const auto agent = bench_.start_agent();
  std::string input;
  for (int i = 0; i < 200'000; ++i) input += std::to_string(i) + "\n";
  const Outcome run = bench_.ctl({"run", "-i", "--", "echo"}, input);
  EXPECT_EQ(run.status, 7) << run.errors;
  EXPECT_TRUE(run.output == input) << run.output.size() << " bytes of " << input.size();
}

TEST_F(AgentTest, CommandsThatCannotStartGiveAShellsCodes) {
  const auto agent = bench_.start_agent();
  EXPECT_EQ(bench_.ctl({"run", "--", "missing"}).status, 127);
  EXPECT_EQ(bench_.ctl({"run", "--", "noexec"}).status, 126);
}

TEST_F(AgentTest, OwnErrorsAreOneLineAndCode125) {
  const Outcome no_agent = bench_.ctl({"status"});
  EXPECT_EQ(no_agent.status, 125);
  EXPECT_THAT(no_agent.errors, HasSubstr("is granaryd running?"));
  const auto agent = bench_.start_agent();
  const Outcome pool = bench_.ctl({"run", "--pool", "b", "--", "echo"});
  EXPECT_EQ(pool.status, 125);
  EXPECT_EQ(pool.errors, "granaryctl: pool \"b\"; configured: a: unknown pool\n");
  const Outcome clone = bench_.ctl({"exec", "0123", "--", "echo"});
  EXPECT_EQ(clone.status, 125);
  EXPECT_THAT(clone.errors, HasSubstr("unknown clone"));
  EXPECT_THAT(bench_.ctl({"run", "-t", "--", "echo"}).errors, HasSubstr("no terminal"));
  const std::vector<std::string> many(15, std::string(100'000, 'x'));
  std::vector<std::string> words = {"run", "--", "echo"};
  words.insert(words.end(), many.begin(), many.end());
  const Outcome argv = bench_.ctl(words);
  EXPECT_EQ(argv.status, 125);
  EXPECT_THAT(argv.errors, testing::AllOf(HasSubstr("1500068 bytes"), HasSubstr("the limit is")));
  EXPECT_EQ(bench_.ctl({"frobnicate"}).status, 125);
}

TEST_F(AgentTest, AnExplicitLeaseLivesUntilItIsReleased) {
  const auto agent = bench_.start_agent();
  const std::string id = acquire("me");
  EXPECT_EQ(acquire("me"), id);
  EXPECT_NE(acquire("you"), id);
  EXPECT_EQ(bench_.ctl({"exec", "-i", id.substr(0, 18), "--", "echo"}, "again").output, "again");
  EXPECT_THAT(bench_.ctl({"ls"}).output, testing::AllOf(HasSubstr(id), HasSubstr("me")));
  EXPECT_EQ(bench_.ctl({"console", id}).status, 0);
  EXPECT_THAT(bench_.ctl({"release", id}).output, HasSubstr("released in"));
  EXPECT_EQ(bench_.ctl({"release", id}).output, "was released before\n");
  const Outcome late = bench_.ctl({"exec", id, "--", "echo"});
  EXPECT_EQ(late.status, 125);
  EXPECT_EQ(late.errors, "granaryctl: clone " + id + ", released: clone is gone\n");
  EXPECT_NE(acquire("me"), id);
}

// The stand-in notes on its console which disks it gets, with their first four bytes.
TEST_F(AgentTest, DisksReachTheCloneInOrderAndAreFreeAfterwards) {
  const auto agent = bench_.start_agent();
  const std::string first = bench_.path("first.img");
  const std::string second = bench_.path("second.img");
  std::ofstream(first) << std::string(512, '1');
  std::ofstream(second) << std::string(1024, '2');
  const Outcome taken = bench_.ctl({"acquire", "--owner", "me", "--disk", first, "--disk", second + ":ro"});
  ASSERT_EQ(taken.status, 0) << taken.errors;
  const std::string id = taken.output.substr(0, 36);
  EXPECT_THAT(bench_.ctl({"console", id}).output, HasSubstr("disk 0 rw 1111\ndisk 1 ro 2222\nunpark\n"));
  const Outcome listed = bench_.ctl({"--output", "json", "ls"});
  EXPECT_THAT(listed.output, HasSubstr(R"("disks":[{"path":")" + first + R"(","read_only":false},{"path":")" + second));

  EXPECT_EQ(bench_.ctl({"acquire", "--owner", "me", "--disk", first, "--disk", second + ":ro"}).output, id + "\n");
  const Outcome other = bench_.ctl({"acquire", "--owner", "me", "--disk", first});
  EXPECT_EQ(other.status, 125);
  EXPECT_THAT(other.errors, HasSubstr("holds clone " + id + " with disks " + first + ", " + second + ":ro, not with"));
  const Outcome in_use = bench_.ctl({"run", "-i", "--disk", first, "--", "echo"});
  EXPECT_EQ(in_use.status, 125);
  EXPECT_THAT(in_use.errors, HasSubstr("disk " + first + " is in use"));
  EXPECT_EQ(bench_.ctl({"run", "-i", "--disk", second + ":ro", "--", "echo"}).status, 7) << "readers may be many";
  EXPECT_EQ(bench_.ctl({"release", id}).status, 0);
  EXPECT_EQ(bench_.ctl({"run", "-i", "--disk", first, "--", "echo"}).status, 7);
}

TEST_F(AgentTest, BadDisksAreOneLineAndCostNoClone) {
  bench_.configure("size: 2\n    devices: {block: 1}");
  const auto agent = bench_.start_agent();
  const auto refused = [&](const std::vector<std::string>& disks) {
    std::vector<std::string> words = {"run"};
    for (const std::string& disk : disks) words.insert(words.end(), {"--disk", disk});
    words.insert(words.end(), {"--", "echo"});
    const Outcome run = bench_.ctl(words);
    EXPECT_EQ(run.status, 125);
    EXPECT_EQ(std::count(run.errors.begin(), run.errors.end(), '\n'), 1) << run.errors;
    return run.errors;
  };
  std::ofstream(bench_.path("odd.img")) << "odd";
  std::ofstream(bench_.path("good.img")) << std::string(512, 'g');
  EXPECT_THAT(refused({bench_.path("missing")}), HasSubstr("missing: No such file"));
  EXPECT_THAT(refused({bench_.path("")}), HasSubstr("a directory"));
  EXPECT_THAT(refused({bench_.path("odd.img")}), HasSubstr("3 bytes; make it a multiple of 512"));
  EXPECT_THAT(refused({bench_.path("good.img"), bench_.path("good.img")}), HasSubstr("2 disks, but"));
  EXPECT_THAT(refused({":ro"}), HasSubstr("--disk: give PATH or PATH:ro"));
  const json pool = json::parse(bench_.ctl({"--output", "json", "status"}).output)["pools"][0];
  EXPECT_EQ(pool["reclaimed"], "0");
  EXPECT_EQ(pool["failed"], "0");
}

TEST_F(AgentTest, AnEmptyPoolSaysSoAfterTheWait) {
  bench_.configure("max: 1\n    size: 1");
  const auto agent = bench_.start_agent();
  acquire("me");
  const Outcome second = bench_.ctl({"acquire", "--owner", "you", "--wait", "1"});
  EXPECT_EQ(second.status, 125);
  EXPECT_THAT(second.errors, HasSubstr("pool is empty"));
}

TEST_F(AgentTest, AKilledRunLeavesNoClone) {
  const auto agent = bench_.start_agent();
  const auto run = bench_.start_ctl({"run", "-i", "--", "echo"});
  ASSERT_TRUE(run->wait_for("started")) << run->errors();
  std::string id;
  for (const json& clone : clones()) {
    if (clone["state"] == "running") id = clone["id"];
  }
  ASSERT_FALSE(id.empty());
  run->signal(SIGKILL);
  EXPECT_TRUE(agent->wait_for("reclaimed pool=a clone=" + id));
  EXPECT_THAT(bench_.ctl({"exec", id, "--", "echo"}).errors, HasSubstr("its caller went away"));
}

TEST_F(AgentTest, SignalsReachTheCommand) {
  const auto agent = bench_.start_agent();
  const auto run = bench_.start_ctl({"run", "-i", "--", "echo"});
  ASSERT_TRUE(run->wait_for("started"));
  run->signal(SIGTERM);
  EXPECT_TRUE(run->wait_for("signal 15"));
  run->close_stdin();
  EXPECT_EQ(run->wait(), 7);
}

TEST_F(AgentTest, ADeadCloneIsToldWithItsReason) {
  const auto agent = bench_.start_agent();
  const std::string id = acquire("me");
  ::kill(clone(id)["vmm_pid"], SIGKILL);
  EXPECT_TRUE(agent->wait_for("reclaimed pool=a clone=" + id));
  const Outcome exec = bench_.ctl({"exec", id, "--", "echo"});
  EXPECT_EQ(exec.status, 125);
  EXPECT_THAT(exec.errors, testing::AllOf(HasSubstr(id + ", ended: "), HasSubstr("clone is gone")));
  EXPECT_NE(acquire("me"), id);
}

TEST_F(AgentTest, StatusTemplatesAndEvents) {
  const auto agent = bench_.start_agent();
  const auto events = bench_.start_ctl({"events"});
  const json status = json::parse(bench_.ctl({"--output", "json", "status"}).output);
  ASSERT_EQ(status["pools"].size(), 1u);
  const std::string key = status["pools"][0]["template_key"];
  EXPECT_EQ(key.size(), 64u);
  EXPECT_THAT(bench_.ctl({"status"}).output,
              testing::AllOf(HasSubstr("POOL"), HasSubstr("1 x 1.00 MiB"), HasSubstr(key.substr(0, 12))));
  EXPECT_THAT(bench_.ctl({"template", "ls"}).output, HasSubstr(key.substr(0, 12)));
  EXPECT_THAT(bench_.ctl({"template", "inspect", key.substr(0, 8)}).output, HasSubstr("kernel"));
  const Outcome in_use = bench_.ctl({"template", "rm", key});
  EXPECT_EQ(in_use.status, 125);
  EXPECT_THAT(in_use.errors, HasSubstr("pool a uses it"));
  EXPECT_EQ(bench_.ctl({"template", "build"}).output, key + "\n");
  EXPECT_EQ(bench_.ctl({"template", "build", "--force"}).output, key + "\n");
  EXPECT_TRUE(events->wait_for("template-ready")) << events->output();
}

TEST_F(AgentTest, SigtermReclaimsEverythingAndExitsZero) {
  const auto agent = bench_.start_agent();
  const auto run = bench_.start_ctl({"run", "-i", "--", "echo"});
  ASSERT_TRUE(run->wait_for("started"));
  const std::string id = acquire("me");
  EXPECT_EQ(bench_.ctl({"release", id}).status, 0);
  agent->signal(SIGTERM);
  EXPECT_EQ(agent->wait(), 0) << agent->errors();
  EXPECT_EQ(run->wait(), 125) << run->errors();
  EXPECT_THAT(agent->errors(), testing::AllOf(HasSubstr("spawner ended"), HasSubstr("ending Hold calls")));
  EXPECT_THAT(bench_.left_behind(), testing::IsEmpty());
}

TEST_F(AgentTest, SigtermLetsARunningCommandFinishButTakesNoNewOnes) {
  bench_.configure("size: 2", "shutdown_grace: 1h");
  const auto agent = bench_.start_agent();
  const auto run = bench_.start_ctl({"run", "-i", "--", "echo"});
  ASSERT_TRUE(run->wait_for("started"));
  agent->signal(SIGTERM);
  ASSERT_TRUE(agent->wait_for("signal received"));
  const Outcome late = bench_.ctl({"acquire"});
  EXPECT_EQ(late.status, 125);
  EXPECT_THAT(late.errors, HasSubstr("shutting down"));
  run->write("still here");
  run->close_stdin();
  EXPECT_EQ(run->wait(), 7) << run->errors();
  EXPECT_EQ(run->output(), "still here");
  EXPECT_EQ(agent->wait(), 0);
}

TEST_F(AgentTest, ASecondSignalCutsTheGraceShort) {
  bench_.configure("size: 2", "shutdown_grace: 1h");
  const auto agent = bench_.start_agent();
  const auto run = bench_.start_ctl({"run", "-i", "--", "echo"});
  ASSERT_TRUE(run->wait_for("started"));
  agent->signal(SIGTERM);
  ASSERT_TRUE(agent->wait_for("signal received number=15"));
  agent->signal(SIGINT);
  EXPECT_EQ(agent->wait(), 0);
  EXPECT_EQ(run->wait(), 125);
}

TEST_F(AgentTest, TheSecondAgentOnAStateDirectoryIsRefused) {
  const auto agent = bench_.start_agent();
  const Outcome second = run_to_end(bench_.agent_command());
  EXPECT_EQ(second.status, 4);
  EXPECT_THAT(second.errors, HasSubstr("pid " + std::to_string(agent->pid())));
  EXPECT_EQ(bench_.ctl({"status"}).status, 0);
}

TEST_F(AgentTest, AfterAKilledAgentTheNextOneKeepsWhatIsLeased) {
  auto agent = bench_.start_agent();
  const std::string id = acquire("me");
  const auto run = bench_.start_ctl({"run", "-i", "--", "echo"});
  ASSERT_TRUE(run->wait_for("started"));
  const int pid = clone(id)["vmm_pid"];
  agent->signal(SIGKILL);
  agent->wait();
  agent = bench_.start_agent();
  EXPECT_EQ(run->wait(), 125) << run->errors();  // its lease was bound to the call
  EXPECT_THAT(agent->errors(), testing::AllOf(HasSubstr("spawner found"), HasSubstr("reconciled adopted=1")));
  EXPECT_EQ(clone(id)["vmm_pid"], pid);
  EXPECT_EQ(clone(id)["owner_id"], "me");
  EXPECT_EQ(acquire("me"), id);
  EXPECT_EQ(bench_.ctl({"exec", "-i", id, "--", "echo"}, "still here").output, "still here");
  EXPECT_EQ(clones_in_state("running"), 1u);
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
  EXPECT_THAT(bench_.ctl({"release", id}).output, HasSubstr("released in"));
  agent->signal(SIGTERM);
  EXPECT_EQ(agent->wait(), 0);
  EXPECT_THAT(bench_.left_behind(), testing::IsEmpty());
}

TEST_F(AgentTest, AnOrderlyRestartKeepsWhatIsLeased) {
  auto agent = bench_.start_agent();
  const std::string id = acquire("me");
  agent->signal(SIGTERM);
  EXPECT_EQ(agent->wait(), 0);
  EXPECT_THAT(agent->errors(), HasSubstr("run on count=1"));
  agent = bench_.start_agent();
  EXPECT_EQ(acquire("me"), id);
  EXPECT_EQ(bench_.ctl({"exec", "-i", id, "--", "echo"}, "hello").output, "hello");
  // A VMM that dies now is noticed as before.
  ::kill(clone(id)["vmm_pid"], SIGKILL);
  EXPECT_TRUE(agent->wait_for("reclaimed pool=a clone=" + id));
  EXPECT_NE(acquire("me"), id);
}

TEST_F(AgentTest, ACloneThatEndsWhileNoAgentRunsIsTold) {
  auto agent = bench_.start_agent();
  const std::string id = acquire("me");
  const pid_t pid = clone(id)["vmm_pid"];
  agent->signal(SIGKILL);
  agent->wait();
  ::kill(pid, SIGKILL);
  agent = bench_.start_agent();
  const Outcome exec = bench_.ctl({"exec", id, "--", "echo"});
  EXPECT_EQ(exec.status, 125);
  EXPECT_THAT(exec.errors, testing::AllOf(HasSubstr("killed by signal 9"), HasSubstr("while no agent ran")));
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
  EXPECT_NE(acquire("me"), id);
}

TEST_F(AgentTest, AStoppedVmmThatOutlivesSpawnerAndAgentIsEndedByTheNextAgent) {
  auto agent = bench_.start_agent();
  const std::string id = acquire("me");
  const pid_t pid = clone(id)["vmm_pid"];
  const Fd vmm = pidfd_of(pid);
  const Fd spawner = pidfd_of(bench_.spawner_pid());
  ASSERT_EQ(::kill(pid, SIGSTOP), 0);  // so it does not see that both have gone
  agent->signal(SIGKILL);
  agent->wait();
  ASSERT_EQ(::kill(bench_.spawner_pid(), SIGKILL), 0);
  ASSERT_TRUE(has_ended(spawner, kPatienceMs));
  ASSERT_FALSE(has_ended(vmm, 0));
  agent = bench_.start_agent();
  EXPECT_TRUE(has_ended(vmm, 0));
  EXPECT_THAT(bench_.ctl({"exec", id, "--", "echo"}).errors, HasSubstr("its spawner went while no agent ran"));
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
  EXPECT_NE(acquire("me"), id);
}

TEST_F(AgentTest, OverheadIsMeasuredOnAPodAndLeavesNothing) {
  const auto agent = bench_.start_agent();
  const Outcome text = bench_.ctl({"overhead"});
  EXPECT_EQ(text.status, 0) << text.errors;
  EXPECT_THAT(text.output, testing::AllOf(HasSubstr("file server"), HasSubstr("shim"), HasSubstr("podFixed:\n    memory: ")));
  const json figures = json::parse(bench_.ctl({"--output", "json", "overhead", "--pool", "a"}).output);
  EXPECT_EQ(figures["pool"], "a");
  ASSERT_EQ(figures["processes"].size(), 3U);
  uint64_t sum = figures["guest_kernel_bytes"];
  for (const json& process : figures["processes"]) {
    EXPECT_GT(process["bytes"], 0);
    sum += process["bytes"].get<uint64_t>();
  }
  EXPECT_EQ(figures["memory_mib"], (sum + (1 << 20) - 1) >> 20);
  EXPECT_THAT(bench_.ctl({"overhead", "--pool", "none"}).errors, HasSubstr("configured: a"));
  EXPECT_EQ(bench_.ctl({"ls", "--output", "json"}).output.find("overhead"), std::string::npos);
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
}

TEST_F(AgentTest, AClonesPoolMayBeGoneFromTheConfiguration) {
  auto agent = bench_.start_agent();
  const std::string id = acquire("me");
  agent->signal(SIGTERM);
  EXPECT_EQ(agent->wait(), 0);
  bench_.configure("size: 2", "shutdown_grace: 0s", "b");
  agent = bench_.start_agent();
  EXPECT_THAT(agent->errors(), HasSubstr("configured no longer"));
  EXPECT_EQ(acquire("me"), id);
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
  EXPECT_THAT(bench_.ctl({"release", id}).output, HasSubstr("released in"));
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
}

TEST_F(AgentTest, ADamagedJournalCostsItsClonesAndNothingElse) {
  auto agent = bench_.start_agent();
  const std::string id = acquire("me");
  agent->signal(SIGKILL);
  agent->wait();
  std::ofstream(bench_.path("run/journal"), std::ios::trunc) << "noise";
  agent = bench_.start_agent();
  EXPECT_THAT(agent->errors(), testing::AllOf(HasSubstr("ignored_bytes=5"), HasSubstr("adopted=0")));
  EXPECT_THAT(bench_.ctl({"exec", id, "--", "echo"}).errors, HasSubstr("unknown clone"));
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
}

TEST_F(AgentTest, AKilledSpawnerIsReplacedAndRunningClonesLiveOn) {
  auto agent = bench_.start_agent();
  const std::string id = acquire("me");
  const pid_t vmm = clone(id)["vmm_pid"];
  const auto run = bench_.start_ctl({"run", "-i", "--", "echo"});
  ASSERT_TRUE(run->wait_for("started"));
  ASSERT_EQ(::kill(bench_.spawner_pid(), SIGKILL), 0);
  ASSERT_TRUE(agent->wait_for("spawner replaced"));
  EXPECT_EQ(bench_.ctl({"exec", "-i", id, "--", "echo"}, "still here").output, "still here");
  run->write("and here");
  run->close_stdin();
  EXPECT_EQ(run->wait(), 7) << run->errors();
  EXPECT_EQ(run->output(), "and here");
  EXPECT_EQ(bench_.ctl({"run", "-i", "--", "echo"}, "new ones too").output, "new ones too");
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
  // The new spawner keeps it over an agent's death, and tells of its end although it is no child.
  agent->signal(SIGKILL);
  agent->wait();
  agent = bench_.start_agent();
  EXPECT_EQ(acquire("me"), id);
  EXPECT_EQ(clone(id)["vmm_pid"], vmm);
  ::kill(vmm, SIGKILL);
  EXPECT_TRUE(agent->wait_for("reclaimed pool=a clone=" + id));
  EXPECT_THAT(bench_.ctl({"exec", id, "--", "echo"}).errors, HasSubstr("lost"));
  EXPECT_EQ(bench_.ctl({"audit"}).output, "no differences\n");
}

TEST_F(AgentTest, ReleaseAllEndsEveryLease) {
  const auto agent = bench_.start_agent();
  acquire("me");
  acquire("you");
  EXPECT_EQ(bench_.ctl({"release"}).status, 125);
  EXPECT_EQ(bench_.ctl({"release", "--all"}).output, "2 released\n");
  EXPECT_EQ(clones_in_state("running"), 0u);
}

TEST_F(AgentTest, AuditNamesWhatIsNotInOrder) {
  const auto agent = bench_.start_agent();
  const std::string id = acquire("me");
  std::ofstream(bench_.path("run/777.sock")) << "a stray file";
  ::unlink(std::string(clone(id)["socket_path"]).c_str());
  const Outcome audit = bench_.ctl({"audit"});
  EXPECT_EQ(audit.status, 1);
  EXPECT_THAT(audit.output, testing::AllOf(HasSubstr("777.sock"), HasSubstr("clone " + id + ": its socket")));
  const json report = json::parse(bench_.ctl({"--output", "json", "audit"}).output);
  EXPECT_EQ(report["differences"].size(), 2u);
}

TEST_F(AgentTest, ABadConfigurationIsRefusedWithItsPlace) {
  bench_.configure("sise: 2");
  const Outcome bad = run_to_end(bench_.agent_command());
  EXPECT_EQ(bad.status, 2);
  EXPECT_THAT(bad.errors, HasSubstr(bench_.path("granary.yaml") + ":8:5: pools[0]: unknown key \"sise\""));
  bench_.configure("template: {kernel: /nonexistent}");
  const Outcome missing = run_to_end(bench_.agent_command());
  EXPECT_EQ(missing.status, 1);
  EXPECT_THAT(missing.errors, testing::AllOf(HasSubstr("/nonexistent"), HasSubstr("guest kernel missing")));
  EXPECT_THAT(bench_.left_behind(), testing::IsEmpty());  // the spawner that it had started is gone
}

TEST_F(AgentTest, AHostWithoutKvmIsRefusedByThePreflight) {
  std::vector<std::string> command = bench_.agent_command();
  command.pop_back();
  const Outcome refused = run_to_end(command);
  EXPECT_EQ(refused.status, 3);
  EXPECT_THAT(refused.errors, HasSubstr("this host cannot run Linux guests"));
  EXPECT_EQ(bench_.ctl({"doctor", "--kvm", "/dev/null"}).status, 1);
}

}  // namespace
}  // namespace granary::integration
