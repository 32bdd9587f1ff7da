// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <deque>
#include <mutex>
#include <optional>
#include <string>

#include "vmpool/base/control_protocol.h"
#include "vmpool/base/machine_layout.h"
#include "vmpool/pool/deadline.h"

namespace granary::pool {

struct Shape;

// The control socket of one VMM. The calling thread itself sends the request and receives the answer, under a lock: no
// thread per VM, no hand-over between threads. Events that arrive meanwhile are kept (a bounded number) for
// wait_doorbell(). Errors: what the VMM answered; kVmmFailed once it has ended, with its end state; kDeadlineExceeded,
// after which answers and questions could be out of step and the VM is to be destroyed.
class VmmClient {
 public:
  enum class Peer { kNew, kUsedBefore };

  // kUsedBefore: another agent asked this VMM before; answers to its questions may still be on their way and are dropped.
  explicit VmmClient(Fd socket, Peer peer = Peer::kNew);

  // Of the same socket, for a spawner that is to keep it.
  [[nodiscard]] Result<Fd> duplicate_socket() const { return socket_.duplicate(); }

  Status create_shell(const Shape& shape);
  // `initramfs` may be -1.
  Status boot(int kernel, int initramfs, const std::string& command_line);
  Status restore(int state, int memory, bool resume, const std::array<uint8_t, 16>& vm_generation_id);
  Status park();
  Status unpark();
  // Both descriptors are empty memfds. Large templates need their time: the limit is the caller's.
  Result<control::SnapshotDone> snapshot(int state, int memory, std::chrono::milliseconds limit);
  Status attach_block(uint32_t slot, bool read_only, int file);
  Status detach_block(uint32_t slot);
  Status attach_net(uint32_t slot, int tap);
  Status attach_fs(int socket);
  Result<control::Stats> stats();
  Status terminate();

  // True: the guest wrote `value` to its doorbell port (now or before); false: not until `deadline`.
  Result<bool> wait_doorbell(machine::Doorbell value, SteadyTime deadline);

 private:
  static constexpr std::chrono::seconds kRequestLimit{30};

  template <class Body>
  Result<control::Message> ask(control::Type type, const Body& body, std::span<const int> fds = {},
                               std::chrono::milliseconds limit = kRequestLimit) {
    return ask_bytes(type, std::as_bytes(std::span(&body, 1)), fds, limit);
  }
  Result<control::Message> ask_bytes(control::Type type, std::span<const std::byte> body, std::span<const int> fds,
                                     std::chrono::milliseconds limit);
  template <class Body>
  Status ask_done(control::Type type, const Body& body, std::span<const int> fds = {}) {
    const control::Message answer = GRANARY_TRY(ask(type, body, fds));
    GRANARY_TRY(answer.template as_answer<control::Empty>(control::Type::kDone));
    return ok();
  }
  Result<control::Message> receive(SteadyTime deadline);
  // True: it was an event and is dealt with.
  Result<bool> take_event(const control::Message& message);

  std::mutex mutex_;
  Fd socket_;
  Peer peer_;
  uint32_t next_request_ = 1;
  std::deque<uint32_t> doorbells_;
  std::optional<control::EndedEvent> ended_;
};

}  // namespace granary::pool
