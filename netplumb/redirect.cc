// SPDX-License-Identifier: Apache-2.0
#include "netplumb/redirect.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>

#include <array>
#include <cstring>

namespace granary::netplumb {
namespace {

constexpr int kLoopback = 1;  // the index of lo, in every namespace
constexpr uint16_t kCreate = NLM_F_CREATE | NLM_F_EXCL;
constexpr uint32_t kIngress = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS);
constexpr uint32_t kAfterProgram = 2;  // the priority of an ingress redirection
constexpr uint32_t kEgress = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS);

tcmsg qdisc_of(uint32_t index) {
  tcmsg header{};
  header.tcm_family = AF_UNSPEC;
  header.tcm_ifindex = static_cast<int>(index);
  header.tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0U);
  header.tcm_parent = TC_H_CLSACT;
  return header;
}

void put_redirect(Request& options, int index) {
  options.nest(TCA_U32_ACT, [&](Request& actions) {
    actions.nest(1, [&](Request& action) {
      action.put_text(TCA_ACT_KIND, "mirred");
      action.nest(TCA_ACT_OPTIONS, [&](Request& mirred) {
        tc_mirred parameters{};
        parameters.action = TC_ACT_STOLEN;
        parameters.eaction = TCA_EGRESS_REDIR;
        parameters.ifindex = static_cast<uint32_t>(index);
        mirred.put_value(TCA_MIRRED_PARMS, parameters);
      });
    });
  });
}

tcmsg filter_of(uint32_t index, uint32_t parent, uint32_t priority) {
  tcmsg header{};
  header.tcm_family = AF_UNSPEC;
  header.tcm_ifindex = static_cast<int>(index);
  header.tcm_parent = parent;
  header.tcm_info = TC_H_MAKE(priority << 16, static_cast<uint32_t>(htons(ETH_P_ALL)));
  return header;
}

// A u32 filter that matches everything, or everything that came in at `indev`. `redirect_to` 0: it passes.
Request filter(uint32_t index, uint32_t parent, uint32_t priority, const std::string& indev, int redirect_to) {
  Request request(RTM_NEWTFILTER, kCreate, filter_of(index, parent, priority));
  request.put_text(TCA_KIND, "u32");
  request.nest(TCA_OPTIONS, [&](Request& options) {
    tc_u32_sel selector{};
    selector.flags = TC_U32_TERMINAL;
    selector.nkeys = 1;
    std::array<uint8_t, sizeof(tc_u32_sel) + sizeof(tc_u32_key)> all{};  // its one key: no bit is compared
    std::memcpy(all.data(), &selector, sizeof(selector));
    options.put(TCA_U32_SEL, all);
    if (!indev.empty()) options.put_text(TCA_U32_INDEV, indev);
    if (redirect_to != 0) put_redirect(options, redirect_to);
  });
  return request;
}

}  // namespace

void add_qdisc(Requests& into, const Port& from) {
  Request qdisc(RTM_NEWQDISC, kCreate, qdisc_of(from.index));
  qdisc.put_text(TCA_KIND, "clsact");
  into.add(std::move(qdisc), from.name + ": add a clsact qdisc", "sch_ingress");
}

void add_redirect(Requests& into, const Port& from, const Port& to) {
  constexpr const char* kModules = "cls_u32 act_mirred";
  into.add(filter(from.index, kIngress, kAfterProgram, "", static_cast<int>(to.index)),
           from.name + ": redirect to " + to.name, kModules);
  into.add(filter(from.index, kEgress, 1, to.name, 0), from.name + ": pass what comes from " + to.name, kModules);
  into.add(filter(from.index, kEgress, 2, "", kLoopback), from.name + ": keep back what the namespace sends by itself",
           kModules);
}

void add_ingress_program(Requests& into, const Port& from, std::span<const sock_filter> program) {
  const tcmsg header = filter_of(from.index, kIngress, kAfterProgram - 1);
  Request request(RTM_NEWTFILTER, kCreate, header, 4096 + program.size_bytes());
  request.put_text(TCA_KIND, "bpf");
  request.nest(TCA_OPTIONS, [&](Request& options) {
    options.put_value(TCA_BPF_OPS_LEN, static_cast<uint16_t>(program.size()));
    options.put(TCA_BPF_OPS, {reinterpret_cast<const uint8_t*>(program.data()), program.size_bytes()});
    options.put_value<uint32_t>(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT);
  });
  into.add(std::move(request), from.name + ": let only its own addresses pass (anti_spoofing)", "cls_bpf");
}

Result<bool> is_ours(Netlink& netlink, const Port& from, const Port& to) {
  bool has_any = false;
  bool has_own = false;
  const auto look = [&](const nlmsghdr* message) {
    const Attributes<tcmsg, TCA_MAX> found(message);
    std::array<nlattr*, TCA_U32_MAX + 1> u32{};
    has_any = true;
    if (!found.valid || found.text(TCA_KIND) != "u32" || found[TCA_OPTIONS] == nullptr) return;
    if (::nla_parse_nested(u32.data(), TCA_U32_MAX, found[TCA_OPTIONS], nullptr) != 0) return;
    has_own = has_own || (u32[TCA_U32_INDEV] != nullptr && ::nla_get_string(u32[TCA_U32_INDEV]) == to.name);
  };
  for (const uint32_t parent : {kIngress, kEgress}) {
    tcmsg header{};
    header.tcm_ifindex = static_cast<int>(from.index);
    header.tcm_parent = parent;
    GRANARY_TRY(netlink.dump(
        Request(RTM_GETTFILTER, 0, header), from.name + ": read its filters", [] {}, look));
  }
  return has_own || !has_any;
}

void add_removal(Requests& into, const Port& from) {
  into.add(Request(RTM_DELQDISC, 0, qdisc_of(from.index)), from.name + ": remove the clsact qdisc");
}

}  // namespace granary::netplumb
