// SPDX-License-Identifier: Apache-2.0
#include "agent/shim_watch.h"

#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "agent/log_text.h"
#include "agent/shim/own_names.h"
#include "agent/shim/ttrpc_client.h"

namespace granary::agent {

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
  } else if (found.error().is_errno(ENOENT) || found.error().is_errno(ECONNREFUSED)) {
    ended_(sandbox_id);
  } else {
    // Its queue is full, or this process has no descriptor left: that says nothing about the shim.
    spdlog::warn("shim cannot be watched yet sandbox={} error=\"{}\"", sandbox_id, log_value(found.error().message()));
    loop_->call_at(EventLoop::Clock::now() + kRetry, [this, sandbox_id] { connect(sandbox_id); });
  }
}

// A shim says nothing to who asks nothing: what comes is its end.
void ShimWatch::gone(const std::string& sandbox_id) {
  const auto found = shims_.find(sandbox_id);
  loop_->remove(found->second.token);
  shims_.erase(found);
  ended_(sandbox_id);
}

}  // namespace granary::agent
