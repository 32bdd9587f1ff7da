// SPDX-License-Identifier: Apache-2.0
#include "agent/sandbox_controller.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cri/runtime.pb.h"

namespace granary::agent {
namespace {

using containerd::services::sandbox::v1::ControllerCreateRequest;
using containerd::services::sandbox::v1::ControllerCreateResponse;
using containerd::services::sandbox::v1::ControllerShutdownRequest;
using containerd::services::sandbox::v1::ControllerShutdownResponse;
using containerd::services::sandbox::v1::ControllerStartRequest;
using containerd::services::sandbox::v1::ControllerStartResponse;
using containerd::services::sandbox::v1::ControllerStatusRequest;
using containerd::services::sandbox::v1::ControllerStatusResponse;
using containerd::services::sandbox::v1::ControllerStopRequest;
using containerd::services::sandbox::v1::ControllerStopResponse;
using ::testing::ElementsAre;

class SandboxTest : public ::testing::Test {
 protected:
  SandboxBackend backend() {
    return {.acquire = [this](const PoolSet::Wish& wish) -> Result<pool::CloneInfo> {
              steps_.push_back("acquire " + wish.owner_id);
              needs_ = wish.needs;
              pool::CloneInfo clone;
              clone.id = "clone";
              clone.boot_id = boot_id_;
              return clone;
            },
            .release = [this](const std::string&) -> Result<bool> { return steps_.emplace_back("release"), true; },
            .check_running = [](const std::string&) { return granary::ok(); },
            .prepare_guest = [this](const pool::CloneInfo&, const guest::v1::Pod& pod) -> granary::Status {
              guest_pod_ = pod;
              steps_.push_back("prepare " + pod.hostname());
              return granary::ok();
            },
            .start_shim = [this](const std::string&, const pool::CloneInfo&, const std::string& netns) -> granary::Status {
              steps_.push_back("start shim in " + netns);
              return shim_result_;
            },
            .stop_shim = [this](const std::string&) { return steps_.emplace_back("stop shim"), granary::ok(); },
            .task_address = [](const std::string& id) { return "ttrpc+unix:///tasks/" + id + ".sock"; },
            .has_unlimited_memory = [](const std::string& parent) { return parent == "/kubepods/burstable/pod1"; }};
  }
  grpc::Status start() {
    runtime::v1::PodSandboxConfig config;
    config.set_hostname("web");
    *config.mutable_linux_config() = of_linux_;
    ControllerCreateRequest create;
    create.set_sandbox_id("s1");
    create.set_netns_path("/run/netns/pod");
    config.SerializeToString(create.mutable_options()->mutable_value());
    ControllerCreateResponse created;
    grpc::ServerContext context;
    if (const grpc::Status status = controller_.Create(&context, &create, &created); !status.ok()) return status;
    ControllerStartRequest request;
    request.set_sandbox_id("s1");
    return controller_.Start(&context, &request, &started_);
  }
  grpc::Status stop() {
    ControllerStopRequest request;
    request.set_sandbox_id("s1");
    ControllerStopResponse response;
    return controller_.Stop(nullptr, &request, &response);
  }
  std::string state() {
    ControllerStatusRequest request;
    request.set_sandbox_id("s1");
    ControllerStatusResponse response;
    const grpc::Status status = controller_.Status(nullptr, &request, &response);
    return status.ok() ? response.state() : "unknown";
  }

  runtime::v1::LinuxPodSandboxConfig of_linux_;
  PodNeeds needs_;
  guest::v1::Pod guest_pod_;
  std::vector<std::string> steps_;
  std::string boot_id_ = "boot";
  granary::Status shim_result_;
  ControllerStartResponse started_;
  SandboxController controller_{backend()};
};

TEST_F(SandboxTest, AReadySandboxHasItsFilesAndItsShim) {
  ASSERT_TRUE(start().ok());
  EXPECT_THAT(steps_, ElementsAre("acquire cri/s1", "prepare web\n", "start shim in /run/netns/pod"));
  EXPECT_EQ(started_.address(), "ttrpc+unix:///tasks/s1.sock");
  EXPECT_EQ(state(), "SANDBOX_READY");
}

TEST_F(SandboxTest, LimitsChooseTheShapeAndBindTheGuest) {
  of_linux_.mutable_resources()->set_memory_limit_in_bytes(100 << 20);
  of_linux_.mutable_resources()->set_cpu_quota(150'000);
  of_linux_.mutable_resources()->set_cpu_period(100'000);
  of_linux_.set_cgroup_parent("/kubepods/pod2");
  ASSERT_TRUE(start().ok());
  EXPECT_EQ(needs_.memory_bytes, 100U << 20);
  EXPECT_EQ(needs_.vcpus, 2U);
  EXPECT_EQ(guest_pod_.limits().memory_bytes(), 100U << 20);
}

TEST_F(SandboxTest, ASumThatLeavesOutAContainerIsNoLimit) {
  of_linux_.mutable_resources()->set_memory_limit_in_bytes(100 << 20);
  of_linux_.set_cgroup_parent("/kubepods/burstable/pod1");
  ASSERT_TRUE(start().ok());
  EXPECT_EQ(needs_.memory_bytes, 100U << 20);
  EXPECT_EQ(guest_pod_.limits().memory_bytes(), 0U);
}

TEST_F(SandboxTest, StopEndsTheCloneBeforeItsShimAndIsIdempotent) {
  ASSERT_TRUE(start().ok());
  steps_.clear();
  ASSERT_TRUE(stop().ok());
  EXPECT_THAT(steps_, ElementsAre("release", "stop shim"));
  EXPECT_EQ(state(), "SANDBOX_NOTREADY");
  EXPECT_TRUE(stop().ok());
  ControllerShutdownRequest request;
  request.set_sandbox_id("s1");
  ControllerShutdownResponse response;
  EXPECT_TRUE(controller_.Shutdown(nullptr, &request, &response).ok());
  EXPECT_EQ(state(), "unknown");
  EXPECT_TRUE(stop().ok());
}

TEST_F(SandboxTest, ASandboxWithoutItsShimIsTakenBack) {
  shim_result_ = Error(Errc::kNotSupported, "no shim here");
  const grpc::Status status = start();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_NE(status.error_message().find("no shim here"), std::string::npos);
  EXPECT_THAT(steps_, ElementsAre("acquire cri/s1", "prepare web\n", "start shim in /run/netns/pod", "release", "stop shim"));
}

TEST_F(SandboxTest, AnEndedCloneKeepsItsShimUntilStop) {
  ASSERT_TRUE(start().ok());
  steps_.clear();
  controller_.on_clone_ended("clone", "its VMM was killed");
  EXPECT_EQ(state(), "SANDBOX_NOTREADY");
  EXPECT_TRUE(steps_.empty());
  ASSERT_TRUE(stop().ok());
  EXPECT_THAT(steps_, ElementsAre("release", "stop shim"));
}

TEST_F(SandboxTest, ATinyGuestIsToldNothing) {
  boot_id_ = "";
  ASSERT_TRUE(start().ok());
  EXPECT_THAT(steps_, ElementsAre("acquire cri/s1", "start shim in /run/netns/pod"));
}

}  // namespace
}  // namespace granary::agent
