// SPDX-License-Identifier: Apache-2.0
#include "tests/cri/cri_client.h"

#include <grpcpp/create_channel.h>

namespace granary::cri {
namespace {

using runtime::v1::RuntimeService;

// Of any call: an emulated node is slow.
constexpr std::chrono::seconds kLimit{180};

template <class Request, class Response>
using Method = grpc::Status (RuntimeService::Stub::*)(grpc::ClientContext*, const Request&, Response*);

template <class Request, class Response>
grpc::Status call(RuntimeService::Stub& stub, Method<Request, Response> method, const Request& request,
                  Response* response) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kLimit);
  return (stub.*method)(&context, request, response);
}

template <class Request, class Response>
grpc::Status call(RuntimeService::Stub& stub, Method<Request, Response> method, const Request& request) {
  Response ignored;
  return call(stub, method, request, &ignored);
}

}  // namespace

Client::Client(const std::string& target, std::string handler, std::string log_directory)
    : handler_(std::move(handler)),
      log_directory_(std::move(log_directory)),
      stub_(RuntimeService::NewStub(grpc::CreateChannel(target, grpc::InsecureChannelCredentials()))) {}

runtime::v1::PodSandboxConfig Client::pod_config(const std::string& name) const {
  runtime::v1::PodSandboxConfig config;
  config.mutable_metadata()->set_name(name);
  config.mutable_metadata()->set_uid(name + "-uid");
  config.mutable_metadata()->set_namespace_("default");
  config.set_hostname(name);
  config.set_log_directory(log_directory_);
  config.mutable_linux_config();
  return config;
}

grpc::Status Client::run_pod(const runtime::v1::PodSandboxConfig& config, std::string* id) {
  runtime::v1::RunPodSandboxRequest request;
  *request.mutable_config() = config;
  request.set_runtime_handler(handler_);
  runtime::v1::RunPodSandboxResponse response;
  grpc::Status status = call(*stub_, &RuntimeService::Stub::RunPodSandbox, request, &response);
  *id = response.pod_sandbox_id();
  return status;
}

grpc::Status Client::stop_pod(const std::string& id) {
  runtime::v1::StopPodSandboxRequest request;
  request.set_pod_sandbox_id(id);
  return call(*stub_, &RuntimeService::Stub::StopPodSandbox, request);
}

grpc::Status Client::remove_pod(const std::string& id) {
  runtime::v1::RemovePodSandboxRequest request;
  request.set_pod_sandbox_id(id);
  return call(*stub_, &RuntimeService::Stub::RemovePodSandbox, request);
}

grpc::Status Client::pod_status(const std::string& id, runtime::v1::PodSandboxStatus* status) {
  runtime::v1::PodSandboxStatusRequest request;
  request.set_pod_sandbox_id(id);
  runtime::v1::PodSandboxStatusResponse response;
  grpc::Status called = call(*stub_, &RuntimeService::Stub::PodSandboxStatus, request, &response);
  *status = response.status();
  return called;
}

grpc::Status Client::list_pods(const runtime::v1::PodSandboxFilter& filter, std::vector<std::string>* ids) {
  runtime::v1::ListPodSandboxRequest request;
  *request.mutable_filter() = filter;
  runtime::v1::ListPodSandboxResponse response;
  grpc::Status called = call(*stub_, &RuntimeService::Stub::ListPodSandbox, request, &response);
  for (const auto& item : response.items()) ids->push_back(item.id());
  return called;
}

grpc::Status Client::create(const std::string& pod, const runtime::v1::PodSandboxConfig& pod_config,
                            const runtime::v1::ContainerConfig& config, std::string* id) {
  runtime::v1::CreateContainerRequest request;
  request.set_pod_sandbox_id(pod);
  *request.mutable_config() = config;
  *request.mutable_sandbox_config() = pod_config;
  runtime::v1::CreateContainerResponse response;
  grpc::Status called = call(*stub_, &RuntimeService::Stub::CreateContainer, request, &response);
  *id = response.container_id();
  return called;
}

grpc::Status Client::start(const std::string& id) {
  runtime::v1::StartContainerRequest request;
  request.set_container_id(id);
  return call(*stub_, &RuntimeService::Stub::StartContainer, request);
}

