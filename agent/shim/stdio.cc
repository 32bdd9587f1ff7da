// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/stdio.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <utility>

namespace granary::shim {
namespace {

Result<Fd> open_fifo(const std::string& path, int flags) {
  if (!path.starts_with('/'))
    return Error(Errc::kInvalidArgument, "stream \"" + path.substr(0, 256) + "\" is no path of a FIFO");
  Fd fd = GRANARY_TRY(open_file(path, flags | O_NONBLOCK | O_NOCTTY));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return Error::last_os_error("look at " + path);
  if (!S_ISFIFO(info.st_mode)) return Error(Errc::kInvalidArgument, "stream " + path.substr(0, 256) + " is no FIFO");
  return fd;
}

}  // namespace

Result<std::unique_ptr<OutputFifo>> OutputFifo::open(EventLoop& loop, const std::string& path,
                                                     std::function<void()> room) {
  Fd fifo;
  if (!path.empty()) fifo = GRANARY_TRY(open_fifo(path, O_RDWR));
  return std::unique_ptr<OutputFifo>(new OutputFifo(loop, std::move(fifo), std::move(room)));
}

OutputFifo::~OutputFifo() { loop_.remove(token_); }

size_t OutputFifo::write_now(std::string_view bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::write(fifo_.get(), bytes.data() + done, bytes.size() - done);
    if (n > 0) done += static_cast<size_t>(n);
    if (n < 0 && errno != EINTR) break;  // EAGAIN: nothing else can happen to a FIFO that this process itself reads
  }
  return done;
}

void OutputFifo::write(std::string_view bytes) {
  if (!fifo_.valid() || finishing_) return;
  if (begin_ == kept_.size()) bytes.remove_prefix(write_now(bytes));
  if (bytes.empty()) return;
  kept_.append(bytes);
  watch();
}

void OutputFifo::watch() {
  if (token_ != 0) return;
  if (const auto token = loop_.add(fifo_.get(), EPOLLOUT, [this](uint32_t) { on_writable(); }); token) token_ = *token;
}

void OutputFifo::on_writable() {
  const bool was_full = full();
  begin_ += write_now(std::string_view(kept_).substr(begin_));
  if (begin_ < kept_.size()) {
    if (begin_ > kKeptBytes) kept_.erase(0, std::exchange(begin_, 0));
  } else {
    std::string().swap(kept_);  // most streams are never full again
    begin_ = 0;
    loop_.remove(std::exchange(token_, 0));
    if (finishing_) fifo_.reset();
  }
  if (was_full && !full()) room_();
}

void OutputFifo::finish() {
  finishing_ = true;
  if (begin_ == kept_.size()) fifo_.reset();
}

Result<std::unique_ptr<InputFifo>> InputFifo::open(EventLoop& loop, const std::string& path, Handlers handlers) {
  Fd fifo = GRANARY_TRY(open_fifo(path, O_RDONLY));
  return std::unique_ptr<InputFifo>(new InputFifo(loop, std::move(fifo), std::move(handlers)));
}

InputFifo::~InputFifo() { loop_.remove(token_); }

void InputFifo::want_more() {
  if (!fifo_.valid() || token_ != 0) return;
  if (closing_) {
    token_ = loop_.call_at(EventLoop::Clock::now(), [this] { read_piece(); });
    return;
  }
  // Told of data, and of a last writer that went; not of a first one that is still to come, which read(2) cannot tell
  // from an end.
  if (const auto token = loop_.add(fifo_.get(), EPOLLIN, [this](uint32_t) { read_piece(); }); token) token_ = *token;
}

void InputFifo::read_piece() {
  loop_.remove(std::exchange(token_, 0));
  if (!fifo_.valid()) return;
  std::array<char, kPieceBytes> piece;
  ssize_t n = 0;
  do {
    n = ::read(fifo_.get(), piece.data(), piece.size());
  } while (n < 0 && errno == EINTR);
  if (n > 0) return handlers_.data({piece.data(), static_cast<size_t>(n)});
  if (n < 0 && errno == EAGAIN && !closing_) return want_more();
  end();
}

void InputFifo::close_when_empty() {
  if (closing_ || !fifo_.valid()) return;
  closing_ = true;
  // Where a piece is being waited for, there is none: look once more, without waiting.
  if (token_ != 0) read_piece();
}

void InputFifo::end() {
  fifo_.reset();
  handlers_.end();
}

}  // namespace granary::shim
