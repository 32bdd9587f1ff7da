// SPDX-License-Identifier: Apache-2.0
#include <sys/socket.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "agent/shim/task_fixture.h"
#include "containerd/metrics.pb.h"

namespace granary::shim {
namespace {

using namespace containerd::task::v3;  // NOLINT: the messages under test
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <class Message>
Message parsed(const Result<std::string>& result) {
  Message message;
  EXPECT_TRUE(result) << result.error().message();
  if (result) {
    EXPECT_TRUE(message.ParseFromString(*result));
  }
  return message;
}

TEST_F(TaskTest, AContainerLivesAndIsDeleted) {
  EXPECT_GT(parsed<CreateTaskResponse>(call("Create", create_request("c1"))).pid(), 0U);
  EXPECT_EQ(parsed<StateResponse>(ask<StateRequest>("State", "c1")).status(), CREATED);
  EXPECT_GT(parsed<StartResponse>(ask<StartRequest>("Start", "c1")).pid(), 0U);
  EXPECT_EQ(parsed<StateResponse>(ask<StateRequest>("State", "c1")).status(), RUNNING);
  EXPECT_EQ(parsed<PidsResponse>(ask<PidsRequest>("Pids", "c1")).processes_size(), 1);
  guest_->exit("c1", 3);
  EXPECT_EQ(parsed<WaitResponse>(ask<WaitRequest>("Wait", "c1")).exit_status(), 3U);
  const auto state = parsed<StateResponse>(ask<StateRequest>("State", "c1"));
  EXPECT_EQ(state.status(), STOPPED);
  EXPECT_GT(state.exited_at().seconds(), 0);
  EXPECT_EQ(parsed<DeleteResponse>(ask<DeleteRequest>("Delete", "c1")).exit_status(), 3U);
  EXPECT_EQ(code_of(ask<StateRequest>("State", "c1")), Rpc::kNotFound);
  ASSERT_TRUE(run_until([&] { return events_.size() == 4 && detached_.size() == 1; }));
  EXPECT_THAT(topics(), ElementsAre("/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"));
  EXPECT_EQ(events_[0].namespace_(), "k8s.io");
  EXPECT_EQ(events_[2].event().type_url(), "containerd.events.TaskExit");
  EXPECT_THAT(detached_, ElementsAre(0U));
}

TEST_F(TaskTest, TheGuestGetsTheSpecAndTheDisk) {
  create_and_start("c1");
  const auto& create = guest_->requests.at(0).container_create();
  EXPECT_EQ(create.container_id(), "c1");
  EXPECT_THAT(create.spec(), HasSubstr("/pod/c1"));
  EXPECT_EQ(create.rootfs().block().disk(), 0U);
  EXPECT_EQ(create.rootfs().block().type(), "ext4");
  EXPECT_TRUE(create.rootfs().block().options().empty());
  EXPECT_FALSE(create.has_stdin());
}

TEST_F(TaskTest, ARootThatTheRuntimeHasMountedIsShared) {
  std::ofstream(directory_ + "/config.json")
      << R"({"process":{"args":["sh"],"cwd":"/"},"linux":{},"root":{"path":")" << directory_ << R"("}})";
  CreateTaskRequest request = create_request("c1");
  request.clear_rootfs();
  const auto created = call("Create", request);
  ASSERT_FALSE(created);  // this guest has no file server, and that is asked
  EXPECT_THAT(created.error().message(), HasSubstr(directory_ + ": the pod's microVM has no file server"));
}

TEST_F(TaskTest, WaitIsALongPollForAnyNumber) {
  create_and_start("c1");
  std::vector<uint32_t> statuses;
  WaitRequest request;
  request.set_id("c1");
  for (int i = 0; i < 3; ++i) {
    service_->handle(
        {.service = "containerd.task.v3.Task",
         .method = "Wait",
         .payload = request.SerializeAsString(),
         .metadata = {},
         .take_fd = {}},
        [&](const Result<std::string>& result) { statuses.push_back(parsed<WaitResponse>(result).exit_status()); });
  }
  settle();
  EXPECT_TRUE(statuses.empty());
  guest_->exit("c1", 7);
  ASSERT_TRUE(run_until([&] { return statuses.size() == 3; }));
  EXPECT_THAT(statuses, ElementsAre(7U, 7U, 7U));
}

TEST_F(TaskTest, WrongOrdersHaveTheirCodes) {
  EXPECT_EQ(code_of(ask<StartRequest>("Start", "c1")), Rpc::kNotFound);
  create_and_start("c1");
  EXPECT_EQ(code_of(call("Create", create_request("c1"))), Rpc::kAlreadyExists);
  EXPECT_EQ(code_of(ask<StartRequest>("Start", "c1")), Rpc::kFailedPrecondition);
  EXPECT_EQ(code_of(ask<DeleteRequest>("Delete", "c1")), Rpc::kFailedPrecondition);
  guest_->exit("c1", 0);
  ASSERT_TRUE(ask<WaitRequest>("Wait", "c1"));
  KillRequest kill;
  kill.set_id("c1");
  kill.set_signal(SIGTERM);
  EXPECT_EQ(code_of(call("Kill", kill)), Rpc::kNotFound);
  EXPECT_EQ(code_of(exec("c1", "e1")), Rpc::kFailedPrecondition);
  EXPECT_EQ(code_of(ask<StatsRequest>("Stats", "c1")), Rpc::kNotFound);
  EXPECT_EQ(code_of(ask<PauseRequest>("Pause", "c1")), Rpc::kNotFound);
  EXPECT_EQ(code_of(call_raw("Events", "")), Rpc::kUnimplemented);
  EXPECT_EQ(code_of(call_raw("State", "", "v9")), Rpc::kUnimplemented);
  EXPECT_EQ(code_of(call_raw("State", "\xff\xff")), Rpc::kInvalidArgument);
}

TEST_F(TaskTest, APausedContainerIsFrozenAlone) {
  create_and_start("c1");
  create_and_start("c2");
  const auto status = [this](const std::string& id) {
    const auto state = ask<StateRequest>("State", id);
    StateResponse response;
    EXPECT_TRUE(state && response.ParseFromString(*state));
    return response.status();
  };
  EXPECT_TRUE(ask<ResumeRequest>("Resume", "c1")) << "does nothing";
  EXPECT_TRUE(ask<PauseRequest>("Pause", "c1"));
  EXPECT_EQ(guest_->requests.back().container_freeze().container_id(), "c1");
  EXPECT_TRUE(guest_->requests.back().container_freeze().frozen());
  EXPECT_EQ(status("c1"), PAUSED);
  EXPECT_EQ(status("c2"), RUNNING);
  EXPECT_EQ(code_of(exec("c1", "e1")), Rpc::kFailedPrecondition);
  EXPECT_EQ(code_of(ask<PauseRequest>("Pause", "c1")), Rpc::kFailedPrecondition);
  EXPECT_TRUE(ask<ResumeRequest>("Resume", "c1"));
  EXPECT_FALSE(guest_->requests.back().container_freeze().frozen());
  EXPECT_EQ(status("c1"), RUNNING);
  EXPECT_TRUE(run_until([&] { return topics().back() == "/tasks/resumed"; }));
  EXPECT_THAT(topics(), Contains("/tasks/paused"));
  // What is killed meanwhile has ended, paused or not.
  EXPECT_TRUE(ask<PauseRequest>("Pause", "c2"));
  guest_->exit("c2", 137);
  ASSERT_TRUE(ask<WaitRequest>("Wait", "c2"));
  EXPECT_EQ(status("c2"), STOPPED);
}

TEST_F(TaskTest, APauseThatFailsIsTakenBack) {
  create_and_start("c1");
  std::vector<bool> asked;
  guest_->on_request = [&](FakeGuest::Peer& peer, const guest::v1::Request& request) {
    if (!request.has_container_freeze()) return false;
    asked.push_back(request.container_freeze().frozen());
    if (asked.back()) FakeGuest::fail(peer, guest::v1::Failure::OTHER, "it does not stand still");
    return static_cast<bool>(asked.back());
  };
  EXPECT_FALSE(ask<PauseRequest>("Pause", "c1"));
  ASSERT_TRUE(run_until([&] { return asked.size() == 2; }));
  EXPECT_THAT(asked, ElementsAre(true, false));
  EXPECT_TRUE(run_until([&] { return static_cast<bool>(exec("c1", "e1")); })) << "commands run in it again";
}

TEST_F(TaskTest, KillReachesTheGuest) {
  create_and_start("c1");
  KillRequest kill;
  kill.set_id("c1");
  kill.set_signal(SIGKILL);
  kill.set_all(true);
  EXPECT_TRUE(call("Kill", kill));
  const auto& seen = guest_->requests.back().container_kill();
  EXPECT_EQ(seen.container_id(), "c1");
  EXPECT_EQ(seen.signal(), SIGKILL);
  EXPECT_TRUE(seen.all());
  kill.set_signal(0);
  EXPECT_EQ(code_of(call("Kill", kill)), Rpc::kInvalidArgument);
  kill.set_signal(65);
  EXPECT_EQ(code_of(call("Kill", kill)), Rpc::kInvalidArgument);
}

TEST_F(TaskTest, AnExecLivesInItsContainer) {
  create_and_start("c1");
  ASSERT_TRUE(exec("c1", "e1"));
  EXPECT_EQ(code_of(exec("c1", "e1")), Rpc::kAlreadyExists);
  EXPECT_EQ(parsed<StateResponse>(ask<StateRequest>("State", "c1", "e1")).status(), CREATED);
  ASSERT_TRUE(ask<StartRequest>("Start", "c1", "e1"));
  EXPECT_EQ(guest_->requests.back().exec().container_id(), "c1");
  KillRequest kill;
  kill.set_id("c1");
  kill.set_exec_id("e1");
  kill.set_signal(SIGTERM);
  ASSERT_TRUE(call("Kill", kill));
  ASSERT_TRUE(run_until([&] { return guest_->requests.back().signal() == SIGTERM; }));
  guest_->exit("c1", 143, true);
  EXPECT_EQ(parsed<WaitResponse>(ask<WaitRequest>("Wait", "c1", "e1")).exit_status(), 143U);
  EXPECT_EQ(parsed<DeleteResponse>(ask<DeleteRequest>("Delete", "c1", "e1")).exit_status(), 143U);
  EXPECT_EQ(code_of(ask<StateRequest>("State", "c1", "e1")), Rpc::kNotFound);
  EXPECT_EQ(parsed<StateResponse>(ask<StateRequest>("State", "c1")).status(), RUNNING);
  ASSERT_TRUE(run_until([&] { return events_.size() == 5; }));
  EXPECT_THAT(topics(),
              ElementsAre("/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"));
  containerd::events::TaskExit exit;
  ASSERT_TRUE(exit.ParseFromString(events_[4].event().value()));
  EXPECT_EQ(exit.container_id(), "c1");
  EXPECT_EQ(exit.id(), "e1");
}

TEST_F(TaskTest, AnExecThatCannotStartIsStopped) {
  create_and_start("c1");
  guest_->on_request = [](FakeGuest::Peer& peer, const guest::v1::Request& request) {
    if (request.has_exec()) FakeGuest::fail(peer, guest::v1::Failure::NOT_FOUND, "no such program");
    return request.has_exec();
  };
  ASSERT_TRUE(exec("c1", "e1"));
  const auto started = ask<StartRequest>("Start", "c1", "e1");
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message(), HasSubstr("no such program"));
  EXPECT_TRUE(ask<DeleteRequest>("Delete", "c1", "e1"));
  settle();
  EXPECT_THAT(topics(), ElementsAre("/tasks/create", "/tasks/start", "/tasks/exec-added"));
}

TEST_F(TaskTest, ACreatedContainerCanBeDeleted) {
  ASSERT_TRUE(call("Create", create_request("c1")));
  EXPECT_EQ(parsed<DeleteResponse>(ask<DeleteRequest>("Delete", "c1")).exit_status(), 137U);
  EXPECT_TRUE(guest_->requests.back().container_delete().force());
}

TEST_F(TaskTest, WhatFailsInCreateLeavesNothing) {
  const auto check = [this](Rpc code, const char* text, const std::function<void(CreateTaskRequest&)>& change) {
    CreateTaskRequest request = create_request("c1");
    change(request);
    const auto result = call("Create", request);
    EXPECT_EQ(code_of(result), code) << text;
    EXPECT_THAT(result ? "" : to_rpc(result.error()).message, HasSubstr(text));
    EXPECT_EQ(service_->containers(), 0U);
    EXPECT_EQ(attached_.size(), detached_.size());
  };
  check(Rpc::kFailedPrecondition, "config.json", [&](auto& r) { r.set_bundle(directory_ + "/gone"); });
  check(Rpc::kFailedPrecondition, "/nowhere", [](auto& r) { r.mutable_rootfs(0)->set_source("/nowhere"); });
  check(Rpc::kInvalidArgument, "no mounts", [](auto& r) { r.clear_rootfs(); });
  check(Rpc::kUnimplemented, "2 mounts", [](auto& r) { *r.add_rootfs() = r.rootfs(0); });
  check(Rpc::kInvalidArgument, "neither", [&](auto& r) { r.mutable_rootfs(0)->set_source("/dev/null"); });
  check(Rpc::kFailedPrecondition, "/gone-fifo", [&](auto& r) { r.set_stdout(directory_ + "/gone-fifo"); });
  check(Rpc::kInvalidArgument, "no FIFO", [&](auto& r) { r.set_stdout(directory_ + "/image"); });
  check(Rpc::kInvalidArgument, "binary:", [](auto& r) { r.set_stdout("binary:///bin/logger"); });
  check(Rpc::kUnimplemented, "checkpoint", [](auto& r) { r.set_checkpoint("/x"); });
  check(Rpc::kInvalidArgument, "container id", [](auto& r) { r.set_id("../../etc"); });
  check(Rpc::kInvalidArgument, "container id", [](auto& r) { r.set_id(".."); });
  check(Rpc::kInvalidArgument, "container id", [](auto& r) { r.set_id(std::string(129, 'x')); });
  attach_fails_ = rpc_error(Rpc::kFailedPrecondition, "no slot is free");
  check(Rpc::kFailedPrecondition, "no slot", [](auto&) {});
  attach_fails_.reset();
  std::ofstream(directory_ + "/config.json") << "{";
  check(Rpc::kInvalidArgument, "no JSON", [](auto&) {});
  EXPECT_TRUE(guest_->requests.empty());
  EXPECT_TRUE(events_.empty());
}

TEST_F(TaskTest, AGuestThatRefusesAContainerLeavesNothing) {
  guest_->on_request = [](FakeGuest::Peer& peer, const guest::v1::Request& request) {
    if (request.has_container_create()) FakeGuest::fail(peer, guest::v1::Failure::CONTAINER, "crun: no");
    return request.has_container_create();
  };
  const auto result = call("Create", create_request("c1"));
  EXPECT_EQ(code_of(result), Rpc::kUnknown);
  EXPECT_EQ(to_rpc(result.error()).message, "crun: no");
  EXPECT_EQ(service_->containers(), 0U);
  ASSERT_TRUE(run_until([&] { return detached_.size() == 1; }));
  EXPECT_TRUE(guest_->requests.back().container_delete().force());
}

TEST_F(TaskTest, AGuestThatRefusesAStartLeavesTheContainerToBeDeleted) {
  guest_->on_request = [](FakeGuest::Peer& peer, const guest::v1::Request& request) {
    if (request.has_container_start()) FakeGuest::fail(peer, guest::v1::Failure::CONTAINER, "exec format error");
    return request.has_container_start();
  };
  ASSERT_TRUE(call("Create", create_request("c1")));
  const auto started = ask<StartRequest>("Start", "c1");
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message(), HasSubstr("exec format error"));
  EXPECT_TRUE(ask<DeleteRequest>("Delete", "c1"));
}

