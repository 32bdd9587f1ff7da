// SPDX-License-Identifier: Apache-2.0
// What it costs that a clone's memory is charged to its pod.
#include <unistd.h>

#include "agent/cgroup.h"
#include "tests/bench/agent.h"
#include "tests/bench/rows.h"

namespace granary::bench {
namespace {

using agent::Cgroups;
using pool::SteadyClock;

constexpr unsigned kRestUs = 50'000;  // as for acquire_warm

// A pod's cgroup and a pool part; both go with their owner.
struct Groups {
  std::unique_ptr<Cgroups> pool;
  std::unique_ptr<Cgroups> pods;
  std::string pod;
  Groups() = default;
  Groups(Groups&&) = default;
  Groups& operator=(Groups&&) = delete;
  ~Groups() {
    if (pool) pool->remove_parent();
    if (pods) pods->remove_parent();
  }
};

Result<Groups> make_groups() {
  const std::string name = "granary-bench-" + std::to_string(::getpid());
  Groups groups;
  groups.pod = "/" + name + "-pods/pod1";
  groups.pool = GRANARY_TRY(Cgroups::open(name + "/pool"));
  groups.pods = GRANARY_TRY(Cgroups::open(groups.pod.substr(1)));
  return groups;
}

std::string on(const Groups& groups) {
  return std::string("; cgroup v") + (groups.pool->version() == Cgroups::Version::kV2 ? "2" : "1");
}

Status move_one(Lab& lab, Groups& groups, Row& row) {
  const Fd born_in = GRANARY_TRY(groups.pool->create("clone"));
  const std::string own = groups.pod + "/granary";
  {
    const LabVm vm = GRANARY_TRY(lab.spawn_shell());
    GRANARY_TRY(groups.pool->add("clone", vm.pid()));
    ::usleep(kRestUs);
    const auto start = SteadyClock::now();
    (void)GRANARY_TRY(groups.pool->create(own));
    GRANARY_TRY(groups.pool->add(own, vm.pid()));
    row.samples.push_back(microseconds(SteadyClock::now() - start));
  }
  GRANARY_TRY(groups.pool->remove(own));
  GRANARY_TRY(groups.pool->remove("clone"));
  return ok();
}

Result<Row> handover_migration(Lab& lab, const Settings& settings) {
  Row row{"handover_migration", "none", "us", "", {}, ""};
  Result<Groups> groups = make_groups();
  if (!groups) return groups.error();
  row.clock = "a group made below a pod's -> a VMM with its shell moved there from the pool's part" + on(*groups);
  for (unsigned i = 0; i < settings.n; ++i) GRANARY_TRY(move_one(lab, *groups, row));
  return row;
}

Result<Row> acquire_in_pod(const Settings& settings) {
  Row row{"acquire_in_pod", "tiny", "us", "", {}, ""};
  Result<Groups> groups = make_groups();
  if (!groups) return groups.error();
  row.clock = "as acquire_warm, with cgroup_parent: the VMM moves below a pod's cgroup" + on(*groups);
  const auto agent = GRANARY_TRY(Agent::start(settings.programs, settings.tiny, {}));
  for (unsigned i = 0; i < settings.n; ++i) {
    ::usleep(kRestUs);
    const auto start = SteadyClock::now();
    const v1::Clone clone = GRANARY_TRY(agent->acquire(groups->pod));
    const auto took = SteadyClock::now() - start;
    if (clone.warm()) row.samples.push_back(microseconds(took));
    GRANARY_TRY(agent->release(clone));
    GRANARY_TRY(agent->wait_warm());
  }
  return row;
}

}  // namespace

std::vector<RowSpec> cgroup_rows(Lab* lab, const Settings& settings) {
  return {{"handover_migration", "none", [=, &settings] { return only(handover_migration(*lab, settings)); }},
          {"acquire_in_pod", "tiny", [&settings] { return only(acquire_in_pod(settings)); }}};
}

}  // namespace granary::bench
