// SPDX-License-Identifier: Apache-2.0
#include "agent/resolvers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "netplumb/ip_text.h"

namespace granary::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> texts(std::string_view resolv_conf) {
  std::vector<std::string> all;
  for (const auto& one : parse_resolvers(resolv_conf)) all.push_back(netplumb::to_text(one));
  return all;
}

TEST(Resolvers, AreThoseThatGuestsCanAsk) {
  EXPECT_THAT(texts("# comment\nsearch example.org\nnameserver 10.0.0.2\n nameserver\t192.0.2.53 # last\n"),
              ElementsAre("10.0.0.2", "192.0.2.53"));
  EXPECT_THAT(texts("nameserver 127.0.0.53\nnameserver ::1\nnameserver 2001:db8::53\nnameserver 0.0.0.0\n"), IsEmpty());
  EXPECT_THAT(texts("nameserver 10.0.0.1\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver "
                    "10.0.0.4"),
              ElementsAre("10.0.0.1", "10.0.0.2", "10.0.0.3"));
  EXPECT_THAT(texts("nameserver\nnameserver 10.0.0\nnameservers 10.0.0.1\noptions nameserver"), IsEmpty());
}

}  // namespace
}  // namespace granary::agent
