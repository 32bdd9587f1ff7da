// SPDX-License-Identifier: Apache-2.0
#include <grpcpp/support/sync_stream.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <ctime>
#include <iostream>
#include <memory>

#include "agent/ctl/commands.h"
#include "agent/ctl/output.h"

namespace granary::ctl {
namespace {

void print(const Globals& globals, const v1::StatusResponse& status) {
  if (globals.json) {
    std::cout << to_json(status) << std::endl;
    return;
  }
  std::cout << "granaryd " << status.version() << (status.draining() ? ", shutting down" : "") << ", configuration "
            << status.config().generation() << " (" << or_dash(status.config().hash()) << ")\n\n";
  Table table({"POOL", "SHAPE", "TEMPLATE", "STATE", "WARM", "RESTORING", "RUNNING", "RECLAIMING", "HITS", "WAITED",
               "FAILED", "RECLAIMED", "LEAKS"});
  for (const v1::PoolStatus& pool : status.pools()) {
    const auto number = [](uint64_t value) { return std::to_string(value); };
    table.add({pool.name(), number(pool.vcpus()) + " x " + human_size(pool.memory_bytes()),
               short_key(pool.template_key()), or_dash(pool.template_state()),
               number(pool.warm()) + "/" + number(pool.target()), number(pool.restoring()), number(pool.running()),
               number(pool.reclaiming()), number(pool.hits()), number(pool.waited()), number(pool.failed()),
               number(pool.reclaimed()), number(pool.leaks())});
  }
  table.print(std::cout);
  if (!status.config().refused().empty()) {
    std::cout << "\nthe newest configuration is refused: " << status.config().refused() << "\n";
  }
  if (status.retired_clones() > 0) std::cout << "\nclones held of retired pools: " << status.retired_clones() << "\n";
  for (const v1::PoolStatus& pool : status.pools()) {
    if (pool.bound().empty()) continue;
    std::cout << "\n" << pool.name() << " may keep " << pool.target() << " of " << pool.size() << " idle clones: "
              << pool.bound() << " (" << human_size(pool.clone_bytes()) << " each, " << human_size(pool.other_bytes())
              << " besides)\n";
  }
  for (const v1::PoolStatus& pool : status.pools()) {
    if (pool.why().empty()) continue;
    std::cout << "\n" << pool.name() << " wants " << pool.wanted() << " of at most " << pool.size()
              << " idle clones: " << pool.why() << "\n";
  }
  for (const v1::PoolStatus& pool : status.pools()) {
    if (pool.residue_bytes() == 0) continue;
    std::cout << "\n" << human_size(pool.residue_bytes()) << " of " << pool.name()
              << " stay charged to the pool for clones in their owners' cgroups\n";
  }
  for (const v1::PoolStatus& pool : status.pools()) {
    if (!pool.last_error().empty()) std::cout << "\nlast error of " << pool.name() << ": " << pool.last_error() << "\n";
  }
  std::cout << std::flush;
}

void print(const Globals& globals, const v1::Event& event) {
  if (globals.json) {
    std::cout << to_json(event) << std::endl;
    return;
  }
  const auto seconds = static_cast<std::time_t>(event.unix_ns() / 1'000'000'000);
  std::tm parts{};
  ::localtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%H:%M:%S", &parts);
  std::cout << text << "  " << event.kind() << "  pool=" << or_dash(event.pool())
            << "  clone=" << or_dash(event.clone_id()) << "  " << event.text() << std::endl;
}

// Calls `on_event` for each event until the agent ends.
Status watch(Client& client, const std::function<Status(const v1::Event&)>& on_event) {
  grpc::ClientContext context;
  const auto stream = client.stub().Watch(&context, v1::WatchRequest());
  v1::Event event;
  while (stream->Read(&event)) GRANARY_TRY(on_event(event));
  const grpc::Status status = stream->Finish();
  if (!status.ok()) return api::from_grpc(status);
  return ok();
}

Result<int> status(const Globals& globals, bool keep_watching) {
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  const bool clear = keep_watching && !globals.json && ::isatty(STDOUT_FILENO) != 0;
  const auto show = [&](const v1::Event&) -> Status {
    const auto now = GRANARY_TRY(client.call(&v1::Pool::Stub::Status, v1::StatusRequest()));
    if (clear) std::cout << "\033[H\033[2J";
    print(globals, now);
    return ok();
  };
  GRANARY_TRY(show({}));
  if (keep_watching) GRANARY_TRY(watch(client, show));
  return 0;
}

Result<int> events(const Globals& globals) {
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  GRANARY_TRY(watch(client, [&](const v1::Event& event) {
    print(globals, event);
    return ok();
  }));
  return 0;
}

}  // namespace

void define_status(CLI::App& app, const Globals& globals, Action& action) {
  const auto keep_watching = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("status", "the agent's pools");
  command->add_flag("--watch", *keep_watching, "again after every event, until the agent ends");
  command->callback([=, &globals, &action] { action = [=, &globals] { return status(globals, *keep_watching); }; });

  command = app.add_subcommand("events", "print events as they happen, until the agent ends");
  command->callback([&globals, &action] { action = [&globals] { return events(globals); }; });
}

}  // namespace granary::ctl
