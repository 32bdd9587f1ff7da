// SPDX-License-Identifier: Apache-2.0
#include <grpcpp/support/sync_stream.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "agent/ctl/commands.h"
#include "agent/ctl/output.h"

namespace granary::ctl {
namespace {

struct TemplateOptions {
  std::string pool;
  std::string key;
  bool force = false;
};
using Options = std::shared_ptr<TemplateOptions>;

std::string used_by(const v1::TemplateInfo& info) {
  std::string text;
  for (const std::string& pool : info.used_by()) text += (text.empty() ? "" : ",") + pool;
  return or_dash(text);
}

// The template whose key starts so.
Result<v1::TemplateInfo> find(Client& client, const std::string& key) {
  const auto list = GRANARY_TRY(client.call(&v1::Pool::Stub::ListTemplates, v1::ListTemplatesRequest()));
  const v1::TemplateInfo* found = nullptr;
  for (const v1::TemplateInfo& info : list.templates()) {
    if (!info.key().starts_with(key)) continue;
    if (found != nullptr)
      return Error(Errc::kInvalidArgument, "template " + key + ": more than one starts so; give more of it");
    found = &info;
  }
  if (found == nullptr) return Error::from_errno(ENOENT, "template " + key + " (`granaryctl template ls` lists them)");
  return *found;
}

Result<int> list(const Globals& globals, const TemplateOptions&) {
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  const auto response = GRANARY_TRY(client.call(&v1::Pool::Stub::ListTemplates, v1::ListTemplatesRequest()));
  if (globals.json) {
    std::cout << to_json(response) << std::endl;
    return 0;
  }
  Table table({"TEMPLATE", "MEMORY", "POPULATED", "BOOT", "USED BY"});
  for (const v1::TemplateInfo& info : response.templates()) {
    table.add({short_key(info.key()), human_size(info.memory_bytes()), human_size(info.populated_bytes()),
               human_duration(static_cast<int64_t>(info.boot_seconds() * 1e9)), used_by(info)});
  }
  table.print(std::cout);
  return 0;
}

Result<int> build(const Globals& globals, const TemplateOptions& options) {
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  v1::BuildTemplateRequest request;
  request.set_pool(options.pool);
  request.set_force(options.force);
  grpc::ClientContext context;
  const auto stream = client.stub().BuildTemplate(&context, request);
  v1::BuildTemplateResponse last;
  for (v1::BuildTemplateResponse response; stream->Read(&response);) {
    if (!response.progress().empty()) std::cerr << response.progress() << std::endl;
    last = response;
  }
  const grpc::Status status = stream->Finish();
  if (!status.ok()) return api::from_grpc(status);
  std::cout << (globals.json ? to_json(last) : last.key()) << std::endl;
  return 0;
}

Result<int> remove(const Globals& globals, const TemplateOptions& options) {
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  v1::RemoveTemplateRequest request;
  request.set_key(GRANARY_TRY(find(client, options.key)).key());
  const auto response = GRANARY_TRY(client.call(&v1::Pool::Stub::RemoveTemplate, request));
  if (globals.json) std::cout << to_json(response) << std::endl;
  return 0;
}

Result<int> inspect(const Globals& globals, const TemplateOptions& options) {
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  const v1::TemplateInfo info = GRANARY_TRY(find(client, options.key));
  if (globals.json) {
    std::cout << to_json(info) << std::endl;
    return 0;
  }
  std::cout << "key " << info.key() << "\nused by " << used_by(info) << "\nmemory " << human_size(info.memory_bytes())
            << "\npopulated " << human_size(info.populated_bytes()) << "\nbooted in "
            << human_duration(static_cast<int64_t>(info.boot_seconds() * 1e9)) << "\n\nmade from\n"
            << info.inputs() << std::flush;
  return 0;
}

void choose(CLI::App* command, Options options, const Globals& globals, Action& action,
            Result<int> (*what)(const Globals&, const TemplateOptions&)) {
  command->callback([=, &globals, &action] { action = [=, &globals] { return what(globals, *options); }; });
}

}  // namespace

void define_template(CLI::App& app, const Globals& globals, Action& action) {
  const auto options = std::make_shared<TemplateOptions>();
  CLI::App* const group = app.add_subcommand("template", "the snapshots that clones are made from");
  group->require_subcommand(1);
  choose(group->add_subcommand("ls", "list templates"), options, globals, action, list);

  CLI::App* command = group->add_subcommand("build", "build a pool's template, showing progress; prints its key");
  command->add_option("pool", options->pool, "default: the first configured");
  command->add_flag("--force", options->force, "build it anew although it is ready");
  choose(command, options, globals, action, build);

  command = group->add_subcommand("rm", "remove a template that no pool uses");
  command->add_option("key", options->key, "the template's key, or its beginning")->required();
  choose(command, options, globals, action, remove);

  command = group->add_subcommand("inspect", "what a template was made from");
  command->add_option("key", options->key, "the template's key, or its beginning")->required();
  choose(command, options, globals, action, inspect);
}

}  // namespace granary::ctl
