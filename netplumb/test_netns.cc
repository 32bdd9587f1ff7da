// SPDX-License-Identifier: Apache-2.0
#include "netplumb/test_netns.h"

#include <arpa/inet.h>
#include <cap-ng.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <numeric>

namespace granary::netplumb {
namespace {

std::string read_all(FILE* pipe) {
  std::string text;
  std::array<char, 4096> buffer;
  while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) text.append(buffer.data(), n);
  return text;
}

constexpr size_t kVnetHeader = 10;  // of a tap whose TUNSETVNETHDRSZ nobody set

using Mac = std::array<uint8_t, 6>;
using Frame = std::vector<uint8_t>;

Mac parse_mac(const std::string& text) {
  Mac mac{};
  std::sscanf(text.c_str(), "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]);
  return mac;
}

uint16_t checksum(const uint8_t* bytes, size_t count, uint32_t sum = 0) {
  for (size_t i = 0; i + 1 < count; i += 2) sum += static_cast<uint32_t>(bytes[i] << 8 | bytes[i + 1]);
  if (count % 2 == 1) sum += static_cast<uint32_t>(bytes[count - 1] << 8);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}
void put16(uint8_t* at, uint16_t value) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}

class Guest {
 public:
  Guest(const std::vector<std::string>& addresses, const Mac& mac) : mac_(mac) {
    for (const std::string& text : addresses) {
      std::array<uint8_t, 16> bytes{};
      if (::inet_pton(AF_INET, text.c_str(), bytes.data()) == 1) v4_.push_back({bytes.begin(), bytes.begin() + 4});
      if (::inet_pton(AF_INET6, text.c_str(), bytes.data()) == 1) v6_.push_back({bytes.begin(), bytes.end()});
    }
  }
  // The answer, or nothing.
  Frame answer(const Frame& in) const {
    if (in.size() < 42) return {};
    const uint16_t type = static_cast<uint16_t>(in[12] << 8 | in[13]);
    if (type == 0x0806) return arp(in);
    if (type == 0x0800 && in[23] == 1 && in[34] == 8) return echo4(in);
    if (type == 0x86dd && in.size() >= 62 && in[20] == 58) return icmp6(in);
    return {};
  }

 private:
  static bool has(const std::vector<Frame>& all, const uint8_t* bytes, size_t count) {
    return std::ranges::any_of(
        all, [&](const Frame& one) { return std::equal(one.begin(), one.end(), bytes, bytes + count); });
  }
  [[nodiscard]] Frame addressed(Frame frame) const {
    std::copy_n(frame.begin() + 6, 6, frame.begin());
    std::ranges::copy(mac_, frame.begin() + 6);
    return frame;
  }
  [[nodiscard]] Frame arp(const Frame& in) const {
    if (in[21] != 1 || !has(v4_, &in[38], 4)) return {};
    Frame out = addressed(in);
    out[21] = 2;
    std::copy_n(in.begin() + 22, 10, out.begin() + 32);
    std::ranges::copy(mac_, out.begin() + 22);
    std::copy_n(in.begin() + 38, 4, out.begin() + 28);
    return out;
  }
  [[nodiscard]] Frame echo4(const Frame& in) const {
    if (!has(v4_, &in[30], 4)) return {};
    Frame out = addressed(in);
    std::swap_ranges(out.begin() + 26, out.begin() + 30, out.begin() + 30);
    out[34] = 0;
    put16(&out[36], 0);
    put16(&out[36], checksum(&out[34], out.size() - 34));
    return out;
  }
  [[nodiscard]] Frame icmp6(const Frame& in) const {
    const bool solicits = in[54] == 135 && in.size() >= 78 && has(v6_, &in[62], 16);
    if (!solicits && !(in[54] == 128 && has(v6_, &in[38], 16))) return {};
    Frame out = addressed(in);
    std::copy_n(in.begin() + 22, 16, out.begin() + 38);
    std::copy_n(in.begin() + (solicits ? 62 : 38), 16, out.begin() + 22);
    if (solicits) {
      out.resize(86);
      put16(&out[18], 32);
      out[21] = 255;
      out[54] = 136;
      out[58] = 0x60;
      out[78] = 2;
      out[79] = 1;
      std::ranges::copy(mac_, out.begin() + 80);
    } else {
      out[54] = 129;
    }
    put16(&out[56], 0);
    const size_t length = out.size() - 54;
    uint32_t pseudo = static_cast<uint32_t>(length) + 58;
    for (size_t i = 22; i < 54; i += 2) pseudo += static_cast<uint32_t>(out[i] << 8 | out[i + 1]);
    put16(&out[56], checksum(&out[54], length, pseudo));
    return out;
  }

