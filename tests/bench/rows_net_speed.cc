// SPDX-License-Identifier: Apache-2.0
// Rows about the network of clones against plain veth pairs, in a network namespace of their own.
#include <sched.h>

#include <cstdio>
#include <thread>

#include "tests/bench/guest_shell.h"
#include "tests/bench/net_clone.h"
#include "tests/bench/rows.h"

namespace granary::bench {
namespace {

constexpr char kSeconds[] = "4";
constexpr unsigned kRounds = 3;

// A process of a shell command "… & echo $!", until its owner ends.
class Background {
 public:
  ~Background() {
    if (!pid_.empty()) (void)shell("kill " + pid_);
  }
  Status start(const std::string& command) {
    pid_ = GRANARY_TRY(shell(command + " >/dev/null 2>&1 & echo $!"));
    while (!pid_.empty() && pid_.back() == '\n') pid_.pop_back();
    return ok();
  }
  [[nodiscard]] const std::string& pid() const { return pid_; }

 private:
  std::string pid_;
};

// The other end of a veth pair, in a namespace of a process that sleeps, with an address of its own. `wire`, a shell
// script, gives this end, "NAME", its place.
class VethPeer {
 public:
  explicit VethPeer(std::string name) : name_(std::move(name)) {}
  Status start(const std::string& programs, const std::string& address, const std::string& wire) {
    program_ = programs + "/net-speed";
    GRANARY_TRY(sleeper_.start("unshare -n sleep 3600"));
    // Until its namespace is its own, the link would be moved into ours.
    const std::string& pid = sleeper_.pid();
    const std::string said =
        GRANARY_TRY(shell("exec 2>&1; until [ \"$(readlink /proc/" + pid +
                          "/ns/net)\" != \"$(readlink /proc/thread-self/ns/net)\" ]; do sleep 0.1; done; ip link add " +
                          name_ + " type veth peer name peer netns " + pid + " && " + wire + " && nsenter -t " + pid +
                          " -n sh -c 'ip addr add " + address + " dev peer && ip link set peer up'"));
    return said.empty() ? ok() : Status(Error(Errc::kNotSupported, "a veth pair: " + said));
  }
  [[nodiscard]] Result<std::string> net_speed(const std::string& arguments) const {
    return shell(in_netns() + arguments + " 2>&1");
  }
  Status serve() { return server_.start(in_netns() + "serve 5201"); }

