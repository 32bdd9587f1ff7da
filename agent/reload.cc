// SPDX-License-Identifier: Apache-2.0
#include "agent/reload.h"

#include <spdlog/spdlog.h>

namespace granary::agent {

void Reload::reload(bool asked) {
  auto loaded = source_.load();
  if (!loaded) return refuse(loaded.error(), asked);
  const Config config = adapt_(*std::move(loaded));
  if (config.hash == pools_.configuration().hash) {
    if (asked) spdlog::info("configuration is unchanged file={} hash={}", source_.path(), config.hash);
    pools_.note_refused("");
    return;
  }
  if (const Status applied = pools_.apply(config); !applied) {
    return refuse({applied.error().code(), source_.path() + ": " + applied.error().context()}, asked);
  }
  spdlog::default_logger()->set_level(spdlog::level::from_str(config.log_level));
  grace_ = config.shutdown_grace;
}

// The same file again and again is told once.
void Reload::refuse(const Error& error, bool asked) {
  const std::string text = error.message();
  if (pools_.note_refused(text) || asked) {
    spdlog::error("configuration refused, generation {} stays error=\"{}\"", pools_.configuration().generation, text);
  }
}

}  // namespace granary::agent
