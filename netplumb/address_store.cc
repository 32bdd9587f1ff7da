// SPDX-License-Identifier: Apache-2.0
#include "netplumb/address_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "netplumb/ip_text.h"
#include "vmpool/base/fault.h"
#include "vmpool/base/fd.h"

namespace granary::netplumb {
namespace {

using nlohmann::json;

constexpr size_t kMaxFileBytes = 1 << 20;  // some 100 000 guests
constexpr size_t kChecksumDigits = 8;

std::string checksum_of(const std::string& text) {
  const auto crc = ::crc32(0, reinterpret_cast<const Bytef*>(text.data()), static_cast<uInt>(text.size()));
  char digits[kChecksumDigits + 1];
  std::snprintf(digits, sizeof(digits), "%08lx", crc);
  return digits;
}

// A discarded value for what is no such file.
json content_of(const std::string& line) {
  const json none(json::value_t::discarded);
  if (line.size() < kChecksumDigits + 2 || line.back() != '\n') return none;
  const std::string text = line.substr(kChecksumDigits + 1, line.size() - kChecksumDigits - 2);
  if (line.compare(0, kChecksumDigits + 1, checksum_of(text) + ' ') != 0) return none;
  json content = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!content.is_object() || content.value("format", json()) != 1 || !content.value("subnet", json()).is_string() ||
      !content.value("next", json()).is_number_unsigned() || !content.value("taken", json()).is_array()) {
    return none;
  }
  for (const json& guest : content["taken"]) {
    if (!guest.is_number_unsigned()) return none;
  }
  return content;
}

}  // namespace

Result<AddressStore> AddressStore::open(const std::string& path, const RoutedNetwork& network) {
  AddressStore store(path, to_text(network.subnet), last_guest(network));
  const auto text = read_file(path, kMaxFileBytes);
  if (!text && text.error().is_errno(ENOENT)) return store;
  if (!text) return text.error();
  const json content = content_of(*text);
  store.damaged_ = content.is_discarded();
  if (store.damaged_) return store;
  if (content["subnet"] != store.subnet_) {
    store.other_subnet_ = content["subnet"];
    return store;
  }
  const auto is_guest = [&](uint64_t number) { return number >= kFirstGuest && number <= store.last_; };
  for (const uint64_t guest : content["taken"]) {
    if (is_guest(guest)) store.taken_.insert(static_cast<uint32_t>(guest));
  }
  if (is_guest(content["next"])) store.next_ = content["next"];
  return store;
}

Result<std::vector<uint32_t>> AddressStore::take(size_t count) {
  const size_t all = last_ - kFirstGuest + 1;
  if (count > all - taken_.size()) {
    return Error(Errc::kAddressesExhausted, "network " + subnet_ + ": " + std::to_string(taken_.size()) + " of " +
                                                std::to_string(all) +
                                                " addresses are taken; release clones, or configure a larger subnet");
  }
  std::set<uint32_t> taken = taken_;
  std::vector<uint32_t> guests;
  uint32_t next = next_;
  for (; guests.size() < count; next = next == last_ ? kFirstGuest : next + 1) {
    if (taken.insert(next).second) guests.push_back(next);
  }
  GRANARY_TRY(write(taken, next));
  taken_ = std::move(taken);
  next_ = next;
  fault_point("addresses.taken");
  return guests;
}

Status AddressStore::give_back(std::span<const uint32_t> guests) {
  std::set<uint32_t> taken = taken_;
  for (const uint32_t guest : guests) taken.erase(guest);
  return set_taken(std::move(taken));
}

Status AddressStore::set_taken(std::set<uint32_t> guests) {
  GRANARY_TRY(write(guests, next_));
  taken_ = std::move(guests);
  return ok();
}

Status AddressStore::write(const std::set<uint32_t>& taken, uint32_t next) const {
  const json content = {{"format", 1}, {"subnet", subnet_}, {"next", next}, {"taken", taken}};
  const std::string text = content.dump();
  const std::string line = checksum_of(text) + " " + text + "\n";
  const std::string fresh = path_ + ".new";
  const auto refuse = [&](const Error& error) -> Error {
    ::unlink(fresh.c_str());
    return {error.code(), "write the address store " + path_ + "; make room in its file system"};
  };
  const Fd file = GRANARY_TRY(open_file(fresh, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  if (const Status written = write_all(file.get(), std::as_bytes(std::span(line))); !written)
    return refuse(written.error());
  if (::fsync(file.get()) != 0) return refuse(Error::last_os_error(""));
  fault_point("addresses.written");
  if (::rename(fresh.c_str(), path_.c_str()) != 0) return refuse(Error::last_os_error(""));
  const Fd directory = GRANARY_TRY(open_file(path_.substr(0, path_.rfind('/') + 1), O_RDONLY | O_DIRECTORY));
  if (::fsync(directory.get()) != 0) return Error::last_os_error("fsync the directory of " + path_);
  return ok();
}

}  // namespace granary::netplumb
