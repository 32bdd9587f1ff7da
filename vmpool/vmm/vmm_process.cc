// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/vmm_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <climits>

#include "vmpool/base/vmm_fds.h"

namespace granary::vmm {
namespace {

// Long enough for an emulated node under load; a test that needs it has failed.
constexpr int kTimeoutMs = 60'000;

Result<Fd> listen_anywhere() {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // Only the family: the kernel picks an abstract name.
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)) != 0 || ::listen(fd.get(), 8) != 0) {
    return Error::last_os_error("listen on a unix socket");
  }
  return fd;
}

std::string program() {
  char path[PATH_MAX] = {};
  const ssize_t n = ::readlink("/proc/self/exe", path, sizeof(path) - 1);
  const std::string self(path, n > 0 ? static_cast<size_t>(n) : 0);
  return self.substr(0, self.rfind('/')) + "/granary-vmm";
}

// In the child: descriptors to their numbers (by way of high ones, which clash with none of them), then exec.
[[noreturn]] void become_vmm(const std::string& path, std::array<int, 4> fds) {
  for (int& fd : fds) fd = ::fcntl(fd, F_DUPFD, 64);
  for (int i = 0; i < 4; ++i) ::dup2(fds[static_cast<size_t>(i)], vmm_fds::kControlSocket + i);
  for (const int fd : fds) ::close(fd);
  ::execl(path.c_str(), "granary-vmm", nullptr);
  ::_exit(127);
}

}  // namespace

Result<VmmProcess> VmmProcess::start(const std::string& kvm) {
  const Fd kvm_fd = GRANARY_TRY(open_file(kvm, O_RDWR));
  const Fd listener = GRANARY_TRY(listen_anywhere());
  const Fd page = GRANARY_TRY(StatusFile::create());
  StatusFile status = GRANARY_TRY(StatusFile::map(page.get(), false));
  SocketPair sockets = GRANARY_TRY(create_message_socket_pair());
  const std::string path = program();
  const pid_t pid = ::fork();
  if (pid < 0) return Error::last_os_error("fork");
  static_assert(vmm_fds::kStatusPage == 4 && vmm_fds::kVsockListener == 5 && vmm_fds::kKvm == 6);
  if (pid == 0) become_vmm(path, {sockets.second.get(), page.get(), listener.get(), kvm_fd.get()});
  return VmmProcess(pid, std::move(sockets.first), std::move(status));
}

VmmProcess::VmmProcess(VmmProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      socket_(std::move(other.socket_)),
      status_(std::move(other.status_)),
      last_id_(other.last_id_),
      events_(std::move(other.events_)) {}

VmmProcess::~VmmProcess() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

int VmmProcess::wait_exit() {
  int status = 0;
  ::waitpid(std::exchange(pid_, -1), &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Result<control::Message> VmmProcess::wait_answer(std::optional<uint32_t> id) {
  for (;;) {
    control::Message message = GRANARY_TRY(control::receive(socket_.get(), kTimeoutMs));
    const bool is_event = message.type == control::Type::kDoorbell || message.type == control::Type::kEnded;
    if (!is_event && (!id || message.request == *id)) return message;
    if (is_event) events_.push_back(std::move(message));
  }
}

Result<control::Message> VmmProcess::next_event() {
  if (events_.empty()) return control::receive(socket_.get(), kTimeoutMs);
  control::Message message = std::move(events_.front());
  events_.pop_front();
  return message;
}

Result<uint32_t> VmmProcess::next_ring() {
  const control::Message message = GRANARY_TRY(next_event());
  if (message.type == control::Type::kDoorbell) return GRANARY_TRY(message.as<control::DoorbellEvent>()).value;
  return Error(Errc::kVmmFailed, std::string("ended instead of a doorbell: ") + status_.page().end_reason);
}

Result<control::Empty> VmmProcess::create_shell(uint64_t memory_bytes, uint32_t vcpus, control::DeviceSet devices) {
  control::CreateShell body{};
  body.memory_bytes = memory_bytes;
  body.vcpus = vcpus;
  body.devices = devices;
  return ask(control::Type::kCreateShell, body);
}

Result<control::Empty> VmmProcess::boot(const TinyCode& code) {
  const Fd kernel = GRANARY_TRY(make_tiny_elf(code));
  const int fds[] = {kernel.get()};
  return ask(control::Type::kBoot, control::Boot{}, fds);
}

Result<VmmProcess::Template> VmmProcess::snapshot() {
  Template made{GRANARY_TRY(create_memfd("state")), GRANARY_TRY(create_memfd("memory")), {}};
  const int fds[] = {made.state.get(), made.memory.get()};
  made.done = GRANARY_TRY(ask<control::SnapshotDone>(control::Type::kSnapshot, control::Empty{}, fds));
  GRANARY_TRY(seal_memfd(made.state.get()));
  GRANARY_TRY(seal_memfd(made.memory.get()));
  return made;
}

Result<control::Empty> VmmProcess::restore(const Template& from, uint8_t generation, bool resume) {
  control::Restore body{};
  body.resume = resume ? 1 : 0;
  body.vm_generation_id.fill(generation);
  const int fds[] = {from.state.get(), from.memory.get()};
  return ask(control::Type::kRestore, body, fds);
}

}  // namespace granary::vmm