  Mac mac_;
  std::vector<Frame> v4_;
  std::vector<Frame> v6_;
};

}  // namespace

TestNetns::TestNetns(const std::string& purpose) : name_("granary-test-" + std::to_string(::getpid()) + "-" + purpose) {
  if (std::system(("ip netns add " + name_ + " 2>/dev/null && ip -n " + name_ + " link set lo up").c_str()) != 0)
    return;
  if (auto fd = open_file(path(), O_RDONLY)) fd_ = *std::move(fd);
}

TestNetns::~TestNetns() {
  fd_.reset();
  if (std::system(("ip netns del " + name_ + " 2>/dev/null").c_str()) != 0)
    std::fprintf(stderr, "%s is left\n", path().c_str());
}

int TestNetns::run(const std::string& script) const {
  return std::system(("ip netns exec " + name_ + " sh -euc '" + script + "'").c_str());
}

std::string TestNetns::output(const std::string& script) const {
  FILE* const pipe = ::popen(("ip netns exec " + name_ + " sh -euc '" + script + "' 2>&1").c_str(), "r");
  const std::string text = read_all(pipe);
  EXPECT_EQ(::pclose(pipe), 0) << script << "\n" << text;
  return text;
}

std::string TestNetns::dump() const {
  // Without what the kernel sets in its own time: carrier, operational state, the end of duplicate address detection.
  // ip(8) says so whenever another namespace of this host goes at that moment; what it lists is whole all the same.
  static constexpr std::string_view kNoise = "Error: Peer netns reference is invalid.\n";
  std::string text = output(
      "ip -d link | sed -E \"s/^[0-9]+: //; s/NO-CARRIER,|,LOWER_UP| state [A-Z]+//g; /bridge forward_delay/d\"; tc "
      "qdisc; for i in $(ls /sys/class/net); do for "
      "p in ingress egress;"
      " do tc filter show dev $i $p 2>/dev/null || true; done; done; ip addr | sed -E \"s/^[0-9]+: //; "
      "s/NO-CARRIER,|,LOWER_UP| state [A-Z]+| tentative//g; s/(valid|preferred)_lft.*//\";"
      " ip -4 route show table all; ip -6 route show table all | sed \"s/expires [0-9]*sec//; /^local fe80/d\"; ip rule; "
      "ip -6 rule; ip "
      "neigh show nud permanent;"
      " ip -6 neigh show nud permanent; grep -r . /proc/sys/net/ipv6/conf/*/accept_ra");
  for (size_t at = text.find(kNoise); at != std::string::npos; at = text.find(kNoise, at))
    text.erase(at, kNoise.size());
  return text;
}

std::string said_without_net_admin(const std::function<std::string()>& action) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return "no pipe";
  const Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    std::string said = "capabilities cannot be dropped";
    ::capng_get_caps_process();
    ::capng_update(CAPNG_DROP, static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED), CAP_NET_ADMIN);
    if (::capng_apply(CAPNG_SELECT_CAPS) == 0) said = action();
    ::_exit(::write(write_end.get(), said.data(), said.size()) == static_cast<ssize_t>(said.size()) ? 0 : 1);
  }
  write_end.reset();
  std::string said(64 * 1024, 0);
  const ssize_t n = ::read(read_end.get(), said.data(), said.size());
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  said.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return said;
}

size_t answer_as_guest(int tap, const std::vector<std::string>& addresses, const std::string& mac, int stop) {
  const Mac own = parse_mac(mac);
  const Guest guest(addresses, own);
  size_t strange = 0;
  std::array<uint8_t, 65536> buffer;
  while (true) {
    std::array<pollfd, 2> ready = {{{tap, POLLIN, 0}, {stop, POLLIN, 0}}};
    if (::poll(ready.data(), ready.size(), -1) < 0) return strange;
    if (ready[1].revents != 0) return strange;
    const ssize_t n = ::read(tap, buffer.data(), buffer.size());
    if (n <= static_cast<ssize_t>(kVnetHeader)) continue;
    const Frame in(buffer.begin() + kVnetHeader, buffer.begin() + n);
    if (in.size() > 12 && std::equal(own.begin(), own.end(), in.begin() + 6)) ++strange;
    const Frame out = guest.answer(in);
    if (out.empty()) continue;
    Frame with_header(kVnetHeader);
    with_header.insert(with_header.end(), out.begin(), out.end());
    EXPECT_EQ(::write(tap, with_header.data(), with_header.size()), static_cast<ssize_t>(with_header.size()));
  }
}

}  // namespace granary::netplumb
