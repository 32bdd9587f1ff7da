// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/network.h"

#include <arpa/inet.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstring>
#include <memory>

#include "vmpool/base/fd.h"

namespace granary::guest {
namespace {

constexpr size_t kIpv6Bytes = 16;

uint8_t family_of(const std::string& address) { return address.size() == kIpv6Bytes ? AF_INET6 : AF_INET; }

std::string text_of(const std::string& address) {
  char text[INET6_ADDRSTRLEN] = "?";
  ::inet_ntop(family_of(address), address.data(), text, sizeof(text));
  return text;
}

std::string text_of(const v1::Prefix& prefix) {
  return text_of(prefix.address()) + "/" + std::to_string(prefix.length());
}

class Requests {
 public:
  Requests(const v1::Network& network, std::span<const Card> cards) : network_(network), cards_(cards) {}

  std::vector<NetlinkMessage> build() && {
    make_names_free();
    for (int i = 0; i < network_.links_size(); ++i) configure_link(network_.links(i), cards_[static_cast<size_t>(i)]);
    for (const v1::Address& address : network_.addresses()) add(address);
    // An address is there before its link is up, so that the kernel never makes the same one with detection of
    // duplicates.
    for (int i = 0; i < network_.links_size(); ++i) {
      set_link(cards_[static_cast<size_t>(i)].index, IFF_UP, "link " + network_.links(i).name() + " up");
    }
    for (const v1::Neighbour& neighbour : network_.neighbours()) add(neighbour);
    for (const bool with_gateway : {false, true}) {
      for (const v1::Route& route : network_.routes()) {
        if (has_gateway(route) == with_gateway) add(route);
      }
    }
    for (const v1::Rule& rule : network_.rules()) add(rule);
    return std::move(requests_);
  }

 private:
  [[nodiscard]] uint32_t index_of(uint32_t link) const { return static_cast<uint32_t>(cards_[link].index); }
  [[nodiscard]] const std::string& name_of(uint32_t link) const {
    return network_.links(static_cast<int>(link)).name();
  }

  static bool has_gateway(const v1::Route& route) {
    return std::ranges::any_of(route.next_hops(), [](const v1::NextHop& hop) { return !hop.gateway().empty(); });
  }

  template <class Family>
  NetlinkMessage& request(uint16_t type, int flags, const Family& family, std::string what) {
    return requests_.emplace_back(type, static_cast<uint16_t>(flags), family, "network: " + std::move(what));
  }

  NetlinkMessage& set_link(int index, unsigned flags, std::string what) {
    ifinfomsg family{};
    family.ifi_family = AF_UNSPEC;
    family.ifi_index = index;
    family.ifi_flags = flags;
    family.ifi_change = IFF_UP;
    return request(RTM_NEWLINK, 0, family, std::move(what));
  }

  // Names may be exchanged among the cards, or held by one that is not configured.
  void make_names_free() {
    for (size_t n = 0; n < cards_.size(); ++n) {
      const Card& card = cards_[n];
      const bool is_configured = n < static_cast<size_t>(network_.links_size());
      const bool stays =
          is_configured
              ? name_of(static_cast<uint32_t>(n)) == card.name
              : std::ranges::none_of(network_.links(), [&](const v1::Link& link) { return link.name() == card.name; });
      if (is_configured || !stays) set_link(card.index, 0, "card " + card.name + " down");
      if (stays) continue;
      const std::string name = "granary-card" + std::to_string(n);
      set_link(card.index, 0, "rename card " + card.name + " to " + name).put_text(IFLA_IFNAME, name);
    }
  }

  void configure_link(const v1::Link& link, const Card& card) {
    NetlinkMessage& message = set_link(card.index, 0, "link " + link.name());
    message.put_text(IFLA_IFNAME, link.name());
    if (!link.mac().empty()) message.put(IFLA_ADDRESS, link.mac());
    if (link.mtu() != 0) message.put_u32(IFLA_MTU, link.mtu());
  }

  void add(const v1::Address& address) {
    ifaddrmsg family{};
    family.ifa_family = family_of(address.local());
    family.ifa_prefixlen = static_cast<uint8_t>(address.prefix_length());
    family.ifa_scope = static_cast<uint8_t>(address.scope());
    family.ifa_index = index_of(address.link());
    NetlinkMessage& message = request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, family,
                                      "address " + text_of(address.local()) + " on " + name_of(address.link()));
    message.put(IFA_LOCAL, address.local());
    message.put(IFA_ADDRESS, address.peer().empty() ? address.local() : address.peer());
    if (!address.broadcast().empty()) message.put(IFA_BROADCAST, address.broadcast());
    const uint32_t no_detection = family.ifa_family == AF_INET6 ? IFA_F_NODAD : 0;
    message.put_u32(IFA_FLAGS, IFA_F_NOPREFIXROUTE | no_detection);
  }

