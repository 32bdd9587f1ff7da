// SPDX-License-Identifier: Apache-2.0
// The program itself, as other tests use it: granary-init --test-socket.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmpool/guest/init/server_fixture.h"

namespace granary::guest {
namespace {

pid_t start(std::vector<std::string> arguments) {
  std::vector<char*> argv;
  std::string program = GRANARY_INIT_PROGRAM;
  argv.push_back(program.data());
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::execv(argv[0], argv.data());
    ::_exit(99);
  }
  return pid;
}

TEST(GranaryInit, ServesAnotherProcessOnItsTestSocket) {
  std::string folder = testing::TempDir() + "init.XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/socket";
  const pid_t pid = start({"--test-socket", path});
  Result<Fd> socket = connect_when_there(path, pid);
  ASSERT_TRUE(socket) << socket.error().message();
  Conversation conversation(std::move(*socket));
  EXPECT_EQ(conversation.ask(probe_request(9)).ready().nonce(), 9U);
  EXPECT_TRUE(conversation.ask(identity_request()).has_identity_applied());
  conversation.send(exec_request({"echo", "hello"}));
  EXPECT_EQ(conversation.finish().out, "hello\n");
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  ::unlink(path.c_str());
  ::rmdir(folder.c_str());
}

TEST(GranaryInit, OtherwiseSaysWhatItIs) {
  int status = 0;
  ASSERT_GT(::waitpid(start({"--help"}), &status, 0), 0);
  EXPECT_EQ(WEXITSTATUS(status), 2);
  ASSERT_GT(::waitpid(start({"--test-socket", "/no/such/folder/socket"}), &status, 0), 0);
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

}  // namespace
}  // namespace granary::guest
