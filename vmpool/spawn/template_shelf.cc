// SPDX-License-Identifier: Apache-2.0
#include "vmpool/spawn/template_shelf.h"

#include <fcntl.h>

#include <algorithm>

namespace granary::spawn {
namespace {

constexpr size_t kKeyDigits = 64;
constexpr int kWantedSeals = F_SEAL_SEAL | F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;

Status check_key(const std::string& key) {
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (key.size() == kKeyDigits && std::all_of(key.begin(), key.end(), is_hex)) return ok();
  return Error(Errc::kInvalidArgument, "template key \"" + key + "\": expected 64 lower-case hex digits");
}

Status check_sealed(const Fd& fd, const char* what) {
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals >= 0 && (seals & kWantedSeals) == kWantedSeals) return ok();
  return Error(Errc::kInvalidArgument, std::string("template's ") + what + " is not a fully sealed memfd");
}

}  // namespace

Status TemplateShelf::put(const std::string& key, Entry entry) {
  GRANARY_TRY(check_key(key));
  GRANARY_TRY(check_sealed(entry.state, "state"));
  GRANARY_TRY(check_sealed(entry.memory, "memory"));
  if (entries_.size() >= kLimit && !entries_.contains(key)) {
    return Error::from_errno(ENOSPC, "keep a template: " + std::to_string(kLimit) + " are kept already; drop one");
  }
  entries_[key] = std::move(entry);
  return ok();
}

Result<const TemplateShelf::Entry*> TemplateShelf::get(const std::string& key) const {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return Error::from_errno(ENOENT, "template " + key.substr(0, 80) + " at the spawner");
  return &found->second;
}

}  // namespace granary::spawn
