// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/entropy.h"

#include <gtest/gtest.h>

#include "vmpool/virtio/fake_driver.h"

namespace granary::virtio {
namespace {

Status restore_into(std::unique_ptr<Device> device, const FakeMachine& machine, const TransportState& state) {
  MmioTransport other(std::move(device), *machine.memory, must(EventFd::create()), must(EventFd::create()));
  return other.restore(state);
}

TEST(EntropyTest, FillsBuffersWithDifferentBytes) {
  FakeMachine machine(std::make_unique<Entropy>());
  FakeDriver& driver = *machine.driver;
  driver.start(8);
  const Gpa buffer = driver.allocate(128);
  driver.queue(0).add({{buffer, 64, true}, {buffer + 64, 64, true}});
  driver.kick(0);
  EXPECT_EQ(driver.queue(0).take_used()->length, 128U);
  EXPECT_EQ(driver.take_interrupt(), 1U);
  EXPECT_NE(driver.text(buffer, 64), driver.text(buffer + 64, 64));
}

TEST(EntropyTest, HugeOrReadOnlyBuffersAreBounded) {
  FakeMachine machine(std::make_unique<Entropy>());
  FakeDriver& driver = *machine.driver;
  driver.start(8);
  driver.queue(0).add({{driver.allocate(4 * kMiB), 4 * kMiB, true}});
  driver.queue(0).add({{driver.allocate(64), 64, false}});
  driver.kick(0);
  EXPECT_EQ(driver.queue(0).take_used()->length, 64U * 1024);
  EXPECT_EQ(driver.queue(0).take_used()->length, 0U);
  EXPECT_FALSE(driver.needs_reset());
}

TEST(EntropyTest, RestoreAcceptsNothingButNothing) {
  FakeMachine machine(std::make_unique<Entropy>());
  machine.driver->start(8);
  TransportState state = must(machine.transport->save());
  EXPECT_TRUE(restore_into(std::make_unique<Entropy>(), machine, state));
  state.device.size_bytes = 1;
  EXPECT_FALSE(restore_into(std::make_unique<Entropy>(), machine, state));
}

}  // namespace
}  // namespace granary::virtio
