// SPDX-License-Identifier: Apache-2.0
#include "netplumb/attach.h"

#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include <algorithm>
#include <charconv>

#include "netplumb/netns.h"
#include "netplumb/own_frames.h"
#include "netplumb/read_config.h"
#include "netplumb/redirect.h"
#include "netplumb/tap.h"
#include "vmpool/base/fault.h"

namespace granary::netplumb {
namespace {

constexpr std::string_view kTapPrefix = "gtap";

std::string tap_name(const Interface& interface) { return std::string(kTapPrefix) + std::to_string(interface.index); }

// The index of the interface whose tap this is; nothing for what is no tap of ours.
std::optional<uint32_t> wired_index(const Interface& tap) {
  if (tap.kind != "tun" || !tap.name.starts_with(kTapPrefix)) return std::nullopt;
  uint32_t index = 0;
  const char* const end = tap.name.data() + tap.name.size();
  const auto [rest, error] = std::from_chars(tap.name.data() + kTapPrefix.size(), end, index);
  return error == std::errc() && rest == end ? std::optional(index) : std::nullopt;
}

// It went meanwhile, or its interface did.
bool is_missing(const Error& error) {
  return error.is_errno(EINVAL) || error.is_errno(ENOENT) || error.is_errno(ENODEV);
}

// Qdisc first: while it is there, so is the tap that says whose it is.
Status remove_one(Netlink& netlink, const std::vector<Interface>& all, const Interface& tap) {
  const auto interface = std::ranges::find(all, *wired_index(tap), &Interface::index);
  if (interface != all.end()) {
    const Port wired{interface->index, interface->name};
    // Its index may have been given to another interface, or an attach have ended before it came to the qdisc.
    if (GRANARY_TRY(is_ours(netlink, wired, {tap.index, tap.name}))) {
      Requests qdisc;
      add_removal(qdisc, wired);
      const Status removed = ask(netlink, qdisc);
      if (!removed && !is_missing(removed.error())) return removed;
    }
  }
  fault_point("detach.redirect");
  ifinfomsg header{};
  header.ifi_index = static_cast<int>(tap.index);
  const Request link(RTM_DELLINK, 0, header);
  const std::string what = "remove tap " + tap.name;
  const Status removed = netlink.ask({&link, 1}, {&what, 1});
  if (!removed && !removed.error().is_errno(ENODEV)) return removed;
  fault_point("detach.tap");
  return ok();
}

Status remove_all(Netlink& netlink) {
  const std::vector<Interface> all = GRANARY_TRY(read_interfaces(netlink));
  for (const Interface& one : all) {
    if (wired_index(one)) GRANARY_TRY(remove_one(netlink, all, one));
  }
  return ok();
}

Result<std::vector<Interface>> find_wired(const std::vector<Interface>& all, size_t most_links) {
  std::vector<Interface> wired;
  std::string names;
  for (const Interface& one : all) {
    if (!one.up) continue;
    const bool takes_frames = one.kind.empty() || one.kind == "veth" || one.kind == "macvlan" || one.kind == "vlan";
    if (!one.ethernet || !takes_frames) {
      return Error(Errc::kNotSupported,
                   one.name + ": an interface of kind " + (one.kind.empty() ? "\"not Ethernet\"" : one.kind) +
                       " cannot be wired to a microVM (veth, macvlan, vlan and hardware can); use a CNI plugin "
                       "that makes one of these, or another runtime class");
    }
    names += (names.empty() ? "" : ", ") + one.name;
    wired.push_back(one);
  }
  // Its frames come and go with those of the lower one, all of which another card gets.
  for (const Interface& one : wired) {
    const auto lower = std::ranges::find(wired, one.lower, &Interface::index);
    if (lower == wired.end() || one.kind == "veth") continue;
    return Error(Errc::kNotSupported, one.name + ": a " + one.kind + " on " + lower->name +
                                          " of the same namespace cannot be wired beside it; have it made on an "
                                          "interface of the host, or use another runtime class");
  }
  if (wired.size() > most_links) {
    return Error(Errc::kNotSupported, std::to_string(wired.size()) + " wired interfaces (" + names +
                                          "), but a clone has " + std::to_string(most_links) +
                                          " network cards; raise devices.net of its pool (at most 2)");
  }
  return wired;
}

// Another's ingress or clsact qdisc would see the frames first, or be taken away with ours.
Status check_qdiscs(Netlink& netlink, const std::vector<Interface>& wired) {
  std::optional<std::string> taken;
  const auto look = [&](const nlmsghdr* message) {
    const Attributes<tcmsg, TCA_MAX> found(message);
    const auto at = std::ranges::find(wired, static_cast<uint32_t>(found.header.tcm_ifindex), &Interface::index);
    if (found.valid && at != wired.end() && found.header.tcm_parent == TC_H_INGRESS) taken = at->name;
  };
  GRANARY_TRY(netlink.dump(
      Request(RTM_GETQDISC, 0, tcmsg{}), "read qdiscs", [&] { taken.reset(); }, look));
  if (!taken) return ok();
  return Error::from_errno(EEXIST, *taken +
                                       ": somebody else's ingress or clsact qdisc is on it; take it away "
                                       "(tc qdisc del dev " +
                                       *taken + " clsact), or use a CNI plugin that makes none");
}

Status check_addresses(const NetworkConfig& config) {
  for (uint32_t link = 0; link < config.links.size(); ++link) {
    const bool has = std::ranges::any_of(
        config.addresses, [&](const Address& one) { return one.link == link && one.scope != RT_SCOPE_LINK; });
    if (!has) {
      return Error(Errc::kInvalidArgument,
                   config.links[link].name + ": it has no address; CNI has not finished, or has no IPAM for it");
    }
  }
  return ok();
}

// MTU, no IPv6 addresses of its own. Before it comes up: in one request the kernel takes the flags first, and the tap
// has an address.
Request tap_settings(uint32_t index, uint32_t mtu) {
  ifinfomsg header{};
  header.ifi_index = static_cast<int>(index);
  Request request(RTM_NEWLINK, 0, header);
  request.put_value(IFLA_MTU, mtu);
  request.nest(IFLA_AF_SPEC, [](Request& families) {
    families.nest(AF_INET6,
                  [](Request& v6) { v6.put_value<uint8_t>(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE); });
  });
  return request;
}

Request tap_up(uint32_t index) {
  ifinfomsg header{};
  header.ifi_index = static_cast<int>(index);
  header.ifi_flags = header.ifi_change = IFF_UP;
  return {RTM_NEWLINK, 0, header};
}

// The kernel raises a transmit queue length of 0 (CNI's) when an interface gets a qdisc. Set back in the same batch, so
// that no kill comes between.
Request queue_length(const Interface& interface) {
  ifinfomsg header{};
  header.ifi_index = static_cast<int>(interface.index);
  Request request(RTM_NEWLINK, 0, header);
  request.put_value(IFLA_TXQLEN, interface.queue_length);
  return request;
}

using Program = std::vector<sock_filter>;

// Of each link.
Result<std::vector<Program>> own_frames_programs(const NetworkConfig& config) {
  std::vector<Program> all;
  for (size_t link = 0; link < config.links.size(); ++link) {
    std::vector<IpAddress> own;
    for (const Address& one : config.addresses) {
      if (one.link == link) own.push_back(one.local);
    }
    auto program = own_frames_program(config.links[link].mac, own);
    if (!program) return Error(program.error().code(), config.links[link].name + ": " + program.error().context());
    all.push_back(*std::move(program));
  }
  return all;
}

Result<Fd> wire(Netlink& netlink, const Interface& interface, const Program& program) {
  const std::string name = tap_name(interface);
  Fd tap = GRANARY_TRY(make_tap(name));
  fault_point("attach.tap");
  const Port wired{interface.index, interface.name};
  const Port other{::if_nametoindex(name.c_str()), name};
  if (other.index == 0) return Error::last_os_error("find tap " + name);
  Requests requests;
  requests.add(tap_settings(other.index, interface.mtu),
               "set up tap " + name + " with MTU " + std::to_string(interface.mtu));
  requests.add(tap_up(other.index), "bring up tap " + name);
  add_qdisc(requests, other);
  if (!program.empty()) add_ingress_program(requests, other, program);
  add_redirect(requests, other, wired);
  GRANARY_TRY(ask(netlink, requests));
  fault_point("attach.tap-redirected");
  // By itself, because what follows a failure is tried all the same: another's qdisc gets none of our filters.
  Requests qdisc;
  add_qdisc(qdisc, wired);
  qdisc.add(queue_length(interface), interface.name + ": set its transmit queue length back");
  GRANARY_TRY(ask(netlink, qdisc));
  fault_point("attach.qdisc");
  Requests back;
  add_redirect(back, wired, other);
  if (const Status redirected = ask(netlink, back); !redirected) {
    Requests removal;
    add_removal(removal, wired);
    (void)ask(netlink, removal);  // with whatever filters it has by now
    return redirected.error();
  }
  fault_point("attach.wired");
  return tap;
}

Status attach_here(Attachment& into, size_t most_links, Frames frames) {
  Netlink netlink = GRANARY_TRY(Netlink::open());
  std::vector<Interface> all = GRANARY_TRY(read_interfaces(netlink));
  if (std::ranges::any_of(all, [](const Interface& one) { return wired_index(one).has_value(); })) {
    for (const Interface& one : all) {
      // EBUSY where a VMM has it: removing it would cut that off.
      if (wired_index(one)) GRANARY_TRY(make_tap(one.name));
    }
    GRANARY_TRY(remove_all(netlink));
    all = GRANARY_TRY(read_interfaces(netlink));
  }
  const std::vector<Interface> wired = GRANARY_TRY(find_wired(all, most_links));
  if (wired.empty()) return ok();
  GRANARY_TRY(check_qdiscs(netlink, wired));
  into.config = GRANARY_TRY(read_config(netlink, wired));
  GRANARY_TRY(check_addresses(into.config));
  std::vector<Program> programs(wired.size());
  if (frames == Frames::kOwn) programs = GRANARY_TRY(own_frames_programs(into.config));
  for (size_t i = 0; i < wired.size(); ++i) {
    Result<Fd> tap = wire(netlink, wired[i], programs[i]);
    if (!tap) {
      const Status removed = remove_all(netlink);
      if (removed) return tap.error();
      return Error(tap.error().code(),
                   tap.error().context() + "; and what was made stays: " + removed.error().message());
    }
    into.taps.push_back(*std::move(tap));
  }
  return ok();
}

Status in_named(int netns, const std::string& name, const std::function<Status()>& action) {
  Status done = in_netns(netns, action);
  if (done) return done;
  return Error(done.error().code(), "network namespace " + name + ": " + done.error().context());
}

}  // namespace

Result<Attachment> attach(int netns, const std::string& netns_name, size_t most_links, Frames frames) {
  Attachment attachment;
  GRANARY_TRY(in_named(netns, netns_name, [&] { return attach_here(attachment, most_links, frames); }));
  return attachment;
}

Status detach(int netns, const std::string& netns_name) {
  return in_named(netns, netns_name, []() -> Status {
    Netlink netlink = GRANARY_TRY(Netlink::open());
    return remove_all(netlink);
  });
}

}  // namespace granary::netplumb
