// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "agent/shim/port_forward.h"
#include "agent/shim/task_service.h"
#include "agent/shim/ttrpc_server.h"
#include "vmpool/base/log.h"
#include "vmpool/base/signal_fd.h"

namespace granary::shim {
namespace {

constexpr char kUsage[] =
    "usage: containerd-shim-granary-v2 --sandbox ID --clone ID --guest PATH --agent PATH [--events PATH] [--netns PATH]\n"
    "containerd's Task service for the containers of one pod. Not for people: granary-spawn starts it.\n"
    "  --sandbox ID   of the pod, as containerd calls it\n"
    "  --clone ID     the microVM that it has\n"
    "  --guest PATH   the clone's own socket\n"
    "  --agent PATH   where granaryd answers shims\n"
    "  --events PATH  containerd's ttrpc socket; without it nobody is told of events\n"
    "  --netns PATH   the pod's network namespace; without it nothing is forwarded to its ports\n"
    "Standard input is the listening socket of the service. It ends with SIGTERM.\n";
constexpr int kListener = STDIN_FILENO;

bool parse(int argc, char** argv, Pod& pod) {
  const option known[] = {{"sandbox", required_argument, nullptr, 's'}, {"clone", required_argument, nullptr, 'c'},
                          {"guest", required_argument, nullptr, 'g'},   {"agent", required_argument, nullptr, 'a'},
                          {"events", required_argument, nullptr, 'e'},  {"netns", required_argument, nullptr, 'n'},
                          {nullptr, 0, nullptr, 0}};
  for (;;) {
    switch (::getopt_long(argc, argv, "", known, nullptr)) {
      case 's':
        pod.sandbox_id = optarg;
        break;
      case 'c':
        pod.clone_id = optarg;
        break;
      case 'g':
        pod.guest_socket = optarg;
        break;
      case 'a':
        pod.agent_socket = optarg;
        break;
      case 'e':
        pod.events_socket = optarg;
        break;
      case 'n':
        pod.netns = optarg;
        break;
      case -1:
        return optind == argc && !pod.sandbox_id.empty() && !pod.clone_id.empty() && !pod.guest_socket.empty() &&
               !pod.agent_socket.empty();
      default:
        return false;
    }
  }
}

// A pod runs without it, too.
std::unique_ptr<PortForward> forward_ports(EventLoop& loop, const Pod& pod) {
  if (pod.netns.empty()) return nullptr;
  Result<std::unique_ptr<PortForward>> opened = PortForward::open(loop, pod.guest_socket, pod.netns);
  if (opened) return *std::move(opened);
  log_line(LogLevel::kError, "no port-forward sandbox=%s: %s", pod.sandbox_id.c_str(), opened.error().message().c_str());
  return nullptr;
}

Status serve(const Pod& pod) {
  const std::unique_ptr<EventLoop> loop = GRANARY_TRY(EventLoop::create());
  const Fd signals = GRANARY_TRY(take_signals({SIGTERM, SIGINT}));
  GRANARY_TRY(loop->add(signals.get(), EPOLLIN, [&](uint32_t) { loop->stop(); }));
  TaskService service(*loop, pod);
  service.open();
  const std::unique_ptr<PortForward> forward = forward_ports(*loop, pod);
  Fd listener(::fcntl(kListener, F_DUPFD_CLOEXEC, 3));
  if (!listener.valid()) return Error::last_os_error("take the listening socket from standard input");
  const auto server =
      GRANARY_TRY(ttrpc::Server::create(*loop, std::move(listener), [&](ttrpc::Call call, ttrpc::Answer answer) {
        service.handle(std::move(call), std::move(answer));
      }));
  log_line(LogLevel::kInfo, "ready sandbox=%s clone=%s", pod.sandbox_id.c_str(), pod.clone_id.c_str());
  return loop->run();
}

}  // namespace
}  // namespace granary::shim

int main(int argc, char** argv) {
  granary::set_log_prefix("containerd-shim-granary-v2");
  granary::shim::Pod pod;
  if (!granary::shim::parse(argc, argv, pod)) {
    std::fputs(granary::shim::kUsage, stderr);
    return 2;
  }
  ::prctl(PR_SET_NAME, "granary-shim");
  ::mallopt(M_TRIM_THRESHOLD, 64 * 1024);  // one of these runs per pod
  if (const granary::Status done = granary::shim::serve(pod); !done) {
    granary::log_line(granary::LogLevel::kError, "%s", done.error().message().c_str());
    return 1;
  }
  return 0;
}
