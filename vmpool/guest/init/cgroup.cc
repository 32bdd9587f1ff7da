// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/cgroup.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <functional>
#include <sstream>
#include <vector>

#include "vmpool/base/fd.h"

namespace granary::guest::cgroup {
namespace {

constexpr const char* kControllers[] = {"cpuset", "cpu", "io", "memory", "pids"};
// More process numbers than a state's message should carry.
constexpr int kMostPids = 16384;
constexpr uint64_t kDefaultPeriodUs = 100'000;  // of cpu.max
constexpr uint64_t kDefaultWeight = 100;        // of cpu.weight

Status write_value(const std::string& file, const std::string& value) {
  const Fd fd = GRANARY_TRY(open_file(file, O_WRONLY));
  if (::write(fd.get(), value.data(), value.size()) >= 0) return ok();
  return Error::last_os_error("write " + value + " to " + file);
}

// A missing controller is none of ours only while nothing is asked of it.
Status write_limit(const std::string& file, bool limited, const std::string& value) {
  const Status written = write_value(file, value);
  return written || limited || !written.error().is_errno(ENOENT) ? written : ok();
}

// Empty if it cannot be read.
std::string text_of(const std::string& file) {
  Result<std::string> text = read_file(file);
  return text ? *std::move(text) : std::string();
}

uint64_t number_of(const std::string& file) {
  const std::string text = text_of(file);
  uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);  // "max" is 0
  return value;
}

// Files of "NAME VALUE" lines.
uint64_t value_in(const std::string& text, std::string_view name) {
  std::istringstream words(text);
  std::string word;
  uint64_t value = 0;
  while (words >> word >> value) {
    if (word == name) return value;
  }
  return 0;
}

// This cgroup and all below it, itself last.
void for_each(const std::string& folder, const std::function<void(const std::string&)>& visit) {
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator(folder, code)) {
    if (entry.is_directory(code) && !entry.is_symlink(code)) for_each(entry.path().string(), visit);
  }
  visit(folder);
}

std::vector<pid_t> processes(const std::string& folder) {
  std::vector<pid_t> pids;
  for_each(folder, [&](const std::string& group) {
    std::istringstream words(text_of(group + "/cgroup.procs"));
    for (pid_t pid = 0; words >> pid;) {
      if (pid > 1) pids.push_back(pid);
    }
  });
  return pids;
}

void add_io(const std::string& text, v1::ContainerState& state) {
  const auto sum = [&text](std::string_view name) {
    uint64_t total = 0;
    for (size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
      uint64_t bytes = 0;
      const char* begin = text.data() + at + name.size();
      std::from_chars(begin, text.data() + text.size(), bytes);
      total += bytes;
    }
    return total;
  };
  state.set_block_read_bytes(sum(" rbytes="));
  state.set_block_written_bytes(sum(" wbytes="));
}

}  // namespace

Status make(const std::string& folder) {
  if (::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) return Error::last_os_error("make cgroup " + folder);
  const std::string parent = std::filesystem::path(folder).parent_path().string();
  for (const char* controller : kControllers) {
    // One that this kernel lacks is missed when a limit needs it.
    (void)write_value(parent + "/cgroup.subtree_control", std::string("+") + controller);
  }
  return ok();
}

Status set_limits(const std::string& folder, const v1::Limits& limits) {
  const auto or_max = [](uint64_t value) { return value == 0 ? std::string("max") : std::to_string(value); };
  const uint64_t period = limits.cpu_period_us() == 0 ? kDefaultPeriodUs : limits.cpu_period_us();
  const uint64_t weight = limits.cpu_weight() == 0 ? kDefaultWeight : limits.cpu_weight();
  GRANARY_TRY(write_limit(folder + "/cpu.max", limits.cpu_quota_us() > 0,
                          or_max(limits.cpu_quota_us()) + " " + std::to_string(period)));
  GRANARY_TRY(write_limit(folder + "/cpu.weight", limits.cpu_weight() > 0, std::to_string(weight)));
  GRANARY_TRY(write_limit(folder + "/pids.max", limits.pids() > 0, or_max(limits.pids())));
  return write_limit(folder + "/memory.max", limits.memory_bytes() > 0, or_max(limits.memory_bytes()));
}

Status freeze(const std::string& folder) {
  constexpr int kTries = 400;
  constexpr useconds_t kPauseUs = 5'000;
  GRANARY_TRY(write_value(folder + "/cgroup.freeze", "1"));
  for (int i = 0; i < kTries; ++i) {
    if (value_in(GRANARY_TRY(read_file(folder + "/cgroup.events")), "frozen") == 1) return ok();
    ::usleep(kPauseUs);
  }
  GRANARY_TRY(thaw(folder));
  return Error::from_errno(EBUSY, "freeze cgroup " + folder);
}

Status thaw(const std::string& folder) { return write_value(folder + "/cgroup.freeze", "0"); }

v1::ContainerState read_state(const std::string& folder) {
  v1::ContainerState state;
  for (const pid_t pid : processes(folder)) {
    if (state.pids_size() < kMostPids) state.add_pids(pid);
  }
  const std::string memory = text_of(folder + "/memory.stat");
  const std::string cpu = text_of(folder + "/cpu.stat");
  state.set_memory_bytes(number_of(folder + "/memory.current"));
  state.set_memory_limit_bytes(number_of(folder + "/memory.max"));
  state.set_memory_inactive_file_bytes(value_in(memory, "inactive_file"));
  state.set_memory_anon_bytes(value_in(memory, "anon"));
  state.set_memory_file_bytes(value_in(memory, "file"));
  state.set_page_faults(value_in(memory, "pgfault"));
  state.set_major_page_faults(value_in(memory, "pgmajfault"));
  state.set_oom_kills(oom_kills(folder));
  state.set_cpu_usage_us(value_in(cpu, "usage_usec"));
  state.set_cpu_user_us(value_in(cpu, "user_usec"));
  state.set_cpu_system_us(value_in(cpu, "system_usec"));
  state.set_cpu_throttled_us(value_in(cpu, "throttled_usec"));
  state.set_pids_current(number_of(folder + "/pids.current"));
  state.set_pids_limit(number_of(folder + "/pids.max"));
  add_io(text_of(folder + "/io.stat"), state);
  return state;
}

uint64_t oom_kills(const std::string& folder) { return value_in(text_of(folder + "/memory.events"), "oom_kill"); }

bool signal_all(const std::string& folder, int signal) {
  const std::vector<pid_t> pids = processes(folder);
  // All at once (Linux 5.14), also those that are being forked now.
  if (signal == SIGKILL && write_value(folder + "/cgroup.kill", "1")) return !pids.empty();
  for (const pid_t pid : pids) ::kill(pid, signal);
  return !pids.empty();
}

Status remove(const std::string& folder) {
  constexpr int kTries = 500;
  constexpr useconds_t kPauseUs = 10'000;
  std::string busy;
  for (int i = 0; i < kTries; ++i) {
    busy.clear();
    for_each(folder, [&busy](const std::string& group) {
      if (::rmdir(group.c_str()) != 0 && errno != ENOENT) busy = group;
    });
    if (busy.empty()) return ok();
    signal_all(folder, SIGKILL);
    ::usleep(kPauseUs);
  }
  return Error::from_errno(EBUSY, "remove cgroup " + busy);
}

}  // namespace granary::guest::cgroup
