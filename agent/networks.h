// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "agent/journal.h"
#include "netplumb/attach.h"
#include "vmpool/base/fd.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::agent {

// The network namespaces of pods whose place clones take (netplumb/attach.h). A namespace is in the journal before
// anything in it is changed and until everything is taken away. Thread-safe.
class Networks {
 public:
  struct Wired {
    std::vector<Fd> taps;
    std::shared_ptr<const guest::v1::Network> network;
  };

  // What an earlier agent wired is known from the journal.
  explicit Networks(Journal& journal) : journal_(journal) {}

  struct Options {
    netplumb::Frames frames = netplumb::Frames::kAny;
    // What its programs dial on loopback goes to shim::kRelayPort there; not where the kernel cannot do that, which is logged.
    bool forward_loopback = false;
  };
  // EBUSY: it is another clone's, also by another path. Errors of netplumb::open_netns() and attach(): then nothing is
  // changed.
  Result<Wired> wire(const std::string& path, size_t most_links, Options options);
  Result<Wired> wire(const std::string& path, size_t most_links) { return wire(path, most_links, Options()); }
  // Takes everything away. One that is not wired, or not there any more, is fine: CNI may have been quicker.
  Status unwire(const std::string& path);
  // The same for one that no clone has, or had: where it fails, it stays in the journal for the next agent, and every
  // wire() tries again.
  Status give_up(const std::string& path);
  // At an agent's start: unwires all but `keep`, those of clones that live on. A text for each that could not be.
  std::vector<std::string> unwire_others(const std::set<std::string>& keep);

 private:
  // What was wired under this path; null when it is gone. An earlier agent's is looked for at the path alone.
  Result<std::shared_ptr<const Fd>> find(const std::string& path, const std::string& identity);

  Journal& journal_;
  std::mutex mutex_;            // from looking whether a namespace is free to writing that it is taken
  std::mutex open_mutex_;
  // Of those that this agent wired, so that they are found when their path leads elsewhere by now. They live that long
  // anyway: a VMM has their taps.
  std::map<std::string, std::shared_ptr<const Fd>> open_;
  std::set<std::string> left_;  // given up, but could not be taken away yet
};

}  // namespace granary::agent
