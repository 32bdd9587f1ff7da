// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/sandbox_spec.h"

#include <charconv>
#include <map>

#include "agent/shim/spec_json.h"
#include "vmpool/base/container_id.h"
#include "vmpool/base/fd.h"

namespace granary::shim {
namespace {

using namespace spec_json;  // NOLINT: all of this file reads with it

constexpr size_t kMaxFileBytes = 256 * 1024;

Result<std::string> annotation(json& spec, const char* name) {
  json* annotations = GRANARY_TRY(object_in(spec, "annotations"));
  if (annotations == nullptr) return std::string();
  return text_in(*annotations, name);
}

// containerd's, else CRI-O's.
Result<std::string> annotation_of_either(json& spec, const char* containerd, const char* crio) {
  std::string value = GRANARY_TRY(annotation(spec, containerd));
  if (!value.empty()) return value;
  return annotation(spec, crio);
}

// A number that containerd wrote as a text; 0: absent, or no limit.
Result<uint64_t> number_annotation(json& spec, const char* name) {
  const std::string text = GRANARY_TRY(annotation(spec, name));
  if (text.empty()) return uint64_t{0};
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return invalid(std::string("annotation ") + name + " is " + shown(text) + ", no whole number");
  }
  return static_cast<uint64_t>(std::max<int64_t>(value, 0));
}

Error host_namespace(const char* option) {
  return impossible(
      std::string(option) +
      ": true cannot work in a microVM, which has a kernel of its own; remove it from the pod or use another "
      "runtimeClassName");
}

// A sandbox that shares a namespace with the host has none of that type in its specification.
Result<std::string> read_namespaces(json& of_linux) {
  std::map<std::string, std::string> paths;
  for (json* entry : GRANARY_TRY(objects_in(of_linux, "namespaces"))) {
    paths[GRANARY_TRY(text_in(*entry, "type"))] = GRANARY_TRY(text_in(*entry, "path"));
  }
  if (!paths.contains("network")) return host_namespace("hostNetwork");
  if (!paths.contains("pid")) return host_namespace("hostPID");
  if (!paths.contains("ipc")) return host_namespace("hostIPC");
  if (paths.contains("user")) {
    return impossible(
        "a user namespace (hostUsers: false): the pod has a kernel of its own already; leave hostUsers unset");
  }
  return paths["network"];
}

// containerd and CRI-O name the sandbox container's own group: a path below the pod's, or systemd's slice:prefix:name.
std::string parent_of(const std::string& cgroups_path, const std::string& containerd_namespace) {
  const size_t last = cgroups_path.rfind('/');
  if (last == std::string::npos) return cgroups_path;
  std::string parent = cgroups_path.substr(0, last);
  return parent == "/" + containerd_namespace ? "" : parent;
}

Status read_sysctls(json& of_linux, guest::v1::Pod& pod) {
  json* sysctls = GRANARY_TRY(object_in(of_linux, "sysctl"));
  if (sysctls == nullptr) return ok();
  for (const auto& [name, value] : sysctls->items()) {
    if (!value.is_string()) return invalid("sysctl " + shown(name) + " is a " + value.type_name());
    auto& sysctl = *pod.add_sysctls();
    sysctl.set_name(name);
    sysctl.set_value(value.get<std::string>());
  }
  return ok();
}

Status read_limits(json& spec, guest::v1::Limits& limits) {
  limits.set_memory_bytes(GRANARY_TRY(number_annotation(spec, "io.kubernetes.cri.sandbox-memory")));
  limits.set_cpu_quota_us(GRANARY_TRY(number_annotation(spec, "io.kubernetes.cri.sandbox-cpu-quota")));
  limits.set_cpu_period_us(GRANARY_TRY(number_annotation(spec, "io.kubernetes.cri.sandbox-cpu-period")));
  return ok();
}

Result<std::string> mount_source(json& spec, std::string_view destination) {
  for (json* mount : GRANARY_TRY(objects_in(spec, "mounts"))) {
    if (GRANARY_TRY(text_in(*mount, "destination")) == destination) return text_in(*mount, "source");
  }
  return std::string();
}

}  // namespace

Result<Membership> read_membership(std::string_view config_json, const std::string& id) {
  json spec = GRANARY_TRY(parse_object(config_json));
  const std::string type =
      GRANARY_TRY(annotation_of_either(spec, "io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"));
  Membership membership;
  membership.is_sandbox = type == "sandbox";
  membership.sandbox_id =
      GRANARY_TRY(annotation_of_either(spec, "io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"));
  if (type != "sandbox" && type != "container") {
    return impossible("container " + shown(id) + " belongs to no pod (annotation io.kubernetes.cri.container-type is " +
                      shown(type) + "); a container outside a pod is `granaryctl run`");
  }
  if (membership.is_sandbox && membership.sandbox_id.empty()) membership.sandbox_id = id;
  if (!is_id(membership.sandbox_id)) {
    return invalid("annotation io.kubernetes.cri.sandbox-id " + shown(membership.sandbox_id) +
                   ": 1 to 128 of a-z A-Z 0-9 _ . -");
  }
  if (membership.is_sandbox && membership.sandbox_id != id) {
    return invalid("sandbox container " + shown(id) + " names another sandbox, " + shown(membership.sandbox_id));
  }
  return membership;
}

Result<SandboxSpec> read_sandbox_spec(std::string_view config_json, const std::string& containerd_namespace) {
  json spec = GRANARY_TRY(parse_object(config_json));
  json* of_linux = GRANARY_TRY(object_in(spec, "linux"));
  if (of_linux == nullptr) return invalid("linux is missing: pods of another operating system cannot run here");
  SandboxSpec result;
  result.netns = GRANARY_TRY(read_namespaces(*of_linux));
  result.hostname = GRANARY_TRY(text_in(spec, "hostname"));
  const std::string cgroups_path = GRANARY_TRY(text_in(*of_linux, "cgroupsPath"));
  result.cgroup_parent = parent_of(cgroups_path, containerd_namespace);
  result.pool = GRANARY_TRY(annotation(spec, "granary.dev/pool"));
  result.resolv_conf = GRANARY_TRY(mount_source(spec, "/etc/resolv.conf"));
  GRANARY_TRY(read_sysctls(*of_linux, result.pod));
  GRANARY_TRY(read_limits(spec, *result.pod.mutable_limits()));
  return result;
}

Status read_pod_files(SandboxSpec& spec) {
  if (!spec.resolv_conf.starts_with('/')) return ok();
  const std::string folder = spec.resolv_conf.substr(0, spec.resolv_conf.rfind('/') + 1);
  const auto read = [](const std::string& path) -> Result<std::string> {
    Result<std::string> text = read_file(path, kMaxFileBytes);
    if (!text && text.error().is_errno(ENOENT)) return std::string();
    return text;
  };
  spec.pod.set_resolv_conf(GRANARY_TRY(read(spec.resolv_conf)));
  spec.pod.set_hosts(GRANARY_TRY(read(folder + "hosts")));
  spec.pod.set_hostname(GRANARY_TRY(read(folder + "hostname")));
  return ok();
}

}  // namespace granary::shim
