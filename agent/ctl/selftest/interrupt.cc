// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/interrupt.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>

#include "vmpool/base/signal_fd.h"

namespace granary::ctl::selftest {

Result<Interrupt> Interrupt::create() { return Interrupt(GRANARY_TRY(take_signals({SIGINT, SIGTERM, SIGHUP}))); }

void Interrupt::look() {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    if (count_++ == 0) first_ = static_cast<int>(info.ssi_signo);
  }
}

int Interrupt::signal() {
  look();
  return first_;
}

bool Interrupt::again() {
  look();
  return count_ > 1;
}

bool Interrupt::wait(std::chrono::milliseconds time, int fd) {
  pollfd fds[2] = {{.fd = signals_.get(), .events = POLLIN, .revents = 0}, {.fd = fd, .events = POLLIN, .revents = 0}};
  ::poll(fds, 2, static_cast<int>(time.count()));
  return came();
}

Status Interrupt::check() {
  if (came()) return Error::from_errno(EINTR, "self-test");
  return ok();
}

}  // namespace granary::ctl::selftest