 private:
  [[nodiscard]] std::string in_netns() const { return "nsenter -t " + sleeper_.pid() + " -n " + program_ + " "; }
  const std::string name_;
  std::string program_;
  Background sleeper_;
  Background server_;
};

struct Kind {
  const char* row;
  const char* of_net_speed;
  const char* clock;
};

// One row of ratios: the clone's figure by the veth pair's, `address` being the server's of either.
Result<Row> compare(const Kind& kind, const Guest& guest, NetClone& clone, const std::string& clone_address,
                    const VethPeer& veth, const std::string& veth_address) {
  Row row{.name = kind.row, .guest = guest.name, .unit = "ratio", .clock = kind.clock, .samples = {}, .skipped = ""};
  const auto arguments = [&](const std::string& address) {
    return std::string(kind.of_net_speed) + " " + address + " 5201 " + kSeconds;
  };
  for (unsigned i = 0; i < kRounds; ++i) {
    const double plain = GRANARY_TRY(figure(GRANARY_TRY(veth.net_speed(arguments(veth_address)))));
    const control::Stats before = GRANARY_TRY(clone.stats());
    const double ours = GRANARY_TRY(figure(GRANARY_TRY(clone.net_speed(arguments(clone_address)))));
    const control::Stats after = GRANARY_TRY(clone.stats());
    std::fprintf(stderr,
                 "granary-bench: %s: %.0f/s, veth %.0f/s; of the clone that asks %lu exits, %lu MMIO, %lu HLT\n",
                 kind.row, ours, plain, after.exits - before.exits, after.mmio_exits - before.mmio_exits,
                 after.halt_exits - before.halt_exits);
    row.samples.push_back(ours / plain);
  }
  return row;
}

Result<std::vector<Row>> guest_and_host(Lab& lab, const Guest& guest, const std::string& programs) {
  NetClone clone(lab, "bench-tap", 97, 2);
  VethPeer peer("bench-veth");
  GRANARY_TRY(clone.start(guest, programs, "ip addr add 10.97.0.1/24 dev bench-tap; ip link set bench-tap up"));
  GRANARY_TRY(
      peer.start(programs, "10.98.0.2/24", "ip addr add 10.98.0.1/24 dev bench-veth && ip link set bench-veth up"));
  Background server;
  GRANARY_TRY(server.start(programs + "/net-speed serve 5201"));
  std::vector<Row> rows;
  for (const Kind& kind :
       {Kind{"net_tcp_ratio", "out", "bytes/s of one TCP connection, guest to host over its tap / over a veth pair"},
        Kind{"net_tcp_in_ratio", "in", "the same, host to guest"},
        Kind{"net_rr_ratio", "rr", "round trips/s of one byte over TCP, guest and host / over a veth pair"}}) {
    rows.push_back(GRANARY_TRY(compare(kind, guest, clone, "10.97.0.1", peer, "10.98.0.1")));
  }
  return rows;
}

// The reference: two namespaces, each with a veth pair into the bridge that has the clones' taps.
Result<std::vector<Row>> guest_and_guest(Lab& lab, const Guest& guest, const std::string& programs) {
  const auto into_bridge = [](const std::string& link) {
    return "ip link set " + link + " master bench-bridge && ip link set " + link + " up";
  };
  const std::string said = GRANARY_TRY(shell("exec 2>&1; ip link add bench-bridge up type bridge"));
  if (!said.empty()) return Error(Errc::kNotSupported, "a bridge: " + said);
  NetClone first(lab, "bench-tap1", 96, 2);
  NetClone second(lab, "bench-tap2", 96, 3);
  VethPeer third("bench-veth1");
  VethPeer fourth("bench-veth2");
  GRANARY_TRY(first.start(guest, programs, into_bridge("bench-tap1")));
  GRANARY_TRY(second.start(guest, programs, into_bridge("bench-tap2")));
  GRANARY_TRY(third.start(programs, "10.96.0.4/24", into_bridge("bench-veth1")));
  GRANARY_TRY(fourth.start(programs, "10.96.0.5/24", into_bridge("bench-veth2")));
  GRANARY_TRY(second.serve());
  GRANARY_TRY(fourth.serve());
  std::vector<Row> rows;
  for (const Kind& kind :
       {Kind{"net_tcp_guests_ratio", "out",
             "bytes/s of one TCP connection, guest to guest / namespace to namespace, all four on one bridge"},
        Kind{"net_rr_guests_ratio", "rr", "round trips/s of one byte over TCP, the same"}}) {
    rows.push_back(GRANARY_TRY(compare(kind, guest, first, "10.96.0.3", third, "10.96.0.5")));
  }
  return rows;
}

using Measure = Result<std::vector<Row>> (*)(Lab& lab, const Guest& guest, const std::string& programs);

// On a thread of its own, whose namespace goes with it.
Result<std::vector<Row>> in_own_network(Measure measure, Lab& lab, const Guest& guest, const std::string& programs) {
  Result<std::vector<Row>> rows = Error(Errc::kNotSupported, "a network namespace");
  std::thread([&] {
    if (::unshare(CLONE_NEWNET) != 0) {
      rows = Error::last_os_error("a network namespace (root?)");
      return;
    }
    rows = measure(lab, guest, programs);
  }).join();
  return rows;
}

}  // namespace

std::vector<RowSpec> net_speed_rows(Lab* lab, const Settings& settings) {
  std::vector<RowSpec> rows;
  const auto add = [&](const char* name, const Guest& guest, Measure measure) {
    rows.push_back(
        {name, guest.name, [=, &settings] { return in_own_network(measure, *lab, guest, settings.programs); }});
  };
  for (const Guest& guest : settings.linux_guests) {
    add("net_tcp_ratio", guest, guest_and_host);
    add("net_tcp_guests_ratio", guest, guest_and_guest);
  }
  return rows;
}

}  // namespace granary::bench
