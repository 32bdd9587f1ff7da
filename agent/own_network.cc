// SPDX-License-Identifier: Apache-2.0
#include "agent/own_network.h"

#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>

#include "agent/log_text.h"
#include "agent/network_message.h"
#include "netplumb/conntrack.h"
#include "netplumb/ip_text.h"
#include "vmpool/base/fault.h"

namespace granary::agent {
namespace {

using netplumb::Guests;

constexpr const char* kStore = "/addresses";

// A name in the abstract namespace, which is the network namespace's: it says which agent's table "granary" is.
Result<Fd> claim_namespace() {
  constexpr std::string_view kName{"\0granary-own-network", 20};
  Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return Error::last_os_error("own network: a socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::ranges::copy(kName, address.sun_path);
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + kName.size());
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0) return socket;
  if (errno != EADDRINUSE) return Error::last_os_error("own network: claim this network namespace");
  return Error(
      Errc::kAlreadyRunning,
      "own network: another granaryd has one in this network namespace; take `network` out of the configuration "
      "of one of them");
}

void fill_resolvers(const netplumb::RoutedNetwork& settings, guest::v1::Network& network) {
  for (const netplumb::IpAddress& one : settings.resolvers) {
    network.add_nameservers(std::string(one.bytes.begin(), one.bytes.begin() + 4));
  }
}

Status take_routes_away() {
  for (const netplumb::Prefix& subnet : GRANARY_TRY(netplumb::find_subnet_routes())) {
    GRANARY_TRY(netplumb::remove_subnet_route(subnet));
  }
  return ok();
}

bool has_strangers_chain(netplumb::Nft& nft) {
  return nft.list(std::string("list chain inet granary ") + netplumb::kStrangersChain).has_value();
}

// Forwarding before the table, which says whether it was ours to switch on.
Status take_everything_away(netplumb::Nft& nft) {
  GRANARY_TRY(take_routes_away());
  if (has_strangers_chain(nft)) GRANARY_TRY(netplumb::set_forwarding(false));
  fault_point("own-network.forwarding-off");
  return nft.run(netplumb::remove_table_text(), "own network: remove its table");
}

}  // namespace

Result<std::unique_ptr<OwnNetwork>> OwnNetwork::start(const netplumb::RoutedNetwork& settings,
                                                      const std::string& state_dir, const std::vector<Held>& held) {
  Fd name = GRANARY_TRY(claim_namespace());
  if (const auto taken = GRANARY_TRY(netplumb::find_overlap(settings.subnet))) {
    return Error(Errc::kConfigInvalid, "network.subnet " + netplumb::to_text(settings.subnet) +
                                           " is not free: this host has a route to " + netplumb::to_text(*taken) +
                                           "; choose another one");
  }
  netplumb::AddressStore store = GRANARY_TRY(netplumb::AddressStore::open(state_dir + kStore, settings));
  if (store.damaged()) spdlog::error("address store damaged, starting it anew path={}", state_dir + kStore);
  std::unique_ptr<OwnNetwork> network(new OwnNetwork(settings, std::move(store), GRANARY_TRY(netplumb::Nft::open()),
                                                     std::move(name), GRANARY_TRY(EventFd::create())));
  netplumb::NftWatch tables = GRANARY_TRY(netplumb::NftWatch::open());
  GRANARY_TRY(network->reconcile(held));
  network->watcher_ =
      std::jthread([raw = network.get(), watch = std::move(tables)]() mutable { raw->watch(std::move(watch)); });
  network->keeper_ = std::jthread([raw = network.get()](const std::stop_token& stop) { raw->keep(stop); });
  spdlog::info("own network subnet={} held={} resolvers={} keeps_strangers_out={}", netplumb::to_text(settings.subnet),
               held.size(), settings.resolvers.size(), network->keeps_strangers_out_);
  if (settings.resolvers.empty()) spdlog::warn("own network has no resolvers; set network.resolvers");
  return network;
}

