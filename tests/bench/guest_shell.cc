// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/guest_shell.h"

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "vmpool/guest/guest.pb.h"
#include "vmpool/pool/exec_session.h"

namespace granary::bench {

Result<std::string> shell(const std::string& script) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(script.c_str(), "r"), ::pclose);
  std::string text;
  for (int c = 0; pipe && (c = std::fgetc(pipe.get())) != EOF;) text += static_cast<char>(c);
  return text;
}

Result<std::string> shell_in_guest(const std::string& socket_path, const std::string& script, std::string_view input) {
  guest::v1::Exec request;
  for (const std::string& word : {std::string("/bin/sh"), std::string("-c"), script}) request.add_argv(word);
  request.add_env("PATH=/bin");
  request.set_has_stdin(true);
  const auto deadline = pool::SteadyClock::now() + std::chrono::minutes(5);
  const auto session = GRANARY_TRY(pool::ExecSession::start(socket_path, request, deadline));
  while (!input.empty()) {
    const std::string_view chunk = input.substr(0, pool::ExecSession::kStdinChunkBytes);
    GRANARY_TRY(session->write_stdin(chunk, deadline));
    input.remove_prefix(chunk.size());
  }
  GRANARY_TRY(session->close_stdin());
  std::string output;
  for (;;) {
    const std::optional<pool::ExecEvent> event = GRANARY_TRY(session->next(deadline));
    if (!event) return Error(Errc::kDeadlineExceeded, script);
    if (event->kind == pool::ExecEvent::Kind::kExited) return output;
    output += event->data;
  }
}

Result<double> figure(const std::string& text) {
  const double value = std::strtod(text.c_str(), nullptr);
  if (value <= 0) return Error(Errc::kNotSupported, "a measuring program said \"" + text.substr(0, 200) + "\"");
  return value;
}

}  // namespace granary::bench
