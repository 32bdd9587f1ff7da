// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/systemd_scope.h"
#include "vmpool/base/fd.h"
#include "vmpool/base/result.h"

namespace granary::agent {

// One cgroup per clone below a common parent ("granary.slice/pool"), on cgroup v2 or v1, whichever has the memory
// controller, and groups of handed-over clones below their owners'. Controllers used, where the host has them: memory,
// pids, cpu. libcgroup is used in cgroup.cc and nowhere else. Thread-safe. Groups outlive this object; remove_parent()
// takes the parent away at a clean exit.
//
// The name of a group: one below the common parent, or, when it starts with '/', a path below the root of every
// hierarchy.
class Cgroups {
 public:
  enum class Version { kV1 = 1, kV2 = 2 };

  // Looks at what is mounted and creates the parent. Fails, naming the reason, where no group can be made: nothing
  // mounted, mounted read-only, or no permission. Then the agent runs without groups.
  // ENODEV: no hierarchy with the memory controller is mounted.
  static Result<std::unique_ptr<Cgroups>> open(const std::string& parent);

  [[nodiscard]] Version version() const { return version_; }

  // The path of a pod's cgroup, from what the caller gave (cgroup_path.h), and that a VMM can live below it.
  // kInvalidArgument for what is no path; ENOENT and ENOTDIR when there is no such group in one of the hierarchies;
  // EACCES and EROFS when no group can be made in it; kNotSupported without the memory controller, or threaded (v2).
  [[nodiscard]] Result<std::string> find_pod(const std::string& cgroup_parent) const;

  // Whether a pod's group, by its path, has a memory limit of its own: the kubelet sets one where each container has one.
  [[nodiscard]] Result<bool> has_memory_limit(const std::string& pod) const;

  // Makes the group, or takes the one that is there. On v2 the open directory, for clone3(CLONE_INTO_CGROUP); on v1,
  // and for a scope, an invalid Fd: there a process is moved in with add(). ENOENT for a path whose parent is not
  // there.
  Result<Fd> create(const std::string& name);
  // Moves a process with all its threads. What it has touched stays charged to the group where it was.
  Status add(const std::string& name, int32_t pid);
  // What is charged to it now, kernel memory included.
  [[nodiscard]] Result<uint64_t> memory_bytes(const std::string& name) const;
  [[nodiscard]] bool contains(const std::string& name) const;

  // What the parent with all its groups may use: `bytes` and what reserve() added; nothing: as much as there is. A
  // limit below what is used now would make the kernel kill, so it comes into force with a later call, once less is
  // used; and it is not lowered while another agent uses the same parent.
  Status limit(std::optional<uint64_t> bytes);
  // A group of the parent's may grow by so much, until it is removed: at once, if there is a limit.
  Status reserve(const std::string& name, uint64_t bytes);

  // The parent's PSI file; there on v2 where the kernel has PSI.
  [[nodiscard]] std::string pressure_file() const { return mount_ + "/" + parent_ + "/memory.pressure"; }
  // True: removed; false: was absent. EBUSY names a process that is still inside: nothing is ever moved out to
  // make a removal succeed.
  Result<bool> remove(const std::string& name);
  // Removes the empty groups that an agent which was killed left below the parent, but for those in `keep`, and returns
  // how many. Does nothing while another agent uses the same parent: each holds a shared flock(2) on it.
  size_t remove_leftovers(const std::set<std::string>& keep = {});
  // The groups below the parent; nothing while another agent uses the same parent.
  std::optional<std::set<std::string>> own_groups();
  // Removes the parent if it has no groups left; false otherwise.
  bool remove_parent();

 private:
  Cgroups(Version version, std::vector<std::string> controllers, std::vector<std::string> mounts, std::string parent)
      : systemd_(systemd_runs()),
        version_(version),
        controllers_(std::move(controllers)),
        mounts_(std::move(mounts)),
        mount_(mounts_.front()),
        parent_(std::move(parent)) {}
  [[nodiscard]] std::string path_of(const std::string& name) const;
  [[nodiscard]] std::optional<std::string> slice_above(const std::string& name) const;
  [[nodiscard]] std::string memory_file(const std::string& path, const char* v2, const char* v1) const;
  Status make_group(const std::string& path);
  Status make_owners_group(const std::string& path);
  Status apply_limit();
  Status make_parent();
  Status check_empty(const std::string& path);
  // Runs `action` if nobody else uses the parent. True: it ran.
  bool if_alone(const std::function<void()>& action);

  const bool systemd_;
  Version version_;
  std::vector<std::string> controllers_;
  std::vector<std::string> mounts_;  // of the controllers, each once
  std::string mount_;                // of the memory controller
  std::string parent_;               // relative to every mount
  Fd lock_;                          // the parent's directory
  std::mutex mutex_;                 // libcgroup keeps process-wide tables

  std::mutex limit_mutex_;
  std::optional<uint64_t> limit_;
  std::map<std::string, uint64_t> reserved_;
  std::optional<uint64_t> limit_in_force_;
};

}  // namespace granary::agent
