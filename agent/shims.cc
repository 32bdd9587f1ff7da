// SPDX-License-Identifier: Apache-2.0
#include "agent/shims.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <filesystem>

#include "agent/log_text.h"
#include "agent/sandbox_controller.h"
#include "agent/shim/ttrpc_server.h"
#include "vmpool/base/fault.h"

namespace granary::agent {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kSuffix = ".sock";

}  // namespace

std::string Shims::socket_path(const std::string& sandbox_id) const {
  return paths_.directory + "/" + sandbox_id + std::string(kSuffix);
}

Status Shims::remove_socket(const std::string& sandbox_id) const {
  if (::unlink(socket_path(sandbox_id).c_str()) != 0 && errno != ENOENT) {
    return Error::last_os_error("remove " + socket_path(sandbox_id));
  }
  return ok();
}

Status Shims::start(const std::string& sandbox_id, const pool::CloneInfo& clone, const std::string& netns) {
  const std::lock_guard lock(mutex_);
  if (shims_.contains(sandbox_id)) return ok();
  GRANARY_TRY(remove_socket(sandbox_id));
  const Fd listener = GRANARY_TRY(ttrpc::listen_unix(socket_path(sandbox_id)));
  fault_point("shim.listening");
  auto started = spawner_.start_shim({.sandbox_id = sandbox_id,
                                      .clone_id = clone.id,
                                      .vm = clone.vm,
                                      .agent_socket = paths_.agent_socket,
                                      .events_socket = paths_.events_socket,
                                      .netns = netns,
                                      .listener = listener.get()});
  if (!started) {
    (void)remove_socket(sandbox_id);
    return started.error();
  }
  shims_.emplace(sandbox_id, *std::move(started));
  return ok();
}

Status Shims::stop(const std::string& sandbox_id) {
  const std::lock_guard lock(mutex_);
  GRANARY_TRY(spawner_.stop_shim(sandbox_id));
  shims_.erase(sandbox_id);
  return remove_socket(sandbox_id);
}

std::vector<std::string> Shims::reconcile(const std::set<std::string>& kept) {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> leaks;
  for (const std::string& id : kept) {
    if (id.empty()) continue;
    auto found = spawner_.find_shim(id);
    if (found) shims_.emplace(id, *std::move(found));
    if (!found && found.error().is_errno(ENOENT)) lost_.insert(id);
    // Without knowing them no socket can be told from a stray.
    if (!found && !found.error().is_errno(ENOENT)) return {"shims (" + found.error().message() + ")"};
  }
  const auto running = spawner_.list_shims();
  if (!running) return {"shims, which cannot be listed (" + running.error().message() + ")"};
  for (const control::ShimRecord& record : *running) {
    const std::string id = control::text_of(record.shim.sandbox_id);
    if (kept.contains(id)) continue;
    if (const Status stopped = spawner_.stop_shim(id); !stopped) {
      leaks.push_back("shim " + std::to_string(record.pid) + " (" + stopped.error().message() + ")");
    }
  }
  for (const std::string& id : listening()) {
    if (shims_.contains(id)) continue;
    if (!remove_socket(id)) leaks.push_back("socket " + socket_path(id));
  }
  return leaks;
}

std::set<std::string> Shims::listening() const {
  std::set<std::string> ids;
  std::error_code code;
  for (fs::directory_iterator entry(paths_.directory, code), end; !code && entry != end; entry.increment(code)) {
    if (entry->path().extension() == kSuffix) ids.insert(entry->path().stem());
  }
  return ids;
}

std::vector<std::string> Shims::differences(const std::vector<Lease>& leases) {
  const std::lock_guard lock(mutex_);
  const auto running = spawner_.list_shims();
  if (!running) return {"shims, which cannot be listed (" + running.error().message() + ")"};
  std::vector<std::string> found;
  std::set<std::string> ids;
  for (const control::ShimRecord& record : *running) {
    const std::string id = control::text_of(record.shim.sandbox_id);
    ids.insert(id);
    if (!shims_.contains(id)) found.push_back("shim " + std::to_string(record.pid) + " serves no sandbox (" + id + ")");
  }
  const std::set<std::string> sockets = listening();
  for (const std::string& id : sockets) {
    if (!shims_.contains(id)) found.push_back("socket " + socket_path(id) + " belongs to no shim");
  }
  for (const Lease& lease : leases) {
    const std::string id = SandboxController::sandbox_of(lease);
    if (!shims_.contains(id)) continue;
    if (!ids.contains(id)) found.push_back("sandbox " + id + ": its shim does not run");
    if (!sockets.contains(id)) found.push_back("sandbox " + id + ": " + socket_path(id) + " is not there");
  }
  return found;
}

bool Shims::was_lost(const std::string& sandbox_id) {
  const std::lock_guard lock(mutex_);
  return lost_.contains(sandbox_id);
}

void Shims::spawner_replaced() {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, shim] : shims_) {
    const Status taken = spawner_.take_shim(shim);
    if (!taken)
      spdlog::error("shim is left sandbox={} pid={} error=\"{}\"", id, shim.pid, log_value(taken.error().message()));
  }
}

}  // namespace granary::agent
