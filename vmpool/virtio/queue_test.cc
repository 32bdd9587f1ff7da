// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/queue.h"

#include <gtest/gtest.h>

#include "vmpool/virtio/fake_driver.h"

namespace granary::virtio {
namespace {

constexpr uint64_t kIndirect = 1ULL << 28;
constexpr uint64_t kEventIdx = 1ULL << 29;
constexpr uint16_t kNext = 1;
constexpr uint16_t kWrite = 2;
constexpr uint16_t kIndirectFlag = 4;
constexpr uint16_t kSize = 8;
constexpr Gpa kRings{0x1000};
constexpr Gpa kData{0x8000};

class QueueTest : public testing::Test {
 protected:
  void start(uint64_t features = kIndirect) { must(queue.configure(memory, fake.layout(), 256, features)); }
  void expect_error(Errc code) {
    const Result<std::optional<Chain>> popped = queue.pop();
    ASSERT_FALSE(popped);
    EXPECT_TRUE(popped.error().is(code)) << popped.error().message();
    EXPECT_FALSE(queue.pop()) << "a broken queue stays broken until its reset";
  }
  Chain pop() { return *must(queue.pop()); }

  GuestMemory memory = must(GuestMemory::create(1 * kMiB));
  FakeQueue fake{memory, kRings, kSize};
  Queue queue;
};

TEST_F(QueueTest, RefusesBadLayouts) {
  const QueueLayout good = fake.layout();
  const auto refused = [&](QueueLayout layout, Errc code) {
    const Status s = queue.configure(memory, layout, 256, 0);
    return !s && s.error().is(code) && !queue.ready();
  };
  const auto with = [&](auto change) {
    QueueLayout layout = good;
    change(layout);
    return layout;
  };
  for (const uint32_t size : {0U, 3U, 512U, 1U << 31, (1U << 16) + 8}) {
    EXPECT_TRUE(refused(with([&](QueueLayout& l) { l.size = size; }), Errc::kDeviceInvalid)) << size;
  }
  EXPECT_TRUE(refused(with([](QueueLayout& l) { l.descriptor_table.value += 8; }), Errc::kDeviceInvalid));
  EXPECT_TRUE(refused(with([](QueueLayout& l) { l.avail_ring.value += 1; }), Errc::kDeviceInvalid));
  EXPECT_TRUE(refused(with([](QueueLayout& l) { l.used_ring.value += 2; }), Errc::kDeviceInvalid));
  for (const uint64_t outside : {uint64_t{1 * kMiB}, uint64_t{1 * kMiB - 16}, ~uint64_t{15}}) {
    EXPECT_TRUE(refused(with([&](QueueLayout& l) { l.descriptor_table.value = outside; }), Errc::kGuestAddressInvalid));
    EXPECT_TRUE(refused(with([&](QueueLayout& l) { l.avail_ring.value = outside; }), Errc::kGuestAddressInvalid));
    EXPECT_TRUE(refused(with([&](QueueLayout& l) { l.used_ring.value = outside; }), Errc::kGuestAddressInvalid));
  }
  EXPECT_TRUE(queue.configure(memory, good, 256, 0));
}

TEST_F(QueueTest, ChainIsSplitReadAndReturned) {
  start();
  must(memory.write_bytes(kData, std::as_bytes(std::span("abcdef", 6))));
  const uint16_t head =
      fake.add({{kData, 4, false}, {kData + 4, 2, false}, {kData + 100, 3, true}, {kData + 200, 5, true}});
  Chain chain = pop();
  EXPECT_EQ(queue.in_flight(), 1U);
  EXPECT_EQ(chain.readable_left(), 6U);
  EXPECT_EQ(chain.writable_left(), 8U);
  char text[16] = {};
  EXPECT_EQ(chain.read(std::as_writable_bytes(std::span(text))), 6U);
  EXPECT_STREQ(text, "abcdef");
  EXPECT_EQ(chain.write(std::as_bytes(std::span("123456789", 9))), 8U);
  chain.patch(2, std::as_bytes(std::span("xy", 2)));
  chain.complete();
  EXPECT_EQ(std::memcmp(must(memory.range(kData + 100, 3)).data(), "12x", 3), 0);
  EXPECT_EQ(std::memcmp(must(memory.range(kData + 200, 5)).data(), "y5678", 5), 0);
  const std::optional<UsedElement> used = fake.take_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->id, head);
  EXPECT_EQ(used->length, 8U);
  EXPECT_EQ(queue.in_flight(), 0U);
}

TEST_F(QueueTest, ReturnedExactlyOnceAlsoWhenDroppedOrMoved) {
  start();
  for (int i = 0; i < 3; ++i) fake.add({{kData, 4, true}});
  {
    Chain first = pop();
    Chain moved = std::move(first);
    moved = pop();  // the one overwritten goes back
    EXPECT_EQ(fake.used_index(), 1);
    moved.complete();
    moved.complete();
    EXPECT_EQ(fake.used_index(), 2);
  }
  EXPECT_EQ(fake.used_index(), 2);
  { const Chain dropped = pop(); }
  EXPECT_EQ(fake.used_index(), 3);
  EXPECT_EQ(fake.take_used()->length, 0U);
}

TEST_F(QueueTest, ChainsReturnedTogetherAreSeenTogether) {
  start();
  std::vector<Chain> chains;
  for (int i = 0; i < 3; ++i) {
    fake.add({{Gpa{0x8000}, 16, true}});
    chains.push_back(pop());
    chains.back().skip_writable(static_cast<size_t>(i) + 1);
  }
  EXPECT_EQ(fake.used_index(), 0);
  queue.complete_together(chains);
  EXPECT_EQ(fake.used_index(), 3);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(fake.take_used()->length, i + 1) << "in their order";
  queue.complete_together(chains);
  chains.clear();
  EXPECT_EQ(fake.used_index(), 3) << "once";
  EXPECT_EQ(queue.in_flight(), 0U);
}

TEST_F(QueueTest, PutBackComesAgain) {
  start();
  const uint16_t head = fake.add({{kData, 4, true}});
  queue.put_back(pop());
  EXPECT_EQ(queue.in_flight(), 0U);
  EXPECT_EQ(fake.used_index(), 0);
  pop().complete();
  EXPECT_EQ(fake.take_used()->id, head);
  EXPECT_FALSE(must(queue.pop()));
}

TEST_F(QueueTest, ChainOfAResetQueueGoesNowhere) {
  start();
  fake.add({{kData, 4, true}});
  Chain chain = pop();
  queue.reset();
  chain.complete();
  EXPECT_EQ(fake.used_index(), 0);
  EXPECT_FALSE(must(queue.pop()));
}

TEST_F(QueueTest, IndicesWrap) {
  start();
  for (int i = 0; i < 70'000; ++i) {
    const uint16_t head = fake.add({{kData, 4, true}});
    pop().complete();
    ASSERT_EQ(fake.take_used()->id, head);
  }
}

TEST_F(QueueTest, IndirectTableIsFollowed) {
  start();
  const std::array<Segment, 3> segments = {{{kData, 4, false}, {kData + 8, 4, true}, {kData + 16, 4, true}}};
  fake.add_indirect(Gpa{0x4000}, segments);
  const Chain chain = pop();
  EXPECT_EQ(chain.readable_left(), 4U);
  EXPECT_EQ(chain.writable_left(), 8U);
}

TEST_F(QueueTest, DirectDescriptorsMayPrecedeAnIndirectOne) {
  start();
  fake.write_descriptor(0, kData.value, 4, kNext, 1);
  fake.write_descriptor(1, 0x4000, 16, kIndirectFlag | kWrite, 0);  // its WRITE flag is to be ignored
  must(memory.write(Gpa{0x4000}, std::array<uint64_t, 2>{kData.value, 6}));
  fake.make_available(0);
  EXPECT_EQ(pop().readable_left(), 10U);
}

TEST_F(QueueTest, RefusesIndirectWithoutTheFeature) {
  start(0);
  const std::array<Segment, 1> segments = {{{kData, 4, false}}};
  fake.add_indirect(Gpa{0x4000}, segments);
  expect_error(Errc::kDeviceInvalid);
}

TEST_F(QueueTest, RefusesBadIndirectTables) {
  for (const uint32_t length : {0U, 15U, 17U, 16U * (kSize + 1), 0xffff'fff0U}) {
    start();
    fake.write_descriptor(0, 0x4000, length, kIndirectFlag, 0);
    queue.reset();
    start();
    fake.set_avail_index(1);
    expect_error(Errc::kDeviceInvalid);
  }
}

TEST_F(QueueTest, RefusesIndirectWithNext) {
  start();
  fake.write_descriptor(0, 0x4000, 16, kIndirectFlag | kNext, 1);
  fake.make_available(0);
  expect_error(Errc::kDeviceInvalid);
}

TEST_F(QueueTest, RefusesIndirectInsideIndirect) {
  start();
  fake.write_descriptor(0, 0x4000, 16, kIndirectFlag, 0);
  must(memory.write(Gpa{0x4000}, std::array<uint64_t, 2>{0x4000, uint64_t{kIndirectFlag} << 32 | 16}));
  fake.make_available(0);
  expect_error(Errc::kDeviceInvalid);
}

TEST_F(QueueTest, RefusesIndirectTableOutsideMemory) {
  start();
  fake.write_descriptor(0, 1 * kMiB - 8, 16, kIndirectFlag, 0);
  fake.make_available(0);
  expect_error(Errc::kGuestAddressInvalid);
}

TEST_F(QueueTest, RefusesALoop) {
  start();
  fake.write_descriptor(0, kData.value, 4, kNext, 1);
  fake.write_descriptor(1, kData.value, 4, kNext, 0);
  fake.make_available(0);
  expect_error(Errc::kDeviceInvalid);
}

TEST_F(QueueTest, RefusesALoopInAnIndirectTable) {
  start();
  fake.write_descriptor(0, 0x4000, 16, kIndirectFlag, 0);
  must(memory.write(Gpa{0x4000}, std::array<uint64_t, 2>{kData.value, uint64_t{kNext} << 32 | 16}));
  fake.make_available(0);
  expect_error(Errc::kDeviceInvalid);
}

TEST_F(QueueTest, RefusesAChainLongerThanTheQueue) {
  start();
  // One direct descriptor and a full indirect table: each alone is allowed, together they are too long.
  fake.write_descriptor(0, kData.value, 4, kNext, 1);
  fake.write_descriptor(1, 0x4000, 16 * kSize, kIndirectFlag, 0);
  for (uint64_t i = 0; i < kSize; ++i) {
    const uint64_t flags_and_next = i + 1 < kSize ? uint64_t{kNext} << 32 | (i + 1) << 48 : 0;
    must(memory.write(Gpa{0x4000} + 16 * i, std::array<uint64_t, 2>{kData.value, flags_and_next | 4}));
  }
  fake.make_available(0);
  expect_error(Errc::kDeviceInvalid);
}

TEST_F(QueueTest, RefusesIndicesBeyondTheTable) {
  start();
  fake.make_available(kSize);
  expect_error(Errc::kDeviceInvalid);
}

TEST_F(QueueTest, RefusesANextBeyondTheTable) {
  start();
  fake.write_descriptor(0, kData.value, 4, kNext, 0xffff);
  fake.make_available(0);
  expect_error(Errc::kDeviceInvalid);
}

TEST_F(QueueTest, RefusesLengthZero) {
  start();
  fake.add({{kData, 0, false}});
  expect_error(Errc::kDeviceInvalid);
}

TEST_F(QueueTest, RefusesBuffersOutsideMemory) {
  for (const uint64_t address : {uint64_t{1 * kMiB}, uint64_t{1 * kMiB - 1}, ~uint64_t{0}, uint64_t{0xd000'0000}}) {
    queue.reset();
    start();
    fake.write_descriptor(0, address, 4, 0, 0);
    fake.set_avail_index(1);
    expect_error(Errc::kGuestAddressInvalid);
  }
}

TEST_F(QueueTest, RefusesReadableAfterWritable) {
  start();
  fake.add({{kData, 4, true}, {kData, 4, false}});
  expect_error(Errc::kDeviceInvalid);
}

TEST_F(QueueTest, RefusesAnAvailIndexTooFarAhead) {
  start();
  fake.set_avail_index(kSize + 1);
  expect_error(Errc::kDeviceInvalid);
}

TEST_F(QueueTest, RefusesAnAvailIndexThatGoesBack) {
  start();
  fake.add({{kData, 4, true}});
  pop().complete();
  fake.set_avail_index(0);
  expect_error(Errc::kDeviceInvalid);
}

TEST_F(QueueTest, NoInterruptFlagSuppresses) {
  start(0);
  fake.add({{kData, 4, true}});
  fake.add({{kData, 4, true}});
  EXPECT_FALSE(queue.should_interrupt()) << "nothing was returned";
  pop().complete();
  EXPECT_TRUE(queue.should_interrupt());
  EXPECT_FALSE(queue.should_interrupt()) << "already said";
  fake.set_avail_flags(1);
  pop().complete();
  EXPECT_FALSE(queue.should_interrupt());
}

TEST_F(QueueTest, EventIdxAsksForKicksAndObeysUsedEvent) {
  start(kEventIdx);
  EXPECT_FALSE(must(queue.pop()));
  EXPECT_EQ(fake.avail_event(), 0);
  for (int i = 0; i < 3; ++i) fake.add({{kData, 4, true}});
  fake.set_used_event(1);  // tell me when the second is back
  pop().complete();
  EXPECT_FALSE(queue.should_interrupt());
  pop().complete();
  EXPECT_TRUE(queue.should_interrupt());
  pop().complete();
  EXPECT_FALSE(queue.should_interrupt());
  EXPECT_FALSE(must(queue.pop()));
  EXPECT_EQ(fake.avail_event(), 3);
}

TEST_F(QueueTest, ForEachChainYieldsAfterAQueueFull) {
  start();
  for (int i = 0; i < kSize; ++i) fake.add({{kData, 4, true}});
  int seen = 0;
  must(for_each_chain(queue, [&](Chain chain) {
    ++seen;
    chain.complete();
    // A driver that refills as fast as it is served.
    (void)fake.take_used();
    fake.add({{kData, 4, true}});
    return ok();
  }));
  EXPECT_EQ(seen, kSize);
  EXPECT_TRUE(queue.take_yield());
  EXPECT_FALSE(queue.take_yield());
}

}  // namespace
}  // namespace granary::virtio
