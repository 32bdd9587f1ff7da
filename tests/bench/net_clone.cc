// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/net_clone.h"

#include <linux/rtnetlink.h>

#include "netplumb/tap.h"
#include "tests/bench/guest_shell.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::bench {
namespace {

using pool::SteadyClock;
using std::chrono::minutes;

guest::v1::Network configuration(uint8_t network, uint8_t host_part) {
  const auto address_of = [network](uint8_t last) {
    return std::string{'\x0a', static_cast<char>(network), '\0', static_cast<char>(last)};
  };
  guest::v1::Network configured;
  configured.add_links()->set_name("eth0");
  guest::v1::Address& address = *configured.add_addresses();
  address.set_local(address_of(host_part));
  address.set_prefix_length(24);
  guest::v1::Route& route = *configured.add_routes();
  route.mutable_destination()->set_address(address_of(0));
  route.mutable_destination()->set_length(24);
  route.set_table(RT_TABLE_MAIN);
  route.set_type(RTN_UNICAST);
  route.set_scope(RT_SCOPE_LINK);
  guest::v1::NextHop& hop = *route.add_next_hops();
  hop.set_link(0);
  hop.set_weight(1);
  // Two clones of one template on one bridge.
  configured.mutable_links(0)->set_mac(std::string{'\x02', '\x47', '\0', '\0', '\0', static_cast<char>(host_part)});
  return configured;
}

}  // namespace

NetClone::~NetClone() {
  server_.reset();
  if (clone_) clone_->destroy();
  (void)shell("ip link del " + tap_ + " 2>/dev/null");
}

Status NetClone::start(const Guest& guest, const std::string& programs, const std::string& wire) {
  const pool::Template* const content = GRANARY_TRY(lab_.template_of(guest));
  pool::Attachments attachments;
  attachments.taps.push_back(GRANARY_TRY(netplumb::make_tap(tap_)));
  if (const std::string said = GRANARY_TRY(shell("exec 2>&1; " + wire)); !said.empty()) {
    return Error(Errc::kNotSupported, tap_ + ": " + said);
  }
  clone_ = GRANARY_TRY(pool::Clone::create({lab_.spawner(), groups_, journal_}, "bench"));
  GRANARY_TRY(clone_->make_shell(shape()));
  GRANARY_TRY(clone_->restore(*content));
  GRANARY_TRY(clone_->probe(minutes(2)));
  GRANARY_TRY(clone_->park());
  GRANARY_TRY(clone_->attach(attachments));
  const guest::v1::Network configured = configuration(network_, host_part_);
  (void)GRANARY_TRY(clone_->hand_over("bench", &configured, minutes(2)));
  const std::string program = GRANARY_TRY(read_file(programs + "/net-speed"));
  (void)GRANARY_TRY(shell_in_guest(clone_->socket_path(), "cat >/tmp/net-speed && chmod 755 /tmp/net-speed", program));
  return ok();
}

Result<std::string> NetClone::net_speed(const std::string& arguments) {
  return shell_in_guest(clone_->socket_path(), "/tmp/net-speed " + arguments + " 2>&1");
}

Status NetClone::serve() {
  guest::v1::Exec request;
  for (const char* word : {"/bin/sh", "-c", "echo serving; exec /tmp/net-speed serve 5201"}) request.add_argv(word);
  const auto deadline = SteadyClock::now() + minutes(1);
  server_ = GRANARY_TRY(pool::ExecSession::start(clone_->socket_path(), request, deadline));
  (void)GRANARY_TRY(server_->next(deadline));
  return ok();
}

}  // namespace granary::bench
