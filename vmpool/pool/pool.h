// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmpool/base/control_protocol.h"
#include "vmpool/base/result.h"
#include "vmpool/base/units.h"
#include "vmpool/pool/observer.h"

namespace granary::guest::v1 {
class Network;
}

namespace granary::pool {

class SpawnerClient;
class TemplateStore;
class Clone;

using SteadyTime = std::chrono::steady_clock::time_point;

// vCPUs, memory and device slots of a template.
struct Shape {
  std::string name;
  uint32_t vcpus = 1;
  uint64_t memory_bytes = 256 * kMiB;
  control::DeviceSet devices{.net_slots = 2, .block_slots = 8, .entropy = 1, .console = 1, .balloon = 1, .fs = 1, .reserved = {}};

  bool operator==(const Shape&) const = default;
};

// What a template is made from. Paths are opened by the agent; the VMM only ever gets descriptors.
struct TemplateSource {
  std::string kernel_path;
  std::string initramfs_path;  // empty: none (tiny guests)
  std::string command_line;

  bool operator==(const TemplateSource&) const = default;
};

// Who may have clones of one template: any pool of the node whose inputs are the same, one pool, or one clone. kNone:
// template_max_clones is 1, and a template is neither stored nor left with the spawner.
enum class Sharing { kNode, kPool, kNone };

// To whom a clone's memory is charged.
enum class Charge {
  kResidue,  // what it touched before its hand-over to the pool, what it touches later to its owner
  kExact,    // all to its owner: it is restored for it, in its cgroup
};

// What may change while a pool runs: Pool::resize().
struct PoolLimits {
  uint32_t size = 4;                // warm clones to keep
  uint32_t min = 0;                 // of them, how many no budget takes away; at most `size`
  uint32_t max = 64;                // clones in any state; Acquire beyond it waits
  uint32_t refill_concurrency = 2;  // restores in flight
  Charge charge = Charge::kResidue;  // kExact: no warm clones and no shells, `size` is 0
  std::optional<uint64_t> memory_budget;  // bytes of what PoolUsage counts; for who calls allow()
  bool anti_spoofing = false;  // for who makes the taps of a pod's network: only its own addresses leave a clone
  bool adaptive = false;     // how many of `size` are kept is decided by who calls allow(), from what is asked for
  double hit_target = 0.99;  // then: the share of acquires that are to find a warm clone
  std::chrono::milliseconds boot_timeout{120'000};
  std::chrono::milliseconds probe_timeout{10'000};
  std::chrono::milliseconds identity_timeout{10'000};
  // When a template is replaced, in the background; running clones live on. Its age since it was built (0: any; idle
  // clones of an older one are replaced, too), and the clones that this pool made of it since the agent started (0: any
  // number; beyond it none is made until the new template is ready).
  std::chrono::milliseconds template_max_age{0};
  uint32_t template_max_clones = 0;

  bool operator==(const PoolLimits&) const = default;
};

struct PoolSettings : PoolLimits {
  std::string name;
  Shape shape;
  TemplateSource source;
  Sharing sharing = Sharing::kNode;
  bool core_scheduling = false;  // each VMM has a cookie of its own (control::kSpawnCoreScheduling)
};

// What makes one clone different (design.md: identity). Empty fields are chosen by the pool.
struct IdentityRequest {
  std::string hostname;  // default: "granary-" + first 8 hex digits of the UUID
};

// Host resources that a clone gets with its hand-over, as descriptors. The guest sees the n-th disk as its n-th virtio-blk
// device (/dev/vda, /dev/vdb …) and the n-th tap as its n-th network card.
struct Disk {
  Fd file;  // regular file or block device of whole sectors of 512 bytes; open for reading and writing unless read_only
  bool read_only = false;
};
struct Attachments {
  std::vector<Disk> disks = {};  // at most the shape's block_slots
  std::vector<Fd> taps = {};     // at most the shape's net_slots; see virtio::Net::attach for what a tap must be
  // The guest gets a file server (granary-fsd), without any export yet: see fs/export_client.h. Needs the shape's fs device.
  bool shares = false;
  // A cgroup of the owner's, as CloneGroups takes it ("/kubepods/pod1234"): before the guest runs again the VMM moves into a
  // group of its own below it. Empty: it stays where it is.
  std::string cgroup_parent = {};
  // What the guest configures its cards with before its identity is acknowledged; none: they stay down.
  std::shared_ptr<const guest::v1::Network> network = {};
  // Takes away what the taps are a part of: called when a clone that was handed over is reclaimed, after its VMM is gone, until it
  // succeeds; its failure is a leak. After an acquire that failed it is the caller's to call.
  std::function<Status()> unwire = {};
};

// Facts about an acquired clone.
struct CloneInfo {
  std::string id;           // clone UUID, lower-case text form
  VmId vm;
  std::string pool;
  std::string template_key;
  int32_t vmm_pid = 0;
  std::string socket_path;  // per-clone unix socket: "CONNECT <port>\n" reaches the guest
  std::string boot_id;      // the guest kernel's, read after identity; empty for tiny guests
  std::string hostname;
  std::chrono::nanoseconds handover{};  // acquire called -> identity acknowledged
  bool warm = true;                     // false: was restored on demand
  uint64_t residue_bytes = 0;           // charged to the pool when the VMM moved to its owner's cgroup, and for good

  bool operator==(const CloneInfo&) const = default;
};

// What a pool's memory is used for. Measured once per clone, when it is parked: from its cgroup, kernel memory included, else as
// Pss, and again when it moves to its owner's cgroup. A held clone counts with what it had then, because that stays charged to the
// pool; what it touches later is its owner's. One that was restored in its owner's cgroup counts nothing.
struct PoolUsage {
  uint32_t idle = 0;         // clones that are warm, or on their way there
  uint32_t held = 0;         // other clones: handed over, or being reclaimed
  uint64_t clone_bytes = 0;  // the mean of those measured; before the first: as much as the template holds, and 4 MiB
  uint64_t other_bytes = 0;  // template, shells, clones that are handed over
  uint64_t going_bytes = 0;  // clones that are being reclaimed
  uint64_t residue_bytes = 0;  // part of other_bytes: of clones that live in their owners' cgroups
  uint64_t hits = 0;           // acquires so far that found a warm clone
  uint64_t misses = 0;         // and those that did not
  std::chrono::nanoseconds oldest_refill{};  // how long ago the oldest refill under way was begun
};

// What a pool may keep, besides its settings. An acquire that finds no warm clone is served all the same.
struct PoolAllowance {
  uint32_t idle = UINT32_MAX;    // 0: no shells either
  uint32_t clones = UINT32_MAX;  // in any state; one more is not made
  std::string reason = {};       // for PoolStatus
  uint32_t wanted = UINT32_MAX;  // what the policy of an adaptive pool wants
  std::string why = {};          // it does; for PoolStatus
};

// For Status and List. `state`: restoring, probing, warm, acquiring, running, reclaiming.
struct CloneStatus {
  CloneInfo info;
  std::string state;
  uint64_t memory_bytes = 0;  // of the VMM process, with its share of the template (Pss from smaps_rollup)
};

struct PoolStatus {
  std::string name;
  Shape shape;
  std::string template_key;    // empty until one is ready
  std::string template_state;  // "building: 40% kernel booting", "ready", "failed: …"
  uint32_t size = 0;    // as configured
  uint32_t min = 0;
  uint32_t target = 0;  // at most `size`
  std::string bound;    // PoolAllowance::reason
  bool adaptive = false;
  uint32_t wanted = 0;  // by the policy: `size`, unless it is adaptive
  std::string why;      // PoolAllowance::why
  PoolUsage usage;
  uint32_t warm = 0;
  uint32_t restoring = 0;
  uint32_t running = 0;
  uint32_t reclaiming = 0;
  uint64_t hits = 0;       // acquires served by a warm clone at once
  uint64_t waited = 0;     // acquires that waited for a refill
  uint64_t failed = 0;
  uint64_t reclaimed = 0;
  uint64_t leaks = 0;      // resources that could not be proven gone; right value: 0
  std::string last_error;
};

// Memory of the host that a pool takes, by what it is taken for.
struct PoolMemory {
  uint64_t template_bytes = 0;  // shared by its clones
  uint64_t idle_bytes = 0;      // of VMMs that nobody holds, the template aside
  uint64_t running_bytes = 0;   // of held clones, the template aside
};

// Something worth telling: template built, clone ready, handed over, reclaimed, pool empty, failure.
struct Event {
  std::chrono::system_clock::time_point when;
  std::string kind;  // "template-building", "template-ready", "template-failed", "clone-ready", "handed-over", "reclaimed", "reclaim-failed", "pool-empty", "clone-failed", "adopted"; the agent's: "config-applied", "config-refused", "pool-resized", "pool-retired", "pool-gone", "pressure", "shed", "pool-wants"
  std::string pool;
  std::string clone_id;
  std::string text;
};

// Per-clone cgroups, made by the agent (agent/cgroup.h). A name is one in the pool's part, or, from its '/', a path below an owner's
// group, which must be there. `create` gives an open directory of a cgroup v2 group, or an invalid Fd where the VMM cannot be born in
// it (cgroup v1): then `add` is called with its pid. `add` moves what runs, too. `remove` is idempotent.
struct CloneGroups {
  std::function<Result<Fd>(const std::string& name)> create;
  std::function<Status(const std::string& name, int32_t pid)> add;
  std::function<Status(const std::string& name)> remove;
  std::function<Result<uint64_t>(const std::string& name)> memory_bytes = {};  // none: Pss is used
  // Before a clone is handed over that stays in its group: it may grow by so much from now on.
  std::function<Status(const std::string& name, uint64_t bytes)> reserve = [](const std::string&, uint64_t) { return ok(); };
};

// Told of what a clone is about to have, before it has it; the agent keeps it for its successor. A failure of all but
// the last fails what was to be done.
struct CloneJournal {
  std::function<Status(const std::string& clone_id, const std::string& group)> creating =
      [](const std::string&, const std::string&) { return ok(); };
  std::function<Status(const std::string& clone_id, VmId vm, int32_t pid, const std::string& socket_path)> spawned =
      [](const std::string&, VmId, int32_t, const std::string&) { return ok(); };
  // A second group, its owner's, where the VMM moves.
  std::function<Status(const std::string& clone_id, const std::string& group)> moving =
      [](const std::string&, const std::string&) { return ok(); };
  // Its reclaim is proven.
  std::function<void(const std::string& clone_id)> gone = [](const std::string&) {};
};

struct PoolResources {
  SpawnerClient& spawner;
  TemplateStore& templates;
  // Of what the spawner that is there now starts; part of the template key. Any thread.
  std::function<std::string()> vmm_build_id;
  std::string host_fingerprint;  // kvm::to_text(HostFingerprint), "name=value\n" lines: part of the template key too
  CloneGroups groups;
  CloneJournal journal = {};
  std::function<void(const Event&)> on_event;  // any thread; must not call back into the pool
  PoolObserver observer = {};
};

// Keeps `size` warm clones of one template. Threads: public methods from any thread; own refill and reclaim threads.
//
// Failure: a clone that fails at any step is reclaimed and replaced; repeated failures back off (up to 10 s) and show in
// PoolStatus::last_error. A template that cannot be loaded (missing, damaged, other key) is rebuilt with the reason logged.
class Pool {
 public:
  // Checks the settings (kMemoryOutOfRange, kVcpusOutOfRange, kKernelMissing, kInitramfsMissing …) and starts the threads:
  // load or build the template, then fill.
  static Result<std::unique_ptr<Pool>> start(PoolSettings settings, PoolResources resources);
  // Reclaims everything that is left, then returns.
  ~Pool();

  // Hands over a running clone with its identity acknowledged (fail-closed: a clone whose identity fails is destroyed and
  // another is used). Waits for a refill until `deadline`, then kPoolEmpty with the pool's state as text.
  // kShuttingDown once drain() was called.
  // The clone gets duplicates of `attachments` while it is still parked. kInvalidArgument when there are more than the shape
  // has slots, and the VMM's own error when it refuses one (a file of the wrong kind, a tap without IFF_VNET_HDR …): that
  // clone is reclaimed and no other is tried; so it is when it cannot move to the owner's cgroup, or the guest refuses the
  // network (kInvalidArgument, with what its kernel said). A clone that fails with attachments is gone before another one gets
  // them.
  Result<CloneInfo> acquire(const IdentityRequest& identity, SteadyTime deadline, const Attachments& attachments = {});

  // Ends the clone and proves that nothing is left: process reaped, cgroup removed, socket gone. True: was there; false:
  // was released before (idempotent). kCloneUnknown for an id this pool never had is for the caller to decide on false.
  Result<bool> release(const std::string& clone_id);

  // Gives a running clone one more disk, which gets a duplicate of the descriptor, and tells which of the guest's it is; takes one
  // back that the guest has unmounted. kCloneUnknown: no running clone of this pool. EBUSY: no slot is free, or the guest still
  // uses it. What the VMM refuses: kInvalidArgument.
  Result<uint32_t> attach(const std::string& clone_id, const Disk& disk);
  Status detach(const std::string& clone_id, uint32_t disk);

  // Takes up a running clone of an earlier agent through the spawner. `group`: the name of its cgroup, `owners_group` of the second
  // one, if it has moved. kCloneGone (with how it
  // ended) and kCloneUnknown when the spawner has it no longer: then nothing but its cgroup can be left.
  Status adopt(CloneInfo info, const std::string& group, const std::string& owners_group = "",
               std::function<Status()> unwire = {});

  [[nodiscard]] PoolSettings settings() const;
  [[nodiscard]] PoolStatus status() const;
  [[nodiscard]] std::vector<CloneStatus> clones() const;
  // Takes some µs per clone.
  [[nodiscard]] PoolMemory memory() const;
  // What the clones that exist now have come through.
  [[nodiscard]] std::vector<FlightRecord> flights() const;
  // The console's newest bytes; kCloneUnknown.
  [[nodiscard]] Result<std::string> console(const std::string& clone_id) const;
  // How a running clone ended, as soon as it did (guest panic, VMM killed …): called from the pool's thread once.
  void on_clone_ended(std::function<void(const std::string& clone_id, EndState, const std::string& reason)> callback);

  // Sets new limits; clones that are held, or on their way in, are not touched. Growing fills, shrinking reclaims idle clones.
  // kInvalidArgument, as start(): nothing has changed then.
  Status resize(const PoolLimits& limits);

  [[nodiscard]] PoolUsage usage() const;
  // Reclaims the idle clones beyond it; returns how many.
  uint32_t allow(const PoolAllowance& allowance);

  // Builds the template anew and switches to it: later refills use it, idle clones of the old one are reclaimed, running ones
  // live on. `progress` gets one line of text per step. Blocks until it is ready.
  Status rebuild_template(const std::function<void(const std::string&)>& progress);

  // No more acquires or refills; idle clones are reclaimed; running ones too when `and_running`.
  void drain(bool and_running);
  // The spawner client has reconnected, to a spawner that knows no VM: running clones are given to it, idle ones made anew.
  void spawner_replaced();
  // For an agent that ends and will come back: drains, then forgets the running clones without ending them. The spawner keeps
  // them for adopt().
  void leave_running();

 private:
  class Impl;
  explicit Pool(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace granary::pool
