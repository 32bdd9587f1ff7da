// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <string>

#include "netplumb/netns.h"

namespace granary::bench {

// A pod's namespace as CNI's bridge plugin and dual-stack IPAM leave it, and the other end; gone with their owner.
class PodNetwork {
 public:
  // `suffix`: tells several of one program apart.
  explicit PodNetwork(const std::string& suffix = "") : name_("granary-bench-" + std::to_string(::getpid()) + suffix) {
    const std::string ip = " && ip -n " + name_;
    made_ = run("ip netns add " + name_ + " && ip netns add " + host_ + ip + " link set lo up" + ip +
                " link add eth0 type veth peer name host0 netns " + host_ + " && ip -n " + host_ +
                " link set host0 up" + ip + " link set eth0 up" + ip + " addr add 10.88.0.5/16 dev eth0" + ip +
                " addr add fd88::5/64 dev eth0 nodad" + ip + " route add default via 10.88.0.1" + ip +
                " -6 route add default via fd88::1");
  }
  ~PodNetwork() {
    run("ip netns del " + name_);
    run("ip netns del " + host_);
  }
  PodNetwork(const PodNetwork&) = delete;
  PodNetwork& operator=(const PodNetwork&) = delete;
  [[nodiscard]] Result<Fd> open() const {
    if (!made_) return Error(Errc::kNotSupported, "a network namespace cannot be made (needs root and iproute2)");
    return netplumb::open_netns(path());
  }
  [[nodiscard]] std::string path() const { return "/run/netns/" + name_; }
  // Of the other end, "host0".
  [[nodiscard]] std::string host_path() const { return "/run/netns/" + host_; }

 private:
  static bool run(const std::string& command) { return std::system((command + " 2>/dev/null").c_str()) == 0; }
  const std::string name_;
  const std::string host_ = name_ + "-host";
  bool made_ = false;
};

}  // namespace granary::bench
