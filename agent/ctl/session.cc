// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/session.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <optional>

#include "agent/exec_request.h"
#include "vmpool/base/event_loop.h"
#include "vmpool/pool/exec_session.h"

namespace granary::ctl {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kStartLimit{60};
constexpr std::chrono::seconds kChunkLimit{30};

// Signals as a descriptor. Handlers rather than a signal mask: gRPC's threads exist already and would take the signals.
constexpr int kForwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
std::atomic<uint64_t> pending_signals;
std::atomic<const EventFd*> signal_wake;

void on_signal(int number) {
  const int saved = errno;
  pending_signals |= uint64_t{1} << number;
  if (const EventFd* wake = signal_wake) wake->signal();
  errno = saved;
}

class SignalCatcher {
 public:
  SignalCatcher(const EventFd& wake, bool tty) {
    pending_signals = 0;
    signal_wake = &wake;
    for (const int number : kForwarded) catch_one(number);
    if (tty) catch_one(SIGWINCH);
  }
  SignalCatcher(const SignalCatcher&) = delete;
  SignalCatcher& operator=(const SignalCatcher&) = delete;
  ~SignalCatcher() {
    for (const auto& [number, action] : before_) ::sigaction(number, &action, nullptr);
    signal_wake = nullptr;
  }

 private:
  void catch_one(int number) {
    struct sigaction action {};
    struct sigaction before {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    ::sigaction(number, &action, &before);
    before_.emplace_back(number, before);
  }
  std::vector<std::pair<int, struct sigaction>> before_;
};

// Raw mode, and back.
class RawTerminal {
 public:
  explicit RawTerminal(bool wanted) {
    if (!wanted || ::tcgetattr(STDIN_FILENO, &before_) != 0) return;
    termios raw = before_;
    ::cfmakeraw(&raw);
    active_ = ::tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
  }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  ~RawTerminal() {
    if (active_) ::tcsetattr(STDIN_FILENO, TCSADRAIN, &before_);
  }

 private:
  termios before_{};
  bool active_ = false;
};

std::optional<winsize> window() {
  winsize size{};
  if (::ioctl(STDIN_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0) return std::nullopt;
  return size;
}

Result<guest::v1::Exec> to_guest(const SessionOptions& options) {
  std::vector<std::string> env = options.env;
  const char* const terminal = std::getenv("TERM");
  if (options.tty && terminal != nullptr) env.insert(env.begin(), std::string("TERM=") + terminal);
  guest::v1::Exec exec = GRANARY_TRY(agent::to_exec({.argv = options.argv, .env = std::move(env), .cwd = options.cwd}));
  exec.set_tty(options.tty);
  exec.set_has_stdin(options.interactive);
  if (const auto size = window(); options.tty && size) {
    exec.mutable_window_size()->set_rows(size->ws_row);
    exec.mutable_window_size()->set_columns(size->ws_col);
  }
  return exec;
}

// A command that exits while something is on its way to it is no failure: its exit is read next.
Status unless_exited(Status result) {
  if (!result && result.error().is(Errc::kPeerGone)) return ok();
  return result;
}

class Pump {
 public:
  Pump(pool::ExecSession& session, const EventFd& wake, bool interactive)
      : session_(session), wake_(wake), stdin_open_(interactive) {}

  Result<int> run() {
    for (;;) {
      const auto status = GRANARY_TRY(drain_output());
      if (status) return *status;
      wait();
      GRANARY_TRY(forward_signals());
      GRANARY_TRY(move_input());
    }
  }

 private:
  // The exit status once it has come.
  Result<std::optional<int>> drain_output() {
    for (;;) {
      const auto event = GRANARY_TRY(session_.next(pool::ExecSession::kPast));
      if (!event) return std::optional<int>();
      if (event->kind == pool::ExecEvent::Kind::kExited) return std::optional<int>(event->exit_status);
      const bool out = event->kind == pool::ExecEvent::Kind::kStdout;
      GRANARY_TRY(write_all(out ? STDOUT_FILENO : STDERR_FILENO, std::as_bytes(std::span(event->data))));
    }
  }

  // Input is looked at only while the command's side has room, and room is asked for only while there is input: neither
  // turns the loop for nothing.
  void wait() {
    const short room = static_cast<short>(input_waits_ ? POLLOUT : 0);
    pollfd fds[3] = {{.fd = session_.poll_fd(), .events = static_cast<short>(POLLIN | room), .revents = 0},
                     {.fd = wake_.get(), .events = POLLIN, .revents = 0},
                     {.fd = stdin_open_ && !input_waits_ ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0}};
    ::poll(fds, 3, -1);
    if (fds[2].revents != 0) input_waits_ = true;
    [[maybe_unused]] const uint64_t count = wake_.drain();
  }

  Status move_input() {
    pollfd room{.fd = session_.poll_fd(), .events = POLLOUT, .revents = 0};
    if (!input_waits_ || ::poll(&room, 1, 0) <= 0 || (room.revents & POLLOUT) == 0) return ok();
    input_waits_ = false;
    std::array<char, pool::ExecSession::kStdinChunkBytes> buffer;
    const ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return ok();
    if (n > 0) {
      return unless_exited(
          session_.write_stdin({buffer.data(), static_cast<size_t>(n)}, steady_clock::now() + kChunkLimit));
    }
    stdin_open_ = false;
    return unless_exited(session_.close_stdin());
  }

  Status forward_signals() {
    const uint64_t signals = pending_signals.exchange(0);
    for (const int number : kForwarded) {
      if ((signals >> number & 1) != 0) GRANARY_TRY(unless_exited(session_.signal(number)));
    }
    const auto size = (signals >> SIGWINCH & 1) != 0 ? window() : std::nullopt;
    if (size) GRANARY_TRY(unless_exited(session_.resize(size->ws_row, size->ws_col)));
    return ok();
  }

  pool::ExecSession& session_;
  const EventFd& wake_;
  bool stdin_open_;
  bool input_waits_ = false;  // standard input is readable, the command's side may have no room
};

}  // namespace

Status check_session(const SessionOptions& options) {
  GRANARY_TRY(to_guest(options));
  if (options.tty && ::isatty(STDIN_FILENO) == 0) {
    return Error(Errc::kInvalidArgument, "-t: standard input is no terminal; leave -t out");
  }
  return ok();
}

Result<int> run_session(const std::string& socket_path, const SessionOptions& options) {
  const EventFd wake = GRANARY_TRY(EventFd::create());
  const SignalCatcher catcher(wake,
                              options.tty);  // before the window's size is read, or a change in between would be lost
  const guest::v1::Exec exec = GRANARY_TRY(to_guest(options));
  auto session = pool::ExecSession::start(socket_path, exec, steady_clock::now() + kStartLimit);
  if (!session && (session.error().is_errno(ENOENT) || session.error().is_errno(EACCES))) {
    std::cerr << "granaryctl: " << options.argv[0] << ": " << session.error().message() << std::endl;
    return session.error().is_errno(ENOENT) ? 127 : 126;
  }
  if (!session) return std::move(session).error();
  // Without -i nobody reads what raw mode makes of ^C: then it stays a signal, which is passed on.
  const RawTerminal raw(options.tty && options.interactive);
  return Pump(**session, wake, options.interactive).run();
}

}  // namespace granary::ctl