  void add(const v1::Neighbour& neighbour) {
    ndmsg family{};
    family.ndm_family = family_of(neighbour.address());
    family.ndm_ifindex = cards_[neighbour.link()].index;
    family.ndm_state = NUD_PERMANENT;
    NetlinkMessage& message = request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, family,
                                      "neighbour " + text_of(neighbour.address()) + " on " + name_of(neighbour.link()));
    message.put(NDA_DST, neighbour.address());
    message.put(NDA_LLADDR, neighbour.mac());
  }

  static void put_gateway(NetlinkMessage& message, const v1::NextHop& hop, uint8_t family) {
    if (hop.gateway().empty()) return;
    if (family_of(hop.gateway()) == family) return message.put(RTA_GATEWAY, hop.gateway());
    const uint16_t via_family = family_of(hop.gateway());  // struct rtvia, which is not C++
    message.put(RTA_VIA, std::string(reinterpret_cast<const char*>(&via_family), sizeof(via_family)) + hop.gateway());
  }

  void put_next_hops(NetlinkMessage& message, const v1::Route& route, uint8_t family) const {
    if (route.next_hops_size() == 1) {
      const v1::NextHop& hop = route.next_hops(0);
      if (hop.has_link()) message.put_u32(RTA_OIF, index_of(hop.link()));
      return put_gateway(message, hop, family);
    }
    const size_t all = message.begin(RTA_MULTIPATH);
    for (const v1::NextHop& hop : route.next_hops()) {
      rtnexthop structure{};
      structure.rtnh_flags = hop.onlink() ? RTNH_F_ONLINK : 0;
      structure.rtnh_hops = static_cast<uint8_t>(hop.weight() - 1);
      structure.rtnh_ifindex = hop.has_link() ? cards_[hop.link()].index : 0;
      const size_t begun = message.begin_raw({reinterpret_cast<const char*>(&structure), sizeof(structure)});
      put_gateway(message, hop, family);
      message.end(begun);
    }
    message.end(all);
  }

  static void put_metrics(NetlinkMessage& message, const v1::Route& route) {
    if (route.mtu() == 0 && route.advertised_mss() == 0) return;
    const size_t metrics = message.begin(RTA_METRICS);
    if (route.mtu_locked()) message.put_u32(RTAX_LOCK, 1U << RTAX_MTU);
    if (route.mtu() != 0) message.put_u32(RTAX_MTU, route.mtu());
    if (route.advertised_mss() != 0) message.put_u32(RTAX_ADVMSS, route.advertised_mss());
    message.end(metrics);
  }

  // Appended: of routes to the same destination with the same metric, one per link, each is a route of its own.
  void add(const v1::Route& route) {
    rtmsg family{};
    family.rtm_family = family_of(route.destination().address());
    family.rtm_dst_len = static_cast<uint8_t>(route.destination().length());
    family.rtm_protocol = static_cast<uint8_t>(route.protocol());
    family.rtm_scope = static_cast<uint8_t>(route.scope());
    family.rtm_type = static_cast<uint8_t>(route.type());
    if (route.next_hops_size() == 1 && route.next_hops(0).onlink()) family.rtm_flags = RTNH_F_ONLINK;
    NetlinkMessage& message =
        request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, family,
                "route " + text_of(route.destination()) + " of table " + std::to_string(route.table()));
    message.put_u32(RTA_TABLE, route.table());
    if (route.destination().length() != 0) message.put(RTA_DST, route.destination().address());
    if (!route.source().empty()) message.put(RTA_PREFSRC, route.source());
    if (route.metric() != 0) message.put_u32(RTA_PRIORITY, route.metric());
    put_next_hops(message, route, family.rtm_family);
    put_metrics(message, route);
  }

  void add(const v1::Rule& rule) {
    fib_rule_hdr family{};
    family.family = rule.v6() ? AF_INET6 : AF_INET;
    family.src_len = static_cast<uint8_t>(rule.from().length());
    family.dst_len = static_cast<uint8_t>(rule.to().length());
    family.action = static_cast<uint8_t>(rule.action());
    family.flags = rule.invert() ? FIB_RULE_INVERT : 0;
    NetlinkMessage& message =
        request(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, family, "rule of priority " + std::to_string(rule.priority()));
    message.put_u32(FRA_PRIORITY, rule.priority());
    if (rule.table() != 0) message.put_u32(FRA_TABLE, rule.table());
    if (rule.from().length() != 0) message.put(FRA_SRC, rule.from().address());
    if (rule.to().length() != 0) message.put(FRA_DST, rule.to().address());
    if (rule.mark() != 0 || rule.mark_mask() != 0) message.put_u32(FRA_FWMARK, rule.mark());
    if (rule.mark_mask() != 0) message.put_u32(FRA_FWMASK, rule.mark_mask());
    if (!rule.input_link().empty()) message.put_text(FRA_IIFNAME, rule.input_link());
    if (!rule.output_link().empty()) message.put_text(FRA_OIFNAME, rule.output_link());
  }

  const v1::Network& network_;
  std::span<const Card> cards_;
  std::vector<NetlinkMessage> requests_;
};