Status OwnNetwork::reconcile(const std::vector<Held>& held) {
  std::set<uint32_t> kept;
  for (const Held& one : held) {
    const auto guest = guest_at(one.address);
    if (!guest) {
      return Error(Errc::kConfigInvalid, "network.subnet " + netplumb::to_text(settings_.subnet) +
                                             ": a clone that is still held has the address " + one.address +
                                             "; set it back, or release the clone first");
    }
    Slot& slot = slots_[*guest];
    slot.state = State::kHeld;
    slot.allow = GRANARY_TRY(netplumb::parse_allow_rules(one.allow));
    kept.insert(*guest);
  }
  // Written although nothing may have changed: remove_leftovers() looks for it.
  GRANARY_TRY(store_.set_taken(kept));
  const bool forwards = GRANARY_TRY(netplumb::forwards_ipv4());
  keeps_strangers_out_ = !forwards || has_strangers_chain(*nft_);
  GRANARY_TRY(write_table());
  fault_point("own-network.table");
  if (!forwards) GRANARY_TRY(netplumb::set_forwarding(true));
  GRANARY_TRY(take_routes_away());
  GRANARY_TRY(netplumb::add_subnet_route(settings_.subnet));
  std::vector<uint32_t> strays;
  std::ranges::set_difference(GRANARY_TRY(netplumb::find_taps()), kept, std::back_inserter(strays));
  GRANARY_TRY(netplumb::remove_taps(strays));
  GRANARY_TRY(netplumb::forget_connections([&](const netplumb::IpAddress& address) {
    const auto guest = guest_at(address);
    return guest && !kept.contains(*guest);
  }));
  return ok();
}

OwnNetwork::~OwnNetwork() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
    for (auto& [guest, slot] : slots_) {
      if (slot.state == State::kReady) doom(guest);
    }
  }
  done_.notify_all();
  stop_watching_.signal();
  watcher_ = {};
  keeper_ = {};
  if (const Status gone = take_away(); !gone)
    spdlog::error("own network is left error=\"{}\"", log_value(gone.error().message()));
}

// The keeper has ended.
Status OwnNetwork::take_away() {
  Guests doomed;
  for (const auto& [guest, slot] : slots_) {
    if (slot.state != State::kHeld) doomed.emplace(guest, slot.allow);
  }
  if (!doomed.empty()) GRANARY_TRY(remove(doomed));
  if (doomed.size() < slots_.size()) return ok();
  return take_everything_away(*nft_);
}

Status OwnNetwork::remove_leftovers(const std::string& state_dir) {
  const std::string store = state_dir + kStore;
  if (::access(store.c_str(), F_OK) != 0) return ok();
  const Fd name = GRANARY_TRY(claim_namespace());
  const std::set<uint32_t> taps = GRANARY_TRY(netplumb::find_taps());
  GRANARY_TRY(netplumb::remove_taps(std::vector(taps.begin(), taps.end())));
  const std::unique_ptr<netplumb::Nft> nft = GRANARY_TRY(netplumb::Nft::open());
  GRANARY_TRY(take_everything_away(*nft));
  if (::unlink(store.c_str()) != 0) return Error::last_os_error("remove " + store);
  return ok();
}

std::optional<uint32_t> OwnNetwork::guest_at(const std::string& address) const {
  const auto parsed = netplumb::parse_address(address);
  return parsed ? guest_at(*parsed) : std::nullopt;
}

std::optional<uint32_t> OwnNetwork::guest_at(const netplumb::IpAddress& address) const {
  if (address.v6 || !netplumb::contains(settings_.subnet, {address, 32})) return std::nullopt;
  const uint32_t guest = netplumb::to_number(address) - netplumb::to_number(settings_.subnet.address);
  if (guest < netplumb::kFirstGuest || guest > netplumb::last_guest(settings_)) return std::nullopt;
  return guest;
}

size_t OwnNetwork::count(State state) const {
  return static_cast<size_t>(std::ranges::count(slots_, state, [](const auto& slot) { return slot.second.state; }));
}

void OwnNetwork::keep_ready(size_t count) {
  const std::lock_guard lock(mutex_);
  target_ = count;
  work_.notify_all();
}

Result<OwnNetwork::Wired> OwnNetwork::take(const std::vector<std::string>& allow) {
  std::vector<netplumb::AllowRule> rules = GRANARY_TRY(netplumb::parse_allow_rules(allow));
  uint32_t guest = 0;
  Wired wired;
  {
    Lock lock(mutex_);
    const auto ready = [&] {
      return std::ranges::find(slots_, State::kReady, [](const auto& slot) { return slot.second.state; });
    };
    const uint64_t failures = failures_;
    ++waiting_;
    asked_ = asked_ || ready() == slots_.end();
    work_.notify_all();
    done_.wait(lock, [&] { return ready() != slots_.end() || failures_ != failures || ends_; });
    --waiting_;
    const auto at = ready();
    if (at == slots_.end()) return make_error_;
    guest = at->first;
    at->second.state = State::kHeld;
    at->second.allow = rules;
    wired.tap = std::move(at->second.tap);
    work_.notify_all();
  }
  fault_point("own-network.taken");
  wired.address = netplumb::to_text(netplumb::address_of(settings_, guest));
  const auto add_rules = [&] {
    const std::lock_guard one_at_a_time(table_mutex_);
    return nft_->run(netplumb::add_rules_text(guest, rules), "own network: add the rules of " + wired.address);
  };
  if (const Status added = add_rules(); !added) {
    wired.tap.reset();
    give_up(wired.address);
    return added.error();
  }
  guest::v1::Network network = to_message(netplumb::config_of(settings_, guest));
  fill_resolvers(settings_, network);
  wired.network = std::make_shared<const guest::v1::Network>(std::move(network));
  return wired;
}

