// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "vmpool/guest/init/server_fixture.h"

namespace granary::guest {
namespace {

using testing::HasSubstr;

class TerminalTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    identify();
  }
  static v1::Request on_terminal(const std::string& script) {
    v1::Request exec = exec_request({"sh", "-c", script});
    exec.mutable_exec()->set_tty(true);
    exec.mutable_exec()->set_has_stdin(true);
    exec.mutable_exec()->mutable_window_size()->set_rows(33);
    exec.mutable_exec()->mutable_window_size()->set_columns(77);
    return exec;
  }
};

TEST_F(TerminalTest, IsTheControllingOneOfTheGivenSizeAndCarriesErrorsToo) {
  const Conversation::Outcome outcome =
      run(on_terminal("test -t 0 && test -t 1 && test -t 2 && echo all; stty size </dev/tty; echo err >&2; exit 4"));
  EXPECT_EQ(outcome.out, "all\r\n33 77\r\nerr\r\n");
  EXPECT_EQ(outcome.err, "");
  EXPECT_EQ(outcome.exited->status(), 4);
}

TEST_F(TerminalTest, ANewSizeIsToldToTheProcess) {
  Conversation conversation = connect();
  conversation.send(on_terminal("trap 'stty size; exit' WINCH; echo ready; read x"));
  conversation.expect_output("ready");
  v1::Request resize;
  resize.mutable_window_size()->set_rows(50);
  resize.mutable_window_size()->set_columns(120);
  conversation.send(resize);
  EXPECT_THAT(conversation.finish().out, HasSubstr("50 120"));
}

TEST_F(TerminalTest, ControlCharactersWork) {
  Conversation conversation = connect();
  conversation.send(on_terminal("echo ready; exec sleep 600"));
  conversation.expect_output("ready");
  conversation.send_input("\x03");
  EXPECT_EQ(conversation.finish().exited->signal(), SIGINT);
}

TEST_F(TerminalTest, ClosingTheInputTypesEndOfFileAlsoInTheMiddleOfALine) {
  for (const std::string text : {"", "line\n", "half"}) {
    Conversation conversation = connect();
    conversation.send(on_terminal("stty -echo; echo ready; cat"));
    conversation.expect_output("ready");
    if (!text.empty()) conversation.send_input(text);
    conversation.close_input();
    const Conversation::Outcome outcome = conversation.finish();
    EXPECT_EQ(outcome.exited->status(), 0);
    EXPECT_THAT(outcome.out, HasSubstr(text.substr(0, 4)));
  }
}

TEST_F(TerminalTest, AllOutputComesBeforeTheExit) {
  const Conversation::Outcome outcome = run(on_terminal("seq 20000"));
  EXPECT_EQ(outcome.out.substr(outcome.out.size() - 7), "20000\r\n");
  EXPECT_EQ(outcome.out.size(), 128'894U);  // 108 894 digits and line ends, 20 000 carriage returns
}

TEST_F(TerminalTest, ABackgroundProcessDoesNotHoldUpTheExit) {
  const Conversation::Outcome outcome = run(on_terminal("trap '' HUP; sleep 600 & echo $!"));
  EXPECT_EQ(outcome.exited->status(), 0);
  EXPECT_EQ(::kill(std::stoi(outcome.out), SIGKILL), 0);
}

TEST_F(TerminalTest, AClientThatVanishesHangsTheTerminalUp) {
  Conversation conversation = connect();
  const std::string mark = folder() + "/mark";
  conversation.send(on_terminal("trap 'echo hup >" + mark + "; exit' HUP; echo ready $$; read x"));
  conversation.expect_output("\n");
  const ProcessEnd shell(std::stoi(conversation.output().substr(6)));
  conversation.hang_up();
  EXPECT_TRUE(shell.await());
  EXPECT_EQ(*read_file(mark), "hup\n");
}

}  // namespace
}  // namespace granary::guest
