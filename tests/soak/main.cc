// SPDX-License-Identifier: Apache-2.0
// granary-soak: clones taken and given back for long, while things go wrong. In the end nothing has leaked or grown.
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "tests/integration/test_pod.h"
#include "tests/soak/faults.h"
#include "tests/soak/workers.h"

namespace granary::soak {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int kSkipped = 77;
constexpr unsigned kThreads = 3;
constexpr unsigned kFaultMs = 400;
// In an emulated node an agent takes seconds to start and to restore clones: it must come that far before it is killed
// again.
constexpr unsigned kSlowStartMs = 10'000;
constexpr seconds kStuckAfter{120};
constexpr seconds kQuietWithin{120};
// Threads that come and go have descriptors and stacks; leaks add up over thousands of cycles.
constexpr int64_t kMostNewFiles = 16;
constexpr int64_t kMostNewKib = 8 * 1024;

struct Options {
  unsigned cycles = 10'000;
  uint64_t seed = 1;
  std::string guest = "tiny";
};

struct Size {
  int64_t files = 0;
  int64_t kib = 0;
};

Size size_of(pid_t pid) {
  const std::string proc = "/proc/" + std::to_string(pid);
  std::error_code code;
  Size size;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(proc + "/fd", code)) ++size.files;
  std::ifstream statm(proc + "/statm");
  int64_t total = 0;
  int64_t resident_pages = 0;
  statm >> total >> resident_pages;
  size.kib = resident_pages * (::sysconf(_SC_PAGESIZE) / 1024);
  return size;
}

struct Sizes {
  Size agent;
  Size spawner;
  size_t vmms = 0;
};

Sizes measure(const Target& target) {
  return {size_of(target.agent()), size_of(target.spawner()), target.vmms().size()};
}

// What a run has to say; empty: all is well.
using Findings = std::vector<std::string>;

void compare(const char* who, const Size& before, const Size& after, Findings& findings) {
  std::cout << "soak: " << who << ": " << before.files << " -> " << after.files << " open files, " << before.kib
            << " -> " << after.kib << " KiB resident\n";
  if (after.files > before.files + kMostNewFiles) findings.push_back(std::string(who) + " has leaked descriptors");
  if (after.kib > before.kib + kMostNewKib) findings.push_back(std::string(who) + " has grown");
}

// Lets things go wrong until the workers are done. False: somebody is stuck.
bool maltreat(Target& target, const Workers& workers, const std::vector<Fault>& faults, unsigned longest_ms,
              Random& random, Findings& findings) {
  std::map<std::string, unsigned> begun;
  auto told = std::chrono::steady_clock::now();
  while (!workers.done()) {
    if (!faults.empty()) {
      const Fault& fault = faults[random() % faults.size()];
      ++begun[fault.name];
      const auto end = fault.begin(target, random);
      ::poll(nullptr, 0, static_cast<int>(random() % longest_ms));
      if (end) end();
    }
    ::poll(nullptr, 0, static_cast<int>(random() % longest_ms));
    if (const std::string step = workers.stuck(kStuckAfter); !step.empty()) {
      findings.push_back("stuck at: " + step);
      return false;
    }
    if (std::chrono::steady_clock::now() - told > seconds(30)) {
      told = std::chrono::steady_clock::now();
      std::cout << "soak: " << workers.cycles() << " cycles" << std::endl;
    }
  }
  for (const auto& [name, times] : begun) std::cout << "soak: fault " << name << ": " << times << "\n";
  return true;
}

