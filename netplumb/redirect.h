// SPDX-License-Identifier: Apache-2.0
#pragma once

// Of this room only, as netlink.h is.

#include <linux/filter.h>

#include <span>
#include <string>
#include <vector>

#include "netplumb/netlink.h"

namespace granary::netplumb {

// One end of a redirection.
struct Port {
  uint32_t index = 0;
  std::string name;
};

// What makes every frame that arrives at `from` leave at `to`, and lets nothing leave at `from` but what arrived at
// `to`: a clsact qdisc with u32 filters that match everything (tc-u32(8)) and mirred actions (tc-mirred(8)).
//
//   ingress  everything: stolen, out at `to`. The namespace's own stack sees no frame, so it answers none.
//   egress   came in at `to` (indev): passes. Anything else is from the namespace's own stack (router solicitations,
//   duplicate
//            address detection, MLD, ARP) and ends in the loopback device, which takes nothing that is not addressed to
//            it.
struct Requests {
  std::vector<Request> requests;
  std::vector<std::string> whats;    // for errors
  std::vector<const char*> modules;  // as Netlink::ask() takes them
  void add(Request request, std::string what, const char* its_modules = nullptr) {
    requests.push_back(std::move(request));
    whats.push_back(std::move(what));
    modules.push_back(its_modules);
  }
};
inline Status ask(Netlink& netlink, const Requests& all) { return netlink.ask(all.requests, all.whats, all.modules); }
void add_qdisc(Requests& into, const Port& from);  // to be there before the rest is asked for: it may be another's
void add_redirect(Requests& into, const Port& from, const Port& to);
// Before the redirection at `from`: drops what arrives there and `program` (own_frames.h) does not let pass.
void add_ingress_program(Requests& into, const Port& from, std::span<const sock_filter> program);
// Whether the qdisc at `from` is that of its redirection to `to`, or has no filter yet, as that of one begun.
Result<bool> is_ours(Netlink& netlink, const Port& from, const Port& to);
// Takes all of that away.
void add_removal(Requests& into, const Port& from);

}  // namespace granary::netplumb
