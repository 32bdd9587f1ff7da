// SPDX-License-Identifier: Apache-2.0
#include "netplumb/address_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "netplumb/ip_text.h"
#include "vmpool/base/fd.h"

namespace granary::netplumb {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class AddressStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "granary-addresses-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    network_.subnet = *parse_prefix("10.9.0.0/29");  // guests 2 to 6
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  [[nodiscard]] std::string path() const { return folder_ + "/addresses"; }
  [[nodiscard]] AddressStore open() const {
    auto store = AddressStore::open(path(), network_);
    EXPECT_TRUE(store) << store.error().message();
    return *std::move(store);
  }
  static std::vector<uint32_t> taken(AddressStore& store, size_t count) {
    auto guests = store.take(count);
    EXPECT_TRUE(guests) << guests.error().message();
    return guests ? *guests : std::vector<uint32_t>();
  }

  std::string folder_;
  RoutedNetwork network_;
};

TEST_F(AddressStoreTest, GivesWhatWasFreeForLongestAlsoAfterARestart) {
  AddressStore store = open();
  EXPECT_THAT(taken(store, 3), ElementsAre(2, 3, 4));
  EXPECT_TRUE(store.give_back(std::vector<uint32_t>{2, 3}));
  EXPECT_THAT(taken(store, 1), ElementsAre(5));
  AddressStore again = open();
  EXPECT_THAT(again.taken(), ElementsAre(4, 5));
  EXPECT_THAT(taken(again, 2), ElementsAre(6, 2));
}

TEST_F(AddressStoreTest, AFullPoolIsAnErrorAndTakesNothing) {
  AddressStore store = open();
  taken(store, 4);
  const auto more = store.take(2);
  ASSERT_FALSE(more);
  EXPECT_TRUE(more.error().is(Errc::kAddressesExhausted));
  EXPECT_THAT(more.error().message(), HasSubstr("10.9.0.0/29: 4 of 5 addresses are taken"));
  EXPECT_THAT(taken(store, 1), ElementsAre(6));
}

TEST_F(AddressStoreTest, NothingIsGivenOutThatIsNotOnTheDisk) {
  AddressStore store = open();
  taken(store, 1);
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit tight{8, old.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  const auto more = store.take(1);
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(more);
  EXPECT_THAT(more.error().message(), HasSubstr("make room"));
  EXPECT_THAT(open().taken(), ElementsAre(2));
  EXPECT_THAT(taken(store, 1), ElementsAre(3)) << "it goes on once there is room";
}

TEST_F(AddressStoreTest, AnotherSubnetsNumbersMeanNothing) {
  AddressStore store = open();
  taken(store, 2);
  network_.subnet = *parse_prefix("10.10.0.0/29");
  const AddressStore other = open();
  EXPECT_TRUE(other.taken().empty());
  EXPECT_EQ(other.other_subnet(), "10.9.0.0/29");
}

TEST_F(AddressStoreTest, EveryDamagedByteIsNoticed) {
  AddressStore store = open();
  taken(store, 2);
  const std::string whole = *read_file(path());
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    std::ofstream(path()) << damaged;
    EXPECT_TRUE(open().damaged()) << "byte " << at;
    std::ofstream(path()) << whole.substr(0, at);
    EXPECT_TRUE(open().damaged()) << "cut at " << at;
  }
  std::ofstream(path()) << whole;
  EXPECT_FALSE(open().damaged());
}

}  // namespace
}  // namespace granary::netplumb
