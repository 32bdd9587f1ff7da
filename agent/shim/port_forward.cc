// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/port_forward.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <utility>

#include "agent/shim/relay_port.h"
#include "agent/shim/task_service.h"
#include "netplumb/netns.h"

namespace granary::shim {
namespace {

// Without descriptors or memory, until it is tried again.
constexpr std::chrono::seconds kPause{1};

}  // namespace

Result<std::unique_ptr<PortForward>> PortForward::open(EventLoop& loop, std::string guest_socket,
                                                       const std::string& netns_path) {
  const Fd netns = GRANARY_TRY(netplumb::open_netns(netns_path));
  std::vector<Fd> listeners = GRANARY_TRY(netplumb::listen_on_loopback(netns.get(), netns_path, kRelayPort));
  std::unique_ptr<PortForward> made(new PortForward(loop, std::move(guest_socket), std::move(listeners)));
  GRANARY_TRY(made->listen());
  return made;
}

PortForward::~PortForward() { pause(); }

Status PortForward::listen() {
  loop_.remove(std::exchange(pause_, 0));
  if (!watches_.empty()) return ok();
  for (const Fd& listener : listeners_) {
    watches_.push_back(
        GRANARY_TRY(loop_.add(listener.get(), EPOLLIN, [this, &listener](uint32_t) { accept_one(listener); })));
  }
  return ok();
}

void PortForward::pause() {
  loop_.remove(std::exchange(pause_, 0));
  for (const EventLoop::Token watch : std::exchange(watches_, {})) loop_.remove(watch);
}

void PortForward::accept_one(const Fd& listener) {
  Fd client(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (client.valid()) {
    if (const Status begun = relay(std::move(client)); !begun) note(begun.error().message());
    if (connections_.size() >= kMaxConnections) pause();
  } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
    note(Error::last_os_error("accept").message());
    pause();
    pause_ = loop_.call_at(EventLoop::Clock::now() + kPause, [this] { (void)listen(); });
  }
}

Status PortForward::relay(Fd client) {
  const netplumb::LoopbackDestination to = GRANARY_TRY(netplumb::original_destination(client.get()));
  const uint64_t id = next_id_++;
  auto connection = std::make_unique<RelayedConnection>(loop_, std::move(client),
                                                        [this, id](const std::string& why) { on_ended(id, why); });
  GRANARY_TRY(connection->start(guest_socket_, to));
  connections_.emplace(id, std::move(connection));
  return ok();
}

void PortForward::on_ended(uint64_t id, const std::string& why) {
  if (!why.empty()) note(why);
  connections_.erase(id);
  if (const Status listening = listen(); !listening) note(listening.error().message());
}

void PortForward::note(const std::string& why) {
  if (limit_.pass()) log_line(LogLevel::kWarn, "a forwarded connection is reset: %s", why.c_str());
}

std::unique_ptr<PortForward> forward_ports(EventLoop& loop, const Pod& pod) {
  if (pod.netns.empty()) return nullptr;
  Result<std::unique_ptr<PortForward>> opened = PortForward::open(loop, pod.guest_socket, pod.netns);
  if (opened) return *std::move(opened);
  log_line(LogLevel::kError, "no port-forward sandbox=%s: %s", pod.sandbox_id.c_str(), opened.error().message().c_str());
  return nullptr;
}

}  // namespace granary::shim