TEST_F(TaskTest, AnEndedCloneEndsItsContainers) {
  create_and_start("c1");
  ASSERT_TRUE(exec("c1", "e1"));
  ASSERT_TRUE(ask<StartRequest>("Start", "c1", "e1"));
  ASSERT_TRUE(call("Create", create_request("c2")));
  guest_->die();
  EXPECT_EQ(parsed<WaitResponse>(ask<WaitRequest>("Wait", "c1")).exit_status(), 137U);
  EXPECT_EQ(parsed<WaitResponse>(ask<WaitRequest>("Wait", "c1", "e1")).exit_status(), 137U);
  EXPECT_EQ(parsed<WaitResponse>(ask<WaitRequest>("Wait", "c2")).exit_status(), 137U);
  EXPECT_EQ(parsed<DeleteResponse>(ask<DeleteRequest>("Delete", "c1")).exit_status(), 137U);
  EXPECT_TRUE(ask<DeleteRequest>("Delete", "c2"));
  EXPECT_EQ(code_of(call("Create", create_request("c3"))), Rpc::kFailedPrecondition);
}

TEST_F(TaskTest, AnEndedCloneEndsWhatIsBeingCreated) {
  create_and_start("c1");
  guest_->on_request = [this](FakeGuest::Peer&, const guest::v1::Request& request) {
    if (request.has_container_create()) loop_->post([this] { guest_->die(); });
    return request.has_container_create();  // never answered
  };
  EXPECT_FALSE(call("Create", create_request("c2")));
  EXPECT_EQ(service_->containers(), 1U);
  EXPECT_EQ(parsed<WaitResponse>(ask<WaitRequest>("Wait", "c1")).exit_status(), 137U);
}

