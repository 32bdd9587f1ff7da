// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <future>
#include <string>
#include <vector>

#include "netplumb/attach.h"
#include "netplumb/test_netns.h"

namespace granary::netplumb {

inline constexpr size_t kMostLinks = 2;
inline constexpr const char* kMac = "02:00:00:00:00:05";

// A pod's namespace and the host's end of its network, joined by a veth pair eth0 <-> host0.
class AttachTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!pod_.valid() || !host_.valid())
      GTEST_SKIP() << "network namespaces cannot be made here (needs root and iproute2)";
    // Made where it stays: some kernels look for an "eth0" in the namespace that asks, too.
    ASSERT_EQ(pod_.run(std::string("ip link add eth0 address ") + kMac + " type veth peer host0 netns " + host_.name()),
              0);
    ASSERT_EQ(host_.run("ip link set host0 up"), 0);
    ASSERT_EQ(pod_.run("sysctl -qw net.ipv6.conf.eth0.accept_dad=0 && ip link set eth0 up"), 0);
    // Carrier and link-local address come a moment later, and would look like a difference.
    ASSERT_EQ(pod_.run("for i in $(seq 1000); do ip -o -6 addr show dev eth0 | grep fe80 | grep -qv tentative && exit "
                       "0; done; exit 1"),
              0);
  }
  void configure(const std::string& pod, const std::string& host = "true") const {
    ASSERT_EQ(host_.run(host), 0);
    ASSERT_EQ(pod_.run(pod), 0);
  }
  [[nodiscard]] Result<Attachment> attach_pod(Frames frames = Frames::kAny) const {
    return attach(pod_.fd(), pod_.path(), kMostLinks, frames);
  }
  NetworkConfig attached(Frames frames = Frames::kAny) {
    auto made = attach_pod(frames);
    EXPECT_TRUE(made) << made.error().message();
    if (!made) return {};
    EXPECT_EQ(made->taps.size(), made->config.links.size());
    attachment_ = *std::move(made);
    return attachment_.config;
  }
  // The host pings a guest that has taken the pod's place; then everything is taken away and the namespace is as
  // before.
  void expect_guest_answers(const std::vector<std::string>& addresses, const std::string& ping,
                            const std::string& mac = kMac) {
    int stop[2];
    ASSERT_EQ(::pipe(stop), 0);
    auto guest = std::async(std::launch::async,
                            [&] { return answer_as_guest(attachment_.taps.front().get(), addresses, mac, stop[0]); });
    EXPECT_EQ(host_.run("for a in " + ping + "; do ping -q -c 3 -i 0.01 -W 5 $a >/dev/null; done"), 0);
    ::close(stop[1]);
    EXPECT_EQ(guest.get(), 0U) << "frames of the namespace's own stack";
    ::close(stop[0]);
  }
  [[nodiscard]] Error refusal(Frames frames = Frames::kAny) const {
    const std::string before = pod_.dump();
    const auto made = attach_pod(frames);
    EXPECT_FALSE(made);
    EXPECT_EQ(pod_.dump(), before);
    return made ? Error(Errc::kInvalidArgument, "") : made.error();
  }

  const TestNetns pod_{"pod"};
  const TestNetns host_{"host"};
  Attachment attachment_;
};

}  // namespace granary::netplumb
