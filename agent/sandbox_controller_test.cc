// SPDX-License-Identifier: Apache-2.0
#include "agent/sandbox_controller.h"

#include <gtest/gtest.h>

#include <future>

#include "cri/runtime.pb.h"

namespace granary::agent {
namespace {

namespace sandbox = containerd::services::sandbox::v1;

// The agent's part is played here: acquire() waits to be let through.
class SandboxControllerTest : public testing::Test {
 protected:
  SandboxControllerTest()
      : controller_({.acquire = [this](const PoolSet::Wish& wish) -> Result<pool::CloneInfo> {
                       asked_ = wish;
                       acquiring_.set_value();
                       let_through_.get_future().wait();
                       pool::CloneInfo clone;
                       clone.id = "clone-1";
                       return clone;
                     },
                     .release = [this](const std::string& clone_id) -> Result<bool> {
                       released_ = clone_id;
                       return true;
                     },
                     .check_running = [](const std::string&) { return ok(); },
                     .prepare_guest = [](const pool::CloneInfo&, const guest::v1::Pod&) { return ok(); },
                     .start_shim = [](const std::string&, const pool::CloneInfo&, const std::string&) { return ok(); },
                     .stop_shim = [](const std::string&) { return ok(); },
                     .task_address = [](const std::string& id) { return "ttrpc+unix:///run/tasks/" + id; },
                     .has_unlimited_memory = [](const std::string&) { return false; }}) {}

  grpc::Status create(const std::string& netns, const std::string& hostname = "pod") {
    runtime::v1::PodSandboxConfig config;
    config.set_hostname(hostname);
    sandbox::ControllerCreateRequest request;
    request.set_sandbox_id("s");
    request.set_netns_path(netns);
    request.mutable_options()->set_value(config.SerializeAsString());
    sandbox::ControllerCreateResponse response;
    return controller_.Create(&context_, &request, &response);
  }
  grpc::Status start() {
    grpc::ServerContext context;
    sandbox::ControllerStartRequest request;
    request.set_sandbox_id("s");
    sandbox::ControllerStartResponse response;
    return controller_.Start(&context, &request, &response);
  }
  grpc::Status stop() {
    grpc::ServerContext context;
    sandbox::ControllerStopRequest request;
    request.set_sandbox_id("s");
    sandbox::ControllerStopResponse response;
    return controller_.Stop(&context, &request, &response);
  }
  bool has_ended() {
    sandbox::ControllerStatusRequest request;
    request.set_sandbox_id("s");
    sandbox::ControllerStatusResponse response;
    return controller_.Status(&context_, &request, &response).ok() && response.has_exited_at();
  }

  std::promise<void> acquiring_;
  std::promise<void> let_through_;
  PoolSet::Wish asked_;
  std::string released_;
  grpc::ServerContext context_;
  SandboxController controller_;
};

TEST_F(SandboxControllerTest, AStopDuringAStartReturnsOnceItsCloneIsGone) {
  ASSERT_TRUE(create("/run/netns/a").ok());
  auto starting = std::async(std::launch::async, [this] { return start(); });
  acquiring_.get_future().wait();
  auto stopping = std::async(std::launch::async, [this] {
    const grpc::Status stopped = stop();
    EXPECT_EQ(released_, "clone-1") << "the pod's network goes once this has returned";
    return stopped;
  });
  while (!has_ended()) std::this_thread::yield();
  let_through_.set_value();
  EXPECT_EQ(starting.get().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_TRUE(stopping.get().ok());
  EXPECT_TRUE(stop().ok());
}

TEST_F(SandboxControllerTest, CreateAgainIsTheSameOrRefused) {
  ASSERT_TRUE(create("/run/netns/a").ok());
  EXPECT_TRUE(create("/run/netns/a").ok());
  EXPECT_EQ(create("/run/netns/b").error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(create("/run/netns/a", "other").error_code(), grpc::StatusCode::ALREADY_EXISTS);
  let_through_.set_value();
  EXPECT_TRUE(start().ok());
  EXPECT_EQ(asked_.netns, "/run/netns/a");
  EXPECT_EQ(asked_.owner_id, "cri/s");
}

}  // namespace
}  // namespace granary::agent
