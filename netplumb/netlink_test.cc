// SPDX-License-Identifier: Apache-2.0
// What a netlink socket does when the kernel's answers are lost, go stale, or say no.
#include "netplumb/netlink.h"

#include <gmock/gmock.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "netplumb/netns.h"
#include "netplumb/read_config.h"
#include "netplumb/redirect.h"
#include "netplumb/test_netns.h"

namespace granary::netplumb {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int kLinks = 64;  // so many that a dump of them comes in several parts

class NetlinkTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!netns_.valid()) GTEST_SKIP() << "network namespaces cannot be made here (needs root and iproute2)";
    ASSERT_EQ(
        netns_.run("for i in $(seq " + std::to_string(kLinks / 2) + "); do ip link add a$i type veth peer b$i; done"),
        0);
    ASSERT_TRUE(in_netns(netns_.fd(), [&]() -> Status {
      netlink_.emplace(GRANARY_TRY(Netlink::open()));
      other_.emplace(GRANARY_TRY(Netlink::open()));
      return ok();
    }));
  }
  void add_pair(int number) const {
    const std::string n = std::to_string(number);
    EXPECT_EQ(netns_.run("ip link add c" + n + " type veth peer d" + n), 0);
  }
  // Tells whoever listens.
  void rename_one(const std::string& from, const std::string& to) {
    ifinfomsg header{};
    header.ifi_index = static_cast<int>(port(from).index);
    Request rename(RTM_NEWLINK, 0, header);
    rename.put_text(IFLA_IFNAME, to);
    const std::string what = "rename " + from;
    const Status renamed = other_->ask({&rename, 1}, {&what, 1});
    ASSERT_TRUE(renamed) << renamed.error().message();
  }
  [[nodiscard]] Port port(const std::string& name) const {
    Port port{0, name};
    EXPECT_TRUE(in_netns(netns_.fd(), [&]() -> Status {
      port.index = ::if_nametoindex(name.c_str());
      return ok();
    }));
    return port;
  }
  struct Dump {
    Status status = ok();
    int starts = 0;
    std::vector<std::string> names;
  };
  // `meanwhile`: at the first interface of each try, whose number it is given.
  [[nodiscard]] Dump dump_links(const std::function<void(int)>& meanwhile) {
    Dump dump;
    const auto restart = [&] {
      ++dump.starts;
      dump.names.clear();
    };
    dump.status =
        netlink_->dump(Request(RTM_GETLINK, 0, ifinfomsg{}), "read interfaces", restart, [&](const nlmsghdr* m) {
          if (dump.names.empty()) meanwhile(dump.starts);
          dump.names.push_back(Attributes<ifinfomsg, IFLA_MAX>(m).text(IFLA_IFNAME));
        });
    return dump;
  }

  const TestNetns netns_{"netlink"};
  std::optional<Netlink> netlink_;
  std::optional<Netlink> other_;
};

TEST_F(NetlinkTest, ADumpDuringWhichSomethingChangedIsReadAgain) {
  const Dump dump = dump_links([&](int start) {
    if (start == 1) add_pair(start);
  });
  ASSERT_TRUE(dump.status) << dump.status.error().message();
  EXPECT_EQ(dump.starts, 2);
  EXPECT_EQ(dump.names.size(), kLinks + 2 + 1U) << "all once, and lo";
  EXPECT_THAT(dump.names, testing::Contains("d1"));
}

TEST_F(NetlinkTest, OneThatChangesEachTimeEndsWithAnError) {
  const Dump dump = dump_links([&](int start) { add_pair(start); });
  ASSERT_FALSE(dump.status);
  EXPECT_TRUE(dump.status.error().is_errno(EAGAIN));
  EXPECT_THAT(dump.status.error().message(), HasSubstr("read interfaces: it changed during each of 8 dumps"));
  const Dump again = dump_links([](int) {});
  EXPECT_EQ(again.names.size(), kLinks + 2U * 8 + 1) << "the socket is as good as before";
}

