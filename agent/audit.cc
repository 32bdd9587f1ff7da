// SPDX-License-Identifier: Apache-2.0
#include "agent/audit.h"

#include <algorithm>
#include <map>

#include "vmpool/fs/export_client.h"

namespace granary::agent {
namespace {

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

class Comparison {
 public:
  explicit Comparison(const AuditSample& sample) : sample_(sample) {
    for (const control::VmRecord& vm : sample.vms) {
      if (vm.alive != 0) alive_[VmId{vm.vm_id}] = vm.pid;
    }
  }

  std::vector<std::string> run() {
    for (const auto& [id, clone] : sample_.journal) journalled(clone);
    strangers();
    agents_view();
    return std::move(found_);
  }

 private:
  void report(std::string line) { found_.push_back(std::move(line)); }

  // What the journal names must be on the host.
  void journalled(const JournalClone& clone) {
    const std::string name = "clone " + clone.id;
    std::vector<std::string> groups = {clone.group};
    if (!clone.owners_group.empty()) groups.push_back(clone.owners_group);
    groups_.insert(groups.begin(), groups.end());
    if (clone.vm.value == 0) return;
    vms_.insert(clone.vm);
    const auto vm = alive_.find(clone.vm);
    if (vm == alive_.end() || vm->second != clone.pid) {
      report(name + ": its VMM (VM " + std::to_string(clone.vm.value) + ", pid " + std::to_string(clone.pid) +
             ") does not run");
    }
    const std::string socket = base_name(clone.socket_path);
    sockets_.insert(socket);
    sockets_.insert(fs::export_socket_beside(socket));
    if (!std::ranges::count(sample_.sockets, socket))
      report(name + ": its socket " + clone.socket_path + " is not there");
    for (const std::string& group : groups) {
      if (sample_.groups && !sample_.groups->contains(group)) report(name + ": its cgroup " + group + " is not there");
    }
  }

  // What is on the host must be in the journal.
  void strangers() {
    for (const auto& [vm, pid] : alive_) {
      if (!vms_.contains(vm))
        report("process " + std::to_string(pid) + " (VM " + std::to_string(vm.value) + ") belongs to no clone");
    }
    for (const std::string& socket : sample_.sockets) {
      if (!sockets_.contains(socket)) report("socket " + socket + " in the run directory belongs to no clone");
    }
    for (const std::string& group : sample_.groups.value_or(std::set<std::string>())) {
      if (!groups_.contains(group)) report("cgroup " + group + " belongs to no clone");
    }
  }

  void agents_view() {
    std::set<std::string> held;
    std::set<std::string> wired = sample_.namespaces;
    for (const Lease& lease : sample_.leases) {
      held.insert(lease.clone.id);
      if (!lease.netns.empty() && wired.erase(lease.netns) == 0) {
        report("clone " + lease.clone.id + ": its network namespace " + lease.netns + " is not wired");
      }
      const auto at = sample_.journal.find(lease.clone.id);
      if (at == sample_.journal.end() || at->second.lease != lease) {
        report("clone " + lease.clone.id + ": its lease by " + lease.owner_id +
               " is not in the journal as the agent has it");
      }
    }
    for (const std::string& line : sample_.others) report(line);
    for (const std::string& netns : wired) report("network namespace " + netns + " is wired for no clone");
    for (const auto& [id, clone] : sample_.journal) {
      if (clone.lease && !held.contains(id))
        report("clone " + id + ": its lease by " + clone.lease->owner_id + " is unknown to the agent");
    }
    for (const pool::CloneStatus& clone : sample_.clones) {
      if (!sample_.journal.contains(clone.info.id))
        report("clone " + clone.info.id + " (" + clone.state + ") is not in the journal");
    }
  }

  const AuditSample& sample_;
  std::map<VmId, int32_t> alive_;
  std::set<VmId> vms_;
  std::set<std::string> sockets_;
  std::set<std::string> groups_;
  std::vector<std::string> found_;
};

}  // namespace

std::vector<std::string> differences(const AuditSample& sample) { return Comparison(sample).run(); }

}  // namespace granary::agent
