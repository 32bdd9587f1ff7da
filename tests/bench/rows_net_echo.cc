// SPDX-License-Identifier: Apache-2.0
// Rows about frames through a clone's net device, with a tiny guest that sends each back, wired as a pod is: no guest
// kernel has a part in them, so they say what VMM, tap and redirection cost, on any /dev/kvm.
#include <fcntl.h>

#include <cstdio>
#include <cstring>
#include <thread>

#include "netplumb/attach.h"
#include "tests/bench/pod_network.h"
#include "tests/bench/rows.h"
#include "tests/integration/frame_socket.h"

namespace granary::bench {
namespace {

using integration::FrameSocket;
using integration::number_of;
using integration::numbered_frame;
using pool::SteadyClock;

constexpr unsigned kRounds = 5;
constexpr unsigned kPingPongs = 20;  // a round, for each sample that is asked for
constexpr unsigned kFrames = 200;    // likewise
constexpr unsigned kWindow = 64;     // frames under way
constexpr size_t kSmall = 60;
constexpr size_t kLarge = 1514;
constexpr int kPatienceMs = 10'000;

Result<std::unique_ptr<FrameSocket>> open_in(const std::string& netns, const std::string& link) {
  const Fd fd = GRANARY_TRY(netplumb::open_netns(netns));
  std::unique_ptr<FrameSocket> socket;
  GRANARY_TRY(netplumb::in_netns(fd.get(), [&]() -> Status {
    socket = std::make_unique<FrameSocket>(GRANARY_TRY(FrameSocket::open(link)));
    return ok();
  }));
  return socket;
}

// A program at the other end of a veth pair, in the place of the guest: sends each frame back, until its owner ends.
class Echo {
 public:
  explicit Echo(std::unique_ptr<FrameSocket> socket)
      : socket_(std::move(socket)), thread_([this](const std::stop_token& stop) { serve(stop); }) {}

 private:
  void serve(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      const Result<std::optional<std::string>> frame = socket_->receive(100);
      if (frame && *frame) (void)socket_->send(**frame);
    }
  }
  std::unique_ptr<FrameSocket> socket_;
  std::jthread thread_;
};

Status await(FrameSocket& socket, uint64_t number) {
  const std::optional<std::string> frame = GRANARY_TRY(socket.receive(kPatienceMs));
  if (frame && number_of(*frame) == number) return ok();
  return Error(Errc::kPeerGone, "frame " + std::to_string(number) + (frame ? " was overtaken" : " did not come back"));
}

// Microseconds of each round trip, one frame at a time.
Result<std::vector<double>> ping_pong(FrameSocket& socket, unsigned count) {
  std::vector<double> times;
  for (unsigned i = 0; i < count; ++i) {
    const std::string frame = numbered_frame(kSmall, i);
    const auto start = SteadyClock::now();
    GRANARY_TRY(socket.send(frame));
    GRANARY_TRY(await(socket, i));
    times.push_back(microseconds(SteadyClock::now() - start));
  }
  return times;
}

// Frames per second there and back, kWindow of them under way. Each comes back, in order.
Result<double> stream(FrameSocket& socket, unsigned count) {
  const std::string frame = numbered_frame(kLarge, 0);
  const auto start = SteadyClock::now();
  for (uint64_t sent = 0, back = 0; back < count; ++back) {
    for (; sent < count && sent < back + kWindow; ++sent) {
      std::string next = frame;
      std::memcpy(next.data() + 14, &sent, sizeof(sent));
      GRANARY_TRY(socket.send(next));
    }
    GRANARY_TRY(await(socket, back));
  }
  return count * 1e6 / microseconds(SteadyClock::now() - start);
}

struct Rows {
  Row round_trip{
      "net_echo", "tiny", "us", "a frame of 60 bytes -> back from a guest: veth, redirection, tap, virtqueues", {}, ""};
  Row plain{
      "net_echo_veth", "tiny", "us", "the same over a plain veth pair, from a program that waits in recv", {}, ""};
  Row ratio{
      "net_echo_ratio", "tiny", "ratio", "median round trip of a round over a plain veth pair / of the guest", {}, ""};
  Row frames{"net_echo_frames", "tiny", "1/s", "frames of 1514 bytes there and back, 64 under way, none lost", {}, ""};
  Row frames_ratio{"net_echo_frames_ratio", "tiny", "ratio", "the same, guest / plain veth pair", {}, ""};

  Status add_round(FrameSocket& guest, FrameSocket& veth, unsigned n) {
    const std::vector<double> plain_times = GRANARY_TRY(ping_pong(veth, kPingPongs * n));
    const std::vector<double> times = GRANARY_TRY(ping_pong(guest, kPingPongs * n));
    round_trip.samples.insert(round_trip.samples.end(), times.begin(), times.end());
    plain.samples.insert(plain.samples.end(), plain_times.begin(), plain_times.end());
    ratio.samples.push_back(percentiles(plain_times).p50 / percentiles(times).p50);
    const double plain_rate = GRANARY_TRY(stream(veth, kFrames * n));
    const double rate = GRANARY_TRY(stream(guest, kFrames * n));
    std::fprintf(stderr, "granary-bench: %.0f frames/s, veth %.0f frames/s\n", rate, plain_rate);
    frames.samples.push_back(rate);
    frames_ratio.samples.push_back(rate / plain_rate);
    return ok();
  }
};

Result<std::vector<Row>> measure(Lab& lab, const Settings& settings) {
  const PodNetwork pod;
  const PodNetwork plain("-plain");
  const Fd netns = GRANARY_TRY(pod.open());
  (void)GRANARY_TRY(plain.open());
  const netplumb::Attachment wired = GRANARY_TRY(netplumb::attach(netns.get(), pod.path(), 1));
  const LabVm vm = GRANARY_TRY(lab.spawn_shell());
  const auto client = GRANARY_TRY(vm.client());
  const Fd kernel = GRANARY_TRY(open_file(settings.tiny.kernel, O_RDONLY));
  GRANARY_TRY(client->boot(kernel.get(), -1, "echo"));
  const auto deadline = SteadyClock::now() + std::chrono::minutes(1);
  if (!GRANARY_TRY(client->wait_doorbell(machine::Doorbell::kReady, deadline))) {
    return Error(Errc::kGuestUnresponsive, settings.tiny.kernel + " was not ready within a minute");
  }
  GRANARY_TRY(client->attach_net(0, wired.taps.front().get()));
  const auto guest = GRANARY_TRY(open_in(pod.host_path(), "host0"));
  const auto veth = GRANARY_TRY(open_in(plain.host_path(), "host0"));
  const Echo echo(GRANARY_TRY(open_in(plain.path(), "eth0")));
  Rows rows;
  for (unsigned i = 0; i < kRounds; ++i) GRANARY_TRY(rows.add_round(*guest, *veth, settings.n));
  return std::vector<Row>{rows.round_trip, rows.plain, rows.ratio, rows.frames, rows.frames_ratio};
}

}  // namespace

std::vector<RowSpec> net_echo_rows(Lab* lab, const Settings& settings) {
  return {{"net_echo", "tiny", [lab, &settings] { return measure(*lab, settings); }}};
}

}  // namespace granary::bench
