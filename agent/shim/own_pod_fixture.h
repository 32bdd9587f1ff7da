// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "agent/shim/own_pod.h"
#include "agent/shim/task_fixture.h"

namespace granary::shim {

// A shim that takes its pod itself, between a fake agent, a fake guest and a fake containerd.
class OwnPodTest : public LoopTest {
 protected:
  static constexpr const char* kSandbox = "s1";

  OwnPodTest() {
    write_spec(R"({"hostname":"web","annotations":{"granary.dev/pool":"large","io.kubernetes.cri.sandbox-memory":"1000"},"linux":{"cgroupsPath":"/pods/p1/s1",
      "sysctl":{"net.ipv4.ip_forward":"1"},
      "namespaces":[{"type":"pid"},{"type":"ipc"},{"type":"network","path":"/run/netns/n1"}]}})");
    std::filesystem::create_directory(directory_ + "/c1");
    std::ofstream(directory_ + "/c1/config.json") << R"({"process":{"args":["sh"],"cwd":"/"},"linux":{}})";
    guest_ = std::make_unique<FakeGuest>(*loop_, directory_ + "/guest");
    start_agent();
    containerd_ = *ttrpc::Server::create(*loop_, *ttrpc::listen_unix(directory_ + "/containerd"),
                                         [this](const ttrpc::Call& call, const ttrpc::Answer& answer) {
                                           containerd::events::ForwardRequest request;
                                           EXPECT_TRUE(request.ParseFromString(call.payload));
                                           topics_.push_back(request.envelope().topic());
                                           answer(std::string());
                                         });
    pod_ = std::make_unique<OwnPod>(*loop_,
                                    Pod{.sandbox_id = kSandbox,
                                        .clone_id = {},
                                        .guest_socket = {},
                                        .agent_socket = directory_ + "/agent",
                                        .events_socket = directory_ + "/containerd"},
                                    [this] { ended_ = true; });
  }
  ~OwnPodTest() override { settle(); }

  void write_spec(const std::string& json) { std::ofstream(directory_ + "/config.json") << json; }
  void start_agent() {
    agent_ = *ttrpc::Server::create(
        *loop_, *ttrpc::listen_unix(directory_ + "/agent"),
        [this](const ttrpc::Call& call, const ttrpc::Answer& answer) { serve(call, answer); });
  }
  void stop_agent() {
    agent_.reset();
    std::filesystem::remove(directory_ + "/agent");
  }
  void serve(const ttrpc::Call& call, const ttrpc::Answer& answer) {
    if (call.method == "Release") {
      v1::ReleaseRequest request;
      EXPECT_TRUE(request.ParseFromString(call.payload));
      released_.push_back(request.owner_id());
      return answer(v1::ReleaseResponse().SerializeAsString());
    }
    acquired_.emplace_back();
    EXPECT_TRUE(acquired_.back().ParseFromString(call.payload));
    if (agent_waits_) return waiting_.push_back(answer);
    if (refusal_) return answer(*refusal_);
    answer(clone());
  }
  std::string clone() const {
    v1::AcquireResponse response;
    response.mutable_clone()->set_id("clone");
    response.mutable_clone()->set_socket_path(directory_ + "/guest");
    response.mutable_clone()->set_boot_id(boot_id_);
    response.set_memory_unlimited(memory_unlimited_);
    return response.SerializeAsString();
  }

  void post(const std::string& method, const std::string& payload, ttrpc::Answer answer,
            std::chrono::nanoseconds timeout = {}) {
    pod_->handle({.service = "containerd.task.v2.Task",
                  .method = method,
                  .payload = payload,
                  .metadata = {{"containerd-namespace-ttrpc", "k8s.io"}},
                  .take_fd = [] { return Fd(); },
                  .timeout = timeout},
                 std::move(answer));
  }
  Result<std::string> call(const std::string& method, const std::string& payload,
                           std::chrono::nanoseconds timeout = {}) {
    std::optional<Result<std::string>> result;
    post(method, payload, [&](Result<std::string> answer) { result.emplace(std::move(answer)); }, timeout);
    EXPECT_TRUE(run_until([&] { return result.has_value(); })) << method;
    return result ? *result : Error(Errc::kDeadlineExceeded, method);
  }
  template <class Request>
  Result<std::string> ask(const std::string& method, const std::string& id = kSandbox) {
    Request request;
    request.set_id(id);
    return call(method, request.SerializeAsString());
  }
  std::string create_request(const std::string& id = kSandbox) const {
    containerd::task::v3::CreateTaskRequest request;
    request.set_id(id);
    request.set_bundle(id == kSandbox ? directory_ : directory_ + "/" + id);
    if (id != kSandbox) {
      auto& root = *request.add_rootfs();
      root.set_type("ext4");
      root.set_source("/nothing/there");
    }
    return request.SerializeAsString();
  }
  static std::string kill_request(uint32_t signal) {
    containerd::task::v3::KillRequest request;
    request.set_id(kSandbox);
    request.set_signal(signal);
    return request.SerializeAsString();
  }
  static Rpc code_of(const Result<std::string>& result) { return result ? Rpc::kOk : to_rpc(result.error()).code; }
  template <class Message>
  static Message parsed(const Result<std::string>& result) {
    Message message;
    EXPECT_TRUE(result) << result.error().message();
    if (result) {
      EXPECT_TRUE(message.ParseFromString(*result));
    }
    return message;
  }
  void start_pod() {
    ASSERT_TRUE(call("Create", create_request()));
    ASSERT_TRUE(ask<containerd::task::v3::StartRequest>("Start"));
  }

  std::unique_ptr<FakeGuest> guest_;
  std::unique_ptr<ttrpc::Server> agent_;
  std::unique_ptr<ttrpc::Server> containerd_;
  std::string boot_id_ = "boot";
  bool agent_waits_ = false;
  bool memory_unlimited_ = false;
  std::vector<ttrpc::Answer> waiting_;
  std::optional<Error> refusal_;
  std::vector<v1::AcquireRequest> acquired_;
  std::vector<std::string> released_;
  std::vector<std::string> topics_;
  std::unique_ptr<OwnPod> pod_;
  bool ended_ = false;
};

}  // namespace granary::shim
