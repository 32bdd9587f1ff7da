// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>
#include <memory>

#include "agent/ctl/commands.h"
#include "agent/ctl/disks.h"
#include "agent/ctl/held_clone.h"
#include "agent/ctl/net.h"
#include "agent/ctl/output.h"
#include "agent/ctl/session.h"

namespace granary::ctl {
namespace {

struct RunOptions {
  std::string pool;
  std::string hostname;
  int64_t wait_seconds = 60;
  std::vector<std::string> disks;
  NetOptions net;
  bool verbose = false;
  std::string info_file;
  SessionOptions session;
};

Result<std::unique_ptr<HeldClone>> take(Client& client, const RunOptions& options) {
  v1::AcquireRequest request;
  request.set_pool(options.pool);
  request.set_hostname(options.hostname);
  request.set_wait_ms(options.wait_seconds * 1000);
  GRANARY_TRY(add_disks(request, options.disks));
  GRANARY_TRY(add_net(request, options.net));
  return HeldClone::take(client, request);
}

void describe(const v1::Clone& clone) {
  std::cerr << "granaryctl: clone " << clone.id() << " pool " << clone.pool() << " boot id " << or_dash(clone.boot_id())
            << " handed over in " << human_duration(clone.handover_ns())
            << (clone.warm() ? " (warm)" : " (restored on demand)") << " memory " << human_size(clone.memory_bytes())
            << std::endl;
}

// The clone's facts, with its memory as it is after the command.
Status write_info(const std::string& file, const v1::Clone& clone) {
  std::ofstream out(file);
  out << to_json(clone) << std::endl;
  if (!out) return Error::from_errno(EIO, "write " + file);
  return ok();
}

Result<int> run(const Globals& globals, const RunOptions& options) {
  GRANARY_TRY(check_session(options.session));
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  const auto held = GRANARY_TRY(take(client, options));
  if (options.verbose) describe(GRANARY_TRY(client.find_clone(held->clone().id())));
  const auto status = run_session(held->clone().socket_path(), options.session);
  if (!status && status.error().is(Errc::kPeerGone)) GRANARY_TRY(client.explain_loss(held->clone().id()));
  if (status && !options.info_file.empty()) {
    GRANARY_TRY(write_info(options.info_file, GRANARY_TRY(client.find_clone(held->clone().id()))));
  }
  GRANARY_TRY(held->release());
  return status;
}

}  // namespace

void define_run(CLI::App& app, const Globals& globals, Action& action) {
  const auto options = std::make_shared<RunOptions>();
  CLI::App* const command =
      app.add_subcommand("run", "run a command in a fresh microVM; the exit code is the command's");
  command->add_option("--pool", options->pool, "the pool to take from; default: the first configured");
  command->add_flag("-i,--interactive", options->session.interactive, "forward standard input");
  command->add_flag("-t,--tty", options->session.tty, "give the command a terminal");
  command->add_option("--hostname", options->hostname, "the guest's host name");
  define_disks(*command, options->disks);
  define_net(*command, options->net);
  command->add_option("-e,--env", options->session.env, "NAME=VALUE, may be repeated")->allow_extra_args(false);
  command->add_option("-w,--workdir", options->session.cwd, "working directory in the guest");
  command->add_option("--wait", options->wait_seconds, "seconds to wait for a clone")
      ->check(CLI::Range(1, 600))
      ->capture_default_str();
  command->add_flag("-v,--verbose", options->verbose, "say on standard error which clone it is");
  command->add_option("--info", options->info_file, "write the clone's facts to this file, as JSON, after the command");
  command->add_option("command", options->session.argv, "the command and its arguments, after --")->required();
  command->footer(
      "Exit codes: the command's; 126 not executable, 127 not found, 128+n ended by signal n, 125 granaryctl's own "
      "errors.");
  command->callback([options, &globals, &action] { action = [options, &globals] { return run(globals, *options); }; });
}

}  // namespace granary::ctl
