// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/crun.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "vmpool/guest/init/server.h"

namespace granary::guest {
namespace {

constexpr size_t kMostWords = 512;

std::string next_name(const std::string& folder) {
  static uint64_t number = 0;
  return folder + "/" + std::to_string(++number);
}

// What can be read without waiting.
std::string beginning_of(int fd) {
  std::array<char, kMostWords> buffer;
  const ssize_t n = ::read(fd, buffer.data(), buffer.size());
  return {buffer.data(), static_cast<size_t>(std::max<ssize_t>(n, 0))};
}

// The descriptor that one message of a unix socket carries; none if there is no message.
Fd receive_fd(int socket) {
  char byte = 0;
  iovec part{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) < 0) return Fd();
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof(int))) return Fd();
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof(fd));
  return Fd(fd);
}

}  // namespace

CrunCall::CrunCall(Reaper& reaper, const ContainerPaths& paths, Settings settings, std::function<void(Status)> done)
    : reaper_(reaper),
      settings_(std::move(settings)),
      crun_(paths.crun),
      state_(paths.crun_state()),
      name_(next_name(paths.calls())),
      done_(std::move(done)) {}

Result<std::unique_ptr<CrunCall>> CrunCall::start(Reaper& reaper, const ContainerPaths& paths, Settings settings,
                                                  std::function<void(Status)> done) {
  std::unique_ptr<CrunCall> call(new CrunCall(reaper, paths, std::move(settings), std::move(done)));
  if (!call->settings_.process.empty()) GRANARY_TRY(call->write_process());
  if (call->settings_.on_terminal) GRANARY_TRY(call->listen_for_terminal());
  if (call->settings_.leaves_process) call->orphans_.emplace(reaper);
  v1::Exec exec;
  for (std::string& argument : call->command_line()) exec.add_argv(std::move(argument));
  exec.add_env("PATH=/bin:/usr/bin");
  exec.set_uid(::geteuid());
  exec.set_gid(::getegid());
  exec.set_has_stdin(call->settings_.has_stdin && !call->settings_.on_terminal);
  Spawned spawned = GRANARY_TRY(spawn(exec));
  call->pid_ = spawned.pid;
  call->streams_ = std::move(spawned.streams);
  call->outcome_ = std::move(spawned.outcome);
  reaper.watch(call->pid_, [c = call.get()](Reaper::Ending ending) { c->on_ending(ending); });
  return call;
}

CrunCall::~CrunCall() {
  if (pid_ > 0 && !ended_) reaper_.condemn(pid_);
  for (const char* ending : {".json", ".log", ".pid", ".sock"}) ::unlink((name_ + ending).c_str());
}

std::vector<std::string> CrunCall::command_line() const {
  std::vector<std::string> words = {crun_, "--root", state_, "--cgroup-manager", "cgroupfs", "--log", name_ + ".log"};
  words.insert(words.end(), settings_.arguments.begin(), settings_.arguments.end());
  if (!settings_.process.empty()) words.insert(words.end(), {"--process", name_ + ".json"});
  if (settings_.leaves_process) words.insert(words.end(), {"--pid-file", name_ + ".pid"});
  if (settings_.on_terminal) words.insert(words.end(), {"--console-socket", name_ + ".sock"});
  words.push_back(settings_.target);
  return words;
}

Status CrunCall::write_process() const {
  const Fd file = GRANARY_TRY(open_file(name_ + ".json", O_WRONLY | O_CREAT | O_EXCL, 0600));
  return write_all(file.get(), std::as_bytes(std::span(settings_.process)));
}

Status CrunCall::listen_for_terminal() {
  console_ = GRANARY_TRY(listen_unix(name_ + ".sock"));
  return ok();
}

void CrunCall::on_ending(Reaper::Ending ending) {
  ended_ = true;
  const std::function<void(Status)> done = std::move(done_);
  if (ending.signal == 0 && ending.code == 0) return done(ok());
  std::string text = "crun " + settings_.arguments.front() + ": ";
  if (ending.signal != 0) {
    text += "ended by signal " + std::to_string(ending.signal);
  } else {
    text += words();
  }
  done(Error(Errc::kContainerFailed, text));
}

// In its log, or (before it reads its options) on its standard error.
std::string CrunCall::words() const {
  std::string text;
  if (const Result<Fd> log = open_file(name_ + ".log", O_RDONLY)) text = beginning_of(log->get());
  if (text.empty() && streams_.stderr_pipe.valid()) text = beginning_of(streams_.stderr_pipe.get());
  if (text.empty()) {
    v1::Exec exec;
    exec.add_argv(crun_);
    if (const Status run = spawn_result(outcome_.get(), exec); !run) text = run.error().message();
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.empty() ? "failed without a word" : text;
}

Result<Fd> CrunCall::take_terminal() const {
  const Fd connection(::accept4(console_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  Fd terminal = connection.valid() ? receive_fd(connection.get()) : Fd();
  if (!terminal.valid()) return Error(Errc::kContainerFailed, "crun gave no terminal");
  GRANARY_TRY(set_nonblocking(terminal.get()));
  return terminal;
}

Result<Streams> CrunCall::take_streams() {
  if (!settings_.on_terminal) return std::move(streams_);
  Streams streams;
  streams.terminal = GRANARY_TRY(take_terminal());
  streams.stdin_pipe = GRANARY_TRY(streams.terminal.duplicate());
  return streams;
}

Result<pid_t> CrunCall::adopt_process(Reaper::Callback callback) {
  const std::string text = GRANARY_TRY(read_file(name_ + ".pid"));
  pid_t pid = 0;
  std::from_chars(text.data(), text.data() + text.size(), pid);
  if (pid <= 1 || !reaper_.adopt(pid, std::move(callback))) {
    return Error(Errc::kContainerFailed, "crun left no process behind, but said " + text.substr(0, 16));
  }
  return pid;
}

void CrunCall::kill() const {
  // Its own child may still be in its group.
  if (!ended_) ::kill(-pid_, SIGKILL);
  if (!ended_) ::kill(pid_, SIGKILL);
}

}  // namespace granary::guest
