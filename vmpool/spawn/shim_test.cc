// SPDX-License-Identifier: Apache-2.0
#include "vmpool/spawn/spawner_fixture.h"

namespace granary::spawn {
namespace {

class ShimTest : public SpawnerTest {
 protected:
  void start_with_shims() { start(GRANARY_REPORT_VMM, {"--shim", GRANARY_REPORT_SHIM}); }
  Fd listen(const std::string& name) const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, (folder / name).c_str());
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(socket.get(), 4), 0);
    return socket;
  }
  Fd connect_to(const std::string& name) const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, (folder / name).c_str());
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    return socket;
  }
  static control::StartShim request_for(const std::string& sandbox, uint64_t vm) {
    control::StartShim body{};
    control::set_text(body.shim.sandbox_id, sandbox);
    control::set_text(body.clone_id, "clone-1");
    control::set_text(body.agent_socket, "/agent.sock");
    control::set_text(body.events_socket, "/events.sock");
    body.vm_id = vm;
    return body;
  }
  // Its process id; 0: refused.
  pid_t start_shim(const std::string& sandbox, uint64_t vm) {
    const Fd listener = listen(sandbox);
    const int fd = listener.get();
    const auto answer = ask(Type::kStartShim, request_for(sandbox, vm), std::span(&fd, 1));
    const auto record = answer->as_answer<control::ShimRecord>(Type::kStartShim, 1);
    EXPECT_TRUE(record) << record.error().message();
    return record ? record->pid : 0;
  }
  // The parent of a vfork goes on a moment before exec(2) has closed the child's descriptors, and the next connection
  // could be made to the spawner's listening socket that the child still has.
  static void await_exec(pid_t pid) {
    const std::string path = "/proc/" + std::to_string(pid) + "/cmdline";
    for (;;) {
      const Result<std::string> words = read_file(path);
      if (!words || words->starts_with("containerd-shim")) return;
      ::sched_yield();
    }
  }
  static control::ShimRef ref(const std::string& sandbox) {
    control::ShimRef body{};
    control::set_text(body.sandbox_id, sandbox);
    return body;
  }
  control::ShimList list() {
    return *ask(Type::kListShims, control::Empty{})->as_answer<control::ShimList>(Type::kListShims);
  }
  // Past the event that every client gets.
  Result<control::Message> stop_shim(const std::string& sandbox) {
    EXPECT_TRUE(control::send(client.get(), Type::kStopShim, ++request, ref(sandbox)));
    Result<control::Message> message = receive(client);
    while (message && message->type == Type::kShimExited) message = receive(client);
    return message;
  }
};

TEST_F(ShimTest, AShimGetsItsSocketAndItsWords) {
  start_with_shims();
  const Vm vm = spawn();
  ASSERT_GT(start_shim("s1", vm.id), 0);
  const Fd peer = connect_to("s1");
  char report[1024] = {};
  ASSERT_GT(::read(peer.get(), report, sizeof(report) - 1), 0);
  EXPECT_EQ(std::string(report), "containerd-shim-granary-v2 --sandbox s1 --clone clone-1 --guest " +
                                     (folder / "run").string() + "/" + vm.socket_name +
                                     " --agent /agent.sock --events /events.sock own-session ");
}

TEST_F(ShimTest, OneThatForwardsIsToldItsPodsNamespace) {
  start_with_shims();
  const Vm vm = spawn();
  const Fd listener = listen("s1");
  const int fd = listener.get();
  control::StartForwardingShim body{.start = request_for("s1", vm.id), .netns = {}};
  control::set_text(body.netns, "/run/netns/pod");
  ASSERT_TRUE(ask(Type::kStartForwardingShim, body, std::span(&fd, 1))
                  ->as_answer<control::ShimRecord>(Type::kStartForwardingShim, 1));
  const Fd peer = connect_to("s1");
  char report[1024] = {};
  ASSERT_GT(::read(peer.get(), report, sizeof(report) - 1), 0);
  EXPECT_TRUE(std::string_view(report).ends_with(" --events /events.sock --netns /run/netns/pod own-session ")) << report;
}

TEST_F(ShimTest, AShimIsListedFoundAndStopped) {
  start_with_shims();
  const Vm vm = spawn();
  const pid_t pid = start_shim("s1", vm.id);
  EXPECT_EQ(list().count, 1U);
  EXPECT_EQ(list().shims[0].pid, pid);
  EXPECT_EQ(ask(Type::kFindShim, ref("s1"))->as_answer<control::ShimRecord>(Type::kFindShim, 1)->pid, pid);
  EXPECT_TRUE(error_of(ask(Type::kFindShim, ref("s2"))).is_errno(ENOENT));
  EXPECT_EQ(stop_shim("s1")->type, Type::kDone);
  EXPECT_EQ(::kill(pid, 0), -1);
  EXPECT_EQ(list().count, 0U);
  EXPECT_EQ(stop_shim("s1")->type, Type::kDone);
}

