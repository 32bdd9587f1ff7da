// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "netplumb/address_store.h"
#include "netplumb/guest_taps.h"
#include "netplumb/nft.h"
#include "netplumb/nft_watch.h"
#include "netplumb/policy.h"
#include "vmpool/base/event_loop.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::agent {

// The network that this agent makes for clones, in its own network namespace (netplumb/routed_network.h). Taps are made
// ahead, and those that clones had are taken away in batches, by a thread of this object: taking one costs the hot path
// next to nothing. An address is in the store, on the disk, before anything is made for it, and until all of that is
// gone. Thread-safe.
class OwnNetwork {
 public:
  struct Wired {
    Fd tap;
    std::string address;  // by which it is released
    std::shared_ptr<const guest::v1::Network> network;
  };
  // What a clone that lives on has of it.
  struct Held {
    std::string address;
    std::vector<std::string> allow;
  };
  struct Use {
    netplumb::Traffic traffic;
    uint64_t denied_packets = 0;
    uint64_t limited_packets = 0;
  };

  // Brings the host to what `held` need and nothing else, whatever an earlier agent left: taps, routes, the nf_tables
  // table and the store, which is a file in `state_dir`. kAlreadyRunning: another agent in this network namespace has
  // its own; kConfigInvalid: the subnet is in use here, or `held` have addresses of another; kNotSupported: the kernel
  // lacks a module, which is named; EPERM; EROFS for /proc/sys in a container.
  static Result<std::unique_ptr<OwnNetwork>> start(const netplumb::RoutedNetwork& settings,
                                                   const std::string& state_dir, const std::vector<Held>& held);
  // Takes away what no clone has, and with the last one everything.
  ~OwnNetwork();
  OwnNetwork(const OwnNetwork&) = delete;
  OwnNetwork& operator=(const OwnNetwork&) = delete;

  // Where no network is configured any more: takes away what an earlier agent with this `state_dir` left.
  static Status remove_leftovers(const std::string& state_dir);

  // Keeps so many taps ready from now on, as far as there are addresses.
  void keep_ready(size_t count);
  // Waits for one to be made only when none is ready. kInvalidArgument, kNotSupported for a rule; kAddressesExhausted;
  // what the kernel said when it could not be made.
  Result<Wired> take(const std::vector<std::string>& allow);
  // Returns once tap, route, neighbour and rules are gone and the address is free; nothing to do is fine. May be called
  // again after an error.
  Status release(const std::string& address);
  // Has that done some time.
  void give_up(const std::string& address);

  // By address; what is not there is left out.
  [[nodiscard]] std::map<std::string, Use> use_of(const std::vector<std::string>& addresses);
  // What host, store and this object do not agree on, and addresses that are held for nobody or by nobody, a line each.
  [[nodiscard]] std::vector<std::string> differences(const std::set<std::string>& held);

 private:
  enum class State { kMaking, kReady, kHeld, kDoomed };
  struct Slot {
    State state = State::kMaking;
    Fd tap;
    std::vector<netplumb::AllowRule> allow;
  };
  using Lock = std::unique_lock<std::mutex>;

  OwnNetwork(netplumb::RoutedNetwork settings, netplumb::AddressStore store, std::unique_ptr<netplumb::Nft> nft,
             Fd name, EventFd stop_watching)
      : settings_(std::move(settings)),
        store_(std::move(store)),
        nft_(std::move(nft)),
        name_(std::move(name)),
        stop_watching_(std::move(stop_watching)) {}
  Status reconcile(const std::vector<Held>& held);
  void watch(netplumb::NftWatch tables);
  void restore_table(Lock& lock);
  [[nodiscard]] std::optional<uint32_t> guest_at(const std::string& address) const;
  [[nodiscard]] std::optional<uint32_t> guest_at(const netplumb::IpAddress& address) const;
  [[nodiscard]] size_t count(State state) const;
  void doom(uint32_t guest);
  void keep(const std::stop_token& stop);
  [[nodiscard]] bool lacks_taps() const;
  [[nodiscard]] bool has_doomed() const;
  void make_some(Lock& lock);
  void remove_doomed(Lock& lock);
  Status make(std::vector<uint32_t>& guests, size_t count);
  Status remove(const netplumb::Guests& guests);
  Status write_table();
  Status take_away();

  const netplumb::RoutedNetwork settings_;
  netplumb::AddressStore store_;  // of the keeper's thread, once it runs
  const std::unique_ptr<netplumb::Nft> nft_;
  const Fd name_;  // a bound socket: as long as it is open, no other agent can have one
  const EventFd stop_watching_;
  bool keeps_strangers_out_ = false;

  std::mutex table_mutex_;  // from reading what the table is to say until it says so; taken before mutex_
  mutable std::mutex mutex_;
  std::condition_variable_any work_;
  std::condition_variable done_;
  std::map<uint32_t, Slot> slots_;
  size_t target_ = 0;
  size_t waiting_ = 0;     // calls of take() that found none
  bool asked_ = false;     // one more has since the keeper last tried
  bool failed_ = false;    // the keeper did, then
  uint64_t failures_ = 0;  // of make_some()
  Error make_error_{Errc::kShuttingDown, "the agent ends"};
  std::map<uint32_t, Error> remove_errors_;  // of those that are doomed
  bool look_ = false;                        // a table was deleted, perhaps ours
  bool table_missing_ = false;               // it was, and could not be made anew yet
  bool ends_ = false;
  std::jthread keeper_;
  std::jthread watcher_;
};

}  // namespace granary::agent
