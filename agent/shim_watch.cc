// SPDX-License-Identifier: Apache-2.0
#include "agent/shim_watch.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>

#include "agent/log_text.h"
#include "agent/shim/own_names.h"
#include "agent/shim/ttrpc_client.h"

namespace granary::agent {
namespace {

// A path that is none has no listener either.
bool nobody_listens(const Error& error) {
  return error.is_errno(ENOENT) || error.is_errno(ECONNREFUSED) || error.is(Errc::kInvalidArgument);
}

}  // namespace

Result<std::unique_ptr<ShimWatch>> ShimWatch::start(std::string run_dir,
                                                    std::function<void(const std::string& sandbox_id)> ended) {
  std::unique_ptr<ShimWatch> watch(
      new ShimWatch(std::move(run_dir), std::move(ended), GRANARY_TRY(EventLoop::create())));
  watch->thread_ = std::jthread([self = watch.get()] { (void)self->loop_->run(); });
  return watch;
}

ShimWatch::~ShimWatch() {
  loop_->stop();
  if (thread_.joinable()) thread_.join();
}

void ShimWatch::watch(const std::string& sandbox_id) {
  loop_->post([this, sandbox_id] { connect(sandbox_id); });
}

void ShimWatch::connect(const std::string& sandbox_id) {
  if (shims_.contains(sandbox_id)) return;
  const auto shim = [&]() -> Result<Shim> {
    Fd socket = GRANARY_TRY(ttrpc::connect_unix(shim::own_shim_socket(run_dir_, sandbox_id)));
    const EventLoop::Token token =
        GRANARY_TRY(loop_->add(socket.get(), EPOLLIN | EPOLLRDHUP, [this, sandbox_id](uint32_t) { gone(sandbox_id); }));
    return Shim{std::move(socket), token};
  };
  Result<Shim> found = shim();
  if (found) {
    shims_.emplace(sandbox_id, *std::move(found));
  } else if (nobody_listens(found.error())) {
    ended(sandbox_id);
  } else {
    // Its queue is full, or this process has no descriptor left: that says nothing about the shim.
    spdlog::warn("shim cannot be watched yet sandbox={} error=\"{}\"", sandbox_id, log_value(found.error().message()));
    later(sandbox_id);
  }
}

void ShimWatch::later(const std::string& sandbox_id) {
  loop_->call_at(EventLoop::Clock::now() + kRetry, [this, sandbox_id] { connect(sandbox_id); });
}

// It has ended, unless it only turned a client away: then its socket still answers.
void ShimWatch::gone(const std::string& sandbox_id) {
  const auto found = shims_.find(sandbox_id);
  loop_->remove(found->second.token);
  shims_.erase(found);
  const Result<Fd> again = ttrpc::connect_unix(shim::own_shim_socket(run_dir_, sandbox_id));
  if (!again && nobody_listens(again.error())) return ended(sandbox_id);
  later(sandbox_id);
}

void ShimWatch::ended(const std::string& sandbox_id) {
  remove_socket(sandbox_id);
  ended_(sandbox_id);
}

// Unless a new shim is being started at it: whoever starts one holds the folder, and replaces what is there.
void ShimWatch::remove_socket(const std::string& sandbox_id) const {
  const Result<Fd> folder = open_file(shim::own_shims_folder(run_dir_), O_RDONLY | O_DIRECTORY);
  if (!folder || ::flock(folder->get(), LOCK_EX | LOCK_NB) != 0) return;
  const std::string socket = shim::own_shim_socket(run_dir_, sandbox_id);
  const Result<Fd> listener = ttrpc::connect_unix(socket);
  if (!listener && nobody_listens(listener.error())) ::unlink(socket.c_str());
}

std::vector<std::string> own_shim_differences(const std::string& run_dir, const std::vector<Lease>& leases) {
  std::vector<std::string> found;
  for (const Lease& lease : leases) {
    const std::string sandbox_id = shim::sandbox_of_owner(lease.owner_id);
    if (sandbox_id.empty()) continue;
    const Result<Fd> shim = ttrpc::connect_unix(shim::own_shim_socket(run_dir, sandbox_id));
    if (!shim && nobody_listens(shim.error())) found.push_back("sandbox " + sandbox_id + ": its shim does not run");
  }
  std::error_code code;
  for (std::filesystem::directory_iterator entry(shim::own_shims_folder(run_dir), code), end; !code && entry != end;
       entry.increment(code)) {
    const Result<Fd> shim = ttrpc::connect_unix(entry->path());
    if (!shim && shim.error().is_errno(ECONNREFUSED))
      found.push_back("socket " + entry->path().native() + " belongs to no shim");
  }
  return found;
}

}  // namespace granary::agent
