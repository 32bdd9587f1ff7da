// SPDX-License-Identifier: Apache-2.0
// granaryctl at a terminal: raw mode and back, window sizes, ^C. The VMM is a stand-in, see agent_test.cc.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <utmp.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "tests/integration/agent_bench.h"

namespace granary::integration {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr int kPatienceMs = 60'000;
constexpr char kCtrlC[] = "\x03";
constexpr char kCtrlD[] = "\x04";

// A pseudo-terminal with a shell that runs one command, prints its exit code and stays: when the leader of a session
// ends, the kernel resets the terminal's modes, and nobody could see any more whether the command did.
class Terminal {
 public:
  Terminal() {
    const winsize size{.ws_row = 24, .ws_col = 80, .ws_xpixel = 0, .ws_ypixel = 0};
    int ends[2];
    if (::openpty(&ends[0], &ends[1], nullptr, nullptr, &size) != 0) std::abort();
    for (const int end : ends) ::fcntl(end, F_SETFD, FD_CLOEXEC);
    master_ = Fd(ends[0]);
    slave_ = Fd(ends[1]);
    before_ = modes();
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal() {
    if (shell_ <= 0) return;
    ::kill(shell_, SIGKILL);
    ::waitpid(shell_, nullptr, 0);
  }

  void run(std::vector<std::string> command) {
    // An empty handler, not an ignored signal, which the command would inherit.
    command.insert(command.begin(), {"/bin/sh", "-c", "trap : INT; \"$@\"; echo \"exit $?.\"; read x", "sh"});
    std::vector<char*> words;
    for (std::string& word : command) words.push_back(word.data());
    words.push_back(nullptr);
    shell_ = ::fork();
    if (shell_ != 0) return;
    if (::login_tty(slave_.get()) != 0) ::_exit(99);
    ::execv(words[0], words.data());
    ::_exit(99);
  }
  void type(const std::string& text) const { EXPECT_TRUE(write_all(master_.get(), std::as_bytes(std::span(text)))); }
  void resize(unsigned short rows, unsigned short columns) const {
    const winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    EXPECT_EQ(::ioctl(master_.get(), TIOCSWINSZ, &size), 0);
  }
  // Reads until this has been shown.
  bool wait_for(const std::string& text) {
    while (shown_.find(text) == std::string::npos) {
      pollfd readable{.fd = master_.get(), .events = POLLIN, .revents = 0};
      char buffer[4096];
      const ssize_t n = ::poll(&readable, 1, kPatienceMs) > 0 ? ::read(master_.get(), buffer, sizeof(buffer)) : 0;
      if (n <= 0) return false;
      shown_.append(buffer, static_cast<size_t>(n));
    }
    return true;
  }
  [[nodiscard]] const std::string& shown() const { return shown_; }
  [[nodiscard]] bool is_raw() const {
    const termios now = modes();
    return (now.c_lflag & (ICANON | ECHO | ISIG)) == 0 && (now.c_oflag & OPOST) == 0 &&
           (now.c_iflag & (ICRNL | IXON)) == 0;
  }
  [[nodiscard]] bool is_as_before() const {
    const termios now = modes();
    return now.c_iflag == before_.c_iflag && now.c_oflag == before_.c_oflag && now.c_cflag == before_.c_cflag &&
           now.c_lflag == before_.c_lflag && std::equal(std::begin(now.c_cc), std::end(now.c_cc), before_.c_cc);
  }

 private:
  [[nodiscard]] termios modes() const {
    termios now{};
    EXPECT_EQ(::tcgetattr(slave_.get(), &now), 0);
    return now;
  }

  Fd master_;
  Fd slave_;
  termios before_{};
  pid_t shell_ = -1;
  std::string shown_;
};

class TerminalTest : public testing::Test {
 protected:
  void run(const std::vector<std::string>& arguments) {
    terminal_.run(bench_.ctl_command(arguments));
    ASSERT_TRUE(terminal_.wait_for("started with 24x80")) << terminal_.shown();
  }
  void expect_end(int status) {
    EXPECT_TRUE(terminal_.wait_for("exit " + std::to_string(status) + ".")) << terminal_.shown();
    EXPECT_TRUE(terminal_.is_as_before());
  }
  json running() {
    const json list = json::parse(bench_.ctl({"--output", "json", "ls"}).output);
    for (const json& clone : list["clones"]) {
      if (clone["state"] == "running") return clone;
    }
    ADD_FAILURE() << "no clone is running";
    return {};
  }

