// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cri/runtime.grpc.pb.h"

namespace granary::cri {

// What a command in a container left.
struct Outcome {
  int status = -1;
  std::string output;
  std::string errors;
};

// A CRI runtime service as the kubelet sees it: every call has a limit, its errors stay grpc::Status.
class Client {
 public:
  // `target`: a gRPC target such as unix:/run/containerd/containerd.sock; `handler`: the runtime handler of all pods.
  Client(const std::string& target, std::string handler, std::string log_directory);

  [[nodiscard]] const std::string& handler() const { return handler_; }
  [[nodiscard]] const std::string& log_directory() const { return log_directory_; }

  // A configuration with a name of its own.
  [[nodiscard]] runtime::v1::PodSandboxConfig pod_config(const std::string& name) const;
  grpc::Status run_pod(const runtime::v1::PodSandboxConfig& config, std::string* id);
  grpc::Status stop_pod(const std::string& id);
  grpc::Status remove_pod(const std::string& id);
  grpc::Status pod_status(const std::string& id, runtime::v1::PodSandboxStatus* status);
  grpc::Status list_pods(const runtime::v1::PodSandboxFilter& filter, std::vector<std::string>* ids);

  grpc::Status create(const std::string& pod, const runtime::v1::PodSandboxConfig& pod_config,
                      const runtime::v1::ContainerConfig& config, std::string* id);
  grpc::Status start(const std::string& id);
  grpc::Status stop(const std::string& id, int64_t timeout_s);
  grpc::Status remove(const std::string& id);
  grpc::Status status(const std::string& id, runtime::v1::ContainerStatus* status);
  grpc::Status list(const runtime::v1::ContainerFilter& filter, std::vector<std::string>* ids);
  grpc::Status exec(const std::string& id, const std::vector<std::string>& command, int64_t timeout_s,
                    Outcome* outcome);
  grpc::Status update(const std::string& id, const runtime::v1::LinuxContainerResources& resources);
  grpc::Status reopen_log(const std::string& id);
  grpc::Status stats(const std::string& id, runtime::v1::ContainerStats* stats);
  // Ids of the containers that have figures.
  grpc::Status list_stats(const runtime::v1::ContainerStatsFilter& filter, std::vector<std::string>* ids);
  // URLs for a ChannelSocket.
  grpc::Status exec_url(const runtime::v1::ExecRequest& request, std::string* url);
  grpc::Status attach_url(const runtime::v1::AttachRequest& request, std::string* url);
  grpc::Status forward_url(const std::string& pod, const std::vector<int>& ports, std::string* url);

 private:
  std::string handler_;
  std::string log_directory_;
  std::unique_ptr<runtime::v1::RuntimeService::Stub> stub_;
};

}  // namespace granary::cri
