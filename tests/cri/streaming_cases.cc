// SPDX-License-Identifier: Apache-2.0
// Exec, attach and port-forward through the runtime's streaming server.
#include <netdb.h>

#include "tests/cri/channel_socket.h"
#include "tests/cri/cri_fixture.h"

namespace granary::cri {
namespace {

using ::testing::HasSubstr;

constexpr int kIn = 0;
constexpr int kOut = 1;
constexpr int kErr = 2;
constexpr int kOutcome = 3;
constexpr int kSize = 4;
constexpr int kData = 0;
constexpr int kDataError = 1;

class StreamingTest : public CriTest {
 protected:
  std::unique_ptr<ChannelSocket> exec_stream(const std::string& container, const std::string& text, bool tty = false) {
    runtime::v1::ExecRequest request;
    request.set_container_id(container);
    for (const std::string& word : {std::string("/bin/busybox"), std::string("sh"), std::string("-c"), text}) {
      request.add_cmd(word);
    }
    request.set_tty(tty);
    request.set_stdin(true);
    request.set_out(true);
    request.set_err(!tty);
    std::string url;
    EXPECT_RPC(cri().exec_url(request, &url));
    return ChannelSocket::open(url);
  }
  std::unique_ptr<ChannelSocket> attach(const std::string& container, bool tty = false) {
    runtime::v1::AttachRequest request;
    request.set_container_id(container);
    request.set_tty(tty);
    request.set_stdin(true);
    request.set_out(true);
    request.set_err(!tty);
    std::string url;
    EXPECT_RPC(cri().attach_url(request, &url));
    return ChannelSocket::open(url);
  }
  std::unique_ptr<ChannelSocket> forward(const std::string& pod, const std::vector<int>& ports) {
    std::string url;
    EXPECT_RPC(cri().forward_url(pod, ports, &url));
    return ChannelSocket::open(url);
  }
  // A container that reads its standard input.
  std::string start_reader(const std::string& pod, const std::string& text, bool tty = false, bool once = false) {
    runtime::v1::ContainerConfig config = script(text);
    config.set_stdin(true);
    config.set_stdin_once(once);
    config.set_tty(tty);
    return start(pod, config);
  }
  // `pieces` of `size` bytes there and back, each awaited: neither side may be filled while nobody reads the other.
  static void expect_echo(ChannelSocket& socket, int to, int from, int pieces, size_t size) {
    size_t expected = socket.received(from).size();
    for (int n = 0; n < pieces; ++n) {
      std::string piece(size, '\0');
      for (size_t i = 0; i < size; ++i) piece[i] = static_cast<char>((i * 2654435761U + static_cast<size_t>(n)) >> 7);
      socket.send(to, piece);
      expected += size;
      ASSERT_TRUE(socket.receive_until([&] { return socket.received(from).size() >= expected; }));
      ASSERT_TRUE(socket.received(from).ends_with(piece)) << "piece " << n;
    }
  }
  static bool localhost_has_v6() {
    addrinfo v6{};
    v6.ai_family = AF_INET6;
    addrinfo* found = nullptr;
    if (::getaddrinfo("localhost", nullptr, &v6, &found) != 0) return false;
    ::freeaddrinfo(found);
    return true;
  }
  // Of a service in the pod; the port that the server tells first is not part of it.
  std::string fetch(const std::string& pod, int port) {
    const auto socket = forward(pod, {port});
    socket->send(kData, "GET / HTTP/1.0\r\n\r\n");
    EXPECT_TRUE(socket->finish());
    return socket->received(kData).substr(std::min<size_t>(2, socket->received(kData).size()));
  }
};

TEST_F(StreamingTest, ExecHasItsStreamsAndItsExitCode) {
  const std::string container = start_idle(run_pod());
  const auto socket = exec_stream(container, "read line; echo out $line; echo err >&2; exit 5");
  socket->send(kIn, "hello\n");
  ASSERT_TRUE(socket->finish());
  EXPECT_EQ(socket->received(kOut), "out hello\n");
  EXPECT_EQ(socket->received(kErr), "err\n");
  EXPECT_THAT(socket->received(kOutcome), HasSubstr("\"ExitCode\",\"message\":\"5\""));
}

TEST_F(StreamingTest, ExecThatSucceedsSaysSo) {
  const auto socket = exec_stream(start_idle(run_pod()), "true");
  ASSERT_TRUE(socket->finish());
  EXPECT_THAT(socket->received(kOutcome), HasSubstr("\"status\":\"Success\""));
}

TEST_F(StreamingTest, ExecOnATerminalIsResizedAndInterrupted) {
  const auto socket =
      exec_stream(start_idle(run_pod()),
                  "until [ \"$(stty size)\" = '23 91' ]; do sleep 0.1; done; echo resized; sleep 100000", true);
  socket->send(kSize, R"({"Width":91,"Height":23})");
  ASSERT_TRUE(socket->receive_until([&] { return socket->received(kOut).find("resized") != std::string::npos; }));
  socket->send(kIn, "\x03");
  ASSERT_TRUE(socket->finish());
  EXPECT_THAT(socket->received(kOutcome), HasSubstr("\"ExitCode\",\"message\":\"130\""));
}

TEST_F(StreamingTest, MuchGoesThroughExecWhole) {
  const auto socket = exec_stream(start_idle(run_pod()), "exec cat");
  expect_echo(*socket, kIn, kOut, 64, 64 * 1024);
  socket->close();
}

TEST_F(StreamingTest, AClientThatVanishesEndsACommandThatReads) {
  const std::string container = start_idle(run_pod());
  const auto socket = exec_stream(container, "echo up; exec cat");
  ASSERT_TRUE(socket->receive_until([&] { return socket->received(kOut) == "up\n"; }));
  const auto cats = [&] { return exec(container, "grep -xc cat /proc/[0-9]*/comm | grep -c ':1$'").output; };
  EXPECT_EQ(cats(), "1\n");
  socket->vanish();
  EXPECT_TRUE(eventually([&] { return cats() == "0\n"; }));
}

TEST_F(StreamingTest, AttachTakesPartInAContainersStreams) {
  const std::string container =
      start_reader(run_pod(), "echo early; while read line; do echo out $line; echo err $line >&2; done");
  EXPECT_TRUE(eventually([&] { return log(container) == "early\n"; }));
  const auto first = attach(container);
  first->send(kIn, "one\n");
  ASSERT_TRUE(first->receive_until(
      [&] { return first->received(kErr) == "err one\n" && first->received(kOut) == "out one\n"; }));
  const auto second = attach(container);
  second->send(kIn, "two\n");
  for (const auto* socket : {&first, &second}) {
    ASSERT_TRUE((*socket)->receive_until([&] { return (*socket)->received(kOut).ends_with("out two\n"); }));
  }
  EXPECT_EQ(second->received(kOut), "out two\n") << "what was said before is not said again";
  EXPECT_TRUE(eventually([&] { return log(container, "stderr") == "err one\nerr two\n"; }));
}

TEST_F(StreamingTest, AContainerOutlivesWhoWasAttached) {
  const std::string container = start_reader(run_pod(), "while read line; do echo $line; done");
  const auto first = attach(container);
  first->send(kIn, "one\n");
  ASSERT_TRUE(first->receive_until([&] { return first->received(kOut) == "one\n"; }));
  first->close();
  const auto second = attach(container);
  second->send(kIn, "two\n");
  ASSERT_TRUE(second->receive_until([&] { return second->received(kOut) == "two\n"; }));
  EXPECT_EQ(status(container).state(), runtime::v1::CONTAINER_RUNNING);
}

TEST_F(StreamingTest, InputThatIsGivenOnceEndsWithItsClient) {
  const std::string container = start_reader(run_pod(), "cat; echo the end", false, true);
  const auto socket = attach(container);
  socket->send(kIn, "abc\n");
  ASSERT_TRUE(socket->receive_until([&] { return socket->received(kOut) == "abc\n"; }));
  socket->close();
  EXPECT_EQ(wait(container).exit_code(), 0);
  EXPECT_EQ(log(container), "abc\nthe end\n");
}

TEST_F(StreamingTest, AttachToATerminalIsResized) {
  const std::string container = start_reader(
      run_pod(), "until [ \"$(stty size)\" = '23 91' ]; do sleep 0.1; done; echo resized; read line; echo got $line",
      true);
  const auto socket = attach(container, true);
  socket->send(kSize, R"({"Width":91,"Height":23})");
  ASSERT_TRUE(socket->receive_until([&] { return socket->received(kOut).find("resized") != std::string::npos; }));
  socket->send(kIn, "word\n");
  ASSERT_TRUE(socket->finish());
  EXPECT_THAT(socket->received(kOut), HasSubstr("got word"));
  EXPECT_EQ(wait(container).exit_code(), 0);
}

TEST_F(StreamingTest, StreamsOfWhatDoesNotRunAreRefused) {
  const std::string container = start(run_pod(), script("exit 0"));
  wait(container);
  runtime::v1::ExecRequest request;
  request.set_container_id(container);
  request.add_cmd("true");
  request.set_out(true);
  std::string url;
  EXPECT_FALSE(cri().exec_url(request, &url).ok());
  EXPECT_FALSE(cri().forward_url("nobody", {80}, &url).ok());
}

TEST_F(StreamingTest, PortForwardReachesAServiceOnLoopback) {
  const std::string pod = run_pod();
  const std::string server = start(pod, script("mkdir /tmp/w; echo hello >/tmp/w/index.html; httpd -p 127.0.0.1:8080 "
                                               "-h /tmp/w; httpd -p 1 -h /tmp/w; echo up; exec sleep 100000"));
  EXPECT_TRUE(eventually([&] { return log(server) == "up\n"; }));
  EXPECT_THAT(fetch(pod, 8080), ::testing::EndsWith("\nhello\n"));
  EXPECT_THAT(fetch(pod, 1), ::testing::EndsWith("\nhello\n")) << "any port, on any address";
}

TEST_F(StreamingTest, PortForwardReachesAServiceOnV6Alone) {
  if (!is_granary() && !localhost_has_v6()) GTEST_SKIP() << "containerd dials \"localhost\", which is not ::1 here";
  const std::string pod = run_pod();
  const std::string server = start(
      pod,
      script("mkdir /tmp/w; echo six >/tmp/w/index.html; httpd -p [::1]:8080 -h /tmp/w && echo up; exec sleep 100000"));
  EXPECT_TRUE(eventually([&] { return log(server) == "up\n"; }));
  EXPECT_THAT(fetch(pod, 8080), ::testing::EndsWith("\nsix\n"));
}

TEST_F(StreamingTest, PortForwardToNobodyFailsAndTheNextOneWorks) {
  const std::string pod = run_pod();
  runtime::v1::PodSandboxStatus status;
  EXPECT_RPC(cri().pod_status(pod, &status));
  const std::string server = start(pod, script("httpd -p " + status.network().ip() +
                                               ":8080 -h /tmp; httpd -p 8081 -h /tmp; echo up; exec sleep 100000"));
  EXPECT_TRUE(eventually([&] { return log(server) == "up\n"; }));
  for (const int nobody : {4321, 8080}) {  // 8080: on the pod's address alone, which is not what is promised
    const auto socket = forward(pod, {nobody});
    ASSERT_TRUE(socket->finish());
    EXPECT_GT(socket->received(kDataError).size(), 2U) << nobody;
  }
  EXPECT_THAT(fetch(pod, 8081), HasSubstr("404"));
}

TEST_F(StreamingTest, SeveralPortsAndConnectionsAreForwardedAtOnce) {
  const std::string pod = run_pod();
  const std::string server =
      start(pod, script("for p in 9001 9002 9003; do nc -ll -p $p -e cat & done; while [ $(netstat -ltn | grep -c "
                        "':900[123] ') != 3 ]; do sleep 0.1; done; echo up; wait"));
  EXPECT_TRUE(eventually([&] { return log(server) == "up\n"; }));
  const auto both = forward(pod, {9001, 9002});
  const auto other = forward(pod, {9003});
  ASSERT_TRUE(both->receive_until([&] { return both->received(0).size() == 2 && both->received(2).size() == 2; }));
  ASSERT_TRUE(other->receive_until([&] { return other->received(0).size() == 2; }));
  expect_echo(*both, 2, 2, 1, 1000);
  expect_echo(*both, 0, 0, 64, 64 * 1024);
  expect_echo(*other, 0, 0, 1, 1000);
  for (const auto* socket : {&both, &other}) (*socket)->close();
}

}  // namespace
}  // namespace granary::cri
