// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/mmio_transport.h"

#include <gtest/gtest.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include "vmpool/virtio/config_space.h"
#include "vmpool/virtio/fake_driver.h"

namespace granary::virtio {
namespace {

constexpr uint64_t kVersion1 = 1ULL << VIRTIO_F_VERSION_1;
constexpr Gpa kData{0x100000};

// Returns every buffer; remembers what happened to it.
class EchoDevice final : public Device {
 public:
  [[nodiscard]] DeviceType type() const override { return DeviceType::kEntropy; }
  [[nodiscard]] uint64_t features() const override { return 0b101; }
  [[nodiscard]] std::span<const uint16_t> queue_sizes() const override { return sizes; }
  void read_config(uint32_t offset, std::span<std::byte> into) const override {
    read_config_struct(config, offset, into);
  }
  void write_config(uint32_t offset, std::span<const std::byte> from) override {
    if (offset + from.size() <= sizeof(config))
      std::memcpy(reinterpret_cast<std::byte*>(&config) + offset, from.data(), from.size());
  }
  Status activate(uint64_t features, std::span<Queue> q, Interrupt& i) override {
    if (fail_activation) return Error(Errc::kDeviceInvalid, "test");
    active_features = features;
    queues = q;
    interrupt = &i;
    return ok();
  }
  void deactivate() override { queues = {}; }
  Status process_queue(uint16_t index) override {
    ++processed;
    Status done = for_each_chain(queues[index], [](Chain chain) {
      chain.complete();
      return ok();
    });
    if (queues[index].should_interrupt()) interrupt->used_buffer();
    return done;
  }
  [[nodiscard]] DeviceBlob save() const override { return to_blob(config); }
  Status restore(const DeviceBlob& state) override {
    config = GRANARY_TRY(from_blob<uint64_t>(state, "echo"));
    return ok();
  }

  std::array<uint16_t, 2> sizes = {16, 8};
  uint64_t config = 0x1122334455667788;
  uint64_t active_features = 0;
  bool fail_activation = false;
  int processed = 0;
  std::span<Queue> queues;
  Interrupt* interrupt = nullptr;
};

class TransportTest : public testing::Test {
 protected:
  TransportTest() : echo(new EchoDevice), machine(std::unique_ptr<Device>(echo)), driver(*machine.driver) {}
  uint32_t status() { return driver.read32(VIRTIO_MMIO_STATUS); }
  uint64_t errors() { return machine.transport->errors(); }
  MmioTransport fresh() {
    return {std::make_unique<EchoDevice>(), *machine.memory, must(EventFd::create()), must(EventFd::create())};
  }
  void expect_refused(const TransportState& state, Errc code = Errc::kSnapshotCorrupt) {
    MmioTransport other = fresh();
    const Status s = other.restore(state);
    ASSERT_FALSE(s);
    EXPECT_TRUE(s.error().is(code)) << s.error().message();
  }

  EchoDevice* echo;
  FakeMachine machine;
  FakeDriver& driver;
};

TEST_F(TransportTest, IdentifiesItself) {
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_MAGIC_VALUE), 0x74726976U);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_VERSION), 2U);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_DEVICE_ID), 4U);
  EXPECT_EQ(driver.device_features(), kVersion1 | 3ULL << 28 | 0b101);
  driver.write32(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_DEVICE_FEATURES), 0U);
  driver.write32(VIRTIO_MMIO_QUEUE_SEL, 1);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_QUEUE_NUM_MAX), 8U);
  driver.write32(VIRTIO_MMIO_QUEUE_SEL, 2);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_QUEUE_NUM_MAX), 0U);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_SHM_LEN_LOW), ~0U);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_SHM_LEN_HIGH), ~0U);
}

