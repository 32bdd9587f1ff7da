// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/command.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "agent/ctl/output.h"
#include "agent/ctl/selftest/selftest.h"

namespace granary::ctl {
namespace {

namespace fs = std::filesystem;

std::string own_folder() {
  std::error_code code;
  return fs::read_symlink("/proc/self/exe", code).parent_path().string();
}

Status write_files(const std::string& folder, const std::string& json, const selftest::Report& report) {
  std::error_code code;
  fs::create_directories(folder, code);
  std::ofstream(folder + "/selftest.json") << json << "\n";
  std::ofstream text(folder + "/selftest.txt");
  selftest::print(report, text);
  if (!text || !fs::exists(folder + "/selftest.json")) return Error::from_errno(EIO, "write the report in " + folder);
  return ok();
}

Result<int> run_selftest(const Globals& globals, const selftest::Options& options) {
  selftest::Interrupt interrupt = GRANARY_TRY(selftest::Interrupt::create());
  const selftest::Report report = GRANARY_TRY(selftest::run(options, interrupt, std::cerr));
  const std::string json = selftest::to_json(report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
  if (globals.json) {
    std::cout << json << std::endl;
  } else {
    selftest::print(report, std::cout);
  }
  if (!options.report.empty()) GRANARY_TRY(write_files(options.report, json, report));
  const int signal = interrupt.signal();
  return signal == 0 ? selftest::exit_code(report) : 128 + signal;
}

}  // namespace

void define_selftest(CLI::App& app, const Globals& globals, Action& action) {
  const auto options = std::make_shared<selftest::Options>();
  options->programs = own_folder();
  options->guest = "/usr/lib/granary/guest";
  CLI::App* const command = app.add_subcommand(
      "selftest", "does Granary keep its promises on this host? An agent of its own, minutes, nothing left behind");
  command->add_flag("--hardware", options->hardware, "only on real KVM hardware, and label the report so");
  command->add_option("--guest", options->guest, "folder of vmlinuz and initramfs.cpio")->capture_default_str();
  command->add_option("--clones", options->clones, "clones held at once by the identity test")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();
  command->add_option("--park", options->park_seconds, "how long a clone stands parked: 30s, 5m, 2h; default 2m")
      ->transform(CLI::AsNumberWithUnit(std::map<std::string, int64_t>{{"s", 1}, {"m", 60}, {"h", 3600}}))
      ->check(CLI::Range(int64_t{1}, int64_t{86'400}));
  command->add_option("--bench-rows", options->bench_rows, "of granary-bench only these, NAME,…; default: all");
  command->add_option("--bench-n", options->bench_samples, "samples of each quick row; default: granary-bench's own")
      ->check(CLI::Range(1, 100'000));
  command->add_option("--containerd", options->containerd, "containerd's socket, for the pod")->capture_default_str();
  command->add_option("--report", options->report, "write selftest.json and selftest.txt into this folder");
  command->add_option("--libexec-dir", options->programs,
                      "folder of granaryd, granary-spawn, granary-vmm, granary-fsd");
  command->add_option("--kvm", options->kvm, "the KVM device")->capture_default_str();
  command->add_flag("--skip-preflight", options->skip_preflight, "go on where the preflight says no");
  command->footer(
      "Needs root. Exit codes: 0 nothing failed and every required step passed; 1 a step failed; 77 a required step "
      "could not be\n"
      "done, as on a host that cannot run Linux guests; 128+n interrupted by signal n.");
  command->callback(
      [options, &globals, &action] { action = [options, &globals] { return run_selftest(globals, *options); }; });
}

}  // namespace granary::ctl
