// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/test_pod.h"

#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace granary::integration {
namespace {

namespace fs = std::filesystem;

const std::string kRoot = "/sys/fs/cgroup";

std::string read(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

}  // namespace

TestPod::TestPod() {
  v2_ = read(kRoot + "/cgroup.controllers").find("memory") != std::string::npos;
  mounts_ = v2_ ? std::vector{kRoot} : std::vector{kRoot + "/memory", kRoot + "/pids", kRoot + "/cpu"};
  const std::string pods = "/granary-test-" + std::to_string(::getpid());
  for (const std::string& mount : mounts_) {
    std::error_code code;
    fs::create_directory(mount + pods, code);
    if (code) return;
    if (v2_) {
      // One by one, from the root on: a controller that is not enabled above would refuse the whole line.
      for (const std::string& group : {mount, mount + pods}) {
        for (const char* controller : {"+memory", "+pids", "+cpu"}) {
          std::ofstream(group + "/cgroup.subtree_control") << controller;
        }
      }
    }
    fs::create_directory(mount + pods + "/pod1", code);
    if (code) return;
  }
  path_ = pods + "/pod1";
}

TestPod::~TestPod() {
  for (const std::string& mount : mounts_) {
    ::rmdir((mount + path_).c_str());
    ::rmdir(fs::path(mount + path_).parent_path().c_str());
  }
}

std::set<std::string> TestPod::groups() const {
  std::set<std::string> names;
  for (const std::string& mount : mounts_) {
    std::error_code code;
    for (const auto& entry : fs::directory_iterator(mount + path_, code)) {
      if (entry.is_directory()) names.insert(entry.path().filename());
    }
  }
  return names;
}

bool TestPod::is_in(int pid, const std::string& group) const {
  for (const std::string& mount : mounts_) {
    std::istringstream processes(read(mount + path_ + "/" + group + "/cgroup.procs"));
    bool found = false;
    for (int member = 0; processes >> member;) found = found || member == pid;
    if (!found) return false;
  }
  return true;
}

std::string TestPod::memory_file(const std::string& path, const char* v2, const char* v1) const {
  return mounts_.front() + path + "/" + (v2_ ? v2 : v1);
}

uint64_t TestPod::memory_bytes(const std::string& path) const {
  return std::strtoull(read(memory_file(path, "memory.current", "memory.usage_in_bytes")).c_str(), nullptr, 10);
}

uint64_t TestPod::memory_limit(const std::string& path) const {
  const std::string text = read(memory_file(path, "memory.max", "memory.limit_in_bytes"));
  const uint64_t bytes = std::strtoull(text.c_str(), nullptr, 10);
  return bytes < uint64_t{1} << 62 ? bytes : 0;
}

void TestPod::limit_memory(uint64_t bytes) const {
  std::ofstream(memory_file(path_, "memory.max", "memory.limit_in_bytes")) << bytes;
}

bool TestPod::make_read_only() const {
  const std::string pod = mounts_.front() + path_;
  return ::mount(pod.c_str(), pod.c_str(), nullptr, MS_BIND, nullptr) == 0 &&
         ::mount(nullptr, pod.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) == 0;
}

void TestPod::make_writable() const { ::umount2((mounts_.front() + path_).c_str(), MNT_DETACH); }

OwnCgroups::OwnCgroups() : name_("granary-test-" + std::to_string(::getpid()) + "-root") {
  if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return;
  std::error_code code;
  std::vector<fs::path> hierarchies;
  for (const auto& entry : fs::directory_iterator(kRoot, code)) {
    if (fs::exists(entry.path() / "tasks") && !entry.is_symlink()) hierarchies.push_back(entry.path());
  }
  for (const fs::path& hierarchy : hierarchies) {
    fs::create_directory(hierarchy / name_, code);
    if (!code && ::mount((hierarchy / name_).c_str(), hierarchy.c_str(), nullptr, MS_BIND, nullptr) == 0) {
      mounted_.push_back(hierarchy);
    }
  }
}

OwnCgroups::~OwnCgroups() { end(); }

std::vector<std::string> OwnCgroups::end() {
  std::vector<std::string> left_over;
  for (const std::string& hierarchy : mounted_) {
    ::umount2(hierarchy.c_str(), MNT_DETACH);
    const std::string own = hierarchy + "/" + name_;
    if (::rmdir(own.c_str()) != 0) left_over.push_back(own);
  }
  mounted_.clear();
  return left_over;
}

}  // namespace granary::integration
