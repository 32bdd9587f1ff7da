// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/capability.h>

#include <cstdint>

namespace granary::fs {

// What granary-fsd keeps of root's power, and why. docs/threat-model.md has the same table.
struct KeptCapability {
  unsigned capability;
  const char* name;
  const char* why;
};
inline constexpr KeptCapability kKeptCapabilities[] = {
    {CAP_CHOWN, "CAP_CHOWN", "chown in the guest"},
    {CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "the guest's kernel has checked permissions, with groups unknown here"},
    {CAP_FOWNER, "CAP_FOWNER",
     "chmod, times, ACLs and attributes of files of all users; O_NOATIME; sticky directories"},
    {CAP_FSETID, "CAP_FSETID", "chmod and writes keep the set-uid and set-gid bits that the guest's kernel keeps"},
    {CAP_SETGID, "CAP_SETGID", "files are created with the caller's gid"},
    {CAP_SETUID, "CAP_SETUID", "files are created with the caller's uid"},
    {CAP_SETFCAP, "CAP_SETFCAP", "packages that are installed in the guest give programs file capabilities"},
};

constexpr uint64_t kept_capability_bits() {
  uint64_t bits = 0;
  for (const KeptCapability& kept : kKeptCapabilities) bits |= 1ULL << kept.capability;
  return bits;
}

}  // namespace granary::fs
