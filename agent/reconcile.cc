// SPDX-License-Identifier: Apache-2.0
#include "agent/reconcile.h"

#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <map>
#include <set>

#include "vmpool/pool/unix_socket.h"

namespace granary::agent {
namespace {

using Records = std::map<VmId, control::VmRecord>;

bool wanted(const JournalClone& clone) { return clone.lease && !clone.lease->bound_to_call && clone.ended.empty(); }

// The number alone would not do: a spawner that was replaced may have given it to another VM.
const control::VmRecord* record_of(const Records& records, const JournalClone& clone) {
  const auto at = records.find(clone.vm);
  return at != records.end() && at->second.pid == clone.pid ? &at->second : nullptr;
}

std::string how_it_ended(const control::VmRecord* record) {
  if (record == nullptr) return "ended: lost, its spawner went while no agent ran (137)";
  std::string text = std::string("ended: ") + to_string(static_cast<EndState>(record->end_state));
  if (WIFSIGNALED(record->wait_status)) text += ", killed by signal " + std::to_string(WTERMSIG(record->wait_status));
  return text + ", while no agent ran";
}

constexpr std::chrono::seconds kKillLimit{10};

// Its name and, where there are cgroups, its group: the number may be another process's by now.
bool is_vmm_of(const JournalClone& clone, bool has_groups) {
  const std::string proc = "/proc/" + std::to_string(clone.pid);
  const Result<std::string> name = read_file(proc + "/cmdline");
  if (!name || name->c_str() != "granary-vmm vm=" + std::to_string(clone.vm.value)) return false;
  const Result<std::string> group = read_file(proc + "/cgroup");
  return !has_groups || (group && group->find(clone.id) != std::string::npos);
}

// A VMM ends with its spawner when no agent is there, unless it was stopped or its thread is stuck. True: there was
// one.
Result<bool> end_unwatched_vmm(const JournalClone& clone, bool has_groups) {
  if (clone.pid <= 0) return false;
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, clone.pid, 0)));
  if (!process.valid() || !is_vmm_of(clone, has_groups)) return false;
  if (::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0) != 0 && errno != ESRCH) {
    return Error::last_os_error("kill VMM " + std::to_string(clone.pid));
  }
  if (!GRANARY_TRY(pool::wait_ready(process.get(), POLLIN, std::chrono::steady_clock::now() + kKillLimit))) {
    return Error(Errc::kDeadlineExceeded, "VMM " + std::to_string(clone.pid) + " was killed and lives on");
  }
  if (::unlink(clone.socket_path.c_str()) != 0 && errno != ENOENT) {
    return Error::last_os_error("remove " + clone.socket_path);
  }
  return true;
}

class Reconciler {
 public:
  Reconciler(Journal& journal, pool::SpawnerClient& spawner, Cgroups* groups, Networks& networks)
      : journal_(journal), spawner_(spawner), groups_(groups), networks_(networks) {}

  Result<Reconciled> run() {
    for (const control::VmRecord& record : GRANARY_TRY(spawner_.list())) records_[VmId{record.vm_id}] = record;
    const Journal::Clones clones = journal_.clones();
    for (const auto& [id, clone] : clones) sort_out(clone);
    for (const auto& [vm, record] : records_) end_vm(vm, record);
    for (const auto& [id, clone] : clones) end_unwatched(clone);
    if (groups_ != nullptr) result_.groups_removed = groups_->remove_leftovers(kept_groups_);
    for (const auto& [id, clone] : clones) settle(clone);
    // The VMMs that had their taps are gone.
    for (std::string& leak : networks_.unwire_others(kept_namespaces_)) result_.leaks.push_back(std::move(leak));
    return std::move(result_);
  }

 private:
  void sort_out(const JournalClone& clone) {
    const control::VmRecord* record = record_of(records_, clone);
    if (wanted(clone) && record != nullptr && record->alive != 0) {
      kept_vms_.insert(clone.vm);
      kept_groups_.insert(clone.group);
      kept_namespaces_.insert(clone.lease->netns);
      if (!clone.owners_group.empty()) kept_groups_.insert(clone.owners_group);
      result_.adopt.push_back(clone);
    } else if (wanted(clone)) {
      result_.ended.push_back({clone, how_it_ended(record)});
    }
  }

  void end_vm(VmId vm, const control::VmRecord& record) {
    if (kept_vms_.contains(vm)) return;
    if (record.alive != 0) {
      if (const Status killed = spawner_.kill(vm); !killed) {
        result_.leaks.push_back("process " + std::to_string(record.pid) + " (" + killed.error().message() + ")");
        unended_.insert(vm);
        return;
      }
      ++result_.orphans_ended;
    }
    (void)spawner_.forget(vm);  // a spawner may forget by itself what was killed on demand
  }

  void end_unwatched(const JournalClone& clone) {
    if (record_of(records_, clone) != nullptr) return;
    const Result<bool> ended = end_unwatched_vmm(clone, groups_ != nullptr);
    if (!ended) {
      result_.leaks.push_back("clone " + clone.id + ": " + ended.error().message());
      unended_.insert(clone.vm);
    }
    if (ended && *ended) ++result_.orphans_ended;
  }

  // Out of the journal once nothing is left of it.
  void settle(const JournalClone& clone) {
    if (unended_.contains(clone.vm)) {
      if (clone.lease) kept_namespaces_.insert(clone.lease->netns);  // it has the taps
      return;
    }
    if (kept_groups_.contains(clone.group)) return;
    const bool moved = !clone.owners_group.empty();
    if ((!moved || remove_group(clone.owners_group)) && remove_group(clone.group)) (void)journal_.gone(clone.id);
  }

  bool remove_group(const std::string& group) {
    if (groups_ == nullptr) return true;
    const auto removed = groups_->remove(group);
    if (!removed) result_.leaks.push_back("cgroup " + group + " (" + removed.error().message() + ")");
    return bool(removed);
  }

  Journal& journal_;
  pool::SpawnerClient& spawner_;
  Cgroups* groups_;
  Networks& networks_;
  Records records_;
  std::set<VmId> kept_vms_;
  std::set<VmId> unended_;  // unwanted, and they live on: they stay in the journal, so the next agent tries again
  std::set<std::string> kept_groups_;
  std::set<std::string> kept_namespaces_;
  Reconciled result_;
};

}  // namespace

Result<Reconciled> reconcile(Journal& journal, pool::SpawnerClient& spawner, Cgroups* groups, Networks& networks) {
  return Reconciler(journal, spawner, groups, networks).run();
}

}  // namespace granary::agent