TEST_F(TaskTest, DeletingAContainerEndsItsExecsForWhoWaits) {
  create_and_start("c1");
  ASSERT_TRUE(exec("c1", "e1"));
  ASSERT_TRUE(ask<StartRequest>("Start", "c1", "e1"));
  std::optional<Result<std::string>> waited;
  WaitRequest wait;
  wait.set_id("c1");
  wait.set_exec_id("e1");
  service_->handle({.service = "containerd.task.v3.Task",
                    .method = "Wait",
                    .payload = wait.SerializeAsString(),
                    .metadata = {},
                    .take_fd = {}},
                   [&](Result<std::string> result) { waited = std::move(result); });
  settle();
  ASSERT_FALSE(waited);
  guest_->exit("c1", 0);
  ASSERT_TRUE(ask<WaitRequest>("Wait", "c1"));
  ASSERT_TRUE(ask<DeleteRequest>("Delete", "c1"));
  ASSERT_TRUE(run_until([&] { return waited.has_value(); }));
  EXPECT_EQ(parsed<WaitResponse>(*waited).exit_status(), 137U);
}

TEST_F(TaskTest, AKillOfAnExecBeforeItsStartIsRefused) {
  create_and_start("c1");
  ASSERT_TRUE(exec("c1", "e1"));
  KillRequest kill;
  kill.set_id("c1");
  kill.set_exec_id("e1");
  kill.set_signal(9);
  EXPECT_EQ(code_of(call("Kill", kill)), Rpc::kFailedPrecondition);
}

