// SPDX-License-Identifier: Apache-2.0
// The netlink messages that make a redirection, as they are built; no kernel is asked.
#include "netplumb/redirect.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>

#include <array>

namespace granary::netplumb {
namespace {

const Port kWire{7, "eth0"};
const Port kTap{9, "gtap7"};

using Nested = std::array<nlattr*, 32>;
Nested nested(nlattr* in) {
  Nested table{};
  EXPECT_EQ(::nla_parse_nested(table.data(), static_cast<int>(table.size()) - 1, in, nullptr), 0);
  return table;
}

struct Filter {
  explicit Filter(const Request& request) : found(request.header()), options(nested(found[TCA_OPTIONS])) {
    EXPECT_TRUE(request.fits());
    EXPECT_EQ(request.header()->nlmsg_type, RTM_NEWTFILTER);
    EXPECT_EQ(request.header()->nlmsg_flags & (NLM_F_CREATE | NLM_F_EXCL), NLM_F_CREATE | NLM_F_EXCL);
    EXPECT_EQ(TC_H_MIN(found.header.tcm_info), htons(ETH_P_ALL));
  }
  [[nodiscard]] uint32_t priority() const { return TC_H_MAJ(found.header.tcm_info) >> 16; }
  // Of its mirred action; 0: it has none.
  [[nodiscard]] uint32_t redirects_to() const {
    if (options[TCA_U32_ACT] == nullptr) return 0;
    const Nested action = nested(nested(options[TCA_U32_ACT])[1]);
    EXPECT_STREQ(::nla_get_string(action[TCA_ACT_KIND]), "mirred");
    const auto* const mirred = static_cast<tc_mirred*>(::nla_data(nested(action[TCA_ACT_OPTIONS])[TCA_MIRRED_PARMS]));
    EXPECT_EQ(mirred->action, TC_ACT_STOLEN);
    EXPECT_EQ(mirred->eaction, TCA_EGRESS_REDIR);
    return mirred->ifindex;
  }
  Attributes<tcmsg, TCA_MAX> found;
  Nested options;
};

TEST(RedirectMessages, AQdiscIsNewOrNotMade) {
  Requests all;
  add_qdisc(all, kWire);
  ASSERT_EQ(all.requests.size(), 1U);
  const nlmsghdr* const header = all.requests[0].header();
  EXPECT_EQ(header->nlmsg_type, RTM_NEWQDISC);
  EXPECT_EQ(header->nlmsg_flags & (NLM_F_CREATE | NLM_F_EXCL | NLM_F_REPLACE), NLM_F_CREATE | NLM_F_EXCL);
  const Attributes<tcmsg, TCA_MAX> found(header);
  EXPECT_EQ(found.header.tcm_ifindex, 7);
  EXPECT_EQ(found.header.tcm_parent, TC_H_CLSACT);
  EXPECT_EQ(found.text(TCA_KIND), "clsact");
  EXPECT_STREQ(all.modules[0], "sch_ingress");
}

TEST(RedirectMessages, InGoesToTheTapAndOutOnlyWhatCameFromIt) {
  Requests all;
  add_redirect(all, kWire, kTap);
  ASSERT_EQ(all.requests.size(), 3U);
  const Filter in(all.requests[0]);
  EXPECT_EQ(in.found.header.tcm_parent, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS));
  EXPECT_EQ(in.redirects_to(), 9U);
  EXPECT_EQ(in.options[TCA_U32_INDEV], nullptr);
  const Filter pass(all.requests[1]);
  const Filter keep(all.requests[2]);
  for (const Filter* out : {&pass, &keep})
    EXPECT_EQ(out->found.header.tcm_parent, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS));
  EXPECT_STREQ(::nla_get_string(pass.options[TCA_U32_INDEV]), "gtap7");
  EXPECT_EQ(pass.redirects_to(), 0U);
  EXPECT_EQ(keep.redirects_to(), 1U) << "the loopback device";
  EXPECT_LT(pass.priority(), keep.priority());
}

TEST(RedirectMessages, AProgramComesBeforeTheRedirectionAndDecidesItself) {
  const std::vector<sock_filter> program(4000, {.code = BPF_RET | BPF_K, .jt = 0, .jf = 0, .k = TC_ACT_SHOT});
  Requests all;
  add_ingress_program(all, kTap, program);
  add_redirect(all, kTap, kWire);
  const Filter first(all.requests[0]);
  EXPECT_EQ(first.found.text(TCA_KIND), "bpf");
  EXPECT_EQ(first.found.header.tcm_parent, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS));
  EXPECT_LT(first.priority(), Filter(all.requests[1]).priority());
  EXPECT_EQ(::nla_get_u16(first.options[TCA_BPF_OPS_LEN]), program.size());
  EXPECT_EQ(static_cast<size_t>(::nla_len(first.options[TCA_BPF_OPS])), program.size() * sizeof(sock_filter));
  EXPECT_EQ(::nla_get_u32(first.options[TCA_BPF_FLAGS]), TCA_BPF_FLAG_ACT_DIRECT);
}

TEST(RedirectMessages, WhatDoesNotFitIsNoticed) {
  Request request(RTM_NEWLINK, 0, ifinfomsg{}, 64);
  request.put_text(IFLA_IFNAME, std::string(100, 'n'));
  EXPECT_FALSE(request.fits());
}

}  // namespace
}  // namespace granary::netplumb