TEST_F(TransportTest, ConfigSpaceTakesAnyWidth) {
  EXPECT_EQ(driver.config<uint8_t>(7), 0x11);
  EXPECT_EQ(driver.config<uint16_t>(0), 0x7788);
  EXPECT_EQ(driver.config<uint64_t>(0), 0x1122334455667788U);
  EXPECT_EQ(driver.config<uint64_t>(4), 0x11223344U);
  EXPECT_EQ(driver.config<uint32_t>(0xefc), 0U);
}

TEST_F(TransportTest, WholeLife) {
  driver.start(8, 0b100);
  EXPECT_EQ(echo->active_features, kVersion1 | 3ULL << 28 | 0b001);
  driver.queue(0).add({{kData, 16, true}});
  driver.kick(0);
  EXPECT_TRUE(driver.queue(0).take_used());
  EXPECT_EQ(driver.take_interrupt(), 1U);
  EXPECT_EQ(driver.take_interrupt(), 0U);
  EXPECT_EQ(machine.transport->interrupt().irq().drain(), 1U);
  driver.reset();
  EXPECT_EQ(status(), 0U);
  EXPECT_TRUE(echo->queues.empty());
  driver.start(8);
  driver.queue(1).add({{kData, 16, true}});
  driver.kick(1);
  EXPECT_TRUE(driver.queue(1).take_used());
  EXPECT_EQ(errors(), 0U);
}

TEST_F(TransportTest, FeaturesOkNeedsVersion1AndOnlyOfferedFeatures) {
  EXPECT_FALSE(driver.negotiate(0b1));
  EXPECT_FALSE(driver.negotiate(kVersion1 | 0b10));
  EXPECT_TRUE(driver.negotiate(kVersion1 | 0b1));
}

TEST_F(TransportTest, FeaturesAreFixedByFeaturesOk) {
  ASSERT_TRUE(driver.negotiate(kVersion1));
  driver.write32(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
  driver.write32(VIRTIO_MMIO_DRIVER_FEATURES, 0xffff'ffff);
  EXPECT_EQ(errors(), 1U);
  driver.driver_ok();
  EXPECT_EQ(echo->active_features, kVersion1);
}

TEST_F(TransportTest, FeaturesBeforeDriverAreIgnored) {
  driver.write32(VIRTIO_MMIO_DRIVER_FEATURES, 0b1);
  EXPECT_EQ(errors(), 1U);
}

TEST_F(TransportTest, StatusBitsAreNotClearedAndNotSkipped) {
  driver.write32(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
  driver.write32(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_DRIVER);  // clears ACKNOWLEDGE
  EXPECT_EQ(status(), uint32_t{VIRTIO_CONFIG_S_ACKNOWLEDGE});
  driver.write32(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK);
  EXPECT_EQ(status() & VIRTIO_CONFIG_S_DRIVER_OK, 0U);
  driver.write32(VIRTIO_MMIO_STATUS, 0x113);
  EXPECT_EQ(status() & ~3U, 0U);
  driver.write32(VIRTIO_MMIO_STATUS, 3 | VIRTIO_CONFIG_S_NEEDS_RESET);
  EXPECT_FALSE(driver.needs_reset()) << "only the device sets it";
}

TEST_F(TransportTest, KickBeforeReadyOrForUnknownQueuesIsIgnored) {
  driver.kick(0);
  driver.negotiate(driver.device_features());
  driver.set_up_queue(0, 8).add({{kData, 16, true}});
  driver.kick(0);
  EXPECT_EQ(echo->processed, 0) << "before DRIVER_OK";
  driver.driver_ok();
  driver.kick(1);
  driver.kick(5);
  driver.kick(0xffff);
  EXPECT_EQ(echo->processed, 0);
  driver.kick(0);
  EXPECT_EQ(echo->processed, 1);
}

TEST_F(TransportTest, OneWakeUpForManyKicks) {
  driver.start(8);
  for (int i = 0; i < 5; ++i) driver.write32(VIRTIO_MMIO_QUEUE_NOTIFY, static_cast<uint32_t>(i % 2));
  EXPECT_EQ(machine.transport->kick().drain(), 1U);
  machine.transport->process_kicks();
  EXPECT_EQ(echo->processed, 2);
}

TEST_F(TransportTest, BadQueueLayoutNeedsReset) {
  driver.negotiate(driver.device_features());
  driver.write_layout(0, {8, Gpa{0x1008}, Gpa{0x2000}, Gpa{0x3000}});
  driver.write32(VIRTIO_MMIO_QUEUE_READY, 1);
  EXPECT_TRUE(driver.needs_reset());
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_QUEUE_READY), 0U);
  driver.driver_ok();
  EXPECT_FALSE(echo->interrupt) << "not activated in this state";
  driver.start(8);
  EXPECT_FALSE(driver.needs_reset());
}

TEST_F(TransportTest, QueueRegistersAreFixedWhileReadyAndAfterDriverOk) {
  driver.negotiate(driver.device_features());
  driver.write32(VIRTIO_MMIO_QUEUE_SEL, 0);
  driver.set_up_queue(0, 8);
  driver.write32(VIRTIO_MMIO_QUEUE_NUM, 4);
  EXPECT_EQ(errors(), 1U);
  driver.driver_ok();
  driver.write32(VIRTIO_MMIO_QUEUE_SEL, 1);
  driver.write32(VIRTIO_MMIO_QUEUE_READY, 1);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_QUEUE_READY), 0U);
  EXPECT_EQ(errors(), 2U);
}

