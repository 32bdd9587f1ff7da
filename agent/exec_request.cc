// SPDX-License-Identifier: Apache-2.0
#include "agent/exec_request.h"

#include <algorithm>

namespace granary::agent {
namespace {

constexpr const char* kDefaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr size_t kBytesPerEntry = 4;  // tag and length of an entry in the message

Error invalid(std::string context) { return {Errc::kInvalidArgument, std::move(context)}; }

size_t total_bytes(const std::vector<std::string>& entries) {
  size_t total = 0;
  for (const std::string& entry : entries) total += entry.size() + kBytesPerEntry;
  return total;
}

bool has_zero_byte(const std::string& text) { return text.find('\0') != std::string::npos; }

Status check_texts(const Command& command) {
  for (size_t i = 0; i < command.argv.size(); ++i) {
    if (has_zero_byte(command.argv[i])) return invalid("argument " + std::to_string(i) + " has a zero byte; remove it");
  }
  for (size_t i = 0; i < command.env.size(); ++i) {
    const std::string& entry = command.env[i];
    const size_t equals = entry.find('=');
    if (equals == 0 || equals == std::string::npos || has_zero_byte(entry)) {
      return invalid("environment entry " + std::to_string(i) + " of " + std::to_string(entry.size()) +
                     " bytes: give NAME=VALUE");
    }
  }
  return ok();
}

}  // namespace

Result<guest::v1::Exec> to_exec(const Command& command) {
  if (command.argv.empty() || command.argv[0].empty()) return invalid("no command; give at least one argument");
  const size_t bytes = total_bytes(command.argv) + total_bytes(command.env);
  if (bytes > kMaxExecBytes) {
    return invalid("arguments and environment have " + std::to_string(bytes) + " bytes, the limit is " +
                   std::to_string(kMaxExecBytes) + "; pass large data through stdin");
  }
  if (command.cwd.size() > kMaxCwdBytes || has_zero_byte(command.cwd)) {
    return invalid("working directory of " + std::to_string(command.cwd.size()) + " bytes, the limit is " +
                   std::to_string(kMaxCwdBytes));
  }
  GRANARY_TRY(check_texts(command));
  guest::v1::Exec exec;
  for (const std::string& argument : command.argv) exec.add_argv(argument);
  for (const std::string& entry : command.env) exec.add_env(entry);
  if (std::ranges::none_of(command.env, [](const std::string& entry) { return entry.starts_with("PATH="); })) {
    exec.add_env(kDefaultPath);
  }
  exec.set_cwd(command.cwd);
  return exec;
}

}  // namespace granary::agent
