// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "vmpool/base/result.h"
#include "vmpool/guest/guest.pb.h"

// What a shim that takes its pod itself learns from the OCI specifications that containerd 1.6 and 1.7 or CRI-O write:
// which pod a bundle belongs to, and, from that of the sandbox ("pause") container, what the pod is. The input is
// hostile, as in oci_spec.h: kInvalidArgument for what is malformed, kNotSupported for what cannot be had; both name
// it.
namespace granary::shim {

struct Membership {
  std::string sandbox_id;
  bool is_sandbox = false;  // the sandbox container itself
};

// By annotations (io.kubernetes.cri.container-type and .sandbox-id of containerd, io.kubernetes.cri-o.ContainerType and
// .SandboxID of CRI-O). `id`: the container's own. kNotSupported: it belongs to no pod.
Result<Membership> read_membership(std::string_view config_json, const std::string& id);

struct SandboxSpec {
  std::string hostname;
  std::string netns;          // the pod's network namespace, as CNI left it
  std::string cgroup_parent;  // as granary.v1.Pool takes it; empty: the runtime was given none
  std::string pool;           // annotation granary.dev/pool; empty: the agent's first
  std::string resolv_conf;    // its file on this host, beside those of hosts and hostname; empty: none
  guest::v1::Pod pod;         // limits and sysctls; not the files
};

// kNotSupported: hostNetwork, hostPID, hostIPC, hostUsers: false. `containerd_namespace`: containerd puts containers
// without a cgroup parent below one of that name.
Result<SandboxSpec> read_sandbox_spec(std::string_view config_json, const std::string& containerd_namespace);

// hosts, hostname and resolv.conf, which the runtime made for the pod, from the folder of spec.resolv_conf into
// spec.pod. A file that is not there stays empty. EFBIG: one of more than 256 KiB.
Status read_pod_files(SandboxSpec& spec);

}  // namespace granary::shim