// The kernel makes routes by itself (IPv6, of a link's own address), and says "exists" also of one with other metrics.
Status replace_route(Rtnetlink& kernel, NetlinkMessage& route) {
  NetlinkMessage old = route.with(RTM_DELROUTE, 0);
  old.set_byte(offsetof(rtmsg, rtm_protocol), RTPROT_UNSPEC);  // whoever made it
  GRANARY_TRY(kernel.request(old));
  return kernel.request(route);
}

Status make(Rtnetlink& kernel, NetlinkMessage& message) {
  const Status made = kernel.request(message);
  if (made || !made.error().is_errno(EEXIST)) return made;
  if (message.type() == RTM_NEWROUTE) return replace_route(kernel, message);
  return message.type() == RTM_NEWRULE ? ok() : made;
}

// "virtio7" of the device that a link belongs to: virtio numbers them as they are found. -1: none.
int virtio_number(const std::string& link) {
  char target[PATH_MAX];
  const ssize_t n = ::readlink(("/sys/class/net/" + link + "/device").c_str(), target, sizeof(target) - 1);
  if (n < 0) return -1;
  target[n] = '\0';
  const char* const name = ::strrchr(target, '/');
  int number = -1;
  return name != nullptr && std::sscanf(name, "/virtio%d", &number) == 1 ? number : -1;
}

Result<bool> is_ethernet(const std::string& link) {
  return GRANARY_TRY(read_file("/sys/class/net/" + link + "/type")) == std::to_string(ARPHRD_ETHER) + "\n";
}

// By the number of their virtio device; those of none by their index, when `others` are wanted.
Result<std::vector<Card>> find_links(bool others) {
  const std::unique_ptr<struct if_nameindex, decltype(&::if_freenameindex)> links(::if_nameindex(), ::if_freenameindex);
  if (!links) return Error::last_os_error("list the network links");
  std::vector<std::pair<int64_t, Card>> found;
  for (const struct if_nameindex* link = links.get(); link->if_name != nullptr; ++link) {
    const int number = virtio_number(link->if_name);
    const Card card{static_cast<int>(link->if_index), link->if_name};
    if (number >= 0) {
      found.emplace_back(number, card);
    } else if (others && GRANARY_TRY(is_ethernet(card.name))) {
      found.emplace_back(int64_t{INT32_MAX} + card.index, card);
    }
  }
  std::ranges::sort(found, {}, &std::pair<int64_t, Card>::first);
  std::vector<Card> cards;
  for (auto& [number, card] : found) cards.push_back(std::move(card));
  return cards;
}

}  // namespace

Result<std::vector<Card>> find_cards() { return find_links(/*others=*/false); }
Result<std::vector<Card>> find_ethernet_links() { return find_links(/*others=*/true); }

Result<std::vector<NetlinkMessage>> network_requests(const v1::Network& network, std::span<const Card> cards) {
  const auto links = static_cast<size_t>(network.links_size());
  if (links > cards.size()) {
    return Error(Errc::kInvalidArgument, "network: " + std::to_string(links) + " links, but this guest has " +
                                             std::to_string(cards.size()) + " cards");
  }
  return Requests(network, cards).build();
}

std::string resolv_conf(const v1::Network& network) {
  std::string text;
  for (const std::string& address : network.nameservers()) text += "nameserver " + text_of(address) + "\n";
  return text;
}

Status apply_network(const v1::Network& network, std::span<const Card> cards) {
  std::vector<NetlinkMessage> requests = GRANARY_TRY(network_requests(network, cards));
  Rtnetlink kernel = GRANARY_TRY(Rtnetlink::open());
  for (NetlinkMessage& request : requests) GRANARY_TRY(make(kernel, request));
  return ok();
}

}  // namespace granary::guest