TEST_F(TaskTest, AHostileGuestEndsOnlyItsOwnContainer) {
  create_and_start("c1");
  create_and_start("c2");
  FakeGuest::Peer* peer = guest_->conversation("c1");
  ASSERT_EQ(::write(peer->socket.get(), "\xff\xff\xff\xff garbage", 12), 12);
  EXPECT_EQ(parsed<WaitResponse>(ask<WaitRequest>("Wait", "c1")).exit_status(), 137U);
  EXPECT_EQ(parsed<StateResponse>(ask<StateRequest>("State", "c2")).status(), RUNNING);
  guest::v1::Reply nonsense;
  nonsense.mutable_ready();
  FakeGuest::reply(*guest_->conversation("c2"), nonsense);
  EXPECT_EQ(parsed<WaitResponse>(ask<WaitRequest>("Wait", "c2")).exit_status(), 137U);
}

TEST_F(TaskTest, StatsAndUpdateReachTheGuest) {
  create_and_start("c1");
  const auto stats = parsed<StatsResponse>(ask<StatsRequest>("Stats", "c1"));
  EXPECT_EQ(stats.stats().type_url(), "io.containerd.cgroups.v2.Metrics");
  io::containerd::cgroups::v2::Metrics metrics;
  ASSERT_TRUE(metrics.ParseFromString(stats.stats().value()));
  EXPECT_EQ(metrics.memory().usage(), 4096U);
  UpdateTaskRequest update;
  update.set_id("c1");
  update.mutable_resources()->set_value(R"({"memory":{"limit":1048576}})");
  EXPECT_TRUE(call("Update", update));
  EXPECT_EQ(guest_->requests.back().container_update().limits().memory_bytes(), 1048576U);
  update.mutable_resources()->set_value("[");
  EXPECT_EQ(code_of(call("Update", update)), Rpc::kInvalidArgument);
}