void OwnNetwork::doom(uint32_t guest) {
  const auto at = slots_.find(guest);
  if (at == slots_.end()) return;
  at->second.state = State::kDoomed;
  at->second.tap.reset();
  remove_errors_.erase(guest);
  work_.notify_all();
}

void OwnNetwork::give_up(const std::string& address) {
  const auto guest = guest_at(address);
  const std::lock_guard lock(mutex_);
  if (guest) doom(*guest);
}

Status OwnNetwork::release(const std::string& address) {
  const auto guest = guest_at(address);
  if (!guest) return ok();
  Lock lock(mutex_);
  doom(*guest);
  done_.wait(lock, [&] { return !slots_.contains(*guest) || remove_errors_.contains(*guest) || ends_; });
  const auto error = remove_errors_.find(*guest);
  if (error != remove_errors_.end()) return error->second;
  if (slots_.contains(*guest)) return Error(Errc::kShuttingDown, "network of " + address + ": the agent ends");
  return ok();
}

std::map<std::string, OwnNetwork::Use> OwnNetwork::use_of(const std::vector<std::string>& addresses) {
  std::map<std::string, Use> all;
  if (addresses.empty()) return all;
  const auto denied = netplumb::elements_of(nft_->list(netplumb::list_set_text(netplumb::kDeniedSet)).value_or(""));
  const auto limited = netplumb::elements_of(nft_->list(netplumb::list_set_text(netplumb::kLimitedSet)).value_or(""));
  const auto packets = [](const auto& counts, const std::string& tap) {
    const auto at = counts.find(tap);
    return at == counts.end() ? uint64_t{0} : at->second.packets;
  };
  for (const std::string& address : addresses) {
    const auto guest = guest_at(address);
    const auto traffic = guest ? netplumb::traffic_of(*guest) : Error(Errc::kInvalidArgument, address);
    if (!traffic) continue;
    const std::string tap = netplumb::tap_name(*guest);
    all[address] = {
        .traffic = *traffic, .denied_packets = packets(denied, tap), .limited_packets = packets(limited, tap)};
  }
  return all;
}

std::vector<std::string> OwnNetwork::differences(const std::set<std::string>& held) {
  std::vector<std::string> lines;
  std::set<std::string> known;
  std::set<std::string> mine;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [guest, slot] : slots_) {
      const std::string address = netplumb::to_text(netplumb::address_of(settings_, guest));
      known.insert(netplumb::tap_name(guest));
      if (slot.state == State::kHeld) mine.insert(address);
    }
  }
  const auto compare = [&](const std::set<std::string>& a, const std::set<std::string>& b, const std::string& what) {
    std::vector<std::string> only;
    std::ranges::set_difference(a, b, std::back_inserter(only));
    for (const std::string& one : only) lines.push_back("own network: " + one + what);
  };
  compare(mine, held, " is held by no clone");
  compare(held, mine, " of a clone is not held");
  const auto both = [&](const std::set<std::string>& there, const std::string& what) {
    compare(known, there, " has no " + what);
    compare(there, known, " is unknown to the agent, but has a " + what);
  };
  const auto taps = netplumb::find_taps();
  if (!taps) return {"own network: " + taps.error().message()};
  std::set<std::string> names;
  for (const uint32_t guest : *taps) names.insert(netplumb::tap_name(guest));
  both(names, "tap");
  const auto listing = nft_->list(netplumb::list_set_text(netplumb::kGuestsSet));
  if (!listing) lines.push_back("own network: the nf_tables table inet granary is gone");
  names.clear();
  for (const auto& [tap, count] : netplumb::elements_of(listing.value_or(""))) names.insert(tap);
  if (listing) both(names, "place in the nf_tables table");
  return lines;
}

}  // namespace granary::agent
