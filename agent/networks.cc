// SPDX-License-Identifier: Apache-2.0
#include "agent/networks.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <future>
#include <system_error>

#include "agent/log_text.h"
#include "agent/network_message.h"
#include "agent/shim/relay_port.h"
#include "netplumb/attach.h"
#include "netplumb/loopback_redirect.h"
#include "netplumb/netns.h"
#include "vmpool/base/fault.h"
#include "vmpool/guest/network_check.h"

namespace granary::agent {
namespace {

// Which namespace it is, whatever its path.
Result<std::string> identity_of(const Fd& netns) {
  struct stat info {};
  if (::fstat(netns.get(), &info) != 0) return Error::last_os_error("look at a network namespace");
  return std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino);
}

// Nothing is there, or something else. Not for lack of descriptors or rights, which says nothing about the namespace.
bool is_gone(const Error& error) {
  return error.is_errno(ENOENT) || error.is_errno(ENOTDIR) || error.is_errno(ESRCH) ||
         error.is(Errc::kInvalidArgument) || error.is(Errc::kNotSupported);
}

void forward(const Fd& netns, const std::string& path) {
  if (const Status done = netplumb::redirect_loopback(netns.get(), path, shim::kRelayPort); !done)
    spdlog::warn("no port-forward error=\"{}\"", log_value(done.error().message()));
}

// Both wait for the kernel: at the same time, where there can be a thread for that.
Status restore(const Fd& netns, const std::string& path) {
  const auto undo = [&] { return netplumb::undo_loopback_redirect(netns.get(), path); };
  std::future<Result<bool>> undone;
  try {
    undone = std::async(std::launch::async, undo);
  } catch (const std::system_error&) {
    undone = std::async(std::launch::deferred, undo);
  }
  const Status detached = netplumb::detach(netns.get(), path);
  GRANARY_TRY(undone.get());
  return detached;
}

}  // namespace

Result<Networks::Wired> Networks::wire(const std::string& path, size_t most_links, Options options) {
  const auto netns = std::make_shared<const Fd>(GRANARY_TRY(netplumb::open_netns(path)));
  const std::string identity = GRANARY_TRY(identity_of(*netns));
  {
    const std::lock_guard lock(mutex_);
    for (auto at = left_.begin(); at != left_.end();) {
      const Status unwired = unwire(*at);
      if (!unwired && *at == path) return unwired.error();
      at = unwired ? left_.erase(at) : std::next(at);
    }
    for (const auto& [other, its_identity] : journal_.namespaces()) {
      if (other != path && its_identity != identity) continue;
      return Error::from_errno(EBUSY, "network namespace " + path + ": a clone has taken its place already" +
                                          (other == path ? "" : ", as " + other) + "; release that first");
    }
    GRANARY_TRY(journal_.wiring(path, identity));
    const std::lock_guard open_lock(open_mutex_);
    open_.insert_or_assign(path, netns);
  }
  fault_point("network.journalled");
  const auto wired = [&]() -> Result<Wired> {
    netplumb::Attachment made = GRANARY_TRY(netplumb::attach(netns->get(), path, most_links, options.frames));
    auto network = std::make_shared<const guest::v1::Network>(to_message(made.config));
    GRANARY_TRY(guest::check_network(*network));
    if (options.forward_loopback) forward(*netns, path);
    return Wired{std::move(made.taps), std::move(network)};
  };
  Result<Wired> done = wired();
  fault_point("network.wired");
  if (done) return done;
  const Status unwired = give_up(path);
  if (unwired) return done;
  return Error(done.error().code(),
               done.error().context() + "; and what was made stays for now: " + unwired.error().message());
}

Status Networks::unwire(const std::string& path) {
  const auto namespaces = journal_.namespaces();
  const auto at = namespaces.find(path);
  if (at == namespaces.end()) return ok();
  const std::shared_ptr<const Fd> netns = GRANARY_TRY(find(path, at->second));
  if (netns) GRANARY_TRY(restore(*netns, path));
  fault_point("network.unwired");
  {
    const std::lock_guard lock(open_mutex_);
    open_.erase(path);
  }
  // It is so, written or not, and the file catches up. A failure would be tried again when it may be another clone's.
  (void)journal_.unwired(path);
  return ok();
}

Result<std::shared_ptr<const Fd>> Networks::find(const std::string& path, const std::string& identity) {
  {
    const std::lock_guard lock(open_mutex_);
    if (const auto own = open_.find(path); own != open_.end()) return own->second;
  }
  auto netns = netplumb::open_netns(path);
  // CNI takes the mount away and then the file. Anything else that lies there now is not ours to touch.
  if (!netns && is_gone(netns.error())) return std::shared_ptr<const Fd>();
  if (!netns) return std::move(netns).error();
  if (GRANARY_TRY(identity_of(*netns)) != identity) return std::shared_ptr<const Fd>();
  return std::make_shared<const Fd>(*std::move(netns));
}

Status Networks::give_up(const std::string& path) {
  Status unwired = unwire(path);
  const std::lock_guard lock(mutex_);
  if (!unwired) left_.insert(path);
  return unwired;
}

std::vector<std::string> Networks::unwire_others(const std::set<std::string>& keep) {
  std::vector<std::string> left;
  for (const auto& [path, identity] : journal_.namespaces()) {
    if (keep.contains(path)) continue;
    if (const Status unwired = give_up(path); !unwired) left.push_back("network (" + unwired.error().message() + ")");
  }
  return left;
}

}  // namespace granary::agent