TEST_F(TransportTest, QueueSetUpBeforeFeaturesOkIsIgnored) {
  driver.write_layout(0, {8, Gpa{0x1000}, Gpa{0x2000}, Gpa{0x3000}});
  driver.write32(VIRTIO_MMIO_QUEUE_READY, 1);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_QUEUE_READY), 0U);
  EXPECT_GT(errors(), 0U);
}

TEST_F(TransportTest, BrokenRingNeedsResetAndSilencesTheDevice) {
  driver.start(8);
  driver.take_interrupt();
  driver.queue(0).set_avail_index(100);
  driver.kick(0);
  EXPECT_TRUE(driver.needs_reset());
  EXPECT_EQ(driver.take_interrupt(), 2U) << "a configuration change tells the driver";
  const int processed = echo->processed;
  driver.kick(0);
  driver.kick(1);
  EXPECT_EQ(echo->processed, processed);
  driver.start(8);
  driver.queue(0).add({{kData, 16, true}});
  driver.kick(0);
  EXPECT_TRUE(driver.queue(0).take_used());
}

TEST_F(TransportTest, FailedActivationNeedsReset) {
  echo->fail_activation = true;
  driver.start(8);
  EXPECT_TRUE(driver.needs_reset());
}

TEST_F(TransportTest, QueueCanBeStopped) {
  driver.start(8);
  driver.write32(VIRTIO_MMIO_QUEUE_SEL, 0);
  driver.write32(VIRTIO_MMIO_QUEUE_READY, 0);
  EXPECT_EQ(driver.read32(VIRTIO_MMIO_QUEUE_READY), 0U);
  driver.queue(0).add({{kData, 16, true}});
  driver.kick(0);
  EXPECT_FALSE(driver.queue(0).take_used());
  driver.queue(1).add({{kData, 16, true}});
  driver.kick(1);
  EXPECT_TRUE(driver.queue(1).take_used());
}

TEST_F(TransportTest, ForbiddenWidthsReadZeroAndWriteNothing) {
  std::array<std::byte, 8> bytes;
  for (const size_t width : std::initializer_list<size_t>{1, 2, 8}) {
    bytes.fill(std::byte{0xff});
    const std::span<std::byte> part = std::span(bytes).first(width);
    EXPECT_FALSE(machine.transport->fast_access(VIRTIO_MMIO_QUEUE_NOTIFY, true, part));
    machine.transport->read(VIRTIO_MMIO_MAGIC_VALUE, part);
    EXPECT_EQ(bytes[0], std::byte{0});
    machine.transport->write(VIRTIO_MMIO_STATUS, part);
  }
  machine.transport->read(2, std::span(bytes).first(4));
  EXPECT_EQ(bytes[0], std::byte{0});
  EXPECT_EQ(status(), 0U);
  EXPECT_EQ(errors(), 7U);
}

