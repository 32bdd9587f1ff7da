// SPDX-License-Identifier: Apache-2.0
#include "netplumb/conntrack.h"

#include <libnetfilter_conntrack/libnetfilter_conntrack.h>
#include <sys/socket.h>

#include <cstring>
#include <memory>
#include <vector>

namespace granary::netplumb {
namespace {

struct CloseHandle {
  void operator()(nfct_handle* handle) const { ::nfct_close(handle); }
};
struct DestroyConnection {
  void operator()(nf_conntrack* connection) const { ::nfct_destroy(connection); }
};
using Connection = std::unique_ptr<nf_conntrack, DestroyConnection>;

struct Search {
  const std::function<bool(const IpAddress&)>& is_one;
  std::vector<Connection> found;
};

IpAddress address_at(const nf_conntrack* connection, nf_conntrack_attr end) {
  const uint32_t in_network_order = ::nfct_get_attr_u32(connection, end);
  IpAddress address;
  std::memcpy(address.bytes.data(), &in_network_order, sizeof(in_network_order));
  return address;
}

int look_at(nf_conntrack_msg_type /*type*/, nf_conntrack* connection, void* data) {
  Search& search = *static_cast<Search*>(data);
  // Who began it, and who answered: a connection from outside ends at the guest.
  for (const nf_conntrack_attr end : {ATTR_ORIG_IPV4_SRC, ATTR_REPL_IPV4_SRC}) {
    if (::nfct_attr_is_set(connection, end) == 0) continue;
    if (!search.is_one(address_at(connection, end))) continue;
    if (nf_conntrack* const copy = ::nfct_clone(connection)) search.found.emplace_back(copy);
    break;
  }
  return NFCT_CB_CONTINUE;
}

Error refused(const char* what) {
  return Error::last_os_error(std::string(what) + " (needs the kernel's nf_conntrack_netlink, and CAP_NET_ADMIN)");
}

}  // namespace

Result<size_t> forget_connections(const std::function<bool(const IpAddress&)>& is_one) {
  const std::unique_ptr<nfct_handle, CloseHandle> handle(::nfct_open(CONNTRACK, 0));
  if (!handle) return refused("open the connection tracking");
  Search search{.is_one = is_one, .found = {}};
  ::nfct_callback_register(handle.get(), NFCT_T_ALL, look_at, &search);
  const uint32_t family = AF_INET;
  if (::nfct_query(handle.get(), NFCT_Q_DUMP, &family) != 0) return refused("list connections");
  size_t forgotten = 0;
  for (const Connection& connection : search.found) {
    if (::nfct_query(handle.get(), NFCT_Q_DESTROY, connection.get()) == 0) {
      ++forgotten;
    } else if (errno != ENOENT) {  // it ended meanwhile
      return refused("forget a connection");
    }
  }
  return forgotten;
}

}  // namespace granary::netplumb
