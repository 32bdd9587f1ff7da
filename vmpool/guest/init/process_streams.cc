// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/process_streams.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "vmpool/base/log.h"
#include "vmpool/guest/frame.h"

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

ProcessStreams::ProcessStreams(EventLoop& loop, Owner owner)
    : loop_(loop), owner_(std::move(owner)), stdin_watch_(loop), stdout_(loop, false), stderr_(loop, true) {}

ProcessStreams::~ProcessStreams() { loop_.remove(terminal_timer_); }

void ProcessStreams::take(Streams streams) {
  on_terminal_ = streams.terminal.valid();
  stdin_ = std::move(streams.stdin_pipe);
  stdout_.fd = std::move(on_terminal_ ? streams.terminal : streams.stdout_pipe);
  stderr_.fd = std::move(streams.stderr_pipe);
}

void ProcessStreams::start() {
  started_ = true;
  watch_outputs();
}

void ProcessStreams::process_ended() {
  drop_input();
  if (on_terminal_) {
    terminal_timer_ = loop_.call_at(EventLoop::Clock::now() + kTerminalGrace, [this] {
      stop_at_what_is_there(stdout_);
      owner_.drained();
    });
  } else {
    // All that the process itself wrote is in them by now.
    stop_at_what_is_there(stdout_);
    stop_at_what_is_there(stderr_);
  }
}

void ProcessStreams::drop() {
  drop_input();
  close_output(stdout_);
  close_output(stderr_);
}

void ProcessStreams::stop_at_what_is_there(Output& output) {
  if (!output.fd.valid()) return;
  int waiting = 0;
  ::ioctl(output.fd.get(), FIONREAD, &waiting);
  output.left = static_cast<size_t>(std::max(waiting, 0));
  if (waiting <= 0) close_output(output);
}

void ProcessStreams::pump(Output& output) {
  std::array<char, kDataChunkBytes> buffer;
  const size_t limit = std::min(buffer.size(), output.left.value_or(buffer.size()));
  const ssize_t n = ::read(output.fd.get(), buffer.data(), limit);
  if (n < 0 && (errno == EINTR || (errno == EAGAIN && !output.left))) return;
  if (n > 0) {
    if (output.left) *output.left -= static_cast<size_t>(n);
    owner_.output(data_reply(output.to_stderr, buffer.data(), static_cast<size_t>(n)));
  }
  // A terminal whose other side has closed says EIO.
  if (n <= 0 || output.left == 0U) close_output(output);
  owner_.drained();
}

void ProcessStreams::close_output(Output& output) {
  output.watch.stop();
  output.fd.reset();
}

void ProcessStreams::watch_outputs() {
  for (Output* output : {&stdout_, &stderr_}) {
    if (!output->fd.valid()) continue;
    // Stopped, not modified: epoll would go on telling of a hang-up.
    if (!output_allowed_ || !started_) {
      output->watch.stop();
    } else if (const Status s =
                   output->watch.start(output->fd.get(), EPOLLIN, [this, output](uint32_t) { pump(*output); });
               !s) {
      log_line(LogLevel::kError, "output of a process is lost: %s", s.error().message().c_str());
      close_output(*output);
    }
  }
}

void ProcessStreams::allow_output(bool allowed) {
  if (allowed == output_allowed_) return;
  output_allowed_ = allowed;
  watch_outputs();
}

void ProcessStreams::write_input(std::string data) {
  if (!stdin_.valid() || data.empty()) return;
  last_input_ = data.back();
  input_ = std::move(data);
  flush_input();
}

void ProcessStreams::close_input() {
  if (!on_terminal_) {
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

void ProcessStreams::flush_input() {
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

void ProcessStreams::drop_input() {
  stdin_watch_.stop();
  stdin_.reset();
  input_.clear();
}

void ProcessStreams::resize(const v1::WindowSize& size) {
  if (!on_terminal_ || !stdout_.fd.valid()) return;
  set_window_size(stdout_.fd.get(), size);
}

}  // namespace granary::guest
