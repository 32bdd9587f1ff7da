// SPDX-License-Identifier: Apache-2.0
// Containers through a real server process and the real crun, in mounts and cgroups of their own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>

#include "vmpool/guest/init/container_fixture.h"

namespace granary::guest {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

class ContainerTest : public ContainerServerTest {
 protected:
  [[nodiscard]] std::string runtime() const override {
    return ::access("/usr/bin/crun", X_OK) == 0 ? "/usr/bin/crun" : "";
  }
};

TEST_F(ContainerTest, RunsToItsEndAndIsDeleted) {
  Conversation conversation =
      start("one", "echo out; echo err >&2; hostname; cd /tmp && echo x >f || echo read-only; exit 7");
  const Conversation::Outcome outcome = conversation.finish();
  EXPECT_EQ(outcome.out, "out\ninside\nread-only\n");
  EXPECT_THAT(outcome.err, HasSubstr("err\n"));
  ASSERT_TRUE(outcome.exited);
  EXPECT_EQ(outcome.exited->status(), 7);
  EXPECT_EQ(outcome.exited->signal(), 0);
  EXPECT_TRUE(conversation.at_end());
  EXPECT_TRUE(remove("one").has_done());
  EXPECT_THAT(traces(), IsEmpty());
  expect_failure(remove("one"), v1::Failure::NOT_FOUND, "one");
  EXPECT_TRUE(remove("one", true).has_done());
}

TEST_F(ContainerTest, StandardInputIsForwardedAndClosed) {
  v1::Request create = create_request("in", spec("cat; echo end"));
  create.mutable_container_create()->set_has_stdin(true);
  Conversation conversation = start(create);
  conversation.send_input("one ");
  conversation.send_input("two ");
  conversation.close_input();
  EXPECT_EQ(conversation.finish().out, "one two end\n");
}

TEST_F(ContainerTest, AMegabyteOfOutputIsWhole) {
  EXPECT_EQ(start("big", "seq 200000").finish().out.size(), 1'288'895U);
}

TEST_F(ContainerTest, ATerminalIsTheControllingOneOfTheGivenSize) {
  v1::Request create =
      create_request("tty", spec("test -t 0 && test -t 2 && echo all; stty size; read x; stty size; exit 4", true));
  create.mutable_container_create()->mutable_window_size()->set_rows(33);
  create.mutable_container_create()->mutable_window_size()->set_columns(77);
  Conversation conversation = start(create);
  conversation.expect_output("33 77");
  v1::Request resize;
  resize.mutable_window_size()->set_rows(50);
  resize.mutable_window_size()->set_columns(120);
  conversation.send(resize);
  conversation.send_input("go\n");
  const Conversation::Outcome outcome = conversation.finish();
  EXPECT_THAT(outcome.out, testing::StartsWith("all\r\n33 77\r\n"));
  EXPECT_THAT(outcome.out, HasSubstr("50 120"));
  EXPECT_EQ(outcome.exited->status(), 4);
}

TEST_F(ContainerTest, ExecRunsInItAndItsExitCodeIsReal) {
  Conversation conversation = start("main", "echo ready; sleep 600");
  conversation.expect_output("ready");
  const Conversation::Outcome outcome = run(exec_in("main", "hostname; echo err >&2; exit 5"));
  EXPECT_EQ(outcome.out, "inside\n");
  EXPECT_EQ(outcome.err, "err\n");
  ASSERT_TRUE(outcome.exited) << outcome.failure->message();
  EXPECT_EQ(outcome.exited->status(), 5);
  EXPECT_EQ(run(exec_in("main", "kill -9 $$")).exited->signal(), SIGKILL);
  const Conversation::Outcome terminal = run(exec_in("main", "test -t 1 && echo tty", true));
  EXPECT_EQ(terminal.out, "tty\r\n");
  Conversation input = connect();
  v1::Request cat = exec_in("main", "cat");
  cat.mutable_exec()->set_has_stdin(true);
  input.send(cat);
  input.send_input("through");
  input.close_input();
  EXPECT_EQ(input.finish().out, "through");
}

TEST_F(ContainerTest, ManyExecsThatEndAtOnceAllHaveTheirExitCodes) {
  Conversation conversation = start("main", "echo ready; sleep 600");
  conversation.expect_output("ready");
  std::vector<Conversation> all;
  for (int i = 0; i < 30; ++i) {
    all.push_back(connect());
    all.back().send(exec_in("main", "exit " + std::to_string(i)));
  }
  for (int i = 0; i < 30; ++i) {
    const Conversation::Outcome outcome = all[static_cast<size_t>(i)].finish();
    ASSERT_TRUE(outcome.exited) << outcome.failure->message();
    EXPECT_EQ(outcome.exited->status(), i);
  }
}

TEST_F(ContainerTest, WhatCannotBeRunIsToldInCrunsWordsAndLeavesNothing) {
  nlohmann::json bad = spec("true");
  bad["process"]["args"] = {"/no/such/program"};
  Conversation conversation = connect();
  expect_failure(conversation.ask(create_request("bad", bad)), v1::Failure::CONTAINER, "/no/such/program");
  EXPECT_TRUE(conversation.at_end());
  EXPECT_THAT(traces(), IsEmpty());
  Conversation main = start("bad", "echo ready; sleep 600");
  main.expect_output("ready");
  v1::Request exec = exec_in("bad", "");
  exec.mutable_exec()->set_process(R"({"args":["nothing"],"cwd":"/","env":["PATH=/bin"]})");
  const Conversation::Outcome outcome = run(exec);
  ASSERT_TRUE(outcome.failure);
  EXPECT_EQ(outcome.failure->kind(), v1::Failure::CONTAINER);
  EXPECT_THAT(outcome.failure->message(), HasSubstr("nothing"));
}

TEST_F(ContainerTest, OneOrAllProcessesAreKilled) {
  Conversation conversation = start("k", "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.1; done");
  conversation.expect_output("ready");
  EXPECT_TRUE(kill("k", SIGTERM).has_done());
  EXPECT_EQ(conversation.finish().exited->status(), 3);
  expect_failure(kill("k", SIGTERM), v1::Failure::NOT_FOUND, "has ended");
  expect_failure(kill("k", 4711), v1::Failure::INVALID, "4711");
  Conversation two = start("two", "sleep 600 & echo ready; wait");
  two.expect_output("ready");
  EXPECT_TRUE(kill("two", SIGKILL, true).has_done());
  EXPECT_EQ(two.finish().exited->signal(), SIGKILL);
  expect_failure(kill("three", SIGKILL), v1::Failure::NOT_FOUND, "three");
}

TEST_F(ContainerTest, ACommandInAContainerIsSignalled) {
  Conversation container = start("main", "echo ready; sleep 600");
  container.expect_output("ready");
  Conversation command = connect();
  command.send(exec_in("main", "echo there; exec sleep 600"));
  command.expect_output("there");
  v1::Request kill_it;
  kill_it.set_signal(SIGKILL);
  command.send(kill_it);
  EXPECT_EQ(command.finish().exited->signal(), SIGKILL);
}

TEST_F(ContainerTest, RequestsOutOfOrderAreRefused) {
  expect_failure(ask(start_request()), v1::Failure::INVALID, "without");
  Conversation conversation = connect();
  EXPECT_TRUE(conversation.ask(create_request("o", spec("sleep 600"))).has_container_created());
  expect_failure(ask(create_request("o", spec("true"))), v1::Failure::EXISTS, "o");
  expect_failure(conversation.ask(create_request("p", spec("true"))), v1::Failure::INVALID, "second");
  EXPECT_EQ(run(exec_in("o", "true")).failure->kind(), v1::Failure::INVALID);
  EXPECT_EQ(run(exec_in("none", "true")).failure->kind(), v1::Failure::NOT_FOUND);
  EXPECT_TRUE(conversation.ask(start_request()).has_started());
  expect_failure(conversation.ask(start_request()), v1::Failure::INVALID, "started already");
  expect_failure(remove("o"), v1::Failure::INVALID, "force");
  EXPECT_TRUE(remove("o", true).has_done());
  EXPECT_EQ(conversation.finish().exited->signal(), SIGKILL);
  EXPECT_THAT(traces(), IsEmpty());
}

TEST_F(ContainerTest, AKillBeforeTheStartEndsIt) {
  Conversation conversation = connect();
  EXPECT_TRUE(conversation.ask(create_request("early", spec("echo never"))).has_container_created());
  EXPECT_TRUE(kill("early", SIGKILL).has_done());
  const Conversation::Outcome outcome = conversation.finish();
  EXPECT_EQ(outcome.exited->signal(), SIGKILL);
  EXPECT_EQ(outcome.out, "");
  EXPECT_TRUE(remove("early").has_done());
}

TEST_F(ContainerTest, AConversationThatVanishesTakesTheContainerWithIt) {
  Conversation conversation = start("gone", "sleep 600 & echo ready; sleep 600");
  conversation.expect_output("ready");
  v1::Request query;
  query.mutable_container_query()->set_container_id("gone");
  const v1::Reply state = ask(query);
  ASSERT_EQ(state.container_state().pids_size(), 2);
  const ProcessEnd first(state.container_state().pids(0));
  const ProcessEnd last(state.container_state().pids(1));
  conversation.hang_up();
  EXPECT_TRUE(first.await());
  EXPECT_TRUE(last.await());
  EXPECT_TRUE(remove("gone", true).has_done());
  EXPECT_THAT(traces(), IsEmpty());
}

}  // namespace
}  // namespace granary::guest
