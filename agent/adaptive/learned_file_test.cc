// SPDX-License-Identifier: Apache-2.0
#include "agent/adaptive/learned_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <zlib.h>

#include <cmath>
#include <cstdio>
#include <fstream>

namespace granary::adaptive {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr double kWall = 1'800'000'000;

Learned taught() {
  Policy policy;
  for (int i = 0; i < 2000; ++i) {
    policy.decide({.now = 1.0 * i, .wall = kWall + i, .min = 0, .most = 40, .hits = 1});
    for (int n = 0; n < i % 4; ++n) policy.asked(i + 0.1 * n);
    policy.refilled(0.75);
  }
  return policy.learned();
}

std::string line(const std::string& object) {
  char sum[16];
  std::snprintf(sum, sizeof(sum), "%08lx ",
                ::crc32(0, reinterpret_cast<const Bytef*>(object.data()), static_cast<uInt>(object.size())));
  return sum + object + "\n";
}

std::string object_with(const std::string& from, const std::string& to) {
  std::string text = to_text({{"a", taught()}}, kWall);
  text = text.substr(9, text.size() - 10);
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

class LearnedFileTest : public testing::Test {
 protected:
  LearnedFileTest() { path_ = testing::TempDir() + "learned_file_test." + std::to_string(::getpid()); }
  ~LearnedFileTest() override { ::remove(path_.c_str()); }
  std::string path_;
};

TEST_F(LearnedFileTest, WhatIsSavedIsLoaded) {
  const LearnedPools pools = {{"a", taught()}, {"b", Learned()}};
  ASSERT_TRUE(save_learned(path_, pools, kWall));
  ASSERT_TRUE(save_learned(path_, pools, kWall)) << "over the old one";
  struct stat status {};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  const auto loaded = load_learned(path_, kWall);
  ASSERT_TRUE(loaded);
  EXPECT_THAT(loaded->refused, IsEmpty());
  ASSERT_EQ(loaded->pools.size(), 2u);
  const Learned& a = loaded->pools.at("a");
  EXPECT_EQ(a.wish, pools.at("a").wish);
  EXPECT_EQ(a.hits, pools.at("a").hits);
  EXPECT_EQ(a.price, pools.at("a").price);
  EXPECT_NEAR(a.rates[2], pools.at("a").rates[2], 1e-6);
  for (size_t i = 0; i < kSituations; ++i) {
    EXPECT_NEAR(a.demands[i].total(), pools.at("a").demands[i].total(), 0.1);
  }
}

TEST_F(LearnedFileTest, NoFileHasNoPools) {
  const auto loaded = load_learned(path_, kWall);
  ASSERT_TRUE(loaded);
  EXPECT_TRUE(loaded->pools.empty());
  EXPECT_FALSE(load_learned("/proc/self", kWall)) << "a folder is none";
  EXPECT_FALSE(save_learned("/proc/none/file", {}, kWall));
}

TEST_F(LearnedFileTest, ADamagedLineIsRefusedAlone) {
  std::string text = to_text({{"a", Learned()}, {"b", Learned()}, {"c", Learned()}}, kWall);
  const size_t second = text.find('\n') + 20;
  text[second] ^= 1;
  const LoadedPools loaded = parse_learned(text, kWall);
  EXPECT_EQ(loaded.pools.size(), 2u);
  EXPECT_THAT(loaded.refused, ElementsAre("line 2: wrong checksum"));
  const std::string cut = text.substr(0, text.size() - 5);
  EXPECT_EQ(parse_learned(cut, kWall).pools.size(), 1u);
}

TEST_F(LearnedFileTest, NumbersThatNobodyLearnedAreRefused) {
  EXPECT_THAT(parse_learned(line(object_with("\"aim\"", "\"aim\"")), kWall).refused, IsEmpty());
  const std::pair<const char*, const char*> changes[] = {{"\"format\":1", "\"format\":2"},
                                                         {"\"wish\":", "\"wish\":-"},
                                                         {"\"price\":", "\"price\":1e99,\"p\":"},
                                                         {"\"wish\":", "\"wish\":70000,\"w\":"},
                                                         {"\"hits\":", "\"hits\":\"x\",\"h\":"},
                                                         {"\"day\":[", "\"day\":[2,"},
                                                         {"\"tells_apart\":", "\"t\":"},
                                                         {"\"rates\":[", "\"rates\":[1,"},
                                                         {"\"demands\":[", "\"demands\":[[1e9,1,[]],"},
                                                         {"\"demands\":[", "\"demands\":[7,"},
                                                         {"\"pool\":\"a\"", "\"pool\":3"}};
  for (const auto& [from, to] : changes) {
    const LoadedPools loaded = parse_learned(line(object_with(from, to)), kWall);
    EXPECT_TRUE(loaded.pools.empty()) << to;
    EXPECT_EQ(loaded.refused.size(), 1u) << to;
  }
  for (const char* text : {"", "x", "[]", "{}", "null", "{\"demands\":[[[[[["}) {
    EXPECT_THAT(parse_learned(line(text), kWall).refused, Not(IsEmpty())) << text;
  }
}

TEST_F(LearnedFileTest, TheTimeBetweenCountsAsQuiet) {
  const Learned before = taught();
  const std::string text = to_text({{"a", before}}, kWall);
  EXPECT_NEAR(parse_learned(text, kWall + 900).pools.at("a").rates[3], before.rates[3] / std::exp(1.0), 1e-4);
  EXPECT_NEAR(parse_learned(text, kWall - 1e6).pools.at("a").rates[3], before.rates[3], 1e-6) << "a clock set back";
}

}  // namespace
}  // namespace granary::adaptive
