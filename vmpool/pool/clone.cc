// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/clone.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "vmpool/base/fault.h"
#include "vmpool/fs/export_client.h"
#include "vmpool/pool/process_use.h"
#include "vmpool/pool/unix_socket.h"

namespace granary::pool {
namespace {

// A cgroup can stay busy for a moment after its last process was reaped.
constexpr int kRemoveAttempts = 20;
constexpr std::chrono::milliseconds kRemovePause{5};
constexpr std::chrono::seconds kKillLimit{5};

bool path_exists(const std::string& path) {
  struct stat found {};
  return ::lstat(path.c_str(), &found) == 0 || errno != ENOENT;
}

}  // namespace

Result<std::shared_ptr<Clone>> Clone::create(CloneTools tools, const std::string& group_prefix) {
  const Uuid uuid = GRANARY_TRY(random_uuid());
  return std::shared_ptr<Clone>(new Clone(tools, uuid, group_prefix + "-" + to_text(uuid)));
}

Result<std::shared_ptr<Clone>> Clone::adopt(CloneTools tools, const CloneInfo& info, const std::string& group,
                                            const std::string& owners_group) {
  const Uuid uuid = GRANARY_TRY(parse_uuid(info.id));
  std::shared_ptr<Clone> clone(new Clone(tools, uuid, group));
  clone->owners_group_ = owners_group;
  clone->has_owners_group_ = !owners_group.empty();
  clone->measured_bytes_ = info.residue_bytes;
  clone->vm_ = GRANARY_TRY(tools.spawner.adopt(info.vm));
  clone->status_ = GRANARY_TRY(StatusFile::map(clone->vm_.status.get(), false));
  clone->vmm_.emplace(std::move(clone->vm_.control), VmmClient::Peer::kUsedBefore);
  clone->is_journalled_ = true;
  clone->has_group_ = true;
  clone->has_vm_ = true;
  clone->flight_.note("adopted", "pid " + std::to_string(clone->pid()));
  return clone;
}

Clone::Clone(CloneTools tools, const Uuid& uuid, std::string group)
    : tools_(tools), uuid_(uuid), id_(to_text(uuid)), group_(std::move(group)) {}

Status Clone::make_shell(const Shape& shape) {
  GRANARY_TRY(tools_.journal.creating(id_, group_));
  is_journalled_ = true;
  fault_point("clone.journalled");
  has_group_ = true;  // perhaps in part
  const Fd group = GRANARY_TRY(tools_.groups.create(group_));
  fault_point("clone.group-made");
  vm_ = GRANARY_TRY(tools_.spawner.spawn(group.get(), tools_.spawn_flags));
  has_vm_ = true;
  fault_point("clone.spawned");
  flight_.note("spawned", "pid " + std::to_string(vm_.pid));
  GRANARY_TRY(tools_.journal.spawned(id_, vm_.vm, vm_.pid, vm_.socket_path));
  vmm_.emplace(std::move(vm_.control), VmmClient::Peer::kNew);
  status_ = GRANARY_TRY(StatusFile::map(vm_.status.get(), false));
  if (!group.valid()) GRANARY_TRY(tools_.groups.add(group_, vm_.pid));
  GRANARY_TRY(vmm_->create_shell(shape));
  flight_.note("shell");
  return ok();
}

Status Clone::restore(const Template& content) {
  std::array<uint8_t, 16> generation_id;
  GRANARY_TRY(fill_random(generation_id));
  return vmm_->restore(content.state.get(), content.memory.get(), /*resume=*/true, generation_id);
}

Status Clone::probe(std::chrono::milliseconds timeout) {
  const SteadyTime deadline = SteadyClock::now() + timeout;
  guest_ = GRANARY_TRY(GuestClient::connect(vm_.socket_path, deadline));
  return guest_->probe(deadline);
}

Status Clone::park() { return vmm_->park(); }

Status Clone::attach(const Attachments& attachments) {
  for (uint32_t slot = 0; slot < attachments.disks.size(); ++slot) {
    const Disk& disk = attachments.disks[slot];
    GRANARY_TRY(vmm_->attach_block(slot, disk.read_only, disk.file.get()));
  }
  for (uint32_t slot = 0; slot < attachments.taps.size(); ++slot) {
    GRANARY_TRY(vmm_->attach_net(slot, attachments.taps[slot].get()));
  }
  if (attachments.shares) GRANARY_TRY(share());
  if (!attachments.disks.empty() || !attachments.taps.empty()) {
    flight_.note("attached", std::to_string(attachments.disks.size()) + " disks, " +
                                 std::to_string(attachments.taps.size()) + " taps");
  }
  return ok();
}

Status Clone::share() {
  const SpawnedFsd fsd = GRANARY_TRY(tools_.spawner.spawn_fsd(vm_.vm));
  fsd_pid_ = fsd.pid;
  fault_point("clone.fsd-spawned");
  GRANARY_TRY(tools_.groups.add(group_, fsd.pid));
  GRANARY_TRY(vmm_->attach_fs(fsd.fuse.get()));
  flight_.note("shares", "file server pid " + std::to_string(fsd.pid));
  return ok();
}

Result<uint32_t> Clone::attach_running(const Disk& disk, uint32_t slots) {
  for (uint32_t slot = 0; slot < slots; ++slot) {
    const Status attached = vmm_->attach_block(slot, disk.read_only, disk.file.get());
    if (attached) {
      flight_.note("attached", "disk " + std::to_string(slot) + " while it runs");
      return slot;
    }
    if (!attached.error().is_errno(EBUSY)) return attached.error();
  }
  return Error(Errc::kSlotsTaken, "all " + std::to_string(slots) + " disk slots of clone " + id_ +
                                      " are taken; raise `devices.block` of its pool");
}

Status Clone::detach(uint32_t slot) {
  GRANARY_TRY(vmm_->detach_block(slot));
  flight_.note("detached", "disk " + std::to_string(slot));
  return ok();
}

Result<uint64_t> Clone::move_below(const std::string& cgroup_parent) {
  owners_group_ = owners_prefix(cgroup_parent) + "-" + id_;
  measure();
  GRANARY_TRY(tools_.journal.moving(id_, owners_group_));
  has_owners_group_ = true;
  fault_point("move.journalled");
  (void)GRANARY_TRY(tools_.groups.create(owners_group_));
  GRANARY_TRY(tools_.groups.add(owners_group_, vm_.pid));
  if (fsd_pid_ != 0) GRANARY_TRY(tools_.groups.add(owners_group_, fsd_pid_));
  fault_point("move.done");
  flight_.note("moved", owners_group_);
  return measured_bytes_.load();
}

Result<AppliedIdentity> Clone::hand_over(const std::string& hostname, const guest::v1::Network* network,
                                         std::chrono::milliseconds timeout) {
  if (!guest_) return Error(Errc::kIdentityFailed, "clone " + id_ + " was never probed");
  const SteadyTime deadline = SteadyClock::now() + timeout;
  // Before the guest runs: it finds the request when it wakes up, and nobody waits for one after the other.
  GRANARY_TRY(guest_->send_identity(uuid_, hostname, network, deadline));
  GRANARY_TRY(vmm_->unpark());
  flight_.note("unparked");
  const AppliedIdentity applied = GRANARY_TRY(guest_->identity_applied(uuid_, deadline));
  guest_.reset();
  return applied;
}

Status Clone::entrust() {
  const Fd control = GRANARY_TRY(vmm_->duplicate_socket());
  return tools_.spawner.take(vm_, control.get());
}

std::vector<std::string> Clone::destroy() {
  std::vector<std::string> leaks;
  guest_.reset();
  if (has_vm_) {
    const Status killed = kill_vm();
    fault_point("reclaim.killed");
    if (!killed) leaks.push_back("process " + std::to_string(vm_.pid) + " (" + killed.error().message() + ")");
    if (path_exists(vm_.socket_path)) leaks.push_back("socket " + vm_.socket_path);
    // Reaped with its VMM, or the spawner would not have answered; its socket's name goes with it.
    const std::string exports = fs::export_socket_beside(vm_.socket_path);
    if (path_exists(exports)) leaks.push_back("file server at " + exports);
    has_vm_ = !killed;
  }
  // Not while a VMM has the taps: an open one keeps the whole network namespace.
  if (unwire_ && !has_vm_) {
    if (const Status unwired = unwire_(); unwired) {
      unwire_ = nullptr;
    } else {
      leaks.push_back("network (" + unwired.error().message() + ")");
    }
  }
  const auto remove = [&](const std::string& group) {
    const Status removed = remove_group(group);
    if (!removed) leaks.push_back("cgroup " + group + " (" + removed.error().message() + ")");
    return removed;
  };
  if (has_owners_group_) has_owners_group_ = !remove(owners_group_);
  if (has_group_) has_group_ = !remove(group_);
  fault_point("reclaim.done");
  if (is_journalled_ && leaks.empty()) {
    tools_.journal.gone(id_);
    is_journalled_ = false;
  }
  if (leaks.empty()) flight_.note("gone");
  for (const std::string& leak : leaks) flight_.fail("leaked: " + leak);
  return leaks;
}

Status Clone::kill_vm() {
  // Before its name goes: a spawner that took the VM over knows nothing of its file server.
  const Result<Fd> shares =
      connect_unix(fs::export_socket_beside(vm_.socket_path), SOCK_SEQPACKET, SteadyClock::now() + kKillLimit);
  GRANARY_TRY(kill_vmm());
  return await_end_of_shares(shares);
}

Status Clone::kill_vmm() {
  // A spawner that came after the one which started it takes its number for that of a VM that ended long ago.
  if (const Status killed = tools_.spawner.kill(vm_.vm); !killed || !ended()) return kill_without_spawner();
  (void)tools_.spawner.forget(vm_.vm);
  return ok();
}

// The spawner has gone, does not answer or does not know it: the pidfd still reaches the process, whoever reaps it.
Status Clone::kill_without_spawner() {
  if (!ended() && ::syscall(SYS_pidfd_send_signal, vm_.pidfd.get(), SIGKILL, nullptr, 0) != 0) {
    return Error::last_os_error("kill");
  }
  if (!GRANARY_TRY(wait_ready(vm_.pidfd.get(), POLLIN, SteadyClock::now() + kKillLimit))) {
    return Error(Errc::kDeadlineExceeded, "killed, but its pidfd says that it lives");
  }
  if (::unlink(vm_.socket_path.c_str()) != 0 && errno != ENOENT) return Error::last_os_error("remove its socket");
  return ok();
}

// A file server ends by itself once its VMM is gone, and every connection to it with it.
Status Clone::await_end_of_shares(const Result<Fd>& connection) const {
  const bool none = !connection && (connection.error().is_errno(ENOENT) || connection.error().is_errno(ECONNREFUSED));
  if (!connection && !none) return connection.error();
  if (connection && !GRANARY_TRY(wait_ready(connection->get(), POLLIN, SteadyClock::now() + kKillLimit))) {
    return Error(Errc::kDeadlineExceeded, "its file server lives although the VMM is gone");
  }
  const std::string path = fs::export_socket_beside(vm_.socket_path);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return Error::last_os_error("remove its file server's socket");
  return ok();
}

Status Clone::remove_group(const std::string& group) {
  for (int attempt = 1;; ++attempt) {
    const Status removed = tools_.groups.remove(group);
    if (removed || attempt == kRemoveAttempts) return removed;
    std::this_thread::sleep_for(kRemovePause);
  }
}

bool Clone::ended() const {
  pollfd p{.fd = vm_.pidfd.get(), .events = POLLIN, .revents = 0};
  return ::poll(&p, 1, 0) > 0;
}

EndState Clone::end_state() const {
  if (!status_) return EndState::kLost;
  const EndState state = status_->end_state();
  return state == EndState::kRunning && ended() ? EndState::kLost : state;
}

std::string Clone::end_reason() const {
  std::string text = to_string(end_state());
  if (!status_) return text;
  const std::string reason = control::text_of(status_->page().end_reason);
  return reason.empty() ? text : text + ": " + reason;
}

std::string Clone::console(size_t limit_bytes) const {
  return status_ ? status_->console_tail(limit_bytes) : std::string();
}

uint64_t Clone::measure() {
  if (is_born_with_owner()) return 0;
  const auto& of_group = tools_.groups.memory_bytes;
  const Result<uint64_t> charged = of_group ? of_group(group_) : Result<uint64_t>(0);
  const uint64_t bytes = charged && *charged > 0 ? *charged : memory_bytes();
  if (bytes > 0) measured_bytes_ = bytes;
  return bytes;
}

uint64_t Clone::memory_bytes() const { return rollup_bytes(vm_.pid, "Pss"); }

// smaps_rollup would cost milliseconds of a large clone; statm is counters.
uint64_t Clone::own_memory_bytes() const {
  const Result<std::string> statm = read_file("/proc/" + std::to_string(vm_.pid) + "/statm");
  unsigned long long resident = 0;
  unsigned long long shared = 0;
  if (!statm || std::sscanf(statm->c_str(), "%*u %llu %llu", &resident, &shared) != 2 || resident < shared) return 0;
  return (resident - shared) * kPageSize;
}

}  // namespace granary::pool
