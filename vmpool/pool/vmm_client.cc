// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/vmm_client.h"

#include <algorithm>
#include <random>

#include "vmpool/pool/pool.h"

namespace granary::pool {
namespace {

using control::Type;

// A guest can ring without end: the newest ones are kept.
constexpr size_t kMaxDoorbells = 64;

}  // namespace

VmmClient::VmmClient(Fd socket, Peer peer) : socket_(std::move(socket)), peer_(peer) {
  // Far from the numbers that the one before used, which all started at 1 or at another random place.
  if (peer == Peer::kUsedBefore) next_request_ = std::random_device{}() | 1;
}

Status VmmClient::create_shell(const Shape& shape) {
  return ask_done(
      Type::kCreateShell,
      control::CreateShell{
          .memory_bytes = shape.memory_bytes, .vcpus = shape.vcpus, .reserved = 0, .devices = shape.devices});
}

Status VmmClient::boot(int kernel, int initramfs, const std::string& command_line) {
  control::Boot body{};
  if (command_line.size() >= sizeof(body.command_line)) {
    return Error(Errc::kCommandLineTooLong, "kernel command line of " + std::to_string(command_line.size()) +
                                                " bytes; allowed: " + std::to_string(sizeof(body.command_line) - 1));
  }
  body.with_initramfs = initramfs >= 0 ? 1 : 0;
  body.command_line_bytes = static_cast<uint32_t>(command_line.size());
  control::set_text(body.command_line, command_line);
  const int fds[] = {kernel, initramfs};
  return ask_done(Type::kBoot, body, std::span(fds, initramfs >= 0 ? 2 : 1));
}

Status VmmClient::restore(int state, int memory, bool resume, const std::array<uint8_t, 16>& vm_generation_id) {
  const int fds[] = {state, memory};
  return ask_done(Type::kRestore,
                  control::Restore{.resume = resume ? 1U : 0U, .reserved = 0, .vm_generation_id = vm_generation_id},
                  fds);
}

Status VmmClient::park() { return ask_done(Type::kPark, control::Empty{}); }
Status VmmClient::unpark() { return ask_done(Type::kUnpark, control::Empty{}); }
Status VmmClient::terminate() { return ask_done(Type::kTerminate, control::Empty{}); }

Result<control::SnapshotDone> VmmClient::snapshot(int state, int memory, std::chrono::milliseconds limit) {
  const int fds[] = {state, memory};
  const control::Message answer = GRANARY_TRY(ask(Type::kSnapshot, control::Empty{}, fds, limit));
  return answer.as_answer<control::SnapshotDone>(Type::kSnapshot);
}

Status VmmClient::attach_block(uint32_t slot, bool read_only, int file) {
  const control::Attach body{.slot = slot, .read_only = read_only ? 1U : 0U};
  return ask_done(Type::kAttachBlock, body, std::span(&file, 1));
}

Status VmmClient::attach_fs(int socket) {
  return ask_done(Type::kAttachFs, control::Attach{.slot = 0, .read_only = 0}, std::span(&socket, 1));
}

Status VmmClient::detach_block(uint32_t slot) { return ask_done(Type::kDetachBlock, control::Slot{.slot = slot}); }

Status VmmClient::attach_net(uint32_t slot, int tap) {
  return ask_done(Type::kAttachNet, control::Attach{.slot = slot, .read_only = 0}, std::span(&tap, 1));
}

Result<control::Stats> VmmClient::stats() {
  const control::Message answer = GRANARY_TRY(ask(Type::kGetStats, control::Empty{}));
  return answer.as_answer<control::Stats>(Type::kGetStats);
}

Result<control::Message> VmmClient::ask_bytes(Type type, std::span<const std::byte> body, std::span<const int> fds,
                                              std::chrono::milliseconds limit) {
  const std::lock_guard lock(mutex_);
  const SteadyTime deadline = SteadyClock::now() + limit;
  const uint32_t request = next_request_++;
  if (next_request_ == 0) next_request_ = 1;
  const Status sent = control::send_bytes(socket_.get(), type, request, body, fds);
  // What it said before it went tells more than the broken pipe does.
  if (!sent && !sent.error().is(Errc::kPeerGone)) return Error(sent.error());
  for (;;) {
    control::Message answer = GRANARY_TRY(receive(deadline));
    if (GRANARY_TRY(take_event(answer))) {
      // A VMM that only sends events must not hold its caller for ever.
      if (SteadyClock::now() < deadline) continue;
      return Error(Errc::kDeadlineExceeded, "the VMM sent events instead of its answer");
    }
    if (answer.request == request) return answer;
    if (answer.request == 0 && answer.type == Type::kError) return answer;
    if (peer_ == Peer::kUsedBefore) continue;
    return Error(Errc::kProtocolMalformed, "the VMM answered request " + std::to_string(answer.request) +
                                               ", asked was " + std::to_string(request));
  }
}

Result<control::Message> VmmClient::receive(SteadyTime deadline) {
  Result<control::Message> message = control::receive(socket_.get(), poll_timeout_ms(deadline));
  if (message) return message;
  const Error& error = message.error();
  if (error.is(Errc::kDeadlineExceeded)) return Error(Errc::kDeadlineExceeded, "the VMM did not answer");
  if (!error.is(Errc::kPeerGone)) return message;
  const EndState state = ended_ ? static_cast<EndState>(ended_->end_state) : EndState::kLost;
  return Error(Errc::kVmmFailed, std::string("end state ") + to_string(state) +
                                     (ended_ ? ", detail " + std::to_string(ended_->detail) : ""));
}

Result<bool> VmmClient::take_event(const control::Message& message) {
  if (message.type == Type::kDoorbell) {
    const auto event = GRANARY_TRY(message.as<control::DoorbellEvent>());
    doorbells_.push_back(event.value);
    if (doorbells_.size() > kMaxDoorbells) doorbells_.pop_front();
    return true;
  }
  if (message.type == Type::kEnded) {
    ended_ = GRANARY_TRY(message.as<control::EndedEvent>());
    return true;
  }
  return false;
}

Result<bool> VmmClient::wait_doorbell(machine::Doorbell value, SteadyTime deadline) {
  const std::lock_guard lock(mutex_);
  for (;;) {
    if (std::erase(doorbells_, static_cast<uint32_t>(value)) > 0) return true;
    const Result<control::Message> message = receive(deadline);
    if (!message && message.error().is(Errc::kDeadlineExceeded)) return false;
    if (!message) return message.error();
    if (!GRANARY_TRY(take_event(*message))) {
      return Error(Errc::kProtocolMalformed, "the VMM sent an answer that nobody asked for");
    }
    if (SteadyClock::now() >= deadline) return std::erase(doorbells_, static_cast<uint32_t>(value)) > 0;
  }
}

}  // namespace granary::pool
