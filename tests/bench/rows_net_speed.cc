// SPDX-License-Identifier: Apache-2.0
// Rows about a clone's network against a plain veth pair, in a network namespace of their own.
#include <linux/rtnetlink.h>
#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "netplumb/tap.h"
#include "tests/bench/rows.h"
#include "vmpool/guest/guest.pb.h"
#include "vmpool/pool/clone.h"
#include "vmpool/pool/exec_session.h"

namespace granary::bench {
namespace {

using pool::SteadyClock;
using std::chrono::minutes;

constexpr char kSeconds[] = "4";
constexpr unsigned kRounds = 3;

Result<std::string> shell(const std::string& script) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(script.c_str(), "r"), ::pclose);
  std::string text;
  for (int c = 0; pipe && (c = std::fgetc(pipe.get())) != EOF;) text += static_cast<char>(c);
  return text;
}

Result<double> figure(const std::string& text) {
  const double value = std::strtod(text.c_str(), nullptr);
  if (value <= 0) return Error(Errc::kNotSupported, "net-speed said \"" + text.substr(0, 200) + "\"");
  return value;
}

guest::v1::Network network() {
  guest::v1::Network network;
  network.add_links()->set_name("eth0");
  guest::v1::Address& address = *network.add_addresses();
  address.set_local(std::string("\x0a\x61\0\x02", 4));
  address.set_prefix_length(24);
  guest::v1::Route& route = *network.add_routes();
  route.mutable_destination()->set_address(std::string("\x0a\x61\0\0", 4));
  route.mutable_destination()->set_length(24);
  route.set_table(RT_TABLE_MAIN);
  route.set_type(RTN_UNICAST);
  route.set_scope(RT_SCOPE_LINK);
  guest::v1::NextHop& hop = *route.add_next_hops();
  hop.set_link(0);
  hop.set_weight(1);
  return network;
}

// A clone with a tap of this namespace, 10.97.0.1 here and 10.97.0.2 there. Destroyed with its owner.
class NetClone {
 public:
  explicit NetClone(Lab& lab) : lab_(lab) {}
  ~NetClone() {
    if (clone_) clone_->destroy();
  }
  Status start(const Guest& guest, const std::string& programs) {
    const pool::Template* const content = GRANARY_TRY(lab_.template_of(guest));
    pool::Attachments attachments;
    attachments.taps.push_back(GRANARY_TRY(netplumb::make_tap("bench-tap")));
    (void)GRANARY_TRY(shell("ip addr add 10.97.0.1/24 dev bench-tap; ip link set bench-tap up"));
    clone_ = GRANARY_TRY(pool::Clone::create({lab_.spawner(), groups_, journal_}, "bench"));
    GRANARY_TRY(clone_->make_shell(shape()));
    GRANARY_TRY(clone_->restore(*content));
    GRANARY_TRY(clone_->probe(minutes(2)));
    GRANARY_TRY(clone_->park());
    GRANARY_TRY(clone_->attach(attachments));
    const guest::v1::Network configured = network();
    (void)GRANARY_TRY(clone_->hand_over("bench", &configured, minutes(2)));
    const std::string program = GRANARY_TRY(read_file(programs + "/net-speed"));
    (void)GRANARY_TRY(run("cat >/tmp/net-speed && chmod 755 /tmp/net-speed", program));
    return ok();
  }
  Result<std::string> run(const std::string& script, std::string_view input = "") {
    guest::v1::Exec request;
    for (const std::string& word : {std::string("/bin/sh"), std::string("-c"), script}) request.add_argv(word);
    request.add_env("PATH=/bin");
    request.set_has_stdin(true);
    const auto deadline = SteadyClock::now() + minutes(5);
    const auto session = GRANARY_TRY(pool::ExecSession::start(clone_->socket_path(), request, deadline));
    while (!input.empty()) {
      const std::string_view chunk = input.substr(0, pool::ExecSession::kStdinChunkBytes);
      GRANARY_TRY(session->write_stdin(chunk, deadline));
      input.remove_prefix(chunk.size());
    }
    GRANARY_TRY(session->close_stdin());
    std::string output;
    for (;;) {
      const std::optional<pool::ExecEvent> event = GRANARY_TRY(session->next(deadline));
      if (!event) return Error(Errc::kDeadlineExceeded, script);
      if (event->kind == pool::ExecEvent::Kind::kExited) return output;
      output += event->data;
    }
  }

