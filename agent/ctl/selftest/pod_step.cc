// SPDX-License-Identifier: Apache-2.0
#include <grpcpp/create_channel.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>

#include "agent/ctl/selftest/other_steps.h"
#include "cri/runtime.grpc.pb.h"
#include "grpc-api/status.h"
#include "vmpool/pool/unix_socket.h"

namespace granary::ctl::selftest {
namespace {

namespace cri = runtime::v1;
using Stub = cri::RuntimeService::Stub;
using std::chrono::steady_clock;
constexpr std::chrono::seconds kCallLimit{120};
constexpr const char* kHandler = "granary";

template <class Response, class Request>
Result<Response> ask(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                     const Request& request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kCallLimit);
  Response response;
  const grpc::Status status = (stub.*method)(&context, request, &response);
  if (!status.ok()) return api::from_grpc(status);
  return response;
}

cri::RunPodSandboxRequest pod_request() {
  const std::string id = "granary-selftest-" + std::to_string(::getpid());
  cri::RunPodSandboxRequest request;
  request.set_runtime_handler(kHandler);
  cri::PodSandboxConfig& config = *request.mutable_config();
  config.mutable_metadata()->set_name(id);
  config.mutable_metadata()->set_uid(id);
  config.mutable_metadata()->set_namespace_("default");
  config.set_hostname("selftest");
  return request;
}

double ms_since(steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(steady_clock::now() - start).count();
}

Status remove_pod(Stub& stub, const std::string& id) {
  cri::StopPodSandboxRequest stop;
  stop.set_pod_sandbox_id(id);
  const auto stopped = ask(stub, &Stub::StopPodSandbox, stop);
  cri::RemovePodSandboxRequest remove;
  remove.set_pod_sandbox_id(id);
  const auto removed = ask(stub, &Stub::RemovePodSandbox, remove);  // also of one that could not be stopped
  if (stopped && removed) return ok();
  const Error& why = removed ? stopped.error() : removed.error();
  return Error(why.code(), "pod " + id + " is left: " + why.context() + "; crictl rmp -f " + id);
}

// Of a pod whose start failed or was not answered in time; containerd may have it all the same.
void remove_unanswered_pod(Stub& stub) {
  cri::ListPodSandboxRequest all;
  const auto list = ask(stub, &Stub::ListPodSandbox, all);
  if (!list) return;
  for (const cri::PodSandbox& pod : list->items()) {
    if (pod.metadata().uid() == pod_request().config().metadata().uid()) (void)remove_pod(stub, pod.id());
  }
}

// containerd's words for a handler that its configuration does not have.
bool knows_no_handler(const Error& error) {
  const std::string text = error.message();
  return text.find("no runtime for \"granary\" is configured") != std::string::npos;
}

}  // namespace

Result<Outcome> pod_step(const std::string& socket) {
  const auto probe = pool::connect_unix(socket, SOCK_STREAM, steady_clock::now() + std::chrono::seconds(5));
  if (!probe)
    return skip("no containerd answers on " + socket + " (" + probe.error().code().message() + "); see --containerd");
  const auto stub =
      cri::RuntimeService::NewStub(grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials()));
  const auto version = ask(*stub, &Stub::Version, cri::VersionRequest());
  if (!version && version.error().is(Errc::kNotSupported)) {
    return skip("containerd on " + socket + " serves no CRI: its configuration has \"cri\" in disabled_plugins");
  }
  if (!version) return version.error();
  const auto start = steady_clock::now();
  const auto made = ask(*stub, &Stub::RunPodSandbox, pod_request());
  if (!made && knows_no_handler(made.error())) {
    return skip("containerd on " + socket +
                " has no runtime handler granary; docs/operations.md says how to configure it");
  }
  if (!made) {
    remove_unanswered_pod(*stub);
    return made.error();
  }
  const double ready_ms = ms_since(start);
  const auto stop = steady_clock::now();
  GRANARY_TRY(remove_pod(*stub, made->pod_sandbox_id()));
  return Outcome{.figures = {{"pod to Ready", ready_ms, "ms"}, {"pod stopped and removed", ms_since(stop), "ms"}},
                 .skipped = {},
                 .rows = {},
                 .detail = version->runtime_name() + " " + version->runtime_version()};
}

}  // namespace granary::ctl::selftest
