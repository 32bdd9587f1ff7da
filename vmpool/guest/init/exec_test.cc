// SPDX-License-Identifier: Apache-2.0
// Exec through a real server process: what is run, as whom, where, and how its end is told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "vmpool/guest/init/server_fixture.h"

namespace granary::guest {
namespace {

using testing::HasSubstr;

class ExecTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    identify();
  }
  void write_script(const std::string& name, const std::string& text, mode_t mode) {
    std::ofstream(folder() + "/" + name) << text;
    ASSERT_EQ(::chmod((folder() + "/" + name).c_str(), mode), 0);
  }
  void expect_failure(const v1::Request& exec, v1::Failure::Kind kind, const std::string& text) {
    const Conversation::Outcome outcome = run(exec);
    ASSERT_TRUE(outcome.failure) << "it ran: " << outcome.out << outcome.err;
    EXPECT_EQ(outcome.failure->kind(), kind) << outcome.failure->message();
    EXPECT_THAT(outcome.failure->message(), HasSubstr(text));
    EXPECT_FALSE(outcome.pid);
  }
};

TEST_F(ExecTest, SeparatesOutputErrorsAndExitCode) {
  const Conversation::Outcome outcome = shell("echo out; echo err >&2; exit 7");
  EXPECT_EQ(outcome.out, "out\n");
  EXPECT_EQ(outcome.err, "err\n");
  ASSERT_TRUE(outcome.exited);
  EXPECT_EQ(outcome.exited->status(), 7);
  EXPECT_EQ(outcome.exited->signal(), 0);
  EXPECT_TRUE(outcome.pid);
}

TEST_F(ExecTest, ASignalsEndIs128AndItsNumber) {
  const Conversation::Outcome outcome = shell("kill -TERM $$");
  ASSERT_TRUE(outcome.exited);
  EXPECT_EQ(outcome.exited->status(), 128 + SIGTERM);
  EXPECT_EQ(outcome.exited->signal(), SIGTERM);
}

TEST_F(ExecTest, TheConversationEndsAfterTheExit) {
  Conversation conversation = connect();
  conversation.send(exec_request({"true"}));
  EXPECT_EQ(conversation.finish().exited->status(), 0);
  EXPECT_TRUE(conversation.at_end());
}

TEST_F(ExecTest, EnvironmentAndFolderAreExactlyTheGivenOnes) {
  v1::Request exec = exec_request({"/usr/bin/env"});
  exec.mutable_exec()->clear_env();
  exec.mutable_exec()->add_env("A=1 2");
  exec.mutable_exec()->add_env("NOT_UTF8=\xff");
  EXPECT_EQ(run(exec).out, "A=1 2\nNOT_UTF8=\xff\n");
  exec = exec_request({"pwd"});
  EXPECT_EQ(run(exec).out, "/\n");
  exec.mutable_exec()->set_cwd("/usr");
  EXPECT_EQ(run(exec).out, "/usr\n");
}

TEST_F(ExecTest, UserGroupsAndLimitsAreApplied) {
  if (::geteuid() != 0) GTEST_SKIP() << "changing the user needs root";
  v1::Request exec = exec_request({"sh", "-c", "id -u; id -g; id -G; ulimit -n; ulimit -Hn"});
  exec.mutable_exec()->set_uid(1234);
  exec.mutable_exec()->set_gid(2345);
  exec.mutable_exec()->add_groups(3456);
  v1::Rlimit& limit = *exec.mutable_exec()->add_rlimits();
  limit.set_resource(RLIMIT_NOFILE);
  limit.set_soft(99);
  limit.set_hard(100);
  EXPECT_EQ(run(exec).out, "1234\n2345\n2345 3456\n99\n100\n");
}

TEST_F(ExecTest, NothingOfTheServersIsInherited) {
  const Conversation::Outcome outcome =
      shell("ls /proc/self/fd | wc -l; grep -E 'SigBlk|SigIgn' /proc/self/status; ps -o sid= -p $$ | tr -d ' '");
  EXPECT_EQ(outcome.out,
            "4\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n" + std::to_string(*outcome.pid) + "\n");
}

TEST_F(ExecTest, StandardInputIsForwardedAndClosed) {
  Conversation conversation = connect();
  v1::Request exec = exec_request({"cat"});
  exec.mutable_exec()->set_has_stdin(true);
  conversation.send(exec);
  conversation.send_input("one ");
  conversation.send_input("two");
  conversation.close_input();
  const Conversation::Outcome outcome = conversation.finish();
  EXPECT_EQ(outcome.out, "one two");
  EXPECT_EQ(outcome.exited->status(), 0);
}

TEST_F(ExecTest, WithoutStandardInputItIsEmpty) { EXPECT_EQ(run(exec_request({"cat"})).exited->status(), 0); }

TEST_F(ExecTest, InputThatNobodyReadsIsDropped) {
  Conversation conversation = connect();
  v1::Request exec = exec_request({"sh", "-c", "exec <&-; echo closed; sleep 600"});
  exec.mutable_exec()->set_has_stdin(true);
  conversation.send(exec);
  conversation.expect_output("closed");
  for (int i = 0; i < 40; ++i) conversation.send_input(std::string(kDataChunkBytes, 'x'));
  conversation.send_signal(SIGKILL);
  EXPECT_EQ(conversation.finish().exited->signal(), SIGKILL);
}

