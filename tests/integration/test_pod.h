// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace granary::integration {

// A pod's cgroup as the kubelet would make it: on v2, or on v1 in the hierarchies of memory, pids and cpu.
class TestPod {
 public:
  TestPod();
  ~TestPod();
  TestPod(const TestPod&) = delete;
  TestPod& operator=(const TestPod&) = delete;

  // "/granary-test-…/pod1"; empty where no cgroups can be made.
  [[nodiscard]] const std::string& path() const { return path_; }
  // What lies below it, in any hierarchy.
  [[nodiscard]] std::set<std::string> groups() const;
  [[nodiscard]] bool is_in(int pid, const std::string& group) const;  // in every hierarchy
  // Of the pod with all below it, or of another group by its path.
  [[nodiscard]] uint64_t memory_bytes() const { return memory_bytes(path_); }
  [[nodiscard]] uint64_t memory_bytes(const std::string& path) const;
  [[nodiscard]] uint64_t memory_limit(const std::string& path) const;  // 0: none
  void limit_memory(uint64_t bytes) const;
  // As in a container with a read-only /sys/fs/cgroup; for whoever is in this mount namespace, which is OwnCgroups'
  // one.
  [[nodiscard]] bool make_read_only() const;
  void make_writable() const;

 private:
  [[nodiscard]] std::string memory_file(const std::string& path, const char* v2, const char* v1) const;
  bool v2_ = false;
  std::vector<std::string> mounts_;  // memory's first
  std::string path_;
};

// In its lifetime this process and its children have a mount namespace in which the cgroup v1 hierarchies show a part
// of their own, without agents that others run on this host. On v2 it does nothing: there tests have the tree to
// themselves.
class OwnCgroups {
 public:
  OwnCgroups();
  ~OwnCgroups();
  OwnCgroups(const OwnCgroups&) = delete;
  OwnCgroups& operator=(const OwnCgroups&) = delete;
  // Its end before its time: what could not be removed, because somebody has left groups or processes in it.
  std::vector<std::string> end();

 private:
  std::string name_;
  std::vector<std::string> mounted_;
};

}  // namespace granary::integration
