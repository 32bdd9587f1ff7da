// SPDX-License-Identifier: Apache-2.0
// granary-init: PID 1 of a guest, or (--test-socket) the same server as a plain process that changes nothing.
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <string_view>

#include "vmpool/base/log.h"
#include "vmpool/base/signal_fd.h"
#include "vmpool/guest/init/boot.h"
#include "vmpool/guest/init/doorbell.h"
#include "vmpool/guest/init/server.h"

namespace granary::guest {
namespace {

constexpr char kModuleList[] = "/etc/granary/modules";

double seconds_since_boot() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// SIGTERM as an event instead of a disposition, which PID 1 would ignore.
Result<Fd> take_sigterm() {
  ::signal(SIGPIPE, SIG_IGN);
  return take_signals({SIGTERM});
}

Status serve_guest() {
  GuestSystem system;
  const std::unique_ptr<EventLoop> loop = GRANARY_TRY(EventLoop::create());
  const Fd sigterm = GRANARY_TRY(take_sigterm());
  (void)GRANARY_TRY(loop->add(sigterm.get(), EPOLLIN, [&system, &sigterm](uint32_t) {
    signalfd_siginfo info{};
    (void)!::read(sigterm.get(), &info, sizeof(info));
    const Status off = system.power_off();
    if (!off) log_line(LogLevel::kError, "%s", off.error().message().c_str());
  }));
  const std::unique_ptr<Server> server =
      GRANARY_TRY(Server::create(*loop, system, GRANARY_TRY(listen_vsock(machine::kInitVsockPort))));
  log_line(LogLevel::kInfo, "listening vsock_port=%u uptime=%.2fs", machine::kInitVsockPort, seconds_since_boot());
  if (const Status rung = ring_doorbell(machine::Doorbell::kReady); !rung) {
    log_line(LogLevel::kError, "the host is not told: %s", rung.error().message().c_str());
  }
  return loop->run();
}

[[noreturn]] void run_as_pid1() {
  set_log_prefix("granary-init");
  mount_file_systems();
  open_standard_streams();
  set_limits_and_name();
  log_line(LogLevel::kInfo, "started uptime=%.2fs", seconds_since_boot());
  const unsigned failed = load_modules(kModuleList);
  log_line(LogLevel::kInfo, "modules loaded failed=%u uptime=%.2fs", failed, seconds_since_boot());
  const Status served = serve_guest();
  log_line(LogLevel::kError, "cannot serve this guest's host: %s",
           served ? "the event loop ended" : served.error().message().c_str());
  // Ending would panic the kernel and hide the line above; the host sees a guest that does not answer.
  for (;;) ::pause();
}

Status serve_test_socket(const std::string& path) {
  DrySystem system;
  const std::unique_ptr<EventLoop> loop = GRANARY_TRY(EventLoop::create());
  ::signal(SIGPIPE, SIG_IGN);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  ContainerPaths containers;
  containers.run = path + ".run";
  containers.crun = "/usr/bin/crun";
  const std::unique_ptr<Server> server =
      GRANARY_TRY(Server::create(*loop, system, GRANARY_TRY(listen_unix(path)), std::move(containers)));
  return loop->run();
}

int run(int argc, char** argv) {
  // The kernel hands PID 1 every word of its command line that it does not know itself.
  if (::getpid() == 1) run_as_pid1();
  if (argc != 3 || std::string_view(argv[1]) != "--test-socket") {
    std::fprintf(
        stderr,
        "granary-init is PID 1 of a Granary guest.\n"
        "usage elsewhere: granary-init --test-socket PATH   serve the guest protocol on a unix socket, with an\n"
        "                 identity that changes nothing on this machine; containers are real, below PATH.run\n");
    return 2;
  }
  set_log_prefix("granary-init");
  const Status served = serve_test_socket(argv[2]);
  if (served) return 0;
  log_line(LogLevel::kError, "%s", served.error().message().c_str());
  return 1;
}

}  // namespace
}  // namespace granary::guest

int main(int argc, char** argv) { return granary::guest::run(argc, argv); }
