// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <ctime>
#include <iostream>
#include <memory>

#include "agent/ctl/commands.h"
#include "agent/ctl/output.h"

namespace granary::ctl {
namespace {

struct FlightOptions {
  std::string id;
  bool failed = false;
};

std::string clock_time(int64_t unix_ns) {
  const auto seconds = static_cast<std::time_t>(unix_ns / 1'000'000'000);
  std::tm parts{};
  ::localtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%F %T", &parts);
  return text;
}

void print(const v1::FlightRecord& record) {
  std::cout << "clone " << record.clone_id() << ", pool " << record.pool();
  if (!record.failure().empty()) std::cout << ", failed while " << record.failed_in() << ": " << record.failure();
  std::cout << "\n";
  if (record.dropped() > 0) std::cout << record.dropped() << " older steps are not kept\n";
  Table table({"TIME", "AFTER", "STATE", "DETAIL"});
  int64_t before = record.steps().empty() ? 0 : record.steps(0).unix_ns();
  for (const v1::FlightStep& step : record.steps()) {
    table.add(
        {clock_time(step.unix_ns()), human_duration(step.unix_ns() - before), step.state(), or_dash(step.detail())});
    before = step.unix_ns();
  }
  table.print(std::cout);
}

void print_failures(const v1::FlightResponse& response) {
  Table table({"TIME", "CLONE", "POOL", "FAILED IN", "FAILURE"});
  for (const v1::FlightRecord& record : response.records()) {
    const int64_t last = record.steps().empty() ? 0 : record.steps(record.steps_size() - 1).unix_ns();
    table.add({clock_time(last), record.clone_id(), record.pool(), record.failed_in(), record.failure()});
  }
  table.print(std::cout);
}

Result<int> flight(const Globals& globals, const FlightOptions& options) {
  if (options.failed == !options.id.empty()) return Error(Errc::kInvalidArgument, "give either a clone or --failed");
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  v1::FlightRequest request;
  request.set_clone_id(options.id);
  const v1::FlightResponse response = GRANARY_TRY(client.call(&v1::Pool::Stub::Flight, request));
  if (globals.json) {
    std::cout << to_json(response) << std::endl;
  } else if (options.failed) {
    print_failures(response);
  } else {
    for (const v1::FlightRecord& record : response.records()) print(record);
  }
  std::cout << std::flush;
  return 0;
}

}  // namespace

void define_flight(CLI::App& app, const Globals& globals, Action& action) {
  const auto options = std::make_shared<FlightOptions>();
  CLI::App* const command = app.add_subcommand("flight", "what a clone has come through, with times");
  command->add_option("clone", options->id, "the clone's id, or its beginning");
  command->add_flag("--failed", options->failed, "list the newest clones that failed or were lost");
  command->callback([=, &globals, &action] { action = [=, &globals] { return flight(globals, *options); }; });
}

}  // namespace granary::ctl
