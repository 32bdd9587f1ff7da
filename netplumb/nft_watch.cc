// SPDX-License-Identifier: Apache-2.0
#include "netplumb/nft_watch.h"

#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

namespace granary::netplumb {

Result<NftWatch> NftWatch::open() {
  Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER));
  if (!socket.valid()) return Error::last_os_error("nf_tables: open a netlink socket to watch");
  // Named by the kernel: nothing is sent to a group's members that have no name.
  sockaddr_nl any{};
  any.nl_family = AF_NETLINK;
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&any), sizeof(any)) != 0)
    return Error::last_os_error("nf_tables: name a netlink socket");
  const int group = NFNLGRP_NFTABLES;
  if (::setsockopt(socket.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) != 0)
    return Error::last_os_error("nf_tables: watch its tables (needs CAP_NET_ADMIN)");
  return NftWatch(std::move(socket));
}

bool NftWatch::table_deleted() {
  constexpr uint16_t kDeleted = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE;
  alignas(nlmsghdr) std::array<char, 64 * 1024> buffer;
  bool deleted = false;
  while (true) {
    const ssize_t n = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_TRUNC);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == ENOBUFS) {
      deleted = true;
      continue;
    }
    if (n <= 0) return deleted;
    if (static_cast<size_t>(n) > buffer.size()) deleted = true;
    auto left = static_cast<uint32_t>(std::min(static_cast<size_t>(n), buffer.size()));
    for (auto* message = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(message, left);
         message = NLMSG_NEXT(message, left)) {
      deleted = deleted || message->nlmsg_type == kDeleted;
    }
  }
}

}  // namespace granary::netplumb
