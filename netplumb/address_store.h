// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "netplumb/routed_network.h"

namespace granary::netplumb {

// Which guests' numbers of a routed network are taken. A number is in the file, on the disk, before it is given out,
// and until it is given back; the next one is always the one that was free for longest, also after a restart or a
// reboot: so nobody gets what was meant for the one before him. Not thread-safe.
//
// Format: "<CRC-32, 8 hex digits> <JSON object>\n", replaced as a whole (new file, fsync, rename, fsync of the
// directory).
class AddressStore {
 public:
  // What is there, or nothing taken: for another subnet than this, and after damage, which damaged() tells: then the
  // caller knows better. errno errors name the path.
  static Result<AddressStore> open(const std::string& path, const RoutedNetwork& network);

  // `count` free ones. kAddressesExhausted, and none is taken, when there are fewer; errno errors of the disk.
  Result<std::vector<uint32_t>> take(size_t count);
  Status give_back(std::span<const uint32_t> guests);
  // Exactly these are taken, whatever the file said.
  Status set_taken(std::set<uint32_t> guests);
  [[nodiscard]] const std::set<uint32_t>& taken() const { return taken_; }
  [[nodiscard]] bool damaged() const { return damaged_; }
  // The subnet that an earlier configuration had, if it is another one.
  [[nodiscard]] const std::string& other_subnet() const { return other_subnet_; }

 private:
  AddressStore(std::string path, std::string subnet, uint32_t last)
      : path_(std::move(path)), subnet_(std::move(subnet)), last_(last) {}
  Status write(const std::set<uint32_t>& taken, uint32_t next) const;

  std::string path_;
  std::string subnet_;
  uint32_t last_;
  std::set<uint32_t> taken_;
  uint32_t next_ = kFirstGuest;  // where the search for a free one goes on
  bool damaged_ = false;
  std::string other_subnet_;
};

}  // namespace granary::netplumb
