// SPDX-License-Identifier: Apache-2.0
#include "agent/cgroup.h"

#include <fcntl.h>
#include <libcgroup.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>

#include "agent/cgroup_path.h"
#include "vmpool/base/units.h"

namespace granary::agent {
namespace {

struct GroupDeleter {
  void operator()(cgroup* group) const { ::cgroup_free(&group); }
};
using Group = std::unique_ptr<cgroup, GroupDeleter>;

// libcgroup's own codes carry no errno but ECGOTHER.
Error cgroup_error(int code, const std::string& what) {
  if (code == ECGOTHER && ::cgroup_get_last_errno() > 0) return Error::from_errno(::cgroup_get_last_errno(), what);
  if (code == ECGROUPNOTOWNER) return Error::from_errno(EACCES, what);
  if (code == ECGROUPNOTEXIST) return Error::from_errno(ENOENT, what);
  return Error::from_errno(EIO, what + ": " + ::cgroup_strerror(code));
}

Result<Group> describe(const std::string& path, const std::vector<std::string>& controllers) {
  Group group(::cgroup_new_cgroup(path.c_str()));
  if (!group) return Error::from_errno(ENOMEM, "describe cgroup " + path);
  for (const std::string& controller : controllers) {
    if (::cgroup_add_controller(group.get(), controller.c_str()) == nullptr) {
      return Error::from_errno(ENOMEM, "describe cgroup " + path);
    }
  }
  return group;
}

// Where a controller is mounted; empty when it is not.
std::string mount_point(const char* controller) {
  char* path = nullptr;
  if (::cgroup_get_subsys_mount_point(controller, &path) != 0) return {};
  const std::string text = path;
  std::free(path);
  return text;
}

bool is_v2(const std::string& mount) {
  struct statfs info {};
  return ::statfs(mount.c_str(), &info) == 0 && info.f_type == CGROUP2_SUPER_MAGIC;
}

// A whole number of bytes; nothing for "max", and for what v1 has in its place.
std::optional<uint64_t> bytes_of(const std::string& text) {
  constexpr uint64_t kNoLimit = uint64_t{1} << 62;
  uint64_t bytes = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bytes);
  return error == std::errc() && bytes < kNoLimit ? std::optional(bytes) : std::nullopt;
}

// One write(2): a control file takes a value or refuses it.
Status write_control(const std::string& path, const std::string& value, const std::string& what) {
  auto file = open_file(path, O_WRONLY);
  if (!file) return Error(file.error().code(), what);
  if (::write(file->get(), value.data(), value.size()) < 0) return Error::last_os_error(what);
  return ok();
}

bool exists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0;
}

// Whether a VMM could live below an owner's group: asked before a clone is taken for it.
Status check_owner(const std::string& group, bool v2) {
  const std::string what = "cgroup_parent: cgroup " + group;
  if (const auto found = open_file(group, O_RDONLY | O_DIRECTORY); !found) {
    return Error(found.error().code(), what + "; give one that is there, such as the kubelet makes for a pod");
  }
  if (::faccessat(AT_FDCWD, group.c_str(), W_OK, AT_EACCESS) != 0) {
    return Error::last_os_error(what + "; in a container, mount the host's /sys/fs/cgroup writable");
  }
  if (!v2) return ok();
  const std::string type = GRANARY_TRY(read_file(group + "/cgroup.type"));
  if (type != "domain\n") {
    return Error(Errc::kNotSupported,
                 what + " is of type \"" + type.substr(0, type.find('\n')) +
                     "\", where memory is charged to no group below it; give one of type \"domain\"");
  }
  if (GRANARY_TRY(read_file(group + "/cgroup.controllers")).find("memory") != std::string::npos) return ok();
  return Error(Errc::kNotSupported,
               what + " has no memory controller; enable it in its parent's cgroup.subtree_control");
}

}  // namespace

