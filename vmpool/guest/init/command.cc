// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/command.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "vmpool/base/log.h"
#include "vmpool/guest/frame.h"
#include "vmpool/guest/init/failure.h"

namespace granary::guest {
namespace {

// A terminal hangs up when its session's leader ends, and its output can be read to the end. Only a leader that gave
// the terminal away first leaves it open; after this time what it holds then is taken to be all.
constexpr auto kTerminalGrace = std::chrono::milliseconds(500);

// Room for the data's field headers inside a frame is no concern: kMaxFrameBytes is far more.
v1::Reply data_reply(bool to_stderr, const char* bytes, size_t size) {
  v1::Reply reply;
  if (to_stderr) {
    reply.set_stderr_data(bytes, size);
  } else {
    reply.set_stdout_data(bytes, size);
  }
  return reply;
}

}  // namespace

Command::Command(EventLoop& loop, Reaper& reaper, v1::Exec request, Owner owner)
    : loop_(loop),
      reaper_(reaper),
      request_(std::move(request)),
      owner_(std::move(owner)),
      outcome_watch_(loop),
      stdin_watch_(loop),
      stdout_(loop, false),
      stderr_(loop, true) {}

Result<std::unique_ptr<Command>> Command::start(EventLoop& loop, Reaper& reaper, v1::Exec request, Owner owner) {
  std::unique_ptr<Command> command(new Command(loop, reaper, std::move(request), std::move(owner)));
  Spawned spawned = GRANARY_TRY(spawn(command->request_));
  GRANARY_TRY(command->adopt(std::move(spawned)));
  return command;
}

Status Command::adopt(Spawned spawned) {
  pid_ = spawned.pid;
  reaper_.watch(pid_, [this](Reaper::Ending ending) { on_ending(ending); });
  outcome_ = std::move(spawned.outcome);
  stdin_ = std::move(spawned.streams.stdin_pipe);
  stdout_.fd = std::move(on_terminal() ? spawned.streams.terminal : spawned.streams.stdout_pipe);
  stderr_.fd = std::move(spawned.streams.stderr_pipe);
  return outcome_watch_.start(outcome_.get(), EPOLLIN, [this](uint32_t) { on_outcome(); });
}

Command::~Command() {
  loop_.remove(terminal_timer_);
  if (pid_ > 0 && !ending_) reaper_.condemn(pid_);
}

void Command::on_outcome() {
  outcome_watch_.stop();
  const Status result = spawn_result(outcome_.get(), request_);
  outcome_.reset();
  if (!result) {
    ended_ = true;
    drop_input();
    stdout_.fd.reset();
    stderr_.fd.reset();
    owner_.reply(failure(result.error()));
  } else {
    started_ = true;
    v1::Reply reply;
    reply.mutable_started()->set_pid(pid_);
    owner_.reply(reply);
    watch_outputs();
  }
  owner_.wants_input();
}

void Command::on_ending(Reaper::Ending ending) {
  ending_ = ending;
  if (outcome_.valid()) on_outcome();
  if (ended_) return;
  drop_input();
  if (on_terminal()) {
    terminal_timer_ = loop_.call_at(EventLoop::Clock::now() + kTerminalGrace, [this] {
      stop_at_what_is_there(stdout_);
      finish_if_drained();
    });
  } else {
    // Descendants may hold the pipes for ever. All that the process itself wrote is in them by now.
    stop_at_what_is_there(stdout_);
    stop_at_what_is_there(stderr_);
  }
  finish_if_drained();
  owner_.wants_input();
}

void Command::stop_at_what_is_there(Output& output) {
  if (!output.fd.valid()) return;
  int waiting = 0;
  ::ioctl(output.fd.get(), FIONREAD, &waiting);
  output.left = static_cast<size_t>(std::max(waiting, 0));
  if (waiting <= 0) close_output(output);
}

void Command::pump(Output& output) {
  std::array<char, kDataChunkBytes> buffer;
  const size_t limit = std::min(buffer.size(), output.left.value_or(buffer.size()));
  const ssize_t n = ::read(output.fd.get(), buffer.data(), limit);
  if (n < 0 && (errno == EINTR || (errno == EAGAIN && !output.left))) return;
  if (n > 0) {
    if (output.left) *output.left -= static_cast<size_t>(n);
    owner_.reply(data_reply(output.to_stderr, buffer.data(), static_cast<size_t>(n)));
  }
  // A terminal whose other side has closed says EIO.
  if (n <= 0 || output.left == 0U) close_output(output);
  finish_if_drained();
}

void Command::close_output(Output& output) {
  output.watch.stop();
  output.fd.reset();
}

void Command::watch_outputs() {
  for (Output* output : {&stdout_, &stderr_}) {
    if (!output->fd.valid()) continue;
    // Stopped, not modified: epoll would go on telling of a hang-up.
    if (!output_allowed_ || !started_) {
      output->watch.stop();
    } else if (const Status s =
                   output->watch.start(output->fd.get(), EPOLLIN, [this, output](uint32_t) { pump(*output); });
               !s) {
      log_line(LogLevel::kError, "output of a command is lost pid=%d: %s", pid_, s.error().message().c_str());
      close_output(*output);
    }
  }
}

void Command::allow_output(bool allowed) {
  if (allowed == output_allowed_) return;
  output_allowed_ = allowed;
  watch_outputs();
}

void Command::write_input(std::string data) {
  if (!stdin_.valid() || data.empty()) return;
  last_input_ = data.back();
  input_ = std::move(data);
  flush_input();
}

void Command::close_input() {
  if (!on_terminal()) {
    close_after_input_ = true;
    flush_input();
    return;
  }
  termios settings{};
  if (!stdin_.valid() || ::tcgetattr(stdin_.get(), &settings) != 0 || !(settings.c_lflag & ICANON)) return;
  // In the middle of a line the first one only hands the line over.
  write_input(std::string(last_input_ == '\n' ? 1 : 2, static_cast<char>(settings.c_cc[VEOF])));
  last_input_ = '\n';
}

void Command::flush_input() {
  if (!stdin_.valid()) return;
  while (!input_.empty()) {
    const ssize_t n = ::write(stdin_.get(), input_.data(), input_.size());
    if (n >= 0) {
      input_.erase(0, static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      const Status s = stdin_watch_.start(stdin_.get(), EPOLLOUT, [this](uint32_t) {
        flush_input();
        if (input_.empty()) owner_.wants_input();
      });
      if (!s) drop_input();
      return;
    } else if (errno != EINTR) {
      drop_input();  // nobody reads it any more
      return;
    }
  }
  stdin_watch_.stop();
  if (close_after_input_) drop_input();
}

void Command::drop_input() {
  stdin_watch_.stop();
  stdin_.reset();
  input_.clear();
}

void Command::resize(const v1::WindowSize& size) {
  if (!on_terminal() || !stdout_.fd.valid()) return;
  winsize window{};
  window.ws_row = static_cast<unsigned short>(size.rows());
  window.ws_col = static_cast<unsigned short>(size.columns());
  ::ioctl(stdout_.fd.get(), TIOCSWINSZ, &window);
}

bool Command::signal(int number) {
  if (number < 1 || number >= NSIG) return false;
  // After its end the number may belong to somebody else.
  if (started_ && !ending_) ::kill(-pid_, number);
  return true;
}

void Command::finish_if_drained() {
  if (!ending_ || ended_ || stdout_.fd.valid() || stderr_.fd.valid()) return;
  ended_ = true;
  v1::Reply reply;
  reply.mutable_exited()->set_signal(ending_->signal);
  reply.mutable_exited()->set_status(ending_->signal != 0 ? 128 + ending_->signal : ending_->code);
  owner_.reply(reply);
}

}  // namespace granary::guest
