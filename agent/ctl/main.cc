// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <csignal>

#include "agent/ctl/commands.h"
#include "agent/ctl/output.h"
#include "agent/ctl/selftest/command.h"

int main(int argc, char** argv) {
  using namespace granary::ctl;
  ::signal(SIGPIPE, SIG_IGN);  // a closed standard output is an error of write(2), not a silent death
  Globals globals;
  Action action;
  std::string format = "table";
  CLI::App app("Granary's command line client", "granaryctl");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--socket", globals.socket, "the agent's socket")->envname("GRANARY_SOCKET")->capture_default_str();
  app.add_option("--output", format, "table or json")->check(CLI::IsMember({"table", "json"}))->capture_default_str();
  app.footer("Own errors exit with 125 and one line on standard error.");
  define_run(app, globals, action);
  define_clones(app, globals, action);
  define_status(app, globals, action);
  define_template(app, globals, action);
  define_flight(app, globals, action);
  define_audit(app, globals, action);
  define_overhead(app, globals, action);
  define_doctor(app, globals, action);
  define_selftest(app, globals, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kExitOwnError;
  }
  globals.json = format == "json";
  const auto code = action();
  return code ? *code : complain(code.error());
}