Result<std::unique_ptr<Cgroups>> Cgroups::open(const std::string& parent) {
  if (const int code = ::cgroup_init(); code != 0) return cgroup_error(code, "look for mounted cgroups");
  const std::string mount = mount_point("memory");
  if (mount.empty()) {
    return Error::from_errno(
        ENODEV, "no cgroup hierarchy with the memory controller is mounted; mount cgroup v2 at /sys/fs/cgroup");
  }
  const bool v2 = is_v2(mount);
  std::vector<std::string> controllers;
  std::vector<std::string> mounts;
  for (const char* name : {"memory", "pids", "cpu"}) {
    const std::string at = mount_point(name);
    if (at.empty() || is_v2(at) != v2) continue;
    controllers.emplace_back(name);
    if (!std::ranges::count(mounts, at)) mounts.push_back(at);
  }
  std::unique_ptr<Cgroups> groups(
      new Cgroups(v2 ? Version::kV2 : Version::kV1, std::move(controllers), std::move(mounts), parent));
  GRANARY_TRY(groups->make_parent());
  // An earlier agent's.
  groups->limit_in_force_ =
      bytes_of(GRANARY_TRY(read_file(groups->memory_file(parent, "memory.max", "memory.limit_in_bytes"))));
  groups->lock_ = GRANARY_TRY(open_file(mount + "/" + parent, O_RDONLY | O_DIRECTORY));
  if (::flock(groups->lock_.get(), LOCK_SH) != 0) return Error::last_os_error("lock cgroup " + parent);
  return groups;
}

// Level by level: on v2 libcgroup enables the controllers in the parent of what it makes, which must be there.
Status Cgroups::make_parent() {
  for (size_t slash = parent_.find('/');; slash = parent_.find('/', slash + 1)) {
    GRANARY_TRY(make_group(parent_.substr(0, slash)));
    if (slash == std::string::npos) return ok();
  }
}

Status Cgroups::make_group(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const Group group = GRANARY_TRY(describe(path, controllers_));
  const int code = ::cgroup_create_cgroup(group.get(), 0);
  if (code != 0) return cgroup_error(code, "create cgroup " + mount_ + "/" + path);
  return ok();
}

std::string Cgroups::path_of(const std::string& name) const {
  if (!name.starts_with('/')) return parent_ + "/" + name;
  return name.substr(1) + (slice_above(name) ? ".scope" : "");
}

std::optional<std::string> Cgroups::slice_above(const std::string& name) const {
  return systemd_ && name.starts_with('/') ? slice_of(name.substr(0, name.rfind('/'))) : std::nullopt;
}

std::string Cgroups::memory_file(const std::string& path, const char* v2, const char* v1) const {
  return mount_ + "/" + path + "/" + (version_ == Version::kV2 ? v2 : v1);
}

Result<std::string> Cgroups::find_pod(const std::string& cgroup_parent) const {
  std::string path = GRANARY_TRY(parse_cgroup_parent(cgroup_parent));
  for (const std::string& mount : mounts_) GRANARY_TRY(check_owner(mount + path, version_ == Version::kV2));
  return path;
}

Result<bool> Cgroups::has_memory_limit(const std::string& pod) const {
  // v1 says "none" by the largest number of whole pages.
  constexpr uint64_t kNoLimit = uint64_t{1} << 62;
  const std::string file = memory_file(pod.substr(1), "memory.max", "memory.limit_in_bytes");
  return bytes_of(GRANARY_TRY(read_file(file))).value_or(kNoLimit) < kNoLimit;
}

// Not with libcgroup, which would make a pod's group anew that has gone meanwhile. On v2 no controller is enabled for
// it: the pod's own group is charged, and the pod may have processes of its own.
Status Cgroups::make_owners_group(const std::string& path) {
  for (const std::string& mount : mounts_) {
    const std::string group = mount + "/" + path;
    if (::mkdir(group.c_str(), 0755) != 0 && errno != EEXIST) return Error::last_os_error("create cgroup " + group);
  }
  return ok();
}

Result<Fd> Cgroups::create(const std::string& name) {
  if (slice_above(name)) return Fd();
  const std::string path = path_of(name);
  GRANARY_TRY(name.starts_with('/') ? make_owners_group(path) : make_group(path));
  if (version_ == Version::kV1) return Fd();
  return open_file(mount_ + "/" + path, O_RDONLY | O_DIRECTORY);
}

// Not with libcgroup, which on v1 moves one thread.
Status Cgroups::add(const std::string& name, int32_t pid) {
  const std::string path = path_of(name);
  if (const auto slice = slice_above(name)) return start_scope(*slice, path.substr(path.rfind('/') + 1), pid);
  const std::string process = std::to_string(pid);
  for (const std::string& mount : mounts_) {
    const std::string group = mount + "/" + path;
    GRANARY_TRY(write_control(group + "/cgroup.procs", process, "move process " + process + " into cgroup " + group));
  }
  return ok();
}

Result<uint64_t> Cgroups::memory_bytes(const std::string& name) const {
  const std::string path = memory_file(path_of(name), "memory.current", "memory.usage_in_bytes");
  const std::optional<uint64_t> bytes = bytes_of(GRANARY_TRY(read_file(path)));
  if (!bytes) return Error(Errc::kProtocolMalformed, path + ": no number");
  return *bytes;
}