// Notes that nobody reads fill the buffer until the kernel drops, and says so, in the place of a part of the dump.
TEST_F(NetlinkTest, ADumpOfWhichSomethingIsLostIsReadAgain) {
  const int small = 1;  // the kernel makes 2304 bytes of it
  ASSERT_EQ(::setsockopt(netlink_->fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
  const int group = RTNLGRP_LINK;
  ASSERT_EQ(::setsockopt(netlink_->fd(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)), 0);
  const Dump dump = dump_links([&](int start) {
    for (int i = 0; start == 1 && i < 16; ++i) rename_one(i % 2 == 0 ? "b32" : "late", i % 2 == 0 ? "late" : "b32");
  });
  ASSERT_TRUE(dump.status) << dump.status.error().message();
  EXPECT_EQ(dump.starts, 2);
  EXPECT_EQ(dump.names.size(), kLinks + 1U);
}

// Answers that do not fit: what became of the requests is not known, and that is an error.
TEST_F(NetlinkTest, LostAnswersAreAnError) {
  const int small = 1;
  ASSERT_EQ(::setsockopt(netlink_->fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
  std::vector<Request> requests;
  std::vector<std::string> whats;
  for (int i = 0; i < 16; ++i) {
    ifinfomsg header{};
    header.ifi_index = 1;
    requests.emplace_back(RTM_NEWLINK, 0, header);
    whats.push_back("change lo");
  }
  const Status lost = netlink_->ask(requests, whats);
  ASSERT_FALSE(lost);
  EXPECT_TRUE(lost.error().is_errno(ENOBUFS)) << lost.error().message();
  EXPECT_THAT(lost.error().message(), AllOf(HasSubstr("change lo"), HasSubstr("raise net.core.rmem_default")));
  EXPECT_EQ(dump_links([](int) {}).names.size(), kLinks + 1U) << "the socket is as good as before";
}

// A kernel without the module does not know the kind, like this one's that is spelled otherwise.
struct Missing {
  const char* name;
  const char* kind;
  const char* modules;
  size_t request;  // of those below
};
class MissingModuleTest : public NetlinkTest, public testing::WithParamInterface<Missing> {};

TEST_P(MissingModuleTest, IsNamedWithTheRemedy) {
  ASSERT_EQ(netns_.run(GetParam().request == 0 ? "true" : "tc qdisc add dev a1 clsact"), 0);
  const Port from = port("a1");
  const Port to = port("a2");
  const sock_filter nothing{.code = BPF_RET | BPF_K, .jt = 0, .jf = 0, .k = 0};
  Requests all;
  add_qdisc(all, from);
  add_redirect(all, from, to);
  add_ingress_program(all, from, {&nothing, 1});
  nlmsghdr* const header = all.requests[GetParam().request].header();
  char* const begin = reinterpret_cast<char*>(header);
  const std::string_view kind = GetParam().kind;
  char* const at = std::search(begin, begin + header->nlmsg_len, kind.begin(), kind.end());
  ASSERT_NE(at, begin + header->nlmsg_len);
  *at = 'X';
  const Status refused = netlink_->ask({&all.requests[GetParam().request], 1}, {&all.whats[GetParam().request], 1},
                                       {&all.modules[GetParam().request], 1});
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().is(Errc::kNotSupported)) << refused.error().message();
  const std::string modules = GetParam().modules;
  EXPECT_THAT(refused.error().message(), AllOf(HasSubstr("a1: "), HasSubstr("the kernel lacks " + modules + ";"),
                                               HasSubstr("modprobe -a " + modules)));
}
INSTANTIATE_TEST_SUITE_P(Each, MissingModuleTest,
                         testing::Values(Missing{"Qdisc", "clsact", "sch_ingress", 0},
                                         Missing{"Classifier", "u32", "cls_u32 act_mirred", 1},
                                         Missing{"Action", "mirred", "cls_u32 act_mirred", 1},
                                         Missing{"Program", "bpf", "cls_bpf", 4}),
                         [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace granary::netplumb
