// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/selftest.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <optional>
#include <thread>

#include "agent/ctl/output.h"
#include "agent/ctl/selftest/hardware.h"
#include "agent/ctl/selftest/linux_steps.h"
#include "agent/ctl/selftest/other_steps.h"
#include "agent/ctl/selftest/stage.h"
#include "agent/ctl/selftest/workspace.h"

namespace granary::ctl::selftest {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kOrphansLimit{10};

// What the figures are labelled with.
std::string where(const Options& options, const std::string& no_hardware) {
  if (options.hardware && no_hardware.empty()) return "hardware";
  const char* const given = std::getenv("GRANARY_WHERE");
  return given != nullptr && std::string(given) == "node" ? "node" : "host";
}

std::string now_text() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

std::vector<std::pair<std::string, std::string>> host_facts(const Options& options) {
  utsname names{};
  ::uname(&names);
  const Cpu cpu = this_cpu();
  const std::string no_hardware = why_no_hardware(cpu);
  const auto bytes = static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  return {{"granary", GRANARY_VERSION},
          {"time", now_text()},
          {"where", where(options, no_hardware)},
          {"hardware virtualisation", no_hardware.empty() ? "yes" : no_hardware},
          {"virtual machine", cpu.hypervisor.empty() ? "no" : "yes, of " + cpu.hypervisor},
          {"kernel", names.release},
          {"cpu", cpu.model},
          {"cpus", std::to_string(std::thread::hardware_concurrency())},
          {"memory", human_size(bytes)}};
}

Result<Outcome> hardware_step() {
  const Cpu cpu = this_cpu();
  if (std::string why = why_no_hardware(cpu); !why.empty()) return skip(std::move(why));
  return Outcome{.figures = {},
                 .skipped = {},
                 .rows = {},
                 .detail = cpu.hypervisor.empty() ? "" : "nested: this is a virtual machine of " + cpu.hypervisor};
}

// What the steps share, and what has to go.
class Selftest {
 public:
  Selftest(const Options& options, Interrupt& interrupt, std::ostream& progress, Report& report)
      : options_(options), interrupt_(interrupt), steps_(report, progress, [&] { return interrupt.came(); }) {}

  Status run() {
    GRANARY_TRY(adopt_orphans());
    workspace_ = GRANARY_TRY(Workspace::create());
    const std::string hardware = options_.hardware ? "hardware" : "";
    const std::string usable = options_.skip_preflight ? hardware : "preflight";
    if (options_.hardware) steps_.run({.name = hardware, .needs = {}, .action = hardware_step});
    steps_.run({.name = "preflight", .needs = hardware, .action = [&] { return preflight_step(options_.kvm); }});
    steps_.run({.name = "agent", .needs = usable, .action = [&] { return start_agent(); }});
    steps_.run({.name = "template", .needs = "agent", .action = [&] { return template_step(*stage_); }});
    steps_.run({.name = "park", .needs = "template", .action = [&] {
                  return park_step(*stage_, interrupt_, std::chrono::seconds(options_.park_seconds));
                }});
    steps_.run({.name = "identity", .needs = "template", .action = [&] {
                  return identity_step(*stage_, interrupt_, options_.clones);
                }});
    steps_.run({.name = "agent-end", .needs = "agent", .action = [&] { return end_agent(); }, .always = true});
    steps_.run({.name = "bench", .required = false, .needs = usable, .action = [&] { return bench(); }});
    steps_.run(
        {.name = "pod", .required = false, .needs = usable, .action = [&] { return pod_step(options_.containerd); }});
    steps_.run({.name = "nothing-left", .needs = {}, .action = [&] { return clean_up(); }, .always = true});
    return ok();
  }

 private:
  Result<Outcome> start_agent() {
    const StageOptions stage{.programs = options_.programs,
                             .kernel = options_.guest + "/vmlinuz",
                             .initramfs = options_.guest + "/initramfs.cpio",
                             .kvm = options_.kvm,
                             .skip_preflight = options_.skip_preflight,
                             .max_clones = options_.clones};
    for (const std::string& file : {stage.kernel, stage.initramfs}) {
      if (!fs::exists(file))
        return skip("no guest: " + file + " is not there; --guest names the folder of vmlinuz and initramfs.cpio");
    }
    stage_ = GRANARY_TRY(Stage::start(stage, workspace_->path(), interrupt_));
    return Outcome{};
  }

  // A self-test that ends leaves no clone, so the audit finds none either.
  Result<Outcome> end_agent() {
    Result<std::vector<std::string>> differences = stage_->audit();
    const Status ended = stage_->end();
    stage_.reset();
    if (!ended) return ended.error();
    if (!differences) return differences.error();
    if (differences->empty()) return Outcome{};
    std::string text = "the agent's audit finds: ";
    for (const std::string& difference : *differences) text += difference + "; ";
    return fail(text.substr(0, text.size() - 2));
  }

  Result<Outcome> bench() {
    const std::string label = where(options_, "") == "node" ? "node" : "host";
    return bench_step({.programs = options_.programs,
                       .rows = options_.bench_rows,
                       .samples = options_.bench_samples,
                       .where = label,
                       .folder = workspace_->path()},
                      interrupt_);
  }

  // Whatever was left is removed all the same, but it is a failure.
  Result<Outcome> clean_up() {
    stage_.reset();
    std::vector<std::string> left = end_descendants(kOrphansLimit, interrupt_);
    for (const std::string& folder : cgroup_folders()) left.push_back("cgroup " + folder);
    remove_cgroup_folders();
    for (const std::string& folder : cgroup_folders()) left.push_back("cgroup " + folder + " (not to be removed)");
    if (const Status removed = workspace_->remove(); !removed) left.push_back("folder: " + removed.error().message());
    if (left.empty()) return Outcome{};
    std::string text = "left behind: ";
    for (const std::string& thing : left) text += thing + ", ";
    return fail(text.substr(0, text.size() - 2));
  }

  const Options& options_;
  Interrupt& interrupt_;
  Steps steps_;
  std::optional<Workspace> workspace_;
  std::unique_ptr<Stage> stage_;
};

}  // namespace

Result<Report> run(const Options& options, Interrupt& interrupt, std::ostream& progress) {
  Report report;
  report.host = host_facts(options);
  for (const std::string& folder : remove_abandoned_workspaces())
    progress << "selftest: removed " << folder << ", left by one that was killed" << std::endl;
  GRANARY_TRY(Selftest(options, interrupt, progress, report).run());
  return report;
}

}  // namespace granary::ctl::selftest
