// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmpool/base/status_page.h"
#include "vmpool/pool/flight_record.h"
#include "vmpool/pool/guest_client.h"
#include "vmpool/pool/pool.h"
#include "vmpool/pool/spawner_client.h"
#include "vmpool/pool/vmm_client.h"

namespace granary::pool {

// What clones are made and ended with; outlives them.
struct CloneTools {
  SpawnerClient& spawner;
  const CloneGroups& groups;
  const CloneJournal& journal;
  uint32_t spawn_flags = 0;  // control::kSpawn…
};

// Of groups below an owner's.
inline std::string owners_prefix(const std::string& cgroup_parent) { return cgroup_parent + "/granary"; }

// One VM and everything that belongs to it: process, control socket, cgroups, per-clone socket, conversation with its
// guest. Its owner takes it through make_shell → restore → probe → park → hand_over, one thread at a time, and must
// call destroy(), also after a step that failed. ended(), console() and the constant facts may be used by any thread
// meanwhile.
class Clone {
 public:
  // Its group: `group_prefix` and "-", then its id; see owners_prefix().
  static Result<std::shared_ptr<Clone>> create(CloneTools tools, const std::string& group_prefix);
  // One that an earlier agent left running, with its groups as Pool::adopt() takes them. Errors of
  // SpawnerClient::adopt(); kInvalidArgument for an id that is no UUID.
  static Result<std::shared_ptr<Clone>> adopt(CloneTools tools, const CloneInfo& info, const std::string& group,
                                              const std::string& owners_group);

  // Spawns the VMM in a cgroup of its own and lets it create VM, memory, vCPUs and devices.
  Status make_shell(const Shape& shape);
  // Maps the template copy-on-write, with a fresh VM generation id, and resumes.
  Status restore(const Template& content);
  // Waits for the guest's answer; keeps the connection for hand_over().
  Status probe(std::chrono::milliseconds timeout);
  Status park();
  // Gives a parked clone its disks, taps and file server. After an error the clone must be destroyed: it may have some of them.
  Status attach(const Attachments& attachments);
  // Moves the VMM into a group of its own below its owner's; the residue. After an error the clone must be destroyed.
  Result<uint64_t> move_below(const std::string& cgroup_parent);
  // It stays where it is, and may use that much more.
  Status stay(uint64_t bytes) { return tools_.groups.reserve(group_, bytes); }
  // Unparks and applies the identity on the probe's connection, which is closed after it. Fail-closed: after an error
  // the clone must be destroyed.
  Result<AppliedIdentity> hand_over(const std::string& hostname, const guest::v1::Network* network,
                                    std::chrono::milliseconds timeout);
  // Attachments::unwire: from now on it is a part of destroy().
  void unwire_at_end(std::function<Status()> unwire) { unwire_ = std::move(unwire); }
  // Gives the VM to the spawner that came after the one which started it.
  Status entrust();
  // A disk of the clone that runs, in the first of `slots` that is free: the VMM knows, whichever agent attached what. EBUSY: none is.
  Result<uint32_t> attach_running(const Disk& disk, uint32_t slots);
  Status detach(uint32_t slot);
  void close_guest_connection() { guest_.reset(); }

  // Kills the VMM and its file server, waits until they are reaped, removes cgroup and socket, and proves that they are gone. The names of
  // what is not gone: empty when all is well. Idempotent.
  std::vector<std::string> destroy();

  [[nodiscard]] VmmClient& vmm() { return *vmm_; }
  [[nodiscard]] FlightRecorder& flight() { return flight_; }
  [[nodiscard]] bool ended() const;
  // The VMM's own word on how it ended, for people; the wait status is the spawner's to tell.
  [[nodiscard]] std::string end_reason() const;
  [[nodiscard]] EndState end_state() const;
  [[nodiscard]] std::string console(size_t limit_bytes = StatusPage::kConsoleBytes) const;
  // Memory of the VMM process with its share of what others map too (Pss); 0 when it cannot be read.
  [[nodiscard]] uint64_t memory_bytes() const;
  // What it has for itself: what it wrote of the template's memory, and all else that no other process maps.
  [[nodiscard]] uint64_t own_memory_bytes() const;
  // What the clone costs now: its cgroup's memory, else memory_bytes(); 0 when neither can be read. It is kept for
  // measured_bytes(), 0 before the first time.
  uint64_t measure();
  [[nodiscard]] uint64_t measured_bytes() const { return measured_bytes_; }
  // It was born in its owner's group: nothing of it is charged to the pool.
  [[nodiscard]] bool is_born_with_owner() const { return group_.starts_with('/'); }
  [[nodiscard]] bool has_moved() const { return has_owners_group_; }

  [[nodiscard]] const std::string& id() const { return id_; }
  [[nodiscard]] const Uuid& uuid() const { return uuid_; }
  [[nodiscard]] VmId vm() const { return vm_.vm; }
  [[nodiscard]] int32_t pid() const { return vm_.pid; }
  [[nodiscard]] const std::string& socket_path() const { return vm_.socket_path; }

 private:
  Clone(CloneTools tools, const Uuid& uuid, std::string group);
  Status kill_vm();
  Status kill_vmm();
  Status kill_without_spawner();
  Status share();
  Status await_end_of_shares(const Result<Fd>& connection) const;
  Status remove_group(const std::string& group);

  CloneTools tools_;
  Uuid uuid_;
  std::string id_;
  std::string group_;
  std::string owners_group_;
  std::atomic<uint64_t> measured_bytes_ = 0;
  bool is_journalled_ = false;
  bool has_group_ = false;
  std::atomic<bool> has_owners_group_ = false;
  bool has_vm_ = false;
  SpawnedVm vm_;
  int32_t fsd_pid_ = 0;  // of the file server that it was given by attach()
  std::optional<StatusFile> status_;
  std::optional<VmmClient> vmm_;
  std::optional<GuestClient> guest_;
  std::function<Status()> unwire_;  // Attachments::unwire, until it has succeeded
  FlightRecorder flight_;
};

}  // namespace granary::pool
