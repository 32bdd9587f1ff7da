// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/fuzz_driver.h"

namespace granary::virtio {
namespace {

constexpr uint16_t kQueueSize = 8;
constexpr int kMaxOperations = 256;

class Player {
 public:
  Player(FuzzInput& input, FakeMachine& machine) : in_(input), machine_(machine) {}

  void start() {
    queues_ = static_cast<uint16_t>(machine_.transport->device().queue_sizes().size());
    if ((in_.take<uint8_t>() & 1) == 0) return;
    machine_.driver->start(kQueueSize);
    started_ = true;
  }

  void play(uint8_t operation) {
    switch (operation) {
      case 0:
        return write_register();
      case 1:
        return write_descriptor();
      case 2:
        return make_available();
      case 3:
        return machine_.driver->kick(queue_index());
      case 4:
        return write_memory();
      case 5:
        return write_config();
      default:
        return read_everything();
    }
  }

 private:
  uint16_t queue_index() { return static_cast<uint16_t>(in_.take<uint8_t>() % queues_); }

  void write_register() {
    const uint32_t offset = in_.take<uint16_t>() % 0x100;
    machine_.driver->write32(offset, in_.take<uint32_t>());
    machine_.transport->process_kicks();
  }
  void write_descriptor() {
    const uint16_t queue = queue_index();
    const auto index = static_cast<uint16_t>(in_.take<uint8_t>() % kQueueSize);
    const uint64_t address = in_.take<uint32_t>() % (9 * kMiB);
    const auto length = in_.take<uint16_t>();
    const auto flags = in_.take<uint8_t>();
    const auto next = in_.take<uint8_t>();
    if (started_) machine_.driver->queue(queue).write_descriptor(index, address, length, flags, next);
  }
  void make_available() {
    const uint16_t queue = queue_index();
    const auto head = in_.take<uint8_t>();
    if (started_) machine_.driver->queue(queue).make_available(head);
    machine_.driver->kick(queue);
  }
  void write_memory() {
    const Gpa at{in_.take<uint16_t>() * 16ULL};
    const std::span<const uint8_t> bytes = in_.take_bytes(in_.take<uint8_t>());
    must(machine_.memory->write_bytes(at, std::as_bytes(bytes)));
  }
  void write_config() {
    const uint32_t offset = 0x100 + in_.take<uint8_t>();
    const auto value = in_.take<uint32_t>();
    machine_.transport->write(offset, std::as_bytes(std::span(&value, 1)));
  }
  void read_everything() {
    for (uint32_t offset = 0; offset < 0x140; offset += 4) (void)machine_.driver->read32(offset);
    const Result<TransportState> state = machine_.transport->save();
    (void)state;
  }

  FuzzInput& in_;
  FakeMachine& machine_;
  uint16_t queues_ = 1;
  bool started_ = false;
};

}  // namespace

void fuzz_device(FuzzInput& input, FakeMachine& machine, const std::function<void(FuzzInput&)>& host) {
  set_log_level(LogLevel::kError);
  Player player(input, machine);
  player.start();
  for (int i = 0; i < kMaxOperations && !input.empty(); ++i) {
    const auto operation = static_cast<uint8_t>(input.take<uint8_t>() % 8);
    operation == 6 ? host(input) : player.play(operation);
  }
}

}  // namespace granary::virtio
