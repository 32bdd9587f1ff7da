// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "vmpool/base/event_loop.h"

// Standard streams of a process in the guest: containerd's FIFOs on this side. They are opened so that opening waits
// for nobody, and pumped without waiting. An empty path is a stream that nobody asked for. EINVAL-like errors
// (kInvalidArgument): a path that is no FIFO (file:// and binary:// loggers are not containerd's CRI's); errno of
// open(2) with the path for one that is not there.
namespace granary::shim {

// From the guest to a FIFO. What a slow reader does not take is kept, up to kKeptBytes; from there on full() says that
// the guest is to be held back. The FIFO is open for reading too, so that a reader that comes and goes is no error: a
// dead one stops its process at that limit, until that is killed.
class OutputFifo {
 public:
  static constexpr size_t kKeptBytes = 256 * 1024;

  // `room`: what was full is not any longer.
  static Result<std::unique_ptr<OutputFifo>> open(EventLoop& loop, const std::string& path, std::function<void()> room);
  ~OutputFifo();
  OutputFifo(const OutputFifo&) = delete;
  OutputFifo& operator=(const OutputFifo&) = delete;

  void write(std::string_view bytes);
  [[nodiscard]] bool is_empty() const { return kept_.size() == begin_; }
  [[nodiscard]] bool full() const { return kept_.size() - begin_ > kKeptBytes; }
  // No more comes: closed, which its reader sees, once all is written.
  void finish();
  [[nodiscard]] bool open_now() const { return fifo_.valid(); }

 private:
  OutputFifo(EventLoop& loop, Fd fifo, std::function<void()> room)
      : loop_(loop), fifo_(std::move(fifo)), room_(std::move(room)) {}
  void on_writable();
  [[nodiscard]] size_t write_now(std::string_view bytes);
  void watch();

  EventLoop& loop_;
  Fd fifo_;
  std::function<void()> room_;
  EventLoop::Token token_ = 0;
  std::string kept_;
  size_t begin_ = 0;
  bool finishing_ = false;
};

// From a FIFO to the guest, a piece at a time: the next one is read when the last one has been taken.
class InputFifo {
 public:
  static constexpr size_t kPieceBytes = 32 * 1024;
  struct Handlers {
    std::function<void(std::string_view bytes)> data;
    std::function<void()> end;  // once: the last writer has gone, or close_when_empty() and nothing is left
  };

  static Result<std::unique_ptr<InputFifo>> open(EventLoop& loop, const std::string& path, Handlers handlers);
  ~InputFifo();
  InputFifo(const InputFifo&) = delete;
  InputFifo& operator=(const InputFifo&) = delete;

  // Reads the next piece as soon as there is one, once.
  void want_more();
  // CloseIO: what is in the FIFO is still read, then the stream ends, whoever has it open.
  void close_when_empty();

 private:
  InputFifo(EventLoop& loop, Fd fifo, Handlers handlers)
      : loop_(loop), fifo_(std::move(fifo)), handlers_(std::move(handlers)) {}
  void read_piece();
  void end();

  EventLoop& loop_;
  Fd fifo_;
  Handlers handlers_;
  EventLoop::Token token_ = 0;
  bool closing_ = false;
};

}  // namespace granary::shim