bool Cgroups::contains(const std::string& name) const { return exists(mount_ + "/" + path_of(name)); }

Status Cgroups::limit(std::optional<uint64_t> bytes) {
  const std::lock_guard lock(limit_mutex_);
  limit_ = bytes;
  return apply_limit();
}

Status Cgroups::reserve(const std::string& name, uint64_t bytes) {
  const std::lock_guard lock(limit_mutex_);
  reserved_[name] = bytes;
  return apply_limit();
}

Status Cgroups::apply_limit() {
  std::optional<uint64_t> wanted = limit_;
  if (wanted) {
    for (const auto& [name, bytes] : reserved_) *wanted += bytes;
    *wanted -= *wanted % kPageSize;  // as the kernel has it
  }
  if (wanted == limit_in_force_) return ok();
  if (wanted && *wanted < limit_in_force_.value_or(UINT64_MAX)) {
    const std::string usage = memory_file(parent_, "memory.current", "memory.usage_in_bytes");
    if (bytes_of(GRANARY_TRY(read_file(usage))).value_or(UINT64_MAX) > *wanted) return ok();
    if (!if_alone([] {})) return ok();
  }
  const std::string none = version_ == Version::kV2 ? "max" : "-1";
  const std::string file = memory_file(parent_, "memory.max", "memory.limit_in_bytes");
  GRANARY_TRY(write_control(file, wanted ? std::to_string(*wanted) : none, "set " + file));
  limit_in_force_ = wanted;
  return ok();
}

Status Cgroups::check_empty(const std::string& path) {
  pid_t* pids = nullptr;
  int count = 0;
  std::string name = path;
  std::string controller = controllers_.front();
  const int code = ::cgroup_get_procs(name.data(), controller.data(), &pids, &count);
  const pid_t first = code == 0 && count > 0 ? pids[0] : 0;
  if (code == 0) std::free(pids);
  if (code != 0) return cgroup_error(code, "list processes of cgroup " + path);
  if (count == 0) return ok();
  return Error::from_errno(EBUSY, "remove cgroup " + path + ": " + std::to_string(count) +
                                      " processes inside, the first is " + std::to_string(first));
}

Result<bool> Cgroups::remove(const std::string& name) {
  {
    const std::lock_guard lock(limit_mutex_);
    reserved_.erase(name);  // the next limit() makes use of it
  }
  const std::lock_guard lock(mutex_);
  const std::string path = path_of(name);
  bool removed = false;
  for (const std::string& mount : mounts_) {
    if (::rmdir((mount + "/" + path).c_str()) == 0) {
      removed = true;
    } else if (errno != ENOENT) {
      const Error failed = Error::last_os_error("remove cgroup " + mount + "/" + path);
      if (failed.is_errno(EBUSY)) GRANARY_TRY(check_empty(path));
      return failed;
    }
  }
  return removed;
}

bool Cgroups::if_alone(const std::function<void()>& action) {
  const bool alone = ::flock(lock_.get(), LOCK_EX | LOCK_NB) == 0;
  if (alone) action();
  ::flock(lock_.get(), LOCK_SH);  // also when the conversion failed: that loses what was held
  return alone;
}

std::optional<std::set<std::string>> Cgroups::own_groups() {
  std::set<std::string> names;
  const bool alone = if_alone([&] {
    std::error_code code;
    for (const auto& entry : std::filesystem::directory_iterator(mount_ + "/" + parent_, code)) {
      if (entry.is_directory(code)) names.insert(entry.path().filename().string());
    }
  });
  return alone ? std::optional(std::move(names)) : std::nullopt;
}

size_t Cgroups::remove_leftovers(const std::set<std::string>& keep) {
  size_t removed = 0;
  for (const std::string& name : own_groups().value_or(std::set<std::string>())) {
    if (keep.contains(name)) continue;
    const auto gone = remove(name);
    removed += gone && *gone ? 1 : 0;
  }
  return removed;
}

bool Cgroups::remove_parent() {
  const std::lock_guard lock(mutex_);
  // Only what is empty goes: rmdir of a group that has groups or processes fails, and then the rest stays too.
  bool removed = true;
  for (const std::string& mount : mounts_) {
    std::string path = parent_;
    while (!path.empty() && ::rmdir((mount + "/" + path).c_str()) == 0) {
      const size_t slash = path.rfind('/');
      path = slash == std::string::npos ? "" : path.substr(0, slash);
    }
    removed = removed && !exists(mount + "/" + parent_);
  }
  return removed;
}

}  // namespace granary::agent