grpc::Status Client::stop(const std::string& id, int64_t timeout_s) {
  runtime::v1::StopContainerRequest request;
  request.set_container_id(id);
  request.set_timeout(timeout_s);
  return call(*stub_, &RuntimeService::Stub::StopContainer, request);
}

grpc::Status Client::remove(const std::string& id) {
  runtime::v1::RemoveContainerRequest request;
  request.set_container_id(id);
  return call(*stub_, &RuntimeService::Stub::RemoveContainer, request);
}

grpc::Status Client::status(const std::string& id, runtime::v1::ContainerStatus* status) {
  runtime::v1::ContainerStatusRequest request;
  request.set_container_id(id);
  runtime::v1::ContainerStatusResponse response;
  grpc::Status called = call(*stub_, &RuntimeService::Stub::ContainerStatus, request, &response);
  *status = response.status();
  return called;
}

grpc::Status Client::list(const runtime::v1::ContainerFilter& filter, std::vector<std::string>* ids) {
  runtime::v1::ListContainersRequest request;
  *request.mutable_filter() = filter;
  runtime::v1::ListContainersResponse response;
  grpc::Status called = call(*stub_, &RuntimeService::Stub::ListContainers, request, &response);
  for (const auto& container : response.containers()) ids->push_back(container.id());
  return called;
}

grpc::Status Client::exec(const std::string& id, const std::vector<std::string>& command, int64_t timeout_s,
                          Outcome* outcome) {
  runtime::v1::ExecSyncRequest request;
  request.set_container_id(id);
  for (const std::string& word : command) request.add_cmd(word);
  request.set_timeout(timeout_s);
  runtime::v1::ExecSyncResponse response;
  grpc::Status called = call(*stub_, &RuntimeService::Stub::ExecSync, request, &response);
  *outcome = {response.exit_code(), response.stdout_bytes(), response.stderr_bytes()};
  return called;
}

grpc::Status Client::update(const std::string& id, const runtime::v1::LinuxContainerResources& resources) {
  runtime::v1::UpdateContainerResourcesRequest request;
  request.set_container_id(id);
  *request.mutable_linux_resources() = resources;
  return call(*stub_, &RuntimeService::Stub::UpdateContainerResources, request);
}

grpc::Status Client::reopen_log(const std::string& id) {
  runtime::v1::ReopenContainerLogRequest request;
  request.set_container_id(id);
  return call(*stub_, &RuntimeService::Stub::ReopenContainerLog, request);
}

grpc::Status Client::stats(const std::string& id, runtime::v1::ContainerStats* stats) {
  runtime::v1::ContainerStatsRequest request;
  request.set_container_id(id);
  runtime::v1::ContainerStatsResponse response;
  grpc::Status called = call(*stub_, &RuntimeService::Stub::ContainerStats, request, &response);
  *stats = response.stats();
  return called;
}

grpc::Status Client::list_stats(const runtime::v1::ContainerStatsFilter& filter, std::vector<std::string>* ids) {
  runtime::v1::ListContainerStatsRequest request;
  *request.mutable_filter() = filter;
  runtime::v1::ListContainerStatsResponse response;
  grpc::Status called = call(*stub_, &RuntimeService::Stub::ListContainerStats, request, &response);
  for (const auto& stats : response.stats()) ids->push_back(stats.attributes().id());
  return called;
}

grpc::Status Client::exec_url(const runtime::v1::ExecRequest& request, std::string* url) {
  runtime::v1::StreamResponse response;
  grpc::Status called = call(*stub_, &RuntimeService::Stub::Exec, request, &response);
  *url = response.url();
  return called;
}

grpc::Status Client::attach_url(const runtime::v1::AttachRequest& request, std::string* url) {
  runtime::v1::StreamResponse response;
  grpc::Status called = call(*stub_, &RuntimeService::Stub::Attach, request, &response);
  *url = response.url();
  return called;
}

grpc::Status Client::forward_url(const std::string& pod, const std::vector<int>& ports, std::string* url) {
  runtime::v1::PortForwardRequest request;
  request.set_pod_sandbox_id(pod);
  for (const int port : ports) request.add_port(port);
  runtime::v1::StreamResponse response;
  grpc::Status called = call(*stub_, &RuntimeService::Stub::PortForward, request, &response);
  *url = response.url();
  return called;
}

}  // namespace granary::cri
