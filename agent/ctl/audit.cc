// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <iostream>

#include "agent/ctl/commands.h"
#include "agent/ctl/output.h"

namespace granary::ctl {
namespace {

constexpr int kExitDifferences = 1;

Result<int> audit(const Globals& globals) {
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  const v1::AuditResponse response = GRANARY_TRY(client.call(&v1::Pool::Stub::Audit, v1::AuditRequest()));
  if (globals.json) {
    std::cout << to_json(response) << std::endl;
  } else if (response.differences().empty()) {
    std::cout << "no differences" << std::endl;
  } else {
    for (const std::string& difference : response.differences()) std::cout << difference << "\n";
    std::cout << std::flush;
  }
  return response.differences().empty() ? 0 : kExitDifferences;
}

}  // namespace

void define_audit(CLI::App& app, const Globals& globals, Action& action) {
  app.add_subcommand("audit", "compare the journal, the host and the agent's view; exit code 1 on any difference")
      ->callback([&globals, &action] { action = [&globals] { return audit(globals); }; });
}

}  // namespace granary::ctl
