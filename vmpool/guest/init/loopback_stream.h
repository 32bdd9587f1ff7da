// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmpool/guest/init/carried.h"
#include "vmpool/guest/init/watch.h"

namespace granary::guest {

// A TCP connection to the guest's own loopback, for port-forward. Each direction ends by itself, as in TCP; whatever
// else ends it is a Failure, and dropped before its end it is reset. Holds one message of input at most, and reads no
// output that its owner cannot pass on.
class LoopbackStream final : public Carried {
 public:
  // kInvalidArgument: no such port; errno of socket(2) and connect(2). The owner is told Done or a Failure.
  static Result<std::unique_ptr<LoopbackStream>> connect(EventLoop& loop, const v1::Connect& request, Owner owner);
  ~LoopbackStream() override;

  [[nodiscard]] bool accepts_input() const override { return ended_ || (connected_ && input_.empty()); }
  void write_input(std::string data) override;
  void close_input() override;
  void allow_output(bool allowed) override;
  [[nodiscard]] bool ended() const override { return ended_; }

 private:
  LoopbackStream(EventLoop& loop, uint16_t port, bool only_v6, Owner owner);
  // The next address that is left to try.
  Status try_next();
  void on_events(uint32_t events);
  void on_connect_result();
  void read_output();
  void flush_input();
  void fail(const Error& why);
  void watch_again();

  Owner owner_;
  const uint16_t port_;
  bool v6_;
  bool last_address_;
  std::optional<Error> first_refusal_;
  Fd socket_;
  Watch watch_;
  bool connected_ = false;
  bool output_allowed_ = true;
  bool output_ended_ = false;
  bool input_ends_ = false;  // after input_
  bool input_ended_ = false;
  bool ended_ = false;
  std::string input_;  // accepted, not yet taken by the service
};

}  // namespace granary::guest