TEST_F(TaskTest, OutOfMemoryIsTold) {
  create_and_start("c1");
  guest::v1::Reply oom;
  oom.mutable_out_of_memory();
  FakeGuest::reply(*guest_->conversation("c1"), oom);
  guest_->exit("c1", 137);
  ASSERT_TRUE(run_until([&] { return events_.size() == 4; }));
  EXPECT_THAT(topics(), ElementsAre("/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit"));
}

TEST_F(TaskTest, EventsWaitForAContainerdThatIsAway) {
  containerd_.reset();
  std::filesystem::remove(directory_ + "/containerd");
  create_and_start("c1");
  guest_->exit("c1", 0);
  ASSERT_TRUE(ask<WaitRequest>("Wait", "c1"));
  containerd_ = *ttrpc::Server::create(*loop_, *ttrpc::listen_unix(directory_ + "/containerd"),
                                       [this](const ttrpc::Call& call, const ttrpc::Answer& answer) {
                                         containerd::events::ForwardRequest request;
                                         EXPECT_TRUE(request.ParseFromString(call.payload));
                                         events_.push_back(request.envelope());
                                         answer(std::string());
                                       });
  ASSERT_TRUE(run_until([&] { return events_.size() == 3; }));
  EXPECT_THAT(topics(), ElementsAre("/tasks/create", "/tasks/start", "/tasks/exit"));
}

