// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/runtime_command.h"

#include <unistd.h>

#include <array>
#include <cstdlib>
#include <optional>

#include "agent/shim/own_names.h"
#include "agent/shim/sandbox_spec.h"
#include "containerd/shim.pb.h"
#include "containerd/ttrpc.pb.h"

namespace granary::shim {
namespace {

constexpr size_t kShownBytes = 128;

std::string shown(const std::string& text) { return "\"" + text.substr(0, kShownBytes) + "\""; }

using Verb = RuntimeCommand::Verb;

struct Option {
  std::string name;  // without its dashes
  std::optional<std::string> value;
};

// Nothing: no option.
std::optional<Option> option_of(const std::string& word) {
  const size_t dashes = word.starts_with("--") ? 2 : word.starts_with('-') ? 1 : 0;
  if (dashes == 0) return std::nullopt;
  const size_t equals = word.find('=');
  if (equals == std::string::npos) return Option{word.substr(dashes), std::nullopt};
  return Option{word.substr(dashes, equals - dashes), word.substr(equals + 1)};
}

// A flag without value; false: it is none.
bool take_flag(const std::string& name, std::optional<Verb>& verb) {
  if (name == "info") verb = Verb::kInfo;
  if (name == "v") verb = Verb::kVersion;
  return name == "info" || name == "v" || name == "debug";
}

// Where an option's value goes, nullptr for one that means nothing here; nothing: it is not known.
std::optional<std::string*> place_of(const std::string& name, RuntimeCommand& command) {
  if (name == "id") return &command.id;
  if (name == "namespace") return &command.containerd_namespace;
  if (name == "bundle") return &command.bundle;
  if (name == "address" || name == "publish-binary") return nullptr;
  return std::nullopt;
}

Error unknown(const std::string& word) { return {Errc::kInvalidArgument, "argument " + shown(word) + " is not known"}; }

Result<Verb> verb_of(const std::string& word) {
  if (word == "start") return Verb::kStart;
  if (word == "delete") return Verb::kDelete;
  return unknown(word);
}

Status check(const RuntimeCommand& command) {
  if (command.verb == Verb::kInfo || command.verb == Verb::kVersion) return ok();
  if (!is_id(command.id)) {
    return Error(Errc::kInvalidArgument, "-id " + shown(command.id) + ": 1 to 128 of a-z A-Z 0-9 _ . -");
  }
  if (command.containerd_namespace.empty()) return Error(Errc::kInvalidArgument, "-namespace is missing");
  if (!command.bundle.starts_with('/')) {
    return Error(Errc::kInvalidArgument, "-bundle " + shown(command.bundle) + " is not absolute");
  }
  return ok();
}

Result<std::string> working_directory() {
  std::array<char, 4096> path{};
  if (::getcwd(path.data(), path.size()) == nullptr) return Error::last_os_error("find the working directory");
  return std::string(path.data());
}

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

}  // namespace

Result<RuntimeCommand> parse_runtime_command(const std::vector<std::string>& words) {
  RuntimeCommand command;
  command.events_socket = environment("TTRPC_ADDRESS");
  command.run_dir = kDefaultRunDir;
  std::optional<Verb> verb;
  for (size_t at = 0; at < words.size(); ++at) {
    const std::optional<Option> option = option_of(words[at]);
    if (!option) {
      if (verb) return unknown(words[at]);
      verb = GRANARY_TRY(verb_of(words[at]));
      continue;
    }
    if (take_flag(option->name, verb)) continue;
    const auto place = place_of(option->name, command);
    if (!place) return unknown(words[at]);
    if (!option->value && ++at == words.size())
      return Error(Errc::kInvalidArgument, "-" + option->name + " has no value");
    if (*place != nullptr) **place = option->value ? *option->value : words[at];
  }
  if (!verb) return Error(Errc::kInvalidArgument, "neither start nor delete");
  command.verb = *verb;
  if (command.bundle.empty()) command.bundle = GRANARY_TRY(working_directory());
  GRANARY_TRY(check(command));
  return command;
}

Result<std::string> read_runtime_options(const std::string& any) {
  constexpr std::string_view kType = "runtimeoptions.v1.Options";
  ttrpc::Any options;
  if (any.empty()) return std::string();
  if (!options.ParseFromString(any))
    return Error(Errc::kInvalidArgument, "standard input holds no options of a runtime");
  if (options.type_url().empty() && options.value().empty()) return std::string();
  if (!options.type_url().ends_with(kType)) {
    return Error(Errc::kNotSupported,
                 "runtime options of type " + shown(options.type_url()) + "; leave them out, or set ConfigPath alone");
  }
  containerd::shim::RuntimeOptions values;
  if (!values.ParseFromString(options.value())) {
    return Error(Errc::kInvalidArgument, "the runtime's options are no " + std::string(kType));
  }
  if (!values.config_path().empty() && !values.config_path().starts_with('/')) {
    return Error(Errc::kInvalidArgument,
                 "ConfigPath " + shown(values.config_path()) + " is not absolute; it names granaryd's run_dir");
  }
  return std::move(*values.mutable_config_path());
}

std::string runtime_info() {
  containerd::shim::RuntimeInfo info;
  info.set_name("io.containerd.granary.v2");
  info.mutable_version()->set_version(GRANARY_VERSION);
  return info.SerializeAsString();
}

}  // namespace granary::shim
