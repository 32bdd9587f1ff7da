// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <variant>

#include "vmpool/base/control_protocol.h"

namespace granary::vmm {

// The requests of the control protocol to a VMM, checked: what is in here needs no second look at the message.
struct CreateShellRequest {
  uint64_t memory_bytes = 0;
  uint32_t vcpus = 0;
  control::DeviceSet devices{};
};
struct BootRequest {
  Fd kernel;
  std::optional<Fd> initramfs;
  std::string command_line;
};
struct RestoreRequest {
  Fd state;
  Fd memory;
  bool resume = false;
  std::array<uint8_t, 16> vm_generation_id{};
};
struct ParkRequest {};
struct UnparkRequest {};
struct SnapshotRequest {
  Fd state;
  Fd memory;
};
struct AttachBlockRequest {
  Fd file;
  uint32_t slot = 0;
  bool read_only = false;
};
struct DetachBlockRequest {
  uint32_t slot = 0;
};
struct AttachNetRequest {
  Fd tap;
  uint32_t slot = 0;
};
struct AttachFsRequest {
  Fd socket;
  uint32_t slot = 0;
};
struct StatsRequest {};
struct TerminateRequest {};

using Request = std::variant<CreateShellRequest, BootRequest, RestoreRequest, ParkRequest, UnparkRequest,
                             SnapshotRequest, AttachBlockRequest, DetachBlockRequest, AttachNetRequest, AttachFsRequest,
                             StatsRequest, TerminateRequest>;

// Checks type, phase, body and descriptors of a message from the peer, in that order. Errors: kProtocolMalformed for a
// type that is no request to a VMM, a body of wrong size or a wrong number of descriptors; kInvalidArgument for a
// request that does not fit `phase` (the message names both) or a field out of its bounds; kVcpusOutOfRange,
// kCommandLineTooLong.
Result<Request> check_request(control::Message message, VmPhase phase);

}  // namespace granary::vmm
