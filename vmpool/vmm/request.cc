// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/request.h"

#include <algorithm>
#include <span>

#include "vmpool/base/machine_layout.h"

namespace granary::vmm {
namespace {

using control::Message;
using control::Type;

constexpr uint8_t kMaxNetSlots = 2;
constexpr uint8_t kMaxBlockSlots = 8;

Error invalid(const std::string& what) { return {Errc::kInvalidArgument, what}; }

// A field that is a yes or no.
Status check_flag(uint32_t value, const char* name) {
  if (value <= 1) return ok();
  return invalid(std::string(name) + " is " + std::to_string(value) + "; give 0 or 1");
}

Status check_count(uint32_t value, uint32_t limit, const char* name) {
  if (value <= limit) return ok();
  return invalid(std::string(name) + " is " + std::to_string(value) + "; at most " + std::to_string(limit));
}

Result<Request> create_shell(Message& message) {
  const auto body = GRANARY_TRY(message.as<control::CreateShell>());
  if (body.vcpus < 1 || body.vcpus > machine::kMaxVcpus) {
    return Error(Errc::kVcpusOutOfRange,
                 std::to_string(body.vcpus) + " vCPUs; allowed: 1 to " + std::to_string(machine::kMaxVcpus));
  }
  const control::DeviceSet& devices = body.devices;
  GRANARY_TRY(check_count(devices.net_slots, kMaxNetSlots, "net_slots"));
  GRANARY_TRY(check_count(devices.block_slots, kMaxBlockSlots, "block_slots"));
  GRANARY_TRY(check_flag(devices.entropy, "entropy"));
  GRANARY_TRY(check_flag(devices.console, "console"));
  GRANARY_TRY(check_flag(devices.balloon, "balloon"));
  GRANARY_TRY(check_flag(devices.fs, "fs"));
  return Request(CreateShellRequest{body.memory_bytes, body.vcpus, devices});
}

Result<Request> boot(Message& message) {
  const bool with_initramfs = message.fds.size() == 2;
  const auto body = GRANARY_TRY(message.as<control::Boot>(with_initramfs ? 2 : 1));
  if (body.with_initramfs != (with_initramfs ? 1U : 0U)) {
    return Error(Errc::kProtocolMalformed, "boot request: with_initramfs does not match its descriptors");
  }
  if (body.command_line_bytes >= sizeof(body.command_line)) {
    return Error(Errc::kCommandLineTooLong, std::to_string(body.command_line_bytes) + " bytes; at most " +
                                                std::to_string(sizeof(body.command_line) - 1));
  }
  std::string command_line(body.command_line, body.command_line_bytes);
  if (command_line.find('\0') != std::string::npos) return invalid("kernel command line with a NUL in it");
  BootRequest request{std::move(message.fds[0]), {}, std::move(command_line)};
  if (with_initramfs) request.initramfs = std::move(message.fds[1]);
  return Request(std::move(request));
}

Result<Request> restore(Message& message) {
  const auto body = GRANARY_TRY(message.as<control::Restore>(2));
  GRANARY_TRY(check_flag(body.resume, "resume"));
  return Request(
      RestoreRequest{std::move(message.fds[0]), std::move(message.fds[1]), body.resume == 1, body.vm_generation_id});
}

Result<Request> snapshot(Message& message) {
  (void)GRANARY_TRY(message.as<control::Empty>(2));
  return Request(SnapshotRequest{std::move(message.fds[0]), std::move(message.fds[1])});
}

Result<Request> attach_block(Message& message) {
  const auto body = GRANARY_TRY(message.as<control::Attach>(1));
  GRANARY_TRY(check_flag(body.read_only, "read_only"));
  GRANARY_TRY(check_count(body.slot, kMaxBlockSlots - 1, "block slot"));
  return Request(AttachBlockRequest{std::move(message.fds[0]), body.slot, body.read_only == 1});
}

Result<Request> detach_block(Message& message) {
  const auto body = GRANARY_TRY(message.as<control::Slot>());
  GRANARY_TRY(check_count(body.slot, kMaxBlockSlots - 1, "block slot"));
  return Request(DetachBlockRequest{body.slot});
}

Result<Request> attach_net(Message& message) {
  const auto body = GRANARY_TRY(message.as<control::Attach>(1));
  GRANARY_TRY(check_count(body.slot, kMaxNetSlots - 1, "net slot"));
  return Request(AttachNetRequest{std::move(message.fds[0]), body.slot});
}

Result<Request> attach_fs(Message& message) {
  const auto body = GRANARY_TRY(message.as<control::Attach>(1));
  GRANARY_TRY(check_count(body.slot, 0, "fs slot"));
  return Request(AttachFsRequest{std::move(message.fds[0]), body.slot});
}

template <class Plain>
Result<Request> plain(Message& message) {
  (void)GRANARY_TRY(message.as<control::Empty>());
  return Request(Plain{});
}

constexpr uint32_t in(VmPhase phase) { return 1U << static_cast<uint32_t>(phase); }
constexpr uint32_t kExists = in(VmPhase::kShell) | in(VmPhase::kRunning) | in(VmPhase::kParked);
constexpr uint32_t kAlways = kExists | in(VmPhase::kEmpty);

struct Row {
  Type type;
  const char* name;
  uint32_t phases;
  Result<Request> (*check)(Message&);
};
constexpr Row kRows[] = {
    {Type::kCreateShell, "create-shell", in(VmPhase::kEmpty), create_shell},
    {Type::kBoot, "boot", in(VmPhase::kShell), boot},
    {Type::kRestore, "restore", in(VmPhase::kShell), restore},
    {Type::kPark, "park", in(VmPhase::kRunning), plain<ParkRequest>},
    {Type::kUnpark, "unpark", in(VmPhase::kParked), plain<UnparkRequest>},
    {Type::kSnapshot, "snapshot", in(VmPhase::kParked), snapshot},
    {Type::kAttachBlock, "attach-block", kExists, attach_block},
    {Type::kDetachBlock, "detach-block", kExists, detach_block},
    {Type::kAttachNet, "attach-net", kExists, attach_net},
    {Type::kAttachFs, "attach-fs", kExists, attach_fs},
    {Type::kGetStats, "get-stats", kAlways, plain<StatsRequest>},
    {Type::kTerminate, "terminate", kAlways, plain<TerminateRequest>},
};

Error wrong_phase(const Row& row, VmPhase phase) {
  std::string text = std::string(row.name) + " in phase " + to_string(phase) + "; allowed in:";
  for (const VmPhase other : {VmPhase::kEmpty, VmPhase::kShell, VmPhase::kRunning, VmPhase::kParked}) {
    if ((row.phases & in(other)) != 0) text += std::string(" ") + to_string(other);
  }
  return invalid(text);
}

}  // namespace

Result<Request> check_request(control::Message message, VmPhase phase) {
  const auto row =
      std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& r) { return r.type == message.type; });
  if (row == std::end(kRows)) {
    return Error(Errc::kProtocolMalformed,
                 "control message type " + std::to_string(static_cast<int>(message.type)) + " is no request to a VMM");
  }
  if ((row->phases & in(phase)) == 0) return wrong_phase(*row, phase);
  return row->check(message);
}

}  // namespace granary::vmm
