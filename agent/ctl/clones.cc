// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "agent/ctl/commands.h"
#include "agent/ctl/disks.h"
#include "agent/ctl/net.h"
#include "agent/ctl/output.h"
#include "agent/ctl/session.h"

namespace granary::ctl {
namespace {

struct CloneOptions {
  std::string id;
  std::string pool;
  std::string owner;
  std::string hostname;
  std::string cgroup_parent;
  NetOptions net;
  int64_t wait_seconds = 60;
  bool all = false;
  std::vector<std::string> disks;
  SessionOptions session;
};
using Options = std::shared_ptr<CloneOptions>;

Result<int> acquire(const Globals& globals, const CloneOptions& options) {
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  v1::AcquireRequest request;
  request.set_pool(options.pool);
  request.set_owner_id(options.owner.empty()
                           ? "granaryctl-" + std::to_string(::getpid()) + "-" +
                                 std::to_string(std::chrono::system_clock::now().time_since_epoch().count())
                           : options.owner);
  request.set_hostname(options.hostname);
  request.set_cgroup_parent(options.cgroup_parent);
  GRANARY_TRY(add_net(request, options.net));
  request.set_wait_ms(options.wait_seconds * 1000);
  GRANARY_TRY(add_disks(request, options.disks));
  const v1::AcquireResponse response = GRANARY_TRY(client.call(&v1::Pool::Stub::Acquire, request));
  std::cout << (globals.json ? to_json(response.clone()) : response.clone().id()) << std::endl;
  return 0;
}

Result<int> exec(const Globals& globals, const CloneOptions& options) {
  GRANARY_TRY(check_session(options.session));
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  const v1::Clone clone = GRANARY_TRY(client.find_clone(options.id));
  if (clone.state() != "running") {
    return Error(Errc::kInvalidArgument,
                 "clone " + clone.id() + " is " + clone.state() + ", nobody holds it; use run or acquire");
  }
  auto status = run_session(clone.socket_path(), options.session);
  if (!status && status.error().is(Errc::kPeerGone)) GRANARY_TRY(client.explain_loss(clone.id()));
  return status;
}

Result<int> console(const Globals& globals, const CloneOptions& options) {
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  v1::ConsoleRequest request;
  request.set_clone_id(GRANARY_TRY(client.find_clone(options.id)).id());
  const v1::ConsoleResponse response = GRANARY_TRY(client.call(&v1::Pool::Stub::Console, request));
  if (globals.json) {
    std::cout << to_json(response) << std::endl;
  } else {
    std::cout.write(response.data().data(), static_cast<std::streamsize>(response.data().size())).flush();
  }
  return 0;
}

// Every clone that somebody holds, whoever that is.
Result<int> release_all(const Globals& globals) {
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  const v1::ListResponse list = GRANARY_TRY(client.call(&v1::Pool::Stub::List, v1::ListRequest()));
  size_t released = 0;
  for (const v1::Clone& clone : list.clones()) {
    if (clone.owner_id().empty()) continue;
    v1::ReleaseRequest request;
    request.set_clone_id(clone.id());
    released += GRANARY_TRY(client.call(&v1::Pool::Stub::Release, request)).was_present() ? 1 : 0;
  }
  if (globals.json) {
    std::cout << "{\"released\": " << released << "}" << std::endl;
  } else {
    std::cout << released << " released" << std::endl;
  }
  return 0;
}

Result<int> release(const Globals& globals, const CloneOptions& options) {
  if (options.all == !options.id.empty()) return Error(Errc::kInvalidArgument, "give either a clone or --all");
  if (options.all) return release_all(globals);
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  v1::ReleaseRequest request;
  request.set_clone_id(options.id);
  // A prefix of a clone's id will do; what is not found goes to the agent as it is, which knows the released ones.
  if (const auto clone = client.find_clone(options.id)) request.set_clone_id(clone->id());
  const v1::ReleaseResponse response = GRANARY_TRY(client.call(&v1::Pool::Stub::Release, request));
  if (globals.json) {
    std::cout << to_json(response) << std::endl;
  } else {
    std::cout << (response.was_present() ? "released in " + human_duration(response.reclaim_ns())
                                         : "was released before")
              << std::endl;
  }
  return 0;
}

Result<int> list(const Globals& globals, const CloneOptions& options) {
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  v1::ListRequest request;
  request.set_pool(options.pool);
  const v1::ListResponse response = GRANARY_TRY(client.call(&v1::Pool::Stub::List, request));
  if (globals.json) {
    std::cout << to_json(response) << std::endl;
    return 0;
  }
  Table table({"CLONE", "POOL", "STATE", "OWNER", "HOSTNAME", "ADDRESS", "VMM PID", "MEMORY", "RESIDUE", "HAND-OVER",
               "BOOT ID"});
  for (const v1::Clone& clone : response.clones()) {
    const bool handed_over = clone.handover_ns() > 0;
    table.add({clone.id(), clone.pool(), clone.state(), or_dash(clone.owner_id()), or_dash(clone.hostname()),
               or_dash(clone.network().address()), std::to_string(clone.vmm_pid()), human_size(clone.memory_bytes()),
               clone.residue_bytes() > 0 ? human_size(clone.residue_bytes()) : "-",
               handed_over ? human_duration(clone.handover_ns()) : "-", or_dash(clone.boot_id())});
  }
  table.print(std::cout);
  return 0;
}

void choose(CLI::App* command, Options options, const Globals& globals, Action& action,
            Result<int> (*what)(const Globals&, const CloneOptions&)) {
  command->callback([=, &globals, &action] { action = [=, &globals] { return what(globals, *options); }; });
}

void define_exec(CLI::App& app, const Options& options) {
  app.add_option("clone", options->id, "the clone's id, or its beginning")->required();
  app.add_flag("-i,--interactive", options->session.interactive, "forward standard input");
  app.add_flag("-t,--tty", options->session.tty, "give the command a terminal");
  app.add_option("-e,--env", options->session.env, "NAME=VALUE, may be repeated")->allow_extra_args(false);
  app.add_option("-w,--workdir", options->session.cwd, "working directory in the guest");
  app.add_option("command", options->session.argv, "the command and its arguments, after --")->required();
}

}  // namespace

void define_clones(CLI::App& app, const Globals& globals, Action& action) {
  const auto options = std::make_shared<CloneOptions>();
  CLI::App* command = app.add_subcommand("acquire", "take a clone and print its id; it is yours until you release it");
  command->add_option("--pool", options->pool, "the pool to take from; default: the first configured");
  command->add_option("--owner", options->owner, "the same owner gets the same clone; default: a fresh one");
  command->add_option("--hostname", options->hostname, "the guest's host name");
  define_disks(*command, options->disks);
  command->add_option("--cgroup-parent", options->cgroup_parent, "the pod's cgroup, to which its memory is charged");
  define_net(*command, options->net);
  command->add_option("--wait", options->wait_seconds, "seconds to wait for a clone")
      ->check(CLI::Range(1, 600))
      ->capture_default_str();
  choose(command, options, globals, action, acquire);

  command = app.add_subcommand("exec", "run a command in a clone; the exit code is the command's, 125 for own errors");
  define_exec(*command, options);
  choose(command, options, globals, action, exec);

  command = app.add_subcommand("console", "print the newest output of a clone's serial console");
  command->add_option("clone", options->id, "the clone's id, or its beginning")->required();
  choose(command, options, globals, action, console);

  command = app.add_subcommand("release", "end a clone; returns once nothing of it is left");
  command->add_option("clone", options->id, "the clone's id, or its beginning");
  command->add_flag("--all", options->all, "every clone that somebody holds, pods included");
  choose(command, options, globals, action, release);

  command = app.add_subcommand("ls", "list clones");
  command->add_option("--pool", options->pool, "of this pool only");
  choose(command, options, globals, action, list);
}

}  // namespace granary::ctl
