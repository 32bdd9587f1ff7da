// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "vmpool/base/result.h"

// From the OCI runtime specification that containerd writes for this host (bundle/config.json) to one for the guest.
// What a container asks of its kernel it gets from the guest's: capabilities, seccomp, limits, masked paths, users, new
// namespaces and all mounts without a host path stay as they are. What names something of the host is
//   replaced  ociVersion (crun knows 1.0 alone); root.path; linux.cgroupsPath; bind mounts: files of the pod by those
//   that the guest has at /run/granary/pod (added where they are missing), all
//             others by what Shares::mount() gives
//   dropped   namespaces with a path and the network, ipc, uts ones (the guest's own are the pod's), host name (it is
//   the pod's),
//             AppArmor profile, SELinux labels, CPU and memory node numbers, block I/O limits of devices, intelRdt,
//             net_cls, huge-page limits: the guest has no such policy, or other numbers
//   refused   hooks, host devices, user namespaces and id-mapped mounts, mounts that propagate to the host, seccomp
//   listeners, file systems of a host's block device
// The input is hostile: wrong types, depth and size are kInvalidArgument, what cannot be had kNotSupported; both name
// it.
namespace granary::shim {

inline constexpr size_t kMaxSpecBytes = 512 * 1024;

// Makes a file or directory of the host visible in the guest and gives its path there.
using ShareMount = std::function<Result<std::string>(const std::string& host_path, bool read_only)>;

struct SpecContext {
  std::string container_id;
  std::string sandbox_id;  // containerd keeps the pod's files in …/sandboxes/<it>/
  bool terminal = false;   // as the Task call says
  ShareMount share;
};

struct GuestSpec {
  std::string json;
  uint32_t rows = 0;  // process.consoleSize
  uint32_t columns = 0;
  std::string host_root = {};  // root.path as it was: CRI-O has mounted the root file system there already
};

Result<GuestSpec> translate_spec(std::string_view config_json, const SpecContext& context);

// A runtime-spec Process, of an exec.
Result<GuestSpec> translate_process(std::string_view process_json, bool terminal);

// Of a runtime-spec LinuxResources; 0: not given, or no limit.
struct GuestLimits {
  uint64_t memory_bytes = 0;
  uint64_t cpu_quota_us = 0;
  uint64_t cpu_period_us = 0;
  uint64_t cpu_weight = 0;  // from cpu.shares as systemd and crun convert them: 2..262144 to 1..10000
  uint64_t pids = 0;

  bool operator==(const GuestLimits&) const = default;
};
Result<GuestLimits> read_resources(std::string_view resources_json);

}  // namespace granary::shim
