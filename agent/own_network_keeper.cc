// SPDX-License-Identifier: Apache-2.0
// The threads of an OwnNetwork: what comes and goes off the path of a hand-over.
#include <poll.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "agent/log_text.h"
#include "agent/own_network.h"
#include "netplumb/conntrack.h"
#include "vmpool/base/fault.h"

namespace granary::agent {
namespace {

using netplumb::Guests;

constexpr size_t kMostAtOnce = 32;         // made in one go
constexpr std::chrono::seconds kPause{1};  // after a failure that nobody waits for

std::vector<uint32_t> numbers_of(const Guests& guests) {
  std::vector<uint32_t> numbers;
  for (const auto& [guest, allow] : guests) numbers.push_back(guest);
  return numbers;
}

}  // namespace

bool OwnNetwork::lacks_taps() const { return count(State::kReady) < std::max(target_, waiting_); }

bool OwnNetwork::has_doomed() const {
  return std::ranges::any_of(slots_, [&](const auto& slot) {
    return slot.second.state == State::kDoomed && !remove_errors_.contains(slot.first);
  });
}

// Somebody's `nft flush ruleset` must not leave guests without rules.
void OwnNetwork::watch(netplumb::NftWatch tables) {
  pollfd ready[2] = {{.fd = tables.fd(), .events = POLLIN, .revents = 0},
                     {.fd = stop_watching_.get(), .events = POLLIN, .revents = 0}};
  while (ready[1].revents == 0) {
    if (::poll(ready, 2, -1) < 0 && errno != EINTR) return;
    if (!tables.table_deleted()) continue;
    const std::lock_guard lock(mutex_);
    look_ = true;
    work_.notify_all();
  }
}

void OwnNetwork::restore_table(Lock& lock) {
  look_ = false;
  bool table_missing = false;
  lock.unlock();
  if (!nft_->list(netplumb::list_set_text(netplumb::kGuestsSet))) {
    const Status made = write_table();
    if (made) spdlog::warn("own network: somebody deleted the nf_tables table inet granary; it was made anew");
    if (!made) spdlog::error("own network: no rules error=\"{}\"", log_value(made.error().message()));
    table_missing = !made;
  }
  lock.lock();
  table_missing_ = table_missing;
}

void OwnNetwork::keep(const std::stop_token& stop) {
  Lock lock(mutex_);
  const auto has_work = [&] { return look_ || has_doomed() || (lacks_taps() && (asked_ || !failed_)); };
  while (!stop.stop_requested()) {
    if (look_ || table_missing_) restore_table(lock);
    if (lacks_taps()) make_some(lock);
    remove_doomed(lock);
    if (failed_ || table_missing_ || !remove_errors_.empty()) {
      work_.wait_for(lock, stop, kPause, has_work);
      remove_errors_.clear();  // who waits for one has heard of it; it is tried again
    } else {
      work_.wait(lock, stop, has_work);
    }
  }
}

void OwnNetwork::make_some(Lock& lock) {
  const size_t wanted = std::min(std::max(target_, waiting_) - count(State::kReady), kMostAtOnce);
  std::vector<uint32_t> guests;
  asked_ = false;
  lock.unlock();
  Status made = make(guests, wanted);
  // Few addresses are left: then one, for whoever waits.
  if (!made && made.error().is(Errc::kAddressesExhausted) && wanted > 1) made = make(guests, 1);
  std::map<uint32_t, Fd> taps;
  for (const uint32_t guest : guests) {
    if (!made) break;
    auto tap = netplumb::open_tap(guest);
    if (tap) {
      taps[guest] = *std::move(tap);
    } else {
      made = tap.error();
    }
  }
  lock.lock();
  for (const uint32_t guest : guests) {
    Slot& slot = slots_[guest];
    slot.state = made ? State::kReady : State::kDoomed;
    if (made) slot.tap = std::move(taps[guest]);
  }
  failed_ = !made;
  if (!made) {
    ++failures_;
    const bool is_news = make_error_.message() != made.error().message();
    make_error_ = made.error();
    if (is_news) spdlog::warn("own network: no tap made error=\"{}\"", log_value(made.error().message()));
  }
  done_.notify_all();
}

// What was made of them before an error is for remove().
Status OwnNetwork::make(std::vector<uint32_t>& guests, size_t count) {
  guests = GRANARY_TRY(store_.take(count));
  Guests fresh;
  for (const uint32_t guest : guests) fresh.emplace(guest, std::vector<netplumb::AllowRule>());
  GRANARY_TRY(netplumb::make_taps(settings_, guests));
  GRANARY_TRY(nft_->run(netplumb::add_guests_text(settings_, fresh), "own network: add guests"));
  fault_point("own-network.made");
  return ok();
}

void OwnNetwork::remove_doomed(Lock& lock) {
  Guests doomed;
  for (const auto& [guest, slot] : slots_) {
    if (slot.state == State::kDoomed && !remove_errors_.contains(guest)) doomed.emplace(guest, slot.allow);
  }
  if (doomed.empty()) return;
  lock.unlock();
  const Status removed = remove(doomed);
  lock.lock();
  for (const auto& [guest, allow] : doomed) {
    if (removed) {
      slots_.erase(guest);
    } else {
      remove_errors_.insert_or_assign(guest, removed.error());
    }
  }
  if (!removed) spdlog::error("own network: taps are left error=\"{}\"", log_value(removed.error().message()));
  done_.notify_all();
}

Status OwnNetwork::remove(const Guests& guests) {
  const std::vector<uint32_t> numbers = numbers_of(guests);
  // An element that is not there, after a failure or somebody's `nft flush ruleset`, fails all of them.
  if (!nft_->run(netplumb::remove_guests_text(settings_, guests), "own network: remove guests"))
    GRANARY_TRY(write_table());
  fault_point("own-network.denied");
  GRANARY_TRY(netplumb::remove_taps(numbers));
  // Before another guest can have the addresses.
  GRANARY_TRY(netplumb::forget_connections([&](const netplumb::IpAddress& address) {
    const auto guest = guest_at(address);
    return guest && guests.contains(*guest);
  }));
  GRANARY_TRY(store_.give_back(numbers));
  fault_point("own-network.free");
  return ok();
}

// Of every guest that is ready or held.
Status OwnNetwork::write_table() {
  const std::lock_guard one_at_a_time(table_mutex_);
  Guests guests;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [guest, slot] : slots_) {
      if (slot.state == State::kReady || slot.state == State::kHeld) guests.emplace(guest, slot.allow);
    }
  }
  return nft_->run(netplumb::table_text(settings_, guests, keeps_strangers_out_), "own network: make its table");
}

}  // namespace granary::agent
