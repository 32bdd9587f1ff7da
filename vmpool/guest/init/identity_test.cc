// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "vmpool/guest/init/network_sample.h"
#include "vmpool/guest/init/server_fixture.h"

namespace granary::guest {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const v1::Identity kIdentity = identity_request().identity();

TEST(GuestIdentity, AppliesEveryStepInOrder) {
  DrySystem system;
  GuestIdentity identity(system);
  EXPECT_FALSE(identity.applied());
  const v1::Reply reply = identity.apply(kIdentity);
  ASSERT_TRUE(reply.has_identity_applied());
  EXPECT_TRUE(identity.applied());
  EXPECT_EQ(reply.identity_applied().clone_uuid(), kIdentity.clone_uuid());
  EXPECT_EQ(reply.identity_applied().boot_id(), "00000000-0000-4000-8000-000000000000");
  // The boot id last: the kernel draws it when it is read, and the entropy must be in by then.
  EXPECT_THAT(system.calls(), ElementsAre("entropy 32", "host-clock", "realtime", "hostname clone-1",
                                          "machine-id 0123456789abcdef4142434445464748", "mac 62:62:63:64:65:66",
                                          "loopback", "boot-id"));
}

TEST(GuestIdentity, StepsTheClockToTheHosts) {
  DrySystem system;
  system.set_host_realtime(1'234'567'890'123'456'789);
  GuestIdentity identity(system);
  const v1::Reply reply = identity.apply(kIdentity);
  EXPECT_EQ(reply.identity_applied().realtime_ns(), 1'234'567'890'123'456'789);
}

TEST(GuestIdentity, TheSameAgainIsAnsweredAndNotApplied) {
  DrySystem system;
  GuestIdentity identity(system);
  ASSERT_TRUE(identity.apply(kIdentity).has_identity_applied());
  const size_t calls = system.calls().size();
  EXPECT_TRUE(identity.apply(kIdentity).has_identity_applied());
  EXPECT_EQ(system.calls().size(), calls);
}

TEST(GuestIdentity, AnotherOneIsRefused) {
  DrySystem system;
  GuestIdentity identity(system);
  ASSERT_TRUE(identity.apply(kIdentity).has_identity_applied());
  v1::Identity other = kIdentity;
  other.set_clone_uuid("fedcba9876543210");
  const v1::Reply reply = identity.apply(other);
  EXPECT_EQ(reply.failure().kind(), v1::Failure::INVALID);
  EXPECT_THAT(reply.failure().message(), HasSubstr("30313233343536373839616263646566"));
}

v1::Identity with_network() {
  v1::Identity identity = kIdentity;
  *identity.mutable_network() = sample_network();
  return identity;
}

TEST(GuestIdentity, NetworkIsConfiguredBeforeTheAnswer) {
  DrySystem system;
  GuestIdentity identity(system);
  ASSERT_TRUE(identity.apply(with_network()).has_identity_applied());
  EXPECT_EQ(system.calls().back(), "network 2 links");
}

TEST(GuestIdentity, ARefusedNetworkLeavesTheCloneWithoutIdentity) {
  DrySystem system("network");
  GuestIdentity identity(system);
  const v1::Reply reply = identity.apply(with_network());
  EXPECT_EQ(reply.failure().kind(), v1::Failure::NETWORK);
  EXPECT_THAT(reply.failure().message(), HasSubstr("Input/output error"));
  EXPECT_FALSE(identity.applied());
  system.fail("");
  EXPECT_TRUE(identity.apply(with_network()).has_identity_applied()) << "it may be sent again";
}

class FailingStep : public testing::TestWithParam<const char*> {};

TEST_P(FailingStep, LeavesTheCloneWithoutIdentityAndNamesTheStep) {
  DrySystem system(GetParam());
  GuestIdentity identity(system);
  const v1::Reply reply = identity.apply(kIdentity);
  ASSERT_TRUE(reply.has_failure());
  EXPECT_EQ(reply.failure().kind(), v1::Failure::IDENTITY);
  EXPECT_THAT(reply.failure().message(), HasSubstr(GetParam()));
  EXPECT_THAT(reply.failure().message(), HasSubstr("Input/output error"));
  EXPECT_FALSE(identity.applied());
}
INSTANTIATE_TEST_SUITE_P(Each, FailingStep,
                         testing::Values("entropy", "host-clock", "realtime", "hostname", "machine-id", "mac",
                                         "loopback", "boot-id"));

struct BadField {
  const char* name;
  void (*spoil)(v1::Identity&);
};

class InvalidIdentity : public testing::TestWithParam<BadField> {};

TEST_P(InvalidIdentity, IsRefusedBeforeAnythingIsChanged) {
  DrySystem system;
  GuestIdentity identity(system);
  v1::Identity bad = kIdentity;
  GetParam().spoil(bad);
  const v1::Reply reply = identity.apply(bad);
  ASSERT_TRUE(reply.has_failure());
  EXPECT_EQ(reply.failure().kind(), v1::Failure::INVALID);
  EXPECT_THAT(reply.failure().message(), HasSubstr(GetParam().name));
  EXPECT_THAT(system.calls(), IsEmpty());
}
INSTANTIATE_TEST_SUITE_P(
    Each, InvalidIdentity,
    testing::Values(BadField{"clone_uuid", [](v1::Identity& i) { i.set_clone_uuid("short"); }},
                    BadField{"clone_uuid", [](v1::Identity& i) { i.set_clone_uuid(std::string(16, '\0')); }},
                    BadField{"machine_id", [](v1::Identity& i) { i.clear_machine_id(); }},
                    BadField{"entropy", [](v1::Identity& i) { i.set_entropy(std::string(31, 'e')); }},
                    BadField{"entropy", [](v1::Identity& i) { i.set_entropy(std::string(513, 'e')); }},
                    BadField{"network: link 0: name", [](v1::Identity& i) { i.mutable_network()->add_links(); }},
                    BadField{"hostname", [](v1::Identity& i) { i.clear_hostname(); }},
                    BadField{"hostname", [](v1::Identity& i) { i.set_hostname(std::string(65, 'h')); }},
                    BadField{"hostname", [](v1::Identity& i) { i.set_hostname("a\n127.0.0.1 b"); }}));

}  // namespace
}  // namespace granary::guest