TEST_F(ShimTest, WhatOneListHasNoRoomForIsAskedFor) {
  start_with_shims();
  const Vm vm = spawn();
  for (const std::string name : {"b", "a", "c"}) ASSERT_GT(start_shim(name, vm.id), 0);
  const auto after = [&](const std::string& id) {
    return *ask(Type::kListShimsAfter, ref(id))->as_answer<control::ShimList>(Type::kListShimsAfter);
  };
  EXPECT_EQ(after("").count, 3U);
  ASSERT_EQ(after("a").count, 2U);
  EXPECT_EQ(control::text_of(after("a").shims[0].shim.sandbox_id), "b");
  EXPECT_EQ(after("c").count, 0U);
  for (const std::string name : {"a", "b", "c"}) EXPECT_EQ(stop_shim(name)->type, Type::kDone);
}

TEST_F(ShimTest, AnEndIsToldAndLeavesNothing) {
  start_with_shims();
  const Vm vm = spawn();
  const size_t descriptors = descriptors_of_spawner();
  const pid_t pid = start_shim("s1", vm.id);
  ::kill(pid, SIGKILL);
  const auto event = receive(client);
  ASSERT_TRUE(event);
  ASSERT_EQ(event->type, Type::kShimExited);
  EXPECT_EQ(event->as<control::ShimRecord>()->pid, pid);
  EXPECT_EQ(control::text_of(event->as<control::ShimRecord>()->shim.sandbox_id), "s1");
  EXPECT_EQ(descriptors_of_spawner(), descriptors);
}

TEST_F(ShimTest, WrongRequestsStartNothing) {
  start_with_shims();
  const Vm vm = spawn();
  const Fd listener = listen("x");
  const int fd = listener.get();
  const auto refused = [&](const std::string& sandbox, uint64_t of_vm) {
    return error_of(ask(Type::kStartShim, request_for(sandbox, of_vm), std::span(&fd, 1)));
  };
  EXPECT_TRUE(refused("", vm.id).is(Errc::kInvalidArgument));
  EXPECT_TRUE(refused("../x", vm.id).is(Errc::kInvalidArgument));
  EXPECT_TRUE(refused("s1", 99).is(Errc::kCloneUnknown));
  EXPECT_TRUE(error_of(ask(Type::kStartShim, request_for("s1", vm.id))).is(Errc::kProtocolMalformed));
  ASSERT_GT(start_shim("s1", vm.id), 0);
  EXPECT_TRUE(refused("s1", vm.id).is_errno(EEXIST));
  EXPECT_EQ(list().count, 1U);
}

TEST_F(ShimTest, WithoutAProgramThereAreNone) {
  start();
  const Vm vm = spawn();
  const Fd listener = listen("x");
  const int fd = listener.get();
  EXPECT_TRUE(error_of(ask(Type::kStartShim, request_for("s1", vm.id), std::span(&fd, 1))).is(Errc::kNotSupported));
}

TEST_F(ShimTest, AShimOutlivesItsSpawnerAndIsTakenByTheNext) {
  start_with_shims();
  const Vm vm = spawn();
  const Fd listener = listen("s1");
  const int fd = listener.get();
  auto answer = ask(Type::kStartShim, request_for("s1", vm.id), std::span(&fd, 1));
  const auto record = *answer->as_answer<control::ShimRecord>(Type::kStartShim, 1);
  await_exec(record.pid);
  stop(SIGKILL);
  EXPECT_EQ(::kill(record.pid, 0), 0);
  start_with_shims();
  const int pidfd = answer->fds[0].get();
  EXPECT_EQ(ask(Type::kTakeShim, record, std::span(&pidfd, 1))->type, Type::kDone);
  EXPECT_TRUE(error_of(ask(Type::kTakeShim, record, std::span(&pidfd, 1))).is_errno(EEXIST));
  EXPECT_EQ(stop_shim("s1")->type, Type::kDone);
  EXPECT_EQ(list().count, 0U);
  pollfd ended{.fd = pidfd, .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&ended, 1, kPatienceMs), 1);
}

}  // namespace
}  // namespace granary::spawn
