// SPDX-License-Identifier: Apache-2.0
#include "netplumb/allow_rule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "netplumb/ip_text.h"

namespace granary::netplumb {
namespace {

using testing::HasSubstr;

struct Good {
  const char* text;
  const char* match;
};
class GoodRule : public testing::TestWithParam<Good> {};
TEST_P(GoodRule, IsWhatNftIsTold) {
  const auto rule = parse_allow_rule(GetParam().text);
  ASSERT_TRUE(rule) << rule.error().message();
  EXPECT_EQ(to_match(*rule), GetParam().match);
}
INSTANTIATE_TEST_SUITE_P(
    Each, GoodRule,
    testing::Values(Good{"192.0.2.1", "ip daddr 192.0.2.1/32"}, Good{"0.0.0.0/0", "ip daddr 0.0.0.0/0"},
                    Good{"tcp:192.0.2.0/24:443", "ip daddr 192.0.2.0/24 meta l4proto tcp th dport 443"},
                    Good{"udp:10.0.0.0/8:8000-8999", "ip daddr 10.0.0.0/8 meta l4proto udp th dport 8000-8999"},
                    Good{"10.0.0.1:53", "ip daddr 10.0.0.1/32 meta l4proto { tcp, udp } th dport 53"},
                    Good{"tcp:10.0.0.1", "ip daddr 10.0.0.1/32 meta l4proto tcp"},
                    Good{"icmp:10.0.0.0/8", "ip daddr 10.0.0.0/8 meta l4proto icmp"}));

struct Bad {
  const char* text;
  const char* why;
};
class BadRule : public testing::TestWithParam<Bad> {};
TEST_P(BadRule, IsRefusedWithARemedy) {
  const auto rule = parse_allow_rule(GetParam().text);
  ASSERT_FALSE(rule);
  EXPECT_THAT(rule.error().message(), HasSubstr(GetParam().why));
}
INSTANTIATE_TEST_SUITE_P(
    Each, BadRule,
    testing::Values(Bad{"", "give an IP address"}, Bad{"example.org", "give an IP address"},
                    Bad{"10.0.0.1/8", "bits are set behind the prefix"}, Bad{"10.0.0.0/33", "give an IP address"},
                    Bad{"10.0.0.0/", "give an IP address"}, Bad{"tcp:10.0.0.0/8:", "ports are 1 to 65535"},
                    Bad{"tcp:10.0.0.0/8:0", "ports are 1 to 65535"}, Bad{"tcp:10.0.0.0/8:65536", "ports are 1 to"},
                    Bad{"tcp:10.0.0.0/8:9-8", "the lower one first"}, Bad{"icmp:10.0.0.0/8:8", "ICMP has no ports"},
                    Bad{"2001:db8::/32", "IPv4 only"}, Bad{"10.0.0.0/8; drop", "give an IP address"},
                    Bad{"sctp:10.0.0.0/8", "give an IP address"}));

TEST(AllowRules, AreBounded) {
  EXPECT_TRUE(parse_allow_rules(std::vector<std::string>(kMaxAllowRules, "10.0.0.1")));
  const auto many = parse_allow_rules(std::vector<std::string>(kMaxAllowRules + 1, "10.0.0.1"));
  ASSERT_FALSE(many);
  EXPECT_THAT(many.error().message(), HasSubstr("257 allow rules"));
}

TEST(IpText, ContainsAndOverlaps) {
  const auto p = [](const char* text) { return *parse_prefix(text); };
  EXPECT_TRUE(contains(p("10.0.0.0/8"), p("10.1.0.0/16")));
  EXPECT_FALSE(contains(p("10.1.0.0/16"), p("10.0.0.0/8")));
  EXPECT_TRUE(overlap(p("10.1.0.0/16"), p("10.0.0.0/8")));
  EXPECT_FALSE(overlap(p("10.1.0.0/16"), p("10.2.0.0/16")));
  EXPECT_TRUE(contains(p("0.0.0.0/0"), p("255.255.255.255")));
  EXPECT_FALSE(contains(p("::/0"), p("10.0.0.0/8"))) << "of another family";
  EXPECT_EQ(to_text(p("2001:db8::/32")), "2001:db8::/32");
  EXPECT_EQ(to_text(to_address(to_number(p("192.0.2.7").address) + 1)), "192.0.2.8");
}

}  // namespace
}  // namespace granary::netplumb
