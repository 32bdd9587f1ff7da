// SPDX-License-Identifier: Apache-2.0
#include "agent/audit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace granary::agent {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Lease lease() {
  Lease lease{.owner_id = "me", .pool = "p", .clone = {}};
  lease.clone.id = "c1";
  return lease;
}

// A leased clone c1 (VM 1) and a warm one c2 (VM 2), all in order.
AuditSample in_order() {
  AuditSample sample;
  for (const uint64_t n : {1, 2}) {
    const std::string number = std::to_string(n);
    const std::string id = "c" + number;
    sample.journal[id] = {.id = id,
                          .pool = "p",
                          .group = "g" + number,
                          .vm = VmId{n},
                          .pid = static_cast<int32_t>(100 + n),
                          .socket_path = "/run/" + number + ".sock"};
    sample.vms.push_back(
        {.vm_id = n, .pid = static_cast<int32_t>(100 + n), .alive = 1, .wait_status = 0, .end_state = 0});
    sample.sockets.push_back(number + ".sock");
    pool::CloneStatus status;
    status.info.id = id;
    status.state = n == 1 ? "running" : "warm";
    sample.clones.push_back(status);
  }
  sample.groups = {"g1", "g2"};
  sample.leases = {lease()};
  sample.journal["c1"].lease = lease();
  return sample;
}

TEST(AuditTest, WhatAgreesGivesNothing) { EXPECT_THAT(differences(in_order()), IsEmpty()); }

TEST(AuditTest, AClonesFileServerIsNoStranger) {
  AuditSample sample = in_order();
  sample.sockets.emplace_back("1.fsd");
  EXPECT_THAT(differences(sample), IsEmpty());
}

TEST(AuditTest, ACloneUnderConstructionHasNoProcessYet) {
  AuditSample sample = in_order();
  sample.journal["c3"] = {.id = "c3", .pool = "p", .group = "g3"};
  EXPECT_THAT(differences(sample), IsEmpty());
}

TEST(AuditTest, AMissingProcessSocketAndGroupAreNamed) {
  AuditSample sample = in_order();
  sample.vms[0].alive = 0;
  EXPECT_THAT(differences(sample), ElementsAre(HasSubstr("clone c1: its VMM (VM 1, pid 101)")));
  sample = in_order();
  sample.vms[0].pid = 999;  // another process under the same number
  EXPECT_THAT(differences(sample), ElementsAre(HasSubstr("clone c1: its VMM")));
  sample = in_order();
  sample.sockets.pop_back();
  EXPECT_THAT(differences(sample), ElementsAre(HasSubstr("clone c2: its socket /run/2.sock")));
  sample = in_order();
  sample.groups->erase("g2");
  EXPECT_THAT(differences(sample), ElementsAre(HasSubstr("clone c2: its cgroup g2")));
}

TEST(AuditTest, AGroupBelowAPodIsLookedForToo) {
  AuditSample sample = in_order();
  sample.journal["c1"].owners_group = "/pod/granary-c1";
  EXPECT_THAT(differences(sample), ElementsAre(HasSubstr("clone c1: its cgroup /pod/granary-c1")));
  sample.groups->insert("/pod/granary-c1");
  EXPECT_THAT(differences(sample), IsEmpty());
}

TEST(AuditTest, NetworkNamespacesBelongToLeases) {
  AuditSample sample = in_order();
  sample.namespaces = {"/run/netns/a"};
  EXPECT_THAT(differences(sample), ElementsAre(HasSubstr("network namespace /run/netns/a is wired for no clone")));
  sample.leases[0].netns = "/run/netns/a";
  sample.journal["c1"].lease = sample.leases[0];
  EXPECT_THAT(differences(sample), IsEmpty());
  sample.namespaces.clear();
  EXPECT_THAT(differences(sample), ElementsAre(HasSubstr("clone c1: its network namespace /run/netns/a is not wired")));
}

TEST(AuditTest, WhatOthersFoundIsNamed) {
  AuditSample sample = in_order();
  sample.others = {"own network: granary7 has no tap"};
  EXPECT_THAT(differences(sample), ElementsAre("own network: granary7 has no tap"));
}

TEST(AuditTest, StrangersAreNamed) {
  AuditSample sample = in_order();
  sample.vms.push_back({.vm_id = 9, .pid = 109, .alive = 1, .wait_status = 0, .end_state = 0});
  sample.sockets.emplace_back("9.sock");
  sample.sockets.emplace_back("9.fsd");
  sample.groups->insert("g9");
  EXPECT_THAT(differences(sample),
              ElementsAre(HasSubstr("process 109 (VM 9)"), HasSubstr("socket 9.sock"), HasSubstr("socket 9.fsd"), HasSubstr("cgroup g9")));
}

TEST(AuditTest, UnknownGroupsCountOnlyWhereTheParentIsOurs) {
  AuditSample sample = in_order();
  sample.groups.reset();
  EXPECT_THAT(differences(sample), IsEmpty());
}

TEST(AuditTest, LeasesMustBeTheSameOnBothSides) {
  AuditSample sample = in_order();
  sample.leases.clear();
  EXPECT_THAT(differences(sample), ElementsAre(HasSubstr("by me is unknown to the agent")));
  sample = in_order();
  sample.journal["c1"].lease.reset();
  EXPECT_THAT(differences(sample), ElementsAre(HasSubstr("is not in the journal as the agent has it")));
  sample = in_order();
  sample.journal["c1"].lease->owner_id = "you";
  EXPECT_THAT(differences(sample), ElementsAre(HasSubstr("is not in the journal as the agent has it")));
  sample = in_order();
  sample.journal.erase("c2");
  sample.vms.pop_back();
  sample.sockets.pop_back();
  sample.groups->erase("g2");
  EXPECT_THAT(differences(sample), ElementsAre(HasSubstr("clone c2 (warm) is not in the journal")));
}

}  // namespace
}  // namespace granary::agent
