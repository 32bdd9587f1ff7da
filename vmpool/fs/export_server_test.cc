// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/export_server.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <set>

namespace granary::fs {
namespace {

using control::Type;

// The server and what it was asked, driven message by message.
class ExportServerTest : public testing::Test {
 protected:
  ExportServerTest()
      : loop(*EventLoop::create()),
        server(*loop, {.add = [this](const std::string& name, Fd fd, bool read_only) -> Status {
                         EXPECT_TRUE(fd.valid());
                         if (!names.insert(name + (read_only ? " ro" : "")).second) {
                           return Error::from_errno(EEXIST, name);
                         }
                         return ok();
                       },
                       .remove = [this](const std::string& name) -> Status {
                         if (names.erase(name) == 0) return Error::from_errno(ENOENT, name);
                         return ok();
                       }}) {
    client = connect();
  }
  Fd connect() {
    SocketPair pair = *create_message_socket_pair();
    EXPECT_TRUE(server.serve(std::move(pair.second)));
    return std::move(pair.first);
  }
  void run() { ASSERT_TRUE(loop->run_once(0)); }
  // The answer's error, or kDone's absence of one.
  Result<control::Empty> answer() {
    run();
    const control::Message message = GRANARY_TRY(control::receive(client.get(), 0));
    request = message.request;
    return message.as_answer<control::Empty>(Type::kDone);
  }
  template <class Body>
  Result<control::Empty> ask(Type type, const Body& body, size_t fd_count = 0) {
    const Fd here = *open_file("/", O_PATH);
    const std::vector<int> fds(fd_count, here.get());
    EXPECT_TRUE(control::send(client.get(), type, 7, body, fds));
    return answer();
  }
  static control::AddExport add(const char* name, uint32_t read_only = 0) {
    control::AddExport body{};
    control::set_text(body.name, name);
    body.read_only = read_only;
    return body;
  }
  std::unique_ptr<EventLoop> loop;
  std::set<std::string> names;
  ExportServer server;
  Fd client;
  uint32_t request = 0;
};

TEST_F(ExportServerTest, AddsAndRemoves) {
  EXPECT_TRUE(ask(Type::kAddExport, add("a"), 1));
  EXPECT_EQ(request, 7U);
  EXPECT_TRUE(ask(Type::kAddExport, add("b", 1), 1));
  EXPECT_EQ(names, (std::set<std::string>{"a", "b ro"}));
  EXPECT_TRUE(ask(Type::kAddExport, add("a"), 1).error().is_errno(EEXIST));
  control::ExportRef ref{};
  control::set_text(ref.name, "a");
  EXPECT_TRUE(ask(Type::kRemoveExport, ref));
  EXPECT_TRUE(ask(Type::kRemoveExport, ref).error().is_errno(ENOENT));
}

TEST_F(ExportServerTest, GarbageIsAnsweredAndHarmsNobody) {
  EXPECT_TRUE(ask(Type::kAddExport, add("a"), 0).error().is(Errc::kProtocolMalformed));
  EXPECT_TRUE(ask(Type::kAddExport, add("a"), 2).error().is(Errc::kProtocolMalformed));
  EXPECT_TRUE(ask(Type::kAddExport, control::Empty{}, 1).error().is(Errc::kProtocolMalformed));
  EXPECT_TRUE(ask(Type::kAddExport, add("a", 2), 1).error().is(Errc::kInvalidArgument));
  EXPECT_TRUE(ask(Type::kSpawn, control::Empty{}).error().is(Errc::kProtocolMalformed));
  ASSERT_TRUE(send_message(client.get(), std::as_bytes(std::span("noise"))));
  EXPECT_TRUE(answer().error().is(Errc::kProtocolMalformed));
  EXPECT_TRUE(names.empty());
  EXPECT_TRUE(ask(Type::kAddExport, add("a"), 1));
}

TEST_F(ExportServerTest, ANameWithoutAnEndIsCut) {
  control::AddExport body{};
  std::memset(body.name, 'x', sizeof(body.name));
  EXPECT_TRUE(ask(Type::kAddExport, body, 1));
  EXPECT_EQ(names.begin()->size(), sizeof(body.name)) << "too long for the file server, which refuses it";
}

TEST_F(ExportServerTest, ConnectionsComeGoAndAreBounded) {
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
  {
    const Fd other = connect();
    EXPECT_EQ(server.connections(), 2U);
  }
  run();
  EXPECT_EQ(server.connections(), 1U);
  const Fd unused(fds[0]);
  const Fd unused_too(fds[1]);
}

TEST_F(ExportServerTest, WhoReadsNoAnswersIsCutOff) {
  for (int i = 0; i < 100'000 && server.connections() > 0; ++i) {
    if (!control::send(client.get(), Type::kRemoveExport, 1, control::ExportRef{})) break;
    run();
  }
  EXPECT_EQ(server.connections(), 0U);
}

}  // namespace
}  // namespace granary::fs
