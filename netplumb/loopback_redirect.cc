// SPDX-License-Identifier: Apache-2.0
#include "netplumb/loopback_redirect.h"

#include "netplumb/netns.h"
#include "netplumb/nft.h"

namespace granary::netplumb {
namespace {

// Locally made packets pass "output" only, on their way to lo; what a card brings in never does.
std::string rules_for(uint16_t port) {
  const std::string redirect = " meta l4proto tcp redirect to :" + std::to_string(port) + "\n";
  return "create table inet granary-loopback\n"
         "table inet granary-loopback {\n"
         "  chain output {\n"
         "    type nat hook output priority -100\n"
         "    oifname \"lo\" ip daddr 127.0.0.0/8" +
         redirect + "    oifname \"lo\" ip6 daddr ::1" + redirect + "  }\n}\n";
}

}  // namespace

Status redirect_loopback(int netns, const std::string& netns_name, uint16_t port) {
  return in_netns(netns, [&]() -> Status {
    const std::unique_ptr<Nft> nft = GRANARY_TRY(Nft::open());
    const std::string what = "network namespace " + netns_name + ": redirect loopback (nft_chain_nat, nft_redir)";
    const Status made = nft->run(rules_for(port), what);
    if (made || !made.error().is_errno(EEXIST)) return made;
    // What an earlier attempt left. Not deleted in any case: who closes a netlink socket waits about 10 ms for the
    // kernel to free what a transaction has deleted.
    return nft->run("delete table inet granary-loopback\n" + rules_for(port), what);
  });
}

Result<bool> undo_loopback_redirect(int netns, const std::string& netns_name) {
  bool was_there = false;
  GRANARY_TRY(in_netns(netns, [&]() -> Status {
    const Result<std::unique_ptr<Nft>> opened = Nft::open();
    if (!opened && opened.error().is_errno(EPROTONOSUPPORT)) return ok();  // a kernel without: nothing can be there
    if (!opened) return opened.error();
    was_there = GRANARY_TRY((*opened)->remove_table(
        "inet granary-loopback", "network namespace " + netns_name + ": end the redirection of loopback"));
    return ok();
  }));
  return was_there;
}

}  // namespace granary::netplumb
