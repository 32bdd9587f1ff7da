// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/caller.h"

namespace granary::shim {
namespace {

constexpr std::string_view kServicePrefix = "containerd.task.";
constexpr std::string_view kServiceSuffix = ".Task";
constexpr const char* kDefaultNamespace = "k8s.io";
constexpr size_t kShownBytes = 128;

// "v2" or "v3"; empty: another service.
std::string version_of(const std::string& service) {
  if (!service.starts_with(kServicePrefix) || !service.ends_with(kServiceSuffix)) return "";
  const std::string version =
      service.substr(kServicePrefix.size(), service.size() - kServicePrefix.size() - kServiceSuffix.size());
  return version == "v2" || version == "v3" ? version : "";
}

}  // namespace

Error unknown_method(const ttrpc::Call& call) {
  return rpc_error(Rpc::kUnimplemented, "method " + call.service.substr(0, kShownBytes) + "/" +
                                            call.method.substr(0, kShownBytes) + " is not known here");
}

Result<Caller> caller_of(const ttrpc::Call& call) {
  std::string version = version_of(call.service);
  if (version.empty()) return unknown_method(call);
  const auto given = call.metadata.find("containerd-namespace-ttrpc");
  return Caller{.containerd_namespace = given == call.metadata.end() ? kDefaultNamespace : given->second,
                .version = std::move(version)};
}

}  // namespace granary::shim
