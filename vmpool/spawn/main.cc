// SPDX-License-Identifier: Apache-2.0
#include <getopt.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "vmpool/base/log.h"
#include "vmpool/base/signal_fd.h"
#include "vmpool/base/time_slice.h"
#include "vmpool/spawn/spawner.h"

namespace granary::spawn {
namespace {

constexpr char kUsage[] =
    "usage: granary-spawn --control-socket PATH --run-dir DIR --vmm PATH [OPTION…]\n"
    "Parent and reaper of Granary's VMMs. Not for people: granaryd starts and drives it.\n"
    "  --control-socket PATH  where clients connect (SOCK_SEQPACKET, mode 0600)\n"
    "  --run-dir DIR          holds the per-clone sockets; one spawner per directory\n"
    "  --vmm PATH             the granary-vmm program, static; /proc/self/fd/N for an inherited descriptor\n"
    "  --fsd PATH             the granary-fsd program, the same way; without it no pod has files of the host\n"
    "  --kvm PATH             default /dev/kvm\n"
    "  --shim PATH            containerd-shim-granary-v2, for pods; default: none\n"
    "  --transient            end once the last client has gone and no VM lives\n"
    "  --uid-base N           first of the uids (and gids) of which each VMM gets its own; default 1879048192\n"
    "  --uid-count N          how many there are; default 65536\n"
    "SIGTERM or SIGINT: kill every VMM, remove the sockets, exit 0.\n";

bool parse_number(const char* text, uint32_t& number) {
  const char* const end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, number);
  return error == std::errc{} && stop == end;
}

bool parse(int argc, char** argv, SpawnerOptions& options) {
  const option known[] = {{"control-socket", required_argument, nullptr, 'c'},
                          {"run-dir", required_argument, nullptr, 'r'},
                          {"vmm", required_argument, nullptr, 'v'},
                          {"fsd", required_argument, nullptr, 'f'},
                          {"kvm", required_argument, nullptr, 'k'},
                          {"shim", required_argument, nullptr, 's'},
                          {"transient", no_argument, nullptr, 't'},
                          {"uid-base", required_argument, nullptr, 'u'},
                          {"uid-count", required_argument, nullptr, 'n'},
                          {nullptr, 0, nullptr, 0}};
  options.vmm.clear();
  for (;;) {
    switch (::getopt_long(argc, argv, "", known, nullptr)) {
      case 'c':
        options.control_socket = optarg;
        break;
      case 'r':
        options.run_directory = optarg;
        break;
      case 'v':
        options.vmm = optarg;
        break;
      case 'f':
        options.fsd = optarg;
        break;
      case 'k':
        options.kvm = optarg;
        break;
      case 's':
        options.shim = optarg;
        break;
      case 't':
        options.transient = true;
        break;
      case 'u':
        if (!parse_number(optarg, options.uids.base)) return false;
        break;
      case 'n':
        if (!parse_number(optarg, options.uids.count)) return false;
        break;
      case -1:
        return optind == argc && !options.control_socket.empty() && !options.run_directory.empty() &&
               !options.vmm.empty();
      default:
        return false;
    }
  }
}

// Three descriptors per VMM: the default soft limit of 1024 would be reached at 300 of them.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

Status serve(const SpawnerOptions& options) {
  const std::unique_ptr<EventLoop> loop = GRANARY_TRY(EventLoop::create());
  const Fd signals = GRANARY_TRY(take_signals({SIGTERM, SIGINT}));
  const std::unique_ptr<Spawner> spawner = GRANARY_TRY(Spawner::create(*loop, options));
  // It holds every template's memory. Its VMMs' change of uid would clear this anyway, as they share its memory until
  // they execute.
  if (::prctl(PR_SET_DUMPABLE, 0) != 0) return Error::last_os_error("forbid core dumps");
  GRANARY_TRY(loop->add(signals.get(), EPOLLIN, [&](uint32_t) {
    signalfd_siginfo info;
    if (::read(signals.get(), &info, sizeof(info)) == sizeof(info)) spawner->finish();
  }));
  log_line(LogLevel::kInfo, "ready control_socket=%s", options.control_socket.c_str());
  return loop->run();
}

}  // namespace
}  // namespace granary::spawn

int main(int argc, char** argv) {
  granary::set_log_prefix("granary-spawn");
  granary::spawn::SpawnerOptions options;
  if (!granary::spawn::parse(argc, argv, options)) {
    std::fputs(granary::spawn::kUsage, stderr);
    return 2;
  }
  ::umask(077);
  granary::prefer_short_time_slices(granary::Children::kInherit);
  granary::spawn::raise_descriptor_limit();
  if (const granary::Status done = granary::spawn::serve(options); !done) {
    granary::log_line(granary::LogLevel::kError, "%s", done.error().message().c_str());
    return 1;
  }
  return 0;
}