TEST_F(ExecTest, SignalsReachTheWholeProcessGroup) {
  Conversation conversation = connect();
  v1::Request exec = exec_request({"sh", "-c",
                                   "exec 3<&0; trap 'wait; echo parent; exit 3' USR1;"
                                   "(trap 'echo child; exit' USR1; echo ready; read x <&3) & wait; wait"});
  exec.mutable_exec()->set_has_stdin(true);
  conversation.send(exec);
  conversation.expect_output("ready\n");
  conversation.send_signal(SIGUSR1);
  const Conversation::Outcome outcome = conversation.finish();
  EXPECT_THAT(outcome.out, HasSubstr("child\n"));
  EXPECT_THAT(outcome.out, HasSubstr("parent\n"));
  EXPECT_EQ(outcome.exited->status(), 3);
}

TEST_F(ExecTest, ABackgroundProcessDoesNotHoldUpTheExit) {
  const Conversation::Outcome outcome = shell("sleep 600 & echo $!");
  EXPECT_EQ(outcome.exited->status(), 0);
  const pid_t background = std::stoi(outcome.out);
  EXPECT_EQ(::kill(background, SIGKILL), 0) << "and it goes on running";
}

TEST_F(ExecTest, ABackgroundProcessThatNeverStopsWritingDoesNotEither) {
  // It ends by itself, with its output's reader gone.
  const Conversation::Outcome outcome = shell("yes & head -c 1 /dev/zero >/dev/null");
  EXPECT_EQ(outcome.exited->status(), 0);
}

TEST_F(ExecTest, OrphansAreReaped) {
  const Conversation::Outcome outcome = shell("sh -c 'sh -c \"exit 5\" & echo $!'");
  const std::string orphan = "/proc/" + outcome.out.substr(0, outcome.out.find('\n'));
  // Gone, or a zombie for only as long as the server's loop needs: each further exec makes it turn.
  for (int i = 0; i < 100 && ::access(orphan.c_str(), F_OK) == 0; ++i) (void)run(exec_request({"true"}));
  EXPECT_NE(::access(orphan.c_str(), F_OK), 0);
}

TEST_F(ExecTest, AMissingCommandIsNotFound) {
  expect_failure(exec_request({"no-such-command"}), v1::Failure::NOT_FOUND, "run no-such-command: No such file");
  expect_failure(exec_request({"/no/such/command"}), v1::Failure::NOT_FOUND, "/no/such/command");
}

TEST_F(ExecTest, WhatCannotBeRunIsNotExecutable) {
  write_script("plain", "#!/bin/sh\n", 0644);
  write_script("no-interpreter", "#!/no/such/shell\n", 0755);
  write_script("garbage", "\x01\x02", 0755);
  expect_failure(exec_request({folder() + "/plain"}), v1::Failure::NOT_EXECUTABLE, "Permission denied");
  expect_failure(exec_request({folder()}), v1::Failure::NOT_EXECUTABLE, "Permission denied");
  expect_failure(exec_request({folder() + "/no-interpreter"}), v1::Failure::NOT_EXECUTABLE, "interpreter");
  expect_failure(exec_request({folder() + "/garbage"}), v1::Failure::NOT_EXECUTABLE, "Exec format error");
}

TEST_F(ExecTest, TheSearchGoesOnBehindWhatCannotBeRun) {
  write_script("tool", "#!/bin/sh\n", 0644);
  v1::Request exec = exec_request({"tool"});
  exec.mutable_exec()->set_env(0, "PATH=/nowhere:" + folder());
  expect_failure(exec, v1::Failure::NOT_EXECUTABLE, "Permission denied");
  ASSERT_EQ(::mkdir((folder() + "/bin").c_str(), 0755), 0);
  write_script("bin/tool", "#!/bin/sh\necho found\n", 0755);
  exec.mutable_exec()->set_env(0, "PATH=/nowhere:" + folder() + ":" + folder() + "/bin");
  EXPECT_EQ(run(exec).out, "found\n");
  exec.mutable_exec()->set_env(0, "PATH=");
  exec.mutable_exec()->set_cwd(folder() + "/bin");
  EXPECT_EQ(run(exec).out, "found\n");
}

TEST_F(ExecTest, AMissingFolderIsTheRequestsFault) {
  v1::Request exec = exec_request({"true"});
  exec.mutable_exec()->set_cwd("/no/such/folder");
  expect_failure(exec, v1::Failure::INVALID, "working directory /no/such/folder: No such file");
}

TEST_F(ExecTest, RequestsOutOfBoundsNameTheField) {
  v1::Request exec;
  exec.mutable_exec();
  expect_failure(exec, v1::Failure::INVALID, "argv");
  expect_failure(exec_request({"true", std::string("a\0b", 3)}), v1::Failure::INVALID, "argv holds a NUL");
  exec = exec_request({"true"});
  exec.mutable_exec()->add_env("NOVALUE");
  expect_failure(exec, v1::Failure::INVALID, "NOVALUE");
  exec = exec_request({"true"});
  exec.mutable_exec()->set_uid(0xffffffff);
  expect_failure(exec, v1::Failure::INVALID, "uid");
  exec = exec_request({"true"});
  exec.mutable_exec()->add_groups(0xffffffff);
  expect_failure(exec, v1::Failure::INVALID, "group");
  exec = exec_request({"true"});
  exec.mutable_exec()->add_rlimits()->set_resource(99);
  expect_failure(exec, v1::Failure::INVALID, "rlimit 99");
}

}  // namespace
}  // namespace granary::guest
