// SPDX-License-Identifier: Apache-2.0
#include "tests/soak/faults.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "vmpool/base/fd.h"
#include "vmpool/base/units.h"

namespace granary::soak {
namespace {

namespace fs = std::filesystem;
using Ending = std::function<void()>;

pid_t any_vmm(const Target& target, Random& random) {
  const std::vector<pid_t> pids = target.vmms();
  return pids.empty() ? -1 : pids[random() % pids.size()];
}

// The soft limit alone: raising a hard one again takes privileges.
Ending limit(pid_t pid, __rlimit_resource resource, rlim_t soft) {
  rlimit before{};
  if (pid <= 0 || ::prlimit(pid, resource, nullptr, &before) != 0) return {};
  const rlimit lower{.rlim_cur = std::min(soft, before.rlim_max), .rlim_max = before.rlim_max};
  if (::prlimit(pid, resource, &lower, nullptr) != 0) return {};
  return [=] { ::prlimit(pid, resource, &before, nullptr); };
}

rlim_t open_files(pid_t pid) {
  rlim_t highest = 0;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd", code)) {
    highest = std::max<rlim_t>(highest, std::stoul(entry.path().filename()));
  }
  return highest + 1;
}

rlim_t address_space(pid_t pid) {
  std::ifstream statm("/proc/" + std::to_string(pid) + "/statm");
  rlim_t pages = 0;
  statm >> pages;
  return pages * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE));
}

Ending kill_vmm(Target& target, Random& random) {
  if (const pid_t pid = any_vmm(target, random); pid > 0) ::kill(pid, SIGKILL);
  return {};
}

Ending stop_vmm(Target& target, Random& random) {
  const pid_t pid = any_vmm(target, random);
  if (pid <= 0) return {};
  ::kill(pid, SIGSTOP);
  return [pid] { ::kill(pid, SIGCONT); };
}

// Whoever meets it must get rid of it.
Ending stop_vmm_for_good(Target& target, Random& random) {
  (void)stop_vmm(target, random);
  return {};
}

Ending no_agent_files(Target& target, Random&) {
  return limit(target.agent(), RLIMIT_NOFILE, open_files(target.agent()) + 1);
}

Ending no_spawner_files(Target& target, Random&) {
  const pid_t pid = target.spawner();
  return limit(pid, RLIMIT_NOFILE, open_files(pid) + 1);
}

// New VMMs inherit it and cannot map their guests' memory.
Ending no_memory(Target& target, Random&) {
  const pid_t pid = target.spawner();
  return limit(pid, RLIMIT_AS, address_space(pid) + 4 * kMiB);
}

Ending full_disk(Target& target, Random&) {
  const std::string path = target.run_folder() + "/filling";
  std::ofstream file(path, std::ios::binary);
  const std::string block(64 * kKiB, 'x');
  while (file.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
  }
  return [path] { ::unlink(path.c_str()); };
}

// What an agent writes there is a template.
Ending slow_disk(Target& target, Random&) {
  constexpr std::chrono::milliseconds kEach{20};
  target.disk()->set_delay(kEach);
  auto building = std::make_shared<std::jthread>([&target] { target.rebuild_template(); });
  return [&target, building] {
    target.disk()->set_delay(std::chrono::milliseconds(0));
    building->join();
  };
}

Ending shift_clock(time_t seconds) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  now.tv_sec += seconds;
  ::clock_settime(CLOCK_REALTIME, &now);
  return {};
}

// Back and forth again, not forth and back: gRPC's timers wait for points of the wall clock (abseil's futexes), so that those set
// in between would come an hour late, reconnects of this program's own channels among them.
Ending clock_jump(Target&, Random&) {
  constexpr time_t kHour = 3600;
  shift_clock(-kHour);
  return [] { shift_clock(kHour); };
}

Ending kill_agent(Target& target, Random&) {
  pid_t pid = target.agent();
  end_process(pid, SIGKILL);
  return [&target] { (void)target.start_agent(); };
}

Ending kill_spawner(Target& target, Random&) {
  if (const pid_t pid = target.spawner(); pid > 0) ::kill(pid, SIGKILL);
  return {};
}

}  // namespace

std::vector<Fault> lasting_faults(const Target& target, bool own_clock) {
  std::vector<Fault> faults = {{"kill-vmm", kill_vmm},
                               {"stop-vmm", stop_vmm},
                               {"stop-vmm-for-good", stop_vmm_for_good},
                               {"no-agent-files", no_agent_files},
                               {"no-spawner-files", no_spawner_files},
                               {"no-memory", no_memory},
                               {"full-disk", full_disk}};
  if (target.disk() != nullptr) faults.push_back({"slow-disk", slow_disk});
  if (own_clock) faults.push_back({"clock-jump", clock_jump});
  return faults;
}

std::vector<Fault> deadly_faults() { return {{"kill-agent", kill_agent}, {"kill-spawner", kill_spawner}}; }

}  // namespace granary::soak
