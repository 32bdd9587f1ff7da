// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cri/runtime.pb.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::agent {

// What a pod's containers share in the guest, from what the kubelet says of the pod: hosts, hostname and resolv.conf,
// sysctls and the pod's limits. containerd makes these files itself only for sandboxes of its own. `host_resolv_conf`
// is taken where the pod has no DNS configuration, as containerd does.
guest::v1::Pod to_guest_pod(const runtime::v1::PodSandboxConfig& config, const std::string& host_resolv_conf);

}  // namespace granary::agent
