// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "netplumb/network_config.h"
#include "vmpool/base/fd.h"

namespace granary::netplumb {

// What a microVM needs to stand in for a network namespace: a tap per wired interface and the configuration that the
// interfaces have. taps[n] belongs to config.links[n].
struct Attachment {
  std::vector<Fd> taps;  // tap.h
  NetworkConfig config;
};

// What a guest may send.
enum class Frames {
  kAny,
  kOwn,  // of the interface's MAC and IP addresses (own_frames.h)
};

// Wires a configured network namespace, as CNI left it, for a microVM: makes a persistent tap "gtapN" beside each wired
// interface (N is its index), redirects all frames between the two (tc: clsact, u32, mirred), so that the guest takes
// the interface's place with its MAC and addresses, and reads what the guest has to be configured with. Interface and
// addresses stay as they are, for CNI to take down; the namespace's own stack neither receives nor sends a frame on
// them.
//
// Wired are the interfaces that are up, but for lo: veth, macvlan, vlan and hardware. `netns_name` is for errors, all
// of which name it and the interface, and after each the namespace is as before. What an earlier attach left there is
// taken away first.
//
// kNotSupported: an interface of another kind or made on another wired one, more than `most_links`, a route or rule
// that a guest cannot have, a kernel that lacks a module, which is named. kInvalidArgument: an interface without
// address. EEXIST: somebody else has an ingress qdisc on it. EBUSY: a VMM still has the tap. EPERM: no CAP_NET_ADMIN in
// the namespace. ENODEV: an interface went meanwhile.
Result<Attachment> attach(int netns, const std::string& netns_name, size_t most_links, Frames frames = Frames::kAny);

// Takes away what an attach, whole or half done, made there. Nothing to do is fine, and so is being told twice.
Status detach(int netns, const std::string& netns_name);

}  // namespace granary::netplumb