// A number of cycles with these faults, each up to `longest_ms` long and after the one before; then rest: audit clean,
// no clone left over, no leak counted.
bool phase(const char* name, Target& target, const std::vector<Fault>& faults, unsigned cycles, const Options& options,
           Random& random, Findings& findings, unsigned longest_ms) {
  std::cout << "soak: " << name << ", " << cycles << " cycles" << std::endl;
  const auto start = std::chrono::steady_clock::now();
  Workers workers(target, kThreads, cycles, options.guest != "tiny");
  if (!maltreat(target, workers, faults, longest_ms, random, findings)) {
    std::cerr << target.log_tail() << "soak: FAILED: " << findings.back() << std::endl;
    std::_Exit(1);  // its thread cannot be waited for
  }
  for (const auto& [outcome, times] : workers.outcomes()) std::cout << "soak: " << outcome << ": " << times << "\n";
  for (const std::string& wrong : workers.wrongs()) findings.push_back(wrong);
  if (workers.outcomes()["acquire ok"] < cycles / 2) findings.push_back("less than half of the cycles got a clone");
  if (const Status quiet = target.wait_quiet(kQuietWithin); !quiet) findings.push_back(quiet.error().message());
  const auto audit = target.audit();
  if (!audit) findings.push_back(audit.error().message());
  if (audit) findings.insert(findings.end(), audit->begin(), audit->end());
  const auto status = target.status();
  if (status && status->leaks() > 0) std::cout << "soak: leaks counted (and retried): " << status->leaks() << "\n";
  const auto took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::cout << "soak: " << name << " took " << took << " s, " << cycles / took << " cycles/s" << std::endl;
  return findings.empty();
}

Findings soak(Target& target, const Options& options) {
  Findings findings;
  Random random(options.seed);
  const char* const where = std::getenv("GRANARY_WHERE");
  const bool own_clock = where != nullptr && std::string(where) == "node";
  if (!phase("warm-up", target, {}, std::max(options.cycles / 20, 3 * kThreads), options, random, findings, kFaultMs))
    return findings;
  const Sizes before = measure(target);
  if (!phase("faults", target, lasting_faults(target, own_clock), options.cycles * 3 / 4, options, random, findings, kFaultMs))
    return findings;
  const Sizes after = measure(target);
  compare("granaryd", before.agent, after.agent, findings);
  compare("granary-spawn", before.spawner, after.spawner, findings);
  std::cout << "soak: " << before.vmms << " -> " << after.vmms << " VMMs at rest\n";
  if (after.vmms > before.vmms + 2) findings.push_back("VMMs were left over");
  phase("killed agents and spawners", target, deadly_faults(), options.cycles / 5, options, random, findings,
        own_clock ? kSlowStartMs : kFaultMs);
  return findings;
}

Guest guest_of(const std::string& name, const fs::path& programs) {
  const fs::path guests = programs.parent_path() / "guest";
  if (name == "tiny") return {.kernel = (guests / "tiny-vsock.elf").string(), .initramfs = "", .command_line = ""};
  const std::string kernel = fs::exists(guests / name / "vmlinuz") ? "vmlinuz" : "vmlinux";
  return {.kernel = (guests / name / kernel).string(),
          .initramfs = (guests / name / "initramfs.cpio").string(),
          .command_line = "console=ttyS0 reboot=k panic=-1 clocksource=kvm-clock quiet"};
}

int run(const Options& options) {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) {
    std::cerr << "soak: skipped: no usable /dev/kvm\n";
    return kSkipped;
  }
  if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    std::cerr << "soak: skipped: a mount namespace of its own needs root\n";
    return kSkipped;
  }
  integration::OwnCgroups cgroups;
  ::signal(SIGPIPE, SIG_IGN);
  const fs::path programs = fs::read_symlink("/proc/self/exe").parent_path();
  auto target = Target::start(programs, guest_of(options.guest, programs));
  if (!target) {
    std::cerr << "soak: " << target.error().message() << "\n";
    return 1;
  }
  Findings findings = soak(**target, options);
  if (!findings.empty()) std::cerr << (*target)->log_tail();
  target->reset();
  for (const std::string& group : cgroups.end()) findings.push_back("cgroup left over: " + group);
  for (const std::string& finding : findings) std::cerr << "soak: FAILED: " << finding << "\n";
  if (findings.empty()) std::cout << "soak: passed, seed " << options.seed << std::endl;
  return findings.empty() ? 0 : 1;
}

}  // namespace
}  // namespace granary::soak

int main(int argc, char** argv) {
  granary::soak::Options options;
  CLI::App app("Takes clones and gives them back, while things go wrong; then looks for what has leaked",
               "granary-soak");
  app.add_option("--cycles", options.cycles, "how often")->capture_default_str();
  app.add_option("--seed", options.seed, "of the faults' order and times")->capture_default_str();
  app.add_option("--guest", options.guest, "tiny, or a Linux guest of the build: distro, minimal")
      ->check(CLI::IsMember({"tiny", "distro", "minimal"}))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return granary::soak::run(options);
}
