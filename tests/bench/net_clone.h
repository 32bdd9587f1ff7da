// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "tests/bench/lab.h"
#include "vmpool/pool/clone.h"
#include "vmpool/pool/exec_session.h"

namespace granary::bench {

// A clone of a Linux guest with a tap of the calling thread's namespace, for net-speed (net_speed.c). Destroyed with
// its owner.
class NetClone {
 public:
  // `host_part`: its address is 10.`network`.0.`host_part`/24.
  NetClone(Lab& lab, std::string tap, uint8_t network, uint8_t host_part)
      : lab_(lab), tap_(std::move(tap)), network_(network), host_part_(host_part) {}
  ~NetClone();
  NetClone(const NetClone&) = delete;
  NetClone& operator=(const NetClone&) = delete;

  // Makes the tap, which `wire`, a shell script, then gives its place; `programs` is the folder of net-speed.
  Status start(const Guest& guest, const std::string& programs, const std::string& wire);
  // What net-speed prints in the guest.
  Result<std::string> net_speed(const std::string& arguments);
  // "net-speed serve" in the guest, until this object's end.
  Status serve();
  [[nodiscard]] Result<control::Stats> stats() { return clone_->vmm().stats(); }

 private:
  Lab& lab_;
  const std::string tap_;
  const uint8_t network_;
  const uint8_t host_part_;
  pool::CloneGroups groups_{.create = [](const std::string&) { return Result<Fd>(Fd()); },
                            .add = [](const std::string&, int32_t) { return ok(); },
                            .remove = [](const std::string&) { return ok(); }};
  pool::CloneJournal journal_;
  std::shared_ptr<pool::Clone> clone_;
  std::unique_ptr<pool::ExecSession> server_;
};

}  // namespace granary::bench
