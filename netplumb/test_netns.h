// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "vmpool/base/fd.h"

namespace granary::netplumb {

// A network namespace of a test's own, mounted at /run/netns/NAME so that ip(8) finds it, and gone with this object.
// Not valid() where namespaces cannot be made.
class TestNetns {
 public:
  explicit TestNetns(const std::string& purpose);
  ~TestNetns();
  TestNetns(const TestNetns&) = delete;
  TestNetns& operator=(const TestNetns&) = delete;

  [[nodiscard]] bool valid() const { return fd_.valid(); }
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::string path() const { return "/run/netns/" + name_; }
  // Runs a shell script in it; the exit code.
  [[nodiscard]] int run(const std::string& script) const;
  // What it prints; a failure of the script fails the test.
  [[nodiscard]] std::string output(const std::string& script) const;
  // Everything that an attach may change: links, qdiscs, filters, addresses, routes, rules, neighbours. Without
  // counters, ages and the indices of interfaces.
  [[nodiscard]] std::string dump() const;

 private:
  std::string name_;
  Fd fd_;
};

// What `action` says, in a child process without CAP_NET_ADMIN.
std::string said_without_net_admin(const std::function<std::string()>& action);

// A guest without a kernel at the other end of a tap: answers ARP requests and neighbour solicitations for its
// addresses and echo requests to them, until `stop` becomes readable. Returns how many frames it saw that it did not
// ask for and that no other host sent: such from its own MAC address.
size_t answer_as_guest(int tap, const std::vector<std::string>& addresses, const std::string& mac, int stop);

}  // namespace granary::netplumb