  AgentBench bench_;
  std::unique_ptr<Process> agent_ = bench_.start_agent();
  Terminal terminal_;
};

TEST_F(TerminalTest, RawModeWindowSizesAndControlCharacters) {
  ASSERT_NO_FATAL_FAILURE(run({"run", "-i", "-t", "--", "echo"}));
  EXPECT_TRUE(terminal_.is_raw());
  terminal_.type(kCtrlC);
  EXPECT_TRUE(terminal_.wait_for(kCtrlC)) << "^C is a byte for the command";
  terminal_.resize(30, 100);
  EXPECT_TRUE(terminal_.wait_for("resized to 30x100")) << terminal_.shown();
  terminal_.type("\r");
  EXPECT_TRUE(terminal_.wait_for("\r")) << "neither translated nor a line's end";
  EXPECT_EQ(terminal_.shown().find("\n"), std::string::npos) << terminal_.shown();
  EXPECT_EQ(terminal_.shown().find("signal"), std::string::npos) << terminal_.shown();
  terminal_.type(kCtrlD);
  expect_end(7);
}

TEST_F(TerminalTest, AnExecHasItToo) {
  const Outcome taken = bench_.ctl({"acquire", "--owner", "me"});
  ASSERT_EQ(taken.status, 0) << taken.errors;
  ASSERT_NO_FATAL_FAILURE(run({"exec", "-i", "-t", taken.output.substr(0, 36), "--", "echo"}));
  EXPECT_TRUE(terminal_.is_raw());
  terminal_.type(kCtrlD);
  expect_end(7);
}

// Raw mode would swallow ^C: nobody forwards what is typed.
TEST_F(TerminalTest, WithoutInputTheTerminalStaysAndControlCIsASignal) {
  ASSERT_NO_FATAL_FAILURE(run({"run", "-t", "--", "echo"}));
  EXPECT_TRUE(terminal_.is_as_before());
  terminal_.type(kCtrlC);
  EXPECT_TRUE(terminal_.wait_for("signal 2")) << terminal_.shown();
}

TEST_F(TerminalTest, ADeadAgentCostsTheRunAndNotTheTerminal) {
  ASSERT_NO_FATAL_FAILURE(run({"run", "-i", "-t", "--", "echo"}));
  ASSERT_TRUE(terminal_.is_raw());
  agent_->signal(SIGKILL);
  agent_->wait();
  terminal_.type("still here");
  EXPECT_TRUE(terminal_.wait_for("still here")) << "the session needs no agent";
  agent_ = bench_.start_agent();  // ends the clone, whose lease was bound to the old one
  expect_end(125);
}

TEST_F(TerminalTest, ADeadCloneCostsTheRunAndNotTheTerminal) {
  ASSERT_NO_FATAL_FAILURE(run({"run", "-i", "-t", "--", "echo"}));
  ASSERT_TRUE(terminal_.is_raw());
  ASSERT_EQ(::kill(running()["vmm_pid"], SIGKILL), 0);
  expect_end(125);
  EXPECT_THAT(terminal_.shown(), HasSubstr("clone is gone"));
}

TEST_F(TerminalTest, ACommandThatCannotStartLeavesTheTerminalAlone) {
  terminal_.run(bench_.ctl_command({"run", "-i", "-t", "--", "missing"}));
  expect_end(127);
}

TEST_F(TerminalTest, WithoutATerminalItIsOneLineAndCostsNoClone) {
  for (const std::vector<std::string>& flags : {std::vector<std::string>{"-t"}, {"-i", "-t"}}) {
    std::vector<std::string> words = {"run"};
    words.insert(words.end(), flags.begin(), flags.end());
    words.insert(words.end(), {"--", "echo"});
    const Outcome run = bench_.ctl(words);
    EXPECT_EQ(run.status, 125);
    EXPECT_EQ(run.errors, "granaryctl: -t: standard input is no terminal; leave -t out: invalid argument\n");
  }
  const json pool = json::parse(bench_.ctl({"--output", "json", "status"}).output)["pools"][0];
  EXPECT_EQ(pool["reclaimed"], "0");
}

}  // namespace
}  // namespace granary::integration