TEST_F(TaskTest, ShutdownOfATaskLeavesItsPodsShim) {
  create_and_start("c1");
  EXPECT_TRUE(ask<ShutdownRequest>("Shutdown", "c1"));
  EXPECT_EQ(parsed<StateResponse>(ask<StateRequest>("State", "c1")).status(), RUNNING);
  EXPECT_EQ(parsed<ConnectResponse>(ask<ConnectRequest>("Connect", "c1")).version(), "v3");
}

TEST_F(TaskTest, AGuestThatEndsEveryConversationIsNotAskedWithoutEnd) {
  create_and_start("c1");
  int closed = 0;
  guest_->on_request = [&](FakeGuest::Peer& peer, const guest::v1::Request& request) {
    if (!request.has_container_query()) return false;
    ++closed;
    ::shutdown(peer.socket.get(), SHUT_RDWR);
    return true;
  };
  for (int i = 0; i < 50; ++i) EXPECT_EQ(code_of(ask<StatsRequest>("Stats", "c1")), Rpc::kUnavailable);
  EXPECT_LT(closed, 50);
  EXPECT_EQ(parsed<StateResponse>(ask<StateRequest>("State", "c1")).status(), RUNNING);
}

TEST(TaskState, KillAndStatsOfWhatHasEndedAreNotFound) {
  for (int phase = 0; phase < kPhases; ++phase) {
    for (int operation = 0; operation < kOperations; ++operation) {
      const Status result =
          check_operation(static_cast<Operation>(operation), static_cast<Phase>(phase), "container c1");
      if (result) continue;
      const Rpc code = to_rpc(result.error()).code;
      EXPECT_TRUE(code == Rpc::kNotFound || code == Rpc::kFailedPrecondition);
      EXPECT_THAT(result.error().context(), HasSubstr("container c1"));
    }
  }
  EXPECT_EQ(to_rpc(check_operation(Operation::kKill, Phase::kStopped, "x").error()).code, Rpc::kNotFound);
  EXPECT_EQ(to_rpc(check_operation(Operation::kStart, Phase::kCreating, "x").error()).code, Rpc::kFailedPrecondition);
  EXPECT_TRUE(check_operation(Operation::kWait, Phase::kStopped, "x"));
}

}  // namespace
}  // namespace granary::shim