TEST_F(TransportTest, ConfigChangeRaisesGenerationAndInterrupt) {
  driver.start(8);
  const uint32_t before = driver.read32(VIRTIO_MMIO_CONFIG_GENERATION);
  machine.transport->notify_config_change();
  EXPECT_NE(driver.read32(VIRTIO_MMIO_CONFIG_GENERATION), before);
  EXPECT_EQ(driver.take_interrupt(), 2U);
}

TEST_F(TransportTest, SaveAndRestoreGoOn) {
  driver.start(8);
  driver.queue(0).add({{kData, 16, true}});
  driver.kick(0);
  (void)driver.queue(0).take_used();
  const uint64_t config = 42;
  machine.transport->write(0x100, std::as_bytes(std::span(&config, 1)));
  const TransportState state = must(machine.transport->save());

  MmioTransport other = fresh();
  must(other.restore(state));
  EXPECT_EQ(other.interrupt().status(), 1U);
  EXPECT_EQ(static_cast<EchoDevice&>(other.device()).config, 42U);
  driver.queue(0).add({{kData, 16, true}});
  const uint32_t queue = 0;
  std::array<std::byte, 4> bytes{};
  std::memcpy(bytes.data(), &queue, sizeof(queue));
  EXPECT_TRUE(other.fast_access(VIRTIO_MMIO_QUEUE_NOTIFY, true, bytes));
  other.process_kicks();
  EXPECT_TRUE(driver.queue(0).take_used());
}

TEST_F(TransportTest, SaveRefusesAPendingKick) {
  driver.start(8);
  driver.write32(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
  EXPECT_FALSE(machine.transport->save());
  machine.transport->process_kicks();
  EXPECT_TRUE(machine.transport->save());
}

TEST_F(TransportTest, RestoreRefusesWhatSaveCannotHaveWritten) {
  driver.start(8);
  const TransportState good = must(machine.transport->save());
  const auto with = [&](auto change) {
    TransportState state = good;
    change(state);
    return state;
  };
  expect_refused(with([](auto& s) { s.device_type = 2; }));
  expect_refused(with([](auto& s) { s.status = 0x10f; }));
  expect_refused(with([](auto& s) { s.status = VIRTIO_CONFIG_S_DRIVER_OK; }));
  expect_refused(with([](auto& s) { s.status = 3; }));
  expect_refused(with([](auto& s) { s.driver_features |= 0b10; }));
  expect_refused(with([](auto& s) { s.driver_features = 0; }));
  expect_refused(with([](auto& s) { s.interrupt_status = 4; }));
  expect_refused(with([](auto& s) { s.queue_count = 1; }));
  expect_refused(with([](auto& s) { s.device.size_bytes = 7; }));
  expect_refused(with([](auto& s) { s.device.size_bytes = 1u << 31; }));
  expect_refused(with([](auto& s) { s.queues[0].ready = 2; }));
  expect_refused(with([](auto& s) { s.queues[0].reserved = 1; }));
  expect_refused(with([](auto& s) { s.queues[0].size = 7; }));
  expect_refused(with([](auto& s) { s.queues[0].size = 32; }));
  expect_refused(with([](auto& s) { s.queues[0].used_ring = ~0ULL; }));
  expect_refused(with([](auto& s) { s.queues[0].next_avail = 1; }));
  expect_refused(with([](auto& s) { s.queues[1].ready = 0, s.queues[1].next_avail = s.queues[1].next_used = 3; }));
  expect_refused(with([](auto& s) { s.queues[3].ready = 1; }));
}

}  // namespace
}  // namespace granary::virtio
