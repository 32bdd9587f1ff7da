// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "agent/ctl/commands.h"
#include "agent/ctl/output.h"
#include "vmpool/kvm/preflight.h"

namespace granary::ctl {
namespace {

constexpr int kExitUnusable = 1;

void print_json(const std::vector<kvm::Check>& checks) {
  nlohmann::json report = {{"usable", kvm::can_run_linux(checks)}, {"verdict", kvm::one_line_verdict(checks)}};
  for (const kvm::Check& check : checks) {
    report["checks"].push_back({{"name", check.name},
                                {"verdict", kvm::to_string(check.verdict)},
                                {"detail", check.detail},
                                {"remedy", check.remedy}});
  }
  std::cout << report.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
}

int doctor(const Globals& globals, const std::string& kvm_path) {
  const std::vector<kvm::Check> checks = kvm::run_preflight(kvm_path);
  if (globals.json) {
    print_json(checks);
  } else {
    Table table({"CHECK", "VERDICT", "DETAIL", "REMEDY"});
    for (const kvm::Check& check : checks)
      table.add({check.name, kvm::to_string(check.verdict), check.detail, check.remedy});
    table.print(std::cout);
    std::cout << "\n" << kvm::one_line_verdict(checks) << std::endl;
  }
  return kvm::can_run_linux(checks) ? 0 : kExitUnusable;
}

}  // namespace

void define_doctor(CLI::App& app, const Globals& globals, Action& action) {
  const auto kvm_path = std::make_shared<std::string>("/dev/kvm");
  CLI::App* command =
      app.add_subcommand("doctor", "can this host run Linux guests? exit code 0 yes, 1 no; needs no agent");
  command->add_option("--kvm", *kvm_path, "the KVM device")->capture_default_str();
  command->callback(
      [=, &globals, &action] { action = [=, &globals]() -> Result<int> { return doctor(globals, *kvm_path); }; });

  command = app.add_subcommand("version", "print the version");
  command->callback([&action] {
    action = []() -> Result<int> {
      std::cout << "granaryctl " << GRANARY_VERSION << std::endl;
      return 0;
    };
  });
}

}  // namespace granary::ctl
