// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "agent/shim/own_names.h"
#include "agent/shim/own_pod.h"
#include "agent/shim/port_forward.h"
#include "agent/shim/runtime_command.h"
#include "agent/shim/task_service.h"
#include "agent/shim/ttrpc_server.h"
#include "vmpool/base/log.h"
#include "vmpool/base/signal_fd.h"

namespace granary::shim {
namespace {

constexpr char kUsage[] =
    "usage: containerd-shim-granary-v2 -namespace NS -id ID [-bundle DIR] start|delete\n"
    "       containerd-shim-granary-v2 -info | -v\n"
    "       containerd-shim-granary-v2 --sandbox ID --agent PATH [--clone ID --guest PATH [--netns PATH]] [--events PATH]\n"
    "containerd's Task service for the containers of one pod. Not for people: containerd calls the first two forms (1.6, 1.7, CRI-O);\n"
    "the third serves on standard input, a listening socket, until SIGTERM. granary-spawn starts it, or `start` does.\n"
    "  --sandbox ID   of the pod, as containerd calls it\n"
    "  --agent PATH   where granaryd answers shims\n"
    "  --clone ID     the microVM that it has; without, it takes one itself when containerd creates the sandbox\n"
    "  --guest PATH   the clone's own socket\n"
    "  --events PATH  containerd's ttrpc socket; without it nobody is told of events\n"
    "  --netns PATH   the pod's network namespace; without it nothing is forwarded to its ports\n";
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
        return optind == argc && !pod.sandbox_id.empty() && !pod.agent_socket.empty() &&
               pod.clone_id.empty() == pod.guest_socket.empty();
      default:
        return false;
    }
  }
}

Result<Fd> take_listener() {
  Fd listener(::fcntl(kListener, F_DUPFD_CLOEXEC, 3));
  if (!listener.valid()) return Error::last_os_error("take the listening socket from standard input");
  return listener;
}

// A pod of granaryd's: it ends its shim with SIGTERM.
Status serve_given(EventLoop& loop, const Pod& pod) {
  TaskService service(loop, pod);
  service.open();
  const std::unique_ptr<PortForward> forward = forward_ports(loop, pod);
  const auto server = GRANARY_TRY(ttrpc::Server::create(
      loop, GRANARY_TRY(take_listener()),
      [&](ttrpc::Call call, ttrpc::Answer answer) { service.handle(std::move(call), std::move(answer)); }));
  log_line(LogLevel::kInfo, "ready sandbox=%s clone=%s", pod.sandbox_id.c_str(), pod.clone_id.c_str());
  return loop.run();
}

// A pod that this shim takes itself: it ends with the pod's last task.
Status serve_own(EventLoop& loop, const Pod& pod) {
  OwnPod own(loop, pod, [&] { loop.stop(); });
  Fd listener = GRANARY_TRY(take_listener());
  // Again: who connects then learns this process's id (SO_PEERCRED), not that of the command that started it.
  if (::listen(listener.get(), SOMAXCONN) != 0) return Error::last_os_error("listen");
  const auto server = GRANARY_TRY(ttrpc::Server::create(
      loop, std::move(listener),
      [&](ttrpc::Call call, ttrpc::Answer answer) { own.handle(std::move(call), std::move(answer)); }));
  if (::chdir("/") != 0) return Error::last_os_error("change to /");
  Status served = loop.run();
  const std::string folder = pod.agent_socket.substr(0, pod.agent_socket.rfind('/'));
  ::unlink(own_shim_socket(folder, pod.sandbox_id).c_str());
  return served;
}

Status serve(const Pod& pod) {
  const std::unique_ptr<EventLoop> loop = GRANARY_TRY(EventLoop::create());
  const Fd signals = GRANARY_TRY(take_signals({SIGTERM, SIGINT}));
  GRANARY_TRY(loop->add(signals.get(), EPOLLIN, [&](uint32_t) { loop->stop(); }));
  return pod.clone_id.empty() ? serve_own(*loop, pod) : serve_given(*loop, pod);
}

Status print(const std::string& text) {
  return write_all(STDOUT_FILENO, std::as_bytes(std::span(text)));
}

// A command of containerd's. What goes wrong is told on standard error, which is its error.
Status obey(int argc, char** argv) {
  constexpr size_t kMostOptionBytes = 64 * 1024;
  RuntimeCommand command = GRANARY_TRY(parse_runtime_command({argv + 1, argv + argc}));
  switch (command.verb) {
    case RuntimeCommand::Verb::kInfo:
      return print(runtime_info());
    case RuntimeCommand::Verb::kVersion:
      return print(GRANARY_VERSION "\n");
    case RuntimeCommand::Verb::kDelete:
      return print(delete_leftovers(command));
    default:
      break;
  }
  const std::string options = GRANARY_TRY(read_file("/dev/stdin", kMostOptionBytes));
  const std::string run_dir = GRANARY_TRY(read_runtime_options(options));
  if (!run_dir.empty()) command.run_dir = run_dir;
  const std::string address = GRANARY_TRY(start_shim(command));
  return print(address);
}

}  // namespace
}  // namespace granary::shim

int main(int argc, char** argv) {
  granary::set_log_prefix("containerd-shim-granary-v2");
  const bool is_command = argc > 1 && std::string_view(argv[1]) != "--sandbox";
  if (is_command) {
    const granary::Status done = granary::shim::obey(argc, argv);
    if (!done) std::fprintf(stderr, "%s\n", done.error().message().c_str());
    return done ? 0 : 1;
  }
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
