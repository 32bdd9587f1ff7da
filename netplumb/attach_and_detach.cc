// SPDX-License-Identifier: Apache-2.0
// attach_and_detach NETNS-PATH: for a test that has it killed at one of its steps (vmpool/base/fault.h).
#include <cstdio>

#include "netplumb/attach.h"
#include "netplumb/netns.h"

int main(int count, char** arguments) {
  using namespace granary;
  if (count != 2) return 2;
  const auto run = [&]() -> Status {
    const Fd netns = GRANARY_TRY(netplumb::open_netns(arguments[1]));
    (void)GRANARY_TRY(netplumb::attach(netns.get(), arguments[1], 2, netplumb::Frames::kOwn));
    return netplumb::detach(netns.get(), arguments[1]);
  };
  const Status done = run();
  if (!done) std::fprintf(stderr, "%s\n", done.error().message().c_str());
  return done ? 0 : 1;
}
