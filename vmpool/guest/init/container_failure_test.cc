// SPDX-License-Identifier: Apache-2.0
// What goes wrong with containers, with a crun that does as it is told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "vmpool/guest/init/container_fixture.h"

namespace granary::guest {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

class ContainerFailureTest : public ContainerServerTest {
 protected:
  [[nodiscard]] std::string runtime() const override { return FAKE_CRUN; }
  ContainerPaths prepare_server() override {
    ContainerPaths paths = ContainerServerTest::prepare_server();
    std::filesystem::create_directories(folder() + "/cgroups/pod");
    std::filesystem::create_directories(folder() + "/sysctls/net/ipv4");
    for (const char* file : {"memory.max", "cpu.max", "cpu.weight", "pids.max"}) {
      std::ofstream(folder() + "/cgroups/pod/" + file) << "max\n";
    }
    std::ofstream(folder() + "/sysctls/net/ipv4/ip_forward") << "0\n";
    paths.cgroups = folder() + "/cgroups";
    paths.sysctls = folder() + "/sysctls";
    paths.disks = folder() + "/disks";
    return paths;
  }
  void set_behaviour(const std::string& words) { std::ofstream(folder() + "/behaviour") << words; }
  // Asks others meanwhile.
  pid_t hanging_crun(const std::string& id) {
    const std::string mark = folder() + "/run/crun/" + id + "/hangs";
    for (;;) {
      if (const Result<std::string> text = read_file(mark); text && !text->empty()) return std::stoi(*text);
      EXPECT_EQ(connect().ask(probe_request(1)).ready().nonce(), 1U) << "others go on";
    }
  }
  void expect_refused(const std::string& id, const std::string& spec, const std::string& text) {
    v1::Request request = create_request(id, {});
    request.mutable_container_create()->set_spec(spec);
    expect_failure(ask(request), v1::Failure::INVALID, text);
    EXPECT_THAT(traces(), IsEmpty());
  }
  // Its cgroup runs.
  Conversation start_with_freezer(const std::string& id) {
    Conversation running = start(id, "sleep 600");
    std::ofstream(in_cgroup(id + "/cgroup.freeze")) << "0\n";
    std::ofstream(in_cgroup(id + "/cgroup.events")) << "populated 1\nfrozen 0\n";
    return running;
  }
  [[nodiscard]] std::string in_cgroup(const std::string& name) const { return folder() + "/cgroups/pod/" + name; }
};

TEST_F(ContainerFailureTest, HostileSpecsAreRefusedAndNothingIsMade) {
  const std::string good = spec("true").dump();
  expect_refused("a", "", "no JSON object");
  expect_refused("a", "not json", "no JSON object");
  expect_refused("a", "[]", "no JSON object");
  expect_refused("a", "\xff\xfe{}", "no JSON object");
  expect_refused("a", good.substr(0, good.size() / 2), "no JSON object");
  expect_refused("a", "{}", "process is missing");
  expect_refused("a", R"({"process":1})", "process is missing");
  expect_refused("a", R"({"process":{}})", "process.args");
  expect_refused("a", R"({"process":{"args":[]}})", "process.args");
  expect_refused("a", R"({"process":{"args":[1]}})", "process.args");
  expect_refused("a", R"({"process":{"args":["x"],"terminal":"yes"}})", "terminal");
  expect_refused("a", R"({"process":{"args":["x"]},"root":7})", "root");
  expect_refused("a", R"({"process":{"args":["x"]},"linux":[]})", "linux");
  expect_refused("a", R"({"process":{"args":["x"]},"x":)" + std::string(500'000, '[') + "}", "nests deeper");
  for (const std::string id : {"", ".", "..", "a/b", "../a", "a b", "a\n"}) expect_refused(id, good, "container id");
  expect_refused(std::string(129, 'a'), good, "container id");
  expect_refused(std::string("a\0b", 3), good, "container id");
}

TEST_F(ContainerFailureTest, MissingRootFileSystemsAreNamed) {
  v1::Request request = create_request("a", spec("true"));
  request.mutable_container_create()->mutable_rootfs()->set_directory("/no/such/folder");
  expect_failure(ask(request), v1::Failure::NOT_FOUND, "/no/such/folder");
  request.mutable_container_create()->mutable_rootfs()->set_directory("/etc/passwd");
  expect_failure(ask(request), v1::Failure::OTHER, "/etc/passwd");
  request.mutable_container_create()->mutable_rootfs()->set_directory("relative");
  expect_failure(ask(request), v1::Failure::INVALID, "absolute");
  request.mutable_container_create()->mutable_rootfs()->mutable_block()->set_disk(3);
  expect_failure(ask(request), v1::Failure::INVALID, "type");
  request.mutable_container_create()->mutable_rootfs()->mutable_block()->set_type("ext4");
  expect_failure(ask(request), v1::Failure::NOT_FOUND, "granary-block3");
  request.mutable_container_create()->clear_rootfs();
  expect_failure(ask(request), v1::Failure::INVALID, "neither");
  EXPECT_THAT(traces(), IsEmpty());
}

TEST_F(ContainerFailureTest, CrunsWordsAreBoundedAndPrintable) {
  set_behaviour("fail-create");
  const v1::Reply reply = ask(create_request("a", spec("true")));
  expect_failure(reply, v1::Failure::CONTAINER, "crun create: told? to fail");
  set_behaviour("fail-create silent");
  expect_failure(ask(create_request("a", spec("true"))), v1::Failure::CONTAINER, "without a word");
  set_behaviour("no-pid");
  EXPECT_TRUE(ask(create_request("a", spec("true"))).has_failure());
  set_behaviour("");
  Conversation main = start("main", "sleep 600");
  set_behaviour("wordy");
  const Conversation::Outcome outcome = run(exec_in("main", "true"));
  ASSERT_TRUE(outcome.failure);
  EXPECT_LT(outcome.failure->message().size(), 600U);
  set_behaviour("");
  EXPECT_TRUE(remove("main", true).has_done());
  EXPECT_THAT(traces(), IsEmpty());
}

TEST_F(ContainerFailureTest, AStartThatFailsLeavesItToBeDeleted) {
  Conversation conversation = connect();
  ASSERT_TRUE(conversation.ask(create_request("a", spec("true"))).has_container_created());
  set_behaviour("fail-start");
  expect_failure(conversation.ask(start_request()), v1::Failure::CONTAINER, "crun start");
  set_behaviour("");
  EXPECT_TRUE(remove("a", true).has_done());
  EXPECT_EQ(conversation.finish().exited->signal(), SIGKILL);
}

TEST_F(ContainerFailureTest, ADeletionThatFailedIsTriedAgain) {
  Conversation conversation = start("a", "true");
  EXPECT_EQ(conversation.finish().exited->status(), 0);
  set_behaviour("fail-delete");
  expect_failure(remove("a"), v1::Failure::CONTAINER, "crun delete");
  set_behaviour("");
  EXPECT_TRUE(remove("a").has_done());
  EXPECT_THAT(traces(), IsEmpty());
}

TEST_F(ContainerFailureTest, ACreationThatHangsIsGivenUpWithItsConversation) {
  set_behaviour("hang-create");
  Conversation conversation = connect();
  conversation.send(create_request("a", spec("true")));
  const ProcessEnd crun(hanging_crun("a"));
  conversation.hang_up();
  EXPECT_TRUE(crun.await());
  EXPECT_TRUE(remove("a", true).has_done());
  EXPECT_THAT(traces(), IsEmpty());
}

TEST_F(ContainerFailureTest, AStartThatHangsEndsWithTheProcessThatItStarts) {
  Conversation conversation = connect();
  ASSERT_TRUE(conversation.ask(create_request("a", spec("true"))).has_container_created());
  set_behaviour("hang-start");
  conversation.send(start_request());
  const ProcessEnd crun(hanging_crun("a"));
  EXPECT_TRUE(kill("a", SIGKILL).has_done());
  expect_failure(conversation.receive(), v1::Failure::CONTAINER, "crun start: ended by signal 9");
  EXPECT_EQ(conversation.finish().exited->signal(), SIGKILL);
  EXPECT_TRUE(crun.await());
  EXPECT_TRUE(remove("a").has_done());
  EXPECT_THAT(traces(), IsEmpty());
}

TEST_F(ContainerFailureTest, ADeletionEndsAStartThatHangs) {
  Conversation conversation = connect();
  ASSERT_TRUE(conversation.ask(create_request("a", spec("true"))).has_container_created());
  set_behaviour("hang-start");
  conversation.send(start_request());
  const ProcessEnd crun(hanging_crun("a"));
  EXPECT_TRUE(remove("a", true).has_done());
  EXPECT_TRUE(crun.await());
  EXPECT_THAT(traces(), IsEmpty());
}

TEST_F(ContainerFailureTest, OutOfMemoryIsToldOnceAndBeforeTheEnd) {
  v1::Request create = create_request("a", spec("cat"));
  create.mutable_container_create()->set_has_stdin(true);
  Conversation conversation = start(create);
  std::ofstream(in_cgroup("a/memory.events")) << "oom 2\noom_kill 2\n";
  conversation.close_input();
  const Conversation::Outcome outcome = conversation.finish();
  EXPECT_TRUE(outcome.out_of_memory);
  EXPECT_EQ(outcome.exited->status(), 0);
}

TEST_F(ContainerFailureTest, StateIsReadFromTheCgroup) {
  Conversation conversation = start("a", "sleep 600");
  std::ofstream(in_cgroup("a/memory.current")) << "4096\n";
  std::ofstream(in_cgroup("a/memory.stat")) << "anon 1\nfile 2\ninactive_file 3\npgfault 4\npgmajfault 5\n";
  std::ofstream(in_cgroup("a/memory.events")) << "oom_kill 6\n";
  std::ofstream(in_cgroup("a/cpu.stat")) << "usage_usec 7\nuser_usec 8\nsystem_usec 9\nthrottled_usec 10\n";
  std::ofstream(in_cgroup("a/pids.current")) << "1\n";
  std::ofstream(in_cgroup("a/pids.max")) << "11\n";
  std::ofstream(in_cgroup("a/io.stat")) << "254:0 rbytes=100 wbytes=20 rios=1\n254:16 rbytes=3 wbytes=4\n";
  v1::Request query;
  query.mutable_container_query()->set_container_id("a");
  const v1::ContainerState state = ask(query).container_state();
  EXPECT_EQ(state.pids_size(), 1);
  EXPECT_EQ(state.memory_bytes(), 4096U);
  EXPECT_EQ(state.memory_limit_bytes(), 0U);
  EXPECT_EQ(state.memory_anon_bytes(), 1U);
  EXPECT_EQ(state.memory_file_bytes(), 2U);
  EXPECT_EQ(state.memory_inactive_file_bytes(), 3U);
  EXPECT_EQ(state.page_faults(), 4U);
  EXPECT_EQ(state.major_page_faults(), 5U);
  EXPECT_EQ(state.oom_kills(), 6U);
  EXPECT_EQ(state.cpu_usage_us(), 7U);
  EXPECT_EQ(state.cpu_user_us(), 8U);
  EXPECT_EQ(state.cpu_system_us(), 9U);
  EXPECT_EQ(state.cpu_throttled_us(), 10U);
  EXPECT_EQ(state.pids_current(), 1U);
  EXPECT_EQ(state.pids_limit(), 11U);
  EXPECT_EQ(state.block_read_bytes(), 103U);
  EXPECT_EQ(state.block_written_bytes(), 24U);
  v1::Request update;
  update.mutable_container_update()->set_container_id("a");
  update.mutable_container_update()->mutable_limits()->set_memory_bytes(8192);
  update.mutable_container_update()->mutable_limits()->set_cpu_quota_us(50'000);
  EXPECT_TRUE(ask(update).has_done());
  EXPECT_EQ(*read_file(in_cgroup("a/memory.max")), "8192");
  EXPECT_EQ(*read_file(in_cgroup("a/cpu.max")), "50000 100000");
  query.mutable_container_query()->set_container_id("b");
  expect_failure(ask(query), v1::Failure::NOT_FOUND, "b");
}

v1::Request freeze_request(const std::string& id, bool frozen) {
  v1::Request request;
  request.mutable_container_freeze()->set_container_id(id);
  request.mutable_container_freeze()->set_frozen(frozen);
  return request;
}

TEST_F(ContainerFailureTest, FreezingWaitsForTheKernelAndThawingDoesNot) {
  const Conversation running = start_with_freezer("a");
  Conversation freezing = connect();
  freezing.send(freeze_request("a", true));
  while (read_file(in_cgroup("a/cgroup.freeze"))->front() != '1') {
    EXPECT_EQ(connect().ask(probe_request(1)).ready().nonce(), 1U) << "others go on";
  }
  pollfd answer{.fd = freezing.fd(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&answer, 1, 0), 0);
  std::ofstream(in_cgroup("a/cgroup.events")) << "populated 1\nfrozen 1\n";
  EXPECT_TRUE(freezing.receive().has_done());
  EXPECT_TRUE(ask(freeze_request("a", false)).has_done());
  EXPECT_EQ(read_file(in_cgroup("a/cgroup.freeze"))->front(), '0');
  expect_failure(ask(freeze_request("b", true)), v1::Failure::NOT_FOUND, "b");
}

TEST_F(ContainerFailureTest, WhatDoesNotStandStillGoesOn) {
  const Conversation running = start_with_freezer("a");
  expect_failure(ask(freeze_request("a", true)), v1::Failure::OTHER, "freeze cgroup");
  EXPECT_EQ(read_file(in_cgroup("a/cgroup.freeze"))->front(), '0');
}

TEST_F(ContainerFailureTest, APodsFilesLimitsAndSysctls) {
  v1::Request request;
  v1::Pod& pod = *request.mutable_pod();
  pod.set_hosts("hosts");
  pod.set_hostname("name\n");
  pod.set_resolv_conf("resolv");
  pod.mutable_limits()->set_memory_bytes(1 << 20);
  pod.mutable_limits()->set_pids(77);
  pod.add_sysctls()->set_name("net.ipv4.ip_forward");
  pod.mutable_sysctls(0)->set_value("1");
  for (int round = 0; round < 2; ++round) {
    const v1::Reply reply = ask(request);
    EXPECT_TRUE(reply.has_done()) << reply.failure().message();
    EXPECT_EQ(*read_file(folder() + "/run/pod/hosts"), "hosts");
    EXPECT_EQ(*read_file(folder() + "/run/pod/hostname"), "name\n");
    EXPECT_EQ(*read_file(folder() + "/run/pod/resolv.conf"), "resolv");
    EXPECT_EQ(*read_file(folder() + "/cgroups/pod/memory.max"), "1048576");
    EXPECT_THAT(*read_file(folder() + "/cgroups/pod/pids.max"), testing::StartsWith("77"));
    EXPECT_EQ(read_file(folder() + "/sysctls/net/ipv4/ip_forward")->front(), '1');
  }
  pod.mutable_sysctls(0)->set_name("net.ipv4.no_such");
  expect_failure(ask(request), v1::Failure::NOT_FOUND, "sysctl net.ipv4.no_such");
  for (const std::string name : {"", "../x", "a/b", "net..x", ".a"}) {
    pod.mutable_sysctls(0)->set_name(name);
    expect_failure(ask(request), v1::Failure::INVALID, "sysctl");
  }
}

TEST_F(ContainerFailureTest, ThereIsAnUpperBound) {
  std::vector<Conversation> all;
  for (int i = 0; i < 256; ++i) {
    all.push_back(connect());
    ASSERT_TRUE(all.back().ask(create_request("c" + std::to_string(i), spec("true"))).has_container_created());
  }
  expect_failure(ask(create_request("more", spec("true"))), v1::Failure::INVALID, "256");
  EXPECT_TRUE(remove("c7", true).has_done());
  Conversation again = connect();
  EXPECT_TRUE(again.ask(create_request("more", spec("true"))).has_container_created());
}

}  // namespace
}  // namespace granary::guest
