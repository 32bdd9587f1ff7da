// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/runtime_command.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <thread>

#include "agent/shim/loop_fixture.h"
#include "agent/shim/own_names.h"
#include "agent/shim/rpc_status.h"
#include "agent/shim/ttrpc_client.h"
#include "agent/shim/ttrpc_server.h"
#include "containerd/shim.pb.h"
#include "containerd/task.pb.h"
#include "containerd/ttrpc.pb.h"

namespace granary::shim {
namespace {

using ::testing::HasSubstr;
using Verb = RuntimeCommand::Verb;

std::string refusal(const std::vector<std::string>& words) {
  const auto command = parse_runtime_command(words);
  return command ? "accepted" : command.error().message();
}

TEST(RuntimeCommandTest, WhatContainerdCallsIsUnderstood) {
  ::setenv("TTRPC_ADDRESS", "/run/containerd/containerd.sock.ttrpc", 1);
  const auto start = parse_runtime_command({"-namespace", "k8s.io", "-address", "/run/c.sock", "-publish-binary", "/usr/bin/containerd",
                                            "-id", "c1", "-debug", "start"});
  ASSERT_TRUE(start) << start.error().message();
  EXPECT_EQ(start->verb, Verb::kStart);
  EXPECT_EQ(start->id, "c1");
  EXPECT_EQ(start->containerd_namespace, "k8s.io");
  EXPECT_EQ(start->events_socket, "/run/containerd/containerd.sock.ttrpc");
  EXPECT_EQ(start->run_dir, "/run/granary");
  EXPECT_TRUE(start->bundle.starts_with('/'));  // the working directory
  ::unsetenv("TTRPC_ADDRESS");
  // CRI-O: an empty address and binary, and no environment.
  const auto crio = parse_runtime_command({"--namespace=default", "-address", "", "-publish-binary", "", "-id", "start", "-bundle",
                                           "/b", "delete"});
  ASSERT_TRUE(crio) << crio.error().message();
  EXPECT_EQ(crio->verb, Verb::kDelete);
  EXPECT_EQ(crio->id, "start");
  EXPECT_EQ(crio->bundle, "/b");
  EXPECT_EQ(crio->events_socket, "");
  EXPECT_EQ(parse_runtime_command({"-info"})->verb, Verb::kInfo);
  EXPECT_EQ(parse_runtime_command({"-v"})->verb, Verb::kVersion);
}

TEST(RuntimeCommandTest, HostileArgumentsAreRefused) {
  EXPECT_THAT(refusal({}), HasSubstr("neither start nor delete"));
  EXPECT_THAT(refusal({"-namespace", "n", "-id", "c1"}), HasSubstr("neither start nor delete"));
  EXPECT_THAT(refusal({"-namespace", "n", "start"}), HasSubstr("-id \"\""));
  EXPECT_THAT(refusal({"-namespace", "n", "-id", "../../etc", "start"}), HasSubstr("\"../../etc\""));
  EXPECT_THAT(refusal({"-namespace", "n", "-id", std::string(129, 'a'), "start"}), HasSubstr("1 to 128 of"));
  EXPECT_THAT(refusal({"-id", "c1", "start"}), HasSubstr("-namespace is missing"));
  EXPECT_THAT(refusal({"-namespace", "n", "-id", "c1", "-bundle", "b", "start"}), HasSubstr("-bundle \"b\" is not absolute"));
  EXPECT_THAT(refusal({"-id"}), HasSubstr("-id has no value"));
  EXPECT_THAT(refusal({"-namespace", "n", "-id", "c1", "start", "delete"}), HasSubstr("\"delete\" is not known"));
  EXPECT_THAT(refusal({"-unknown", "start"}), HasSubstr("\"-unknown\" is not known"));
  EXPECT_THAT(refusal({"frobnicate"}), HasSubstr("\"frobnicate\" is not known"));
}

std::string options(const std::string& type, const std::string& path) {
  containerd::shim::RuntimeOptions values;
  values.set_config_path(path);
  ::ttrpc::Any any;
  any.set_type_url(type);
  any.set_value(values.SerializeAsString());
  return any.SerializeAsString();
}

TEST(RuntimeCommandTest, OptionsNameTheRunDirectory) {
  EXPECT_EQ(*read_runtime_options(""), "");
  EXPECT_EQ(*read_runtime_options(options("runtimeoptions.v1.Options", "")), "");
  EXPECT_EQ(*read_runtime_options(options("cri.runtimeoptions.v1.Options", "/run/g2")), "/run/g2");
  EXPECT_THAT(read_runtime_options(options("runtimeoptions.v1.Options", "g2")).error().message(), HasSubstr("not absolute"));
  EXPECT_THAT(read_runtime_options(options("containerd.runc.v1.Options", "")).error().message(),
              HasSubstr("containerd.runc.v1.Options"));
  EXPECT_FALSE(read_runtime_options("\xff"));
}

TEST(RuntimeCommandTest, InfoNamesTheRuntime) {
  containerd::shim::RuntimeInfo info;
  ASSERT_TRUE(info.ParseFromString(runtime_info()));
  EXPECT_EQ(info.name(), "io.containerd.granary.v2");
  EXPECT_EQ(info.version().version(), GRANARY_VERSION);
}

// start and delete in a run directory of their own.
class RuntimeStartTest : public LoopTest {
 protected:
  RuntimeStartTest() {
    run_dir_ = directory_ + "/run";
    std::filesystem::create_directory(run_dir_);
    write_bundle("s1", "sandbox");
    write_bundle("c1", "container");
  }
  void write_bundle(const std::string& id, const std::string& type) {
    std::filesystem::create_directory(directory_ + "/" + id);
    std::ofstream(directory_ + "/" + id + "/config.json")
        << R"({"annotations":{"io.kubernetes.cri.container-type":")" << type << R"(","io.kubernetes.cri.sandbox-id":"s1"},)"
        << R"("linux":{"namespaces":[{"type":"pid"},{"type":"ipc"},{"type":"network"}]}})";
  }
  [[nodiscard]] RuntimeCommand command(const std::string& id) const {
    RuntimeCommand command;
    command.id = id;
    command.containerd_namespace = "k8s.io";
    command.bundle = directory_ + "/" + id;
    command.run_dir = run_dir_;
    return command;
  }
  [[nodiscard]] std::string socket() const { return own_shim_socket(run_dir_, "s1"); }
  std::string address_file(const std::string& id) {
    const auto text = read_file(directory_ + "/" + id + "/address");
    return text ? *text : text.error().message();
  }
  // Of the process that listens at socket(); -1: nobody does.
  pid_t shim_pid() {
    const auto peer = ttrpc::connect_unix(socket());
    if (!peer) return -1;
    ucred owner{};
    socklen_t size = sizeof(owner);
    EXPECT_EQ(::getsockopt(peer->get(), SOL_SOCKET, SO_PEERCRED, &owner, &size), 0);
    return owner.pid;
  }
  // The shim's method, once its process is there.
  Result<std::string> call(const std::string& method, const std::string& payload) {
    ttrpc::Client client(*loop_, socket());
    std::optional<Result<std::string>> result;
    client.call("containerd.task.v2.Task", method, payload, std::chrono::seconds(20),
                [&](Result<std::string> answer) { result.emplace(std::move(answer)); });
    EXPECT_TRUE(run_until([&] { return result.has_value(); }));
    return result ? *result : Error(Errc::kDeadlineExceeded, method);
  }
  static bool ends(pid_t pid) {
    const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    pollfd wait{.fd = process.get(), .events = POLLIN, .revents = 0};
    return !process.valid() || ::poll(&wait, 1, 20'000) == 1;
  }

  std::string run_dir_;
};

TEST_F(RuntimeStartTest, AStaleSocketIsReplacedAndADoubleStartFindsTheShim) {
  std::filesystem::create_directory(own_shims_folder(run_dir_));
  { const Fd stale = *ttrpc::listen_unix(socket()); }
  const auto first = start_shim(command("s1"), GRANARY_SHIM_PROGRAM);
  ASSERT_TRUE(first) << first.error().message();
  EXPECT_EQ(*first, "unix://" + socket());
  EXPECT_EQ(address_file("s1"), *first);
  ASSERT_TRUE(call("Connect", ""));  // it serves, so it has listened again: its pid is to be had
  const pid_t pid = shim_pid();
  EXPECT_EQ(*start_shim(command("s1"), "/not/started"), *first);
  EXPECT_EQ(*start_shim(command("c1"), "/not/started"), *first);
  EXPECT_EQ(address_file("c1"), *first);
  EXPECT_EQ(shim_pid(), pid);

  containerd::task::v3::CreateTaskRequest create;
  create.set_id("s1");
  create.set_bundle(directory_ + "/s1");
  const auto created = call("Create", create.SerializeAsString());
  ASSERT_FALSE(created);
  EXPECT_THAT(created.error().message(), HasSubstr("does granaryd run?"));
  EXPECT_TRUE(call("Shutdown", ""));
  EXPECT_TRUE(ends(pid));
  EXPECT_FALSE(std::filesystem::exists(socket()));
}

TEST_F(RuntimeStartTest, WhatCannotStartLeavesNothing) {
  const auto alone = start_shim(command("c1"), GRANARY_SHIM_PROGRAM);
  ASSERT_FALSE(alone);
  EXPECT_EQ(to_rpc(alone.error()).code, Rpc::kFailedPrecondition);
  EXPECT_THAT(alone.error().message(), HasSubstr("sandbox s1 has no shim"));
  EXPECT_FALSE(start_shim(command("s1"), "/not/there"));
  EXPECT_FALSE(std::filesystem::exists(socket()));
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/s1/address"));
  EXPECT_FALSE(start_shim(command("vanished"), GRANARY_SHIM_PROGRAM));
  run_dir_ = directory_ + "/nowhere";
  const auto no_agent = start_shim(command("s1"), GRANARY_SHIM_PROGRAM);
  ASSERT_FALSE(no_agent);
  EXPECT_THAT(no_agent.error().message(), HasSubstr("granaryd has not run here"));
  run_dir_ = directory_ + "/" + std::string(80, 'x');
  std::filesystem::create_directory(run_dir_);
  EXPECT_THAT(start_shim(command("s1"), GRANARY_SHIM_PROGRAM).error().message(), HasSubstr("socket path of"));
}

TEST_F(RuntimeStartTest, DeleteTakesAwayWhatIsLeft) {
  std::vector<std::string> released;
  const auto agent = *ttrpc::Server::create(*loop_, *ttrpc::listen_unix(agent_socket_in(run_dir_)),
                                            [&](const ttrpc::Call& call, const ttrpc::Answer& answer) {
                                              released.push_back(call.method);
                                              answer(std::string());
                                            });
  ASSERT_TRUE(start_shim(command("s1"), GRANARY_SHIM_PROGRAM));
  ASSERT_TRUE(call("Connect", ""));
  const pid_t pid = shim_pid();
  RuntimeCommand deleting = command("s1");
  deleting.run_dir = "/other";  // delete is given no options: the address tells
  std::string answer;
  std::thread other([&] { answer = delete_leftovers(deleting); });
  EXPECT_TRUE(run_until([&] { return released.size() == 1; }));
  other.join();
  containerd::task::v3::DeleteResponse response;
  ASSERT_TRUE(response.ParseFromString(answer));
  EXPECT_EQ(response.exit_status(), 137U);
  EXPECT_GT(response.exited_at().seconds(), 0);
  EXPECT_TRUE(ends(pid));
  EXPECT_FALSE(std::filesystem::exists(socket()));
}

TEST_F(RuntimeStartTest, DeleteOfNothingIsFineAndRepeatable) {
  for (const char* id : {"s1", "c1", "vanished"}) {
    containerd::task::v3::DeleteResponse response;
    ASSERT_TRUE(response.ParseFromString(delete_leftovers(command(id)))) << id;
    EXPECT_EQ(response.exit_status(), 137U);
  }
}

TEST_F(RuntimeStartTest, DeleteOfAContainerUnmountsItsRootAndLeavesTheShim) {
  const std::string root = directory_ + "/c1/rootfs";
  std::filesystem::create_directory(root);
  if (::mount("none", root.c_str(), "tmpfs", 0, nullptr) != 0) GTEST_SKIP() << "mounting needs root";
  ASSERT_TRUE(start_shim(command("s1"), GRANARY_SHIM_PROGRAM));
  ASSERT_TRUE(call("Connect", ""));
  const pid_t pid = shim_pid();
  (void)delete_leftovers(command("c1"));
  struct stat above {};
  struct stat inside {};
  ::stat((directory_ + "/c1").c_str(), &above);
  ::stat(root.c_str(), &inside);
  EXPECT_EQ(above.st_dev, inside.st_dev);
  EXPECT_EQ(shim_pid(), pid);
  EXPECT_TRUE(call("Shutdown", ""));
  EXPECT_TRUE(ends(pid));
}

}  // namespace
}  // namespace granary::shim
