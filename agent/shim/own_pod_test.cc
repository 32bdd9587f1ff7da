// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/own_pod.h"

#include <csignal>

#include "agent/shim/own_pod_fixture.h"

namespace granary::shim {
namespace {

using namespace containerd::task::v3;  // NOLINT: the messages under test
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using std::chrono::seconds;

TEST_F(OwnPodTest, TakesACloneForItsSandboxAndGivesItBack) {
  EXPECT_GT(parsed<CreateTaskResponse>(call("Create", create_request())).pid(), 0U);
  ASSERT_EQ(acquired_.size(), 1U);
  EXPECT_EQ(acquired_[0].owner_id(), "shim/s1");
  EXPECT_EQ(acquired_[0].pool(), "large");
  EXPECT_EQ(acquired_[0].hostname(), "web");
  EXPECT_EQ(acquired_[0].netns(), "/run/netns/n1");
  EXPECT_EQ(acquired_[0].cgroup_parent(), "/pods/p1");
  EXPECT_TRUE(acquired_[0].shares());
  EXPECT_EQ(acquired_[0].limits().memory_bytes(), 1000U);
  ASSERT_EQ(guest_->requests.size(), 1U);
  EXPECT_EQ(guest_->requests[0].pod().sysctls(0).name(), "net.ipv4.ip_forward");
  EXPECT_EQ(guest_->requests[0].pod().limits().memory_bytes(), 1000U);
  EXPECT_EQ(parsed<StateResponse>(ask<StateRequest>("State")).status(), CREATED);
  EXPECT_GT(parsed<StartResponse>(ask<StartRequest>("Start")).pid(), 0U);
  EXPECT_EQ(parsed<StateResponse>(ask<StateRequest>("State")).status(), RUNNING);
  EXPECT_EQ(parsed<PidsResponse>(ask<PidsRequest>("Pids")).processes_size(), 1);

  ASSERT_TRUE(call("Kill", kill_request(SIGKILL)));
  EXPECT_EQ(parsed<WaitResponse>(ask<WaitRequest>("Wait")).exit_status(), 137U);
  EXPECT_THAT(released_, ElementsAre("shim/s1"));
  EXPECT_EQ(parsed<StateResponse>(ask<StateRequest>("State")).status(), STOPPED);
  EXPECT_EQ(parsed<DeleteResponse>(ask<DeleteRequest>("Delete")).exit_status(), 137U);
  EXPECT_EQ(code_of(ask<StateRequest>("State")), Rpc::kNotFound);
  ASSERT_TRUE(ask<ShutdownRequest>("Shutdown"));
  ASSERT_TRUE(run_until([&] { return ended_; }));
  EXPECT_THAT(topics_, ElementsAre("/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"));
}

TEST_F(OwnPodTest, ContainersAreTheTaskServices) {
  EXPECT_EQ(code_of(call("Create", create_request("c1"))), Rpc::kFailedPrecondition);
  EXPECT_EQ(code_of(ask<StateRequest>("State", "c1")), Rpc::kNotFound);
  start_pod();
  const auto created = call("Create", create_request("c1"));
  ASSERT_FALSE(created);
  EXPECT_THAT(created.error().message(), HasSubstr("/nothing/there"));  // its root file system: it came that far
}

TEST_F(OwnPodTest, AnEmptyPoolsReasonComesBeforeTheCallersDeadline) {
  refusal_ = rpc_error(Rpc::kResourceExhausted, "pool large: no clone within 4000 ms");
  const auto created = call("Create", create_request(), seconds(5));
  EXPECT_EQ(code_of(created), Rpc::kResourceExhausted);
  EXPECT_THAT(created.error().message(), HasSubstr("no clone within"));
  EXPECT_EQ(acquired_[0].wait_ms(), 4000);
  refusal_.reset();
  ASSERT_TRUE(call("Create", create_request()));  // nothing of the first is left
  EXPECT_EQ(acquired_[1].wait_ms(), 30'000);
}

TEST_F(OwnPodTest, WithoutAnAgentItSaysSo) {
  stop_agent();
  const auto created = call("Create", create_request());
  EXPECT_EQ(code_of(created), Rpc::kUnavailable);
  EXPECT_THAT(created.error().message(), HasSubstr("does granaryd run?"));
}

TEST_F(OwnPodTest, WhatCannotBeHadTakesNoClone) {
  write_spec(R"({"linux":{"namespaces":[{"type":"pid"},{"type":"ipc"}]}})");
  const auto created = call("Create", create_request());
  EXPECT_EQ(code_of(created), Rpc::kUnimplemented);
  EXPECT_THAT(created.error().message(), HasSubstr("hostNetwork"));
  std::filesystem::remove(directory_ + "/config.json");
  EXPECT_EQ(code_of(call("Create", create_request())), Rpc::kFailedPrecondition);
  EXPECT_EQ(code_of(call("Create", "\xff\xff")), Rpc::kFailedPrecondition);
  EXPECT_TRUE(acquired_.empty());
}

TEST_F(OwnPodTest, AGuestThatRefusesThePodCostsIt) {
  guest_->on_request = [](FakeGuest::Peer& peer, const guest::v1::Request&) {
    FakeGuest::fail(peer, guest::v1::Failure::INVALID, "sysctl net.ipv4.ip_forward: no");
    return true;
  };
  const auto created = call("Create", create_request());
  EXPECT_EQ(code_of(created), Rpc::kInvalidArgument);
  EXPECT_THAT(created.error().message(), HasSubstr("ip_forward"));
  EXPECT_THAT(released_, ElementsAre("shim/s1"));
  EXPECT_EQ(code_of(ask<StateRequest>("State")), Rpc::kNotFound);
  ASSERT_TRUE(ask<ShutdownRequest>("Shutdown"));
  EXPECT_TRUE(run_until([&] { return ended_; }));
}

TEST_F(OwnPodTest, LimitsOfSomeContainersDoNotBindTheOthers) {
  memory_unlimited_ = true;
  start_pod();
  EXPECT_EQ(guest_->requests.at(0).pod().limits().memory_bytes(), 0U);
}

TEST_F(OwnPodTest, ATinyGuestIsToldNothing) {
  boot_id_.clear();
  start_pod();
  EXPECT_TRUE(guest_->requests.empty());
}

TEST_F(OwnPodTest, AVmmThatDiesEndsTheSandboxWith137) {
  start_pod();
  guest_->die();
  EXPECT_EQ(parsed<WaitResponse>(ask<WaitRequest>("Wait")).exit_status(), 137U);
  EXPECT_EQ(code_of(call("Kill", kill_request(SIGKILL))), Rpc::kNotFound);
  ASSERT_TRUE(ask<DeleteRequest>("Delete"));
  EXPECT_EQ(code_of(call("Create", create_request())), Rpc::kFailedPrecondition);  // its pod has been
}

TEST_F(OwnPodTest, WithoutAnAgentTheGuestIsAskedToEnd) {
  start_pod();
  stop_agent();
  bool asked = false;
  guest_->on_request = [&](FakeGuest::Peer&, const guest::v1::Request& request) {
    asked = asked || request.has_power_off();
    if (request.has_power_off()) loop_->post([this] { guest_->die(); });
    return true;
  };
  ASSERT_TRUE(call("Kill", kill_request(SIGTERM)));
  EXPECT_EQ(parsed<WaitResponse>(ask<WaitRequest>("Wait")).exit_status(), 0U);
  EXPECT_TRUE(asked);
  EXPECT_TRUE(ask<DeleteRequest>("Delete"));
}

TEST_F(OwnPodTest, AReturningAgentTakesTheCloneBack) {
  start_pod();
  stop_agent();
  guest_->on_request = [](FakeGuest::Peer&, const guest::v1::Request&) { return true; };  // it does not obey
  ASSERT_TRUE(call("Kill", kill_request(SIGKILL)));
  EXPECT_EQ(code_of(ask<DeleteRequest>("Delete")), Rpc::kFailedPrecondition);
  start_agent();
  EXPECT_EQ(parsed<WaitResponse>(ask<WaitRequest>("Wait")).exit_status(), 137U);
  EXPECT_THAT(released_, ElementsAre("shim/s1"));
}

TEST_F(OwnPodTest, DeletedWhileItIsCreatedItGivesTheCloneBack) {
  agent_waits_ = true;
  std::optional<Result<std::string>> created;
  post("Create", create_request(), [&](Result<std::string> answer) { created.emplace(std::move(answer)); });
  ASSERT_TRUE(run_until([&] { return waiting_.size() == 1; }));
  EXPECT_EQ(code_of(call("Create", create_request())), Rpc::kAlreadyExists);
  EXPECT_EQ(code_of(ask<DeleteRequest>("Delete")), Rpc::kNotFound);
  ASSERT_TRUE(ask<ShutdownRequest>("Shutdown"));
  settle();
  EXPECT_FALSE(ended_);
  waiting_[0](clone());
  ASSERT_TRUE(run_until([&] { return ended_; }));
  EXPECT_EQ(code_of(*created), Rpc::kFailedPrecondition);
  EXPECT_THAT(released_, ElementsAre("shim/s1"));
}

TEST_F(OwnPodTest, WrongOrdersHaveTheirCodes) {
  EXPECT_EQ(code_of(ask<StartRequest>("Start")), Rpc::kNotFound);
  EXPECT_EQ(code_of(call("Kill", kill_request(SIGKILL))), Rpc::kNotFound);
  EXPECT_EQ(code_of(ask<WaitRequest>("Wait")), Rpc::kNotFound);
  start_pod();
  EXPECT_EQ(code_of(call("Create", create_request())), Rpc::kAlreadyExists);
  EXPECT_EQ(code_of(ask<StartRequest>("Start")), Rpc::kFailedPrecondition);
  EXPECT_EQ(code_of(ask<DeleteRequest>("Delete")), Rpc::kFailedPrecondition);
  EXPECT_EQ(code_of(call("Kill", kill_request(0))), Rpc::kInvalidArgument);
  EXPECT_EQ(code_of(call("Kill", kill_request(65))), Rpc::kInvalidArgument);
  EXPECT_TRUE(call("Kill", kill_request(SIGUSR1)));  // the pause process would not mind
  EXPECT_EQ(parsed<StateResponse>(ask<StateRequest>("State")).status(), RUNNING);
  EXPECT_EQ(code_of(ask<ExecProcessRequest>("Exec")), Rpc::kUnimplemented);
  EXPECT_EQ(code_of(ask<StatsRequest>("Stats")), Rpc::kUnimplemented);
  EXPECT_EQ(code_of(ask<StateRequest>("Dance")), Rpc::kUnimplemented);
  ASSERT_TRUE(ask<ShutdownRequest>("Shutdown"));  // of another task, while this one is there
  settle();
  EXPECT_FALSE(ended_);
}

TEST_F(OwnPodTest, CreatedAndNotStartedItIsDeleted) {
  ASSERT_TRUE(call("Create", create_request()));
  ASSERT_TRUE(ask<DeleteRequest>("Delete"));
  EXPECT_THAT(released_, ElementsAre("shim/s1"));
}

TEST_F(OwnPodTest, ConnectIsAnsweredFromTheStart) {
  const auto response = parsed<ConnectResponse>(ask<ConnectRequest>("Connect"));
  EXPECT_GT(response.shim_pid(), 0U);
  EXPECT_EQ(response.version(), "v2");
}

}  // namespace
}  // namespace granary::shim