 private:
  Lab& lab_;
  pool::CloneGroups groups_{.create = [](const std::string&) { return Result<Fd>(Fd()); },
                            .add = [](const std::string&, int32_t) { return ok(); },
                            .remove = [](const std::string&) { return ok(); }};
  pool::CloneJournal journal_;
  std::shared_ptr<pool::Clone> clone_;
};

// "net-speed serve", until its owner ends.
class Server {
 public:
  ~Server() {
    if (!pid_.empty()) (void)shell("kill " + pid_);
  }
  Status start(const std::string& programs) {
    pid_ = GRANARY_TRY(shell(programs + "/net-speed serve 5201 >/dev/null 2>&1 & echo $!"));
    return ok();
  }

 private:
  std::string pid_;
};

// The other end of a veth pair, 10.98.0.2, in a namespace of a process that sleeps.
class VethPeer {
 public:
  ~VethPeer() {
    if (!pid_.empty()) (void)shell("kill " + pid_);
  }
  Status start(const std::string& programs) {
    program_ = programs + "/net-speed";
    pid_ = GRANARY_TRY(shell("unshare -n sleep 3600 >/dev/null 2>&1 & echo $!"));
    while (!pid_.empty() && pid_.back() == '\n') pid_.pop_back();
    // Until its namespace is its own, the link would be moved into ours.
    const std::string said = GRANARY_TRY(
        shell("exec 2>&1; until [ \"$(readlink /proc/" + pid_ +
              "/ns/net)\" != \"$(readlink /proc/thread-self/ns/net)\" ]; do "
              "sleep 0.1; done; ip link add bench-veth type veth peer name peer netns " +
              pid_ + " && ip addr add 10.98.0.1/24 dev bench-veth && ip link set bench-veth up && nsenter -t " + pid_ +
              " -n sh -c 'ip addr add 10.98.0.2/24 dev peer && ip link set peer up'"));
    return said.empty() ? ok() : Status(Error(Errc::kNotSupported, "a veth pair: " + said));
  }
  [[nodiscard]] Result<std::string> run(const std::string& arguments) const {
    return shell("nsenter -t " + pid_ + " -n " + program_ + " " + arguments + " 2>&1");
  }

 private:
  std::string program_;
  std::string pid_;
};

Result<std::vector<Row>> measure_here(Lab& lab, const Guest& guest, const std::string& programs) {
  NetClone clone(lab);
  VethPeer peer;
  GRANARY_TRY(clone.start(guest, programs));
  GRANARY_TRY(peer.start(programs));
  Server server;
  GRANARY_TRY(server.start(programs));
  std::vector<Row> rows;
  for (const auto& [name, kind, clock] :
       {std::tuple("net_tcp_ratio", "out",
                   "bytes/s of one TCP connection, guest to host over its tap / over a veth pair"),
        std::tuple("net_tcp_in_ratio", "in", "the same, host to guest"),
        std::tuple("net_rr_ratio", "rr", "round trips/s of one byte over TCP, guest and host / over a veth pair")}) {
    Row row{.name = name, .guest = guest.name, .unit = "ratio", .clock = clock, .samples = {}, .skipped = ""};
    for (unsigned i = 0; i < kRounds; ++i) {
      const double veth = GRANARY_TRY(figure(GRANARY_TRY(peer.run(std::string(kind) + " 10.98.0.1 5201 " + kSeconds))));
      const double ours = GRANARY_TRY(figure(
          GRANARY_TRY(clone.run(std::string("/tmp/net-speed ") + kind + " 10.97.0.1 5201 " + kSeconds + " 2>&1"))));
      std::fprintf(stderr, "granary-bench: %s: %.0f/s, veth %.0f/s\n", kind, ours, veth);
      row.samples.push_back(ours / veth);
    }
    rows.push_back(row);
  }
  return rows;
}

// On a thread of its own, whose namespace goes with it.
Result<std::vector<Row>> measure(Lab& lab, const Guest& guest, const std::string& programs) {
  Result<std::vector<Row>> rows = Error(Errc::kNotSupported, "a network namespace");
  std::thread([&] {
    if (::unshare(CLONE_NEWNET) != 0) {
      rows = Error::last_os_error("a network namespace (root?)");
      return;
    }
    rows = measure_here(lab, guest, programs);
  }).join();
  return rows;
}

}  // namespace

std::vector<RowSpec> net_speed_rows(Lab* lab, const Settings& settings) {
  std::vector<RowSpec> rows;
  for (const Guest& guest : settings.linux_guests) {
    rows.push_back({"net_tcp_ratio", guest.name, [=] { return measure(*lab, guest, settings.programs); }});
  }
  return rows;
}

}  // namespace granary::bench
