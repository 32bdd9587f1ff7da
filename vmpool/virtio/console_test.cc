// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/console.h"

#include <gtest/gtest.h>

#include "vmpool/virtio/fake_driver.h"

namespace granary::virtio {
namespace {

class ConsoleTest : public testing::Test {
 protected:
  ConsoleTest()
      : console(new Console([this](std::span<const std::byte> bytes) {
          output.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        })),
        machine(std::unique_ptr<Device>(console)),
        driver(*machine.driver) {
    driver.start(8);
  }
  size_t input(std::string_view text) {
    return console->write_input(std::as_bytes(std::span(text.data(), text.size())));
  }

  std::string output;
  Console* console;
  FakeMachine machine;
  FakeDriver& driver;
};

TEST_F(ConsoleTest, OutputReachesTheSink) {
  const Gpa text = driver.place("hello, world");
  driver.queue(1).add({{text, 6, false}, {text + 6, 6, false}});
  driver.kick(1);
  EXPECT_EQ(output, "hello, world");
  EXPECT_EQ(driver.queue(1).take_used()->length, 0U);
}

TEST_F(ConsoleTest, OutputOfOneBufferIsBounded) {
  driver.queue(1).add({{driver.allocate(1 * kMiB), 1 * kMiB, false}});
  driver.kick(1);
  EXPECT_EQ(output.size(), 64U * 1024);
  EXPECT_TRUE(driver.queue(1).take_used());
}

TEST_F(ConsoleTest, InputWaitsForBuffersAndIsBounded) {
  EXPECT_EQ(input("typed"), 5U);
  EXPECT_FALSE(console->quiescent());
  const Gpa buffer = driver.allocate(4);
  driver.queue(0).add({{buffer, 4, true}});
  driver.kick(0);
  EXPECT_EQ(driver.queue(0).take_used()->length, 4U);
  EXPECT_EQ(driver.text(buffer, 4), "type");
  EXPECT_EQ(console->input_pending(), 1U);
  EXPECT_EQ(input(std::string(Console::kInputBytes, 'x')), Console::kInputBytes - 1);
  EXPECT_EQ(input("x"), 0U);
}

TEST_F(ConsoleTest, BrokenInputRingNeedsResetAtTheNextKick) {
  driver.queue(0).set_avail_index(1000);
  input("x");
  driver.kick(0);
  EXPECT_TRUE(driver.needs_reset());
}

}  // namespace
}  // namespace granary::virtio
