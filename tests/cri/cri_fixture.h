// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/cri/cri_client.h"
#include "tests/cri/cri_runtime.h"

namespace granary::cri {

inline constexpr const char* kImage = "granary.test/busybox:1";

// All cases run against the program's one Runtime. Everything that a case makes is removed after it, and that must succeed, too.
class CriTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  Client& cri() { return *client_; }
  [[nodiscard]] bool is_granary() const { return client_->handler() == "granary"; }
  // "case-3": of this test and this run alone.
  std::string name(const std::string& suffix = "");
  // A folder of this case.
  std::string folder();

  // Running, removed with the case.
  std::string run_pod() { return run_pod(cri().pod_config(name())); }
  std::string run_pod(const runtime::v1::PodSandboxConfig& config);

  // A container of a shell script.
  runtime::v1::ContainerConfig script(const std::string& text);
  std::string create(const std::string& pod, const runtime::v1::ContainerConfig& config);
  std::string start(const std::string& pod, const runtime::v1::ContainerConfig& config);
  // One that waits until it is stopped.
  std::string start_idle(const std::string& pod) { return start(pod, script("exec sleep 100000")); }
  runtime::v1::ContainerStatus status(const std::string& container);
  // Until it has exited.
  runtime::v1::ContainerStatus wait(const std::string& container);
  // What a script printed and how it ended, through its log.
  Outcome run(const std::string& pod, runtime::v1::ContainerConfig config);
  Outcome exec(const std::string& container, const std::string& script, int64_t timeout_s = 60);
  // The messages of a container's log, of one stream or both ("").
  std::string log(const std::string& container, const std::string& stream = "");
  static bool eventually(const std::function<bool()>& condition);

  // Of the whole program.
  static Runtime& runtime();
  // With a connection of its own, after containerd was restarted.
  void reconnect();
  // Stopped and removed; as every case does in the end.
  void end_pods();

 private:
  std::unique_ptr<Client> client_;
  std::vector<std::pair<std::string, runtime::v1::PodSandboxConfig>> pods_;
  std::string folder_;
  int names_ = 0;
};

#define EXPECT_RPC(call) \
  if (const grpc::Status rpc_status_ = (call); !rpc_status_.ok()) ADD_FAILURE() << #call << ": " << rpc_status_.error_message()

}  // namespace granary::cri
