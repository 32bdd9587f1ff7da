// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <deque>
#include <optional>
#include <string>
#include <type_traits>

#include "vmpool/base/control_protocol.h"
#include "vmpool/base/status_page.h"
#include "vmpool/vmm/tiny_elf.h"

namespace granary::vmm {

// A real granary-vmm for tests, started as granary-spawn does it, and the other end of its control socket. Killed with
// its owner if it still runs. The program lies beside the test program.
class VmmProcess {
 public:
  // `kvm`: what it gets as /dev/kvm.
  static Result<VmmProcess> start(const std::string& kvm = "/dev/kvm");
  VmmProcess(VmmProcess&& other) noexcept;
  ~VmmProcess();

  // Sends a request and waits for its answer; events that come before are kept for next_event().
  template <class Answer = control::Empty, class Body = control::Empty>
  Result<Answer> ask(control::Type type, const Body& body = {}, std::span<const int> fds = {}) {
    const uint32_t id = ++last_id_;
    GRANARY_TRY(control::send(socket_.get(), type, id, body, fds));
    const control::Message message = GRANARY_TRY(wait_answer(id));
    // An answer with a body of its own has the request's type.
    return message.as_answer<Answer>(std::is_same_v<Answer, control::Empty> ? control::Type::kDone : type);
  }
  // The next event, kept or still to come.
  Result<control::Message> next_event();
  // The value of the next doorbell event.
  Result<uint32_t> next_ring();
  // The next answer, whatever request it belongs to.
  Result<control::Message> wait_answer(std::optional<uint32_t> id = {});

  // Waits for the end of the process: the exit code, or 128 + signal.
  int wait_exit();

  [[nodiscard]] int socket() const { return socket_.get(); }
  void close_socket() { socket_.reset(); }
  [[nodiscard]] const StatusFile& status() const { return status_; }
  [[nodiscard]] pid_t pid() const { return pid_; }

  // The usual requests.
  Result<control::Empty> create_shell(uint64_t memory_bytes = 8 * kMiB, uint32_t vcpus = 1,
                                      control::DeviceSet devices = {});
  Result<control::Empty> boot(const TinyCode& code);
  struct Template {
    Fd state;
    Fd memory;
    control::SnapshotDone done;
  };
  // Park must have been done; both files come back sealed.
  Result<Template> snapshot();
  Result<control::Empty> restore(const Template& from, uint8_t generation = 1, bool resume = true);

 private:
  VmmProcess(pid_t pid, Fd socket, StatusFile status)
      : pid_(pid), socket_(std::move(socket)), status_(std::move(status)) {}
  pid_t pid_;
  Fd socket_;
  StatusFile status_;
  uint32_t last_id_ = 0;
  std::deque<control::Message> events_;
};

}  // namespace granary::vmm
