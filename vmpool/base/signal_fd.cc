// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/signal_fd.h"

#include <sys/signalfd.h>

#include <csignal>

namespace granary {

Result<Fd> take_signals(std::initializer_list<int> numbers) {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int number : numbers) ::sigaddset(&set, number);
  if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return Error::last_os_error("block signals");
  Fd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return Error::last_os_error("signalfd");
  return fd;
}

}  // namespace granary
