// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/snapshot_io.h"

#include <cstring>
#include <string>

#include "vmpool/snapshot/memory_file.h"

namespace granary::vmm {
namespace {

Error differs(const char* what, uint64_t snapshot, uint64_t shell) {
  return {Errc::kSnapshotRestoreFailed, std::string(what) + ": snapshot has " + std::to_string(snapshot) +
                                            ", the shell " + std::to_string(shell) +
                                            "; make a shell of the template's shape"};
}

Status check_shape(const snapshot::Shape& snapshot, const snapshot::Shape& shell) {
  if (snapshot.memory_bytes != shell.memory_bytes) {
    return differs("guest memory in bytes", snapshot.memory_bytes, shell.memory_bytes);
  }
  if (snapshot.vcpus != shell.vcpus) return differs("number of vCPUs", snapshot.vcpus, shell.vcpus);
  const control::DeviceSet& a = snapshot.devices;
  const control::DeviceSet& b = shell.devices;
  if (a.net_slots != b.net_slots) return differs("number of net slots", a.net_slots, b.net_slots);
  if (a.block_slots != b.block_slots) return differs("number of block slots", a.block_slots, b.block_slots);
  if (a.entropy != b.entropy) return differs("number of entropy devices", a.entropy, b.entropy);
  if (a.console != b.console) return differs("number of consoles", a.console, b.console);
  if (a.balloon != b.balloon) return differs("number of balloons", a.balloon, b.balloon);
  if (a.fs != b.fs) return differs("number of fs devices", a.fs, b.fs);
  return ok();
}

}  // namespace

Result<control::SnapshotDone> write_snapshot(snapshot::Snapshot state, const GuestMemory& memory, int state_fd,
                                             int memory_fd) {
  if (const uint64_t size = GRANARY_TRY(file_size(state_fd)); size != 0) {
    return Error(Errc::kInvalidArgument,
                 "state file of a snapshot holds " + std::to_string(size) + " bytes already; give an empty memfd");
  }
  const std::span<const std::byte> bytes = memory.mapping().bytes();
  state.extents = snapshot::coalesce(snapshot::close_small_gaps(snapshot::populated_extents(bytes)));
  GRANARY_TRY(snapshot::write_memory_file(memory_fd, bytes, state.extents));
  const std::vector<std::byte> file = snapshot::encode(state);
  GRANARY_TRY(pwrite_all(state_fd, file, 0));
  control::SnapshotDone done{};
  done.state_bytes = file.size();
  done.memory_bytes = bytes.size();
  done.populated_bytes = snapshot::total_bytes(state.extents);
  done.extents = static_cast<uint32_t>(state.extents.size());
  return done;
}

Result<snapshot::Snapshot> read_snapshot(int state_fd, int memory_fd, const snapshot::Shape& shell) {
  // Sealed: nobody changes them between the checks and their use, or cuts memory that a guest is running on.
  GRANARY_TRY(snapshot::check_seals(state_fd, "state file"));
  GRANARY_TRY(snapshot::check_seals(memory_fd, "memory file"));
  const uint64_t size = GRANARY_TRY(file_size(state_fd));
  if (size > snapshot::kMaxStateBytes) {
    return Error(Errc::kSnapshotCorrupt, "snapshot state of " + std::to_string(size) + " bytes, at most " +
                                             std::to_string(snapshot::kMaxStateBytes) + "; rebuild the template");
  }
  std::vector<std::byte> file(size);
  GRANARY_TRY(pread_all(state_fd, file, 0));
  snapshot::Snapshot state = GRANARY_TRY(snapshot::decode(file));
  GRANARY_TRY(check_shape(state.shape, shell));
  const size_t slots = 1U + shell.devices.entropy + shell.devices.console + shell.devices.balloon +
                       shell.devices.net_slots + shell.devices.block_slots + shell.devices.fs;
  if (state.transports.size() != slots) return differs("number of virtio devices", state.transports.size(), slots);
  GRANARY_TRY(snapshot::check_sealed_file(memory_fd, state.shape.memory_bytes, "memory file"));
  return state;
}

}  // namespace granary::vmm
