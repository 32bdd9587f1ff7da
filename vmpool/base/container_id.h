// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace granary {

inline constexpr size_t kMaxIdBytes = 128;

// What containers, execs and sandboxes may be called: 1 to 128 of a-z A-Z 0-9 _ . -, and no dots alone, so that it is safe as a part of
// a path. containerd's own (pkg/identifiers) are among them.
inline bool is_id(std::string_view text) {
  constexpr std::string_view kCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
  return !text.empty() && text.size() <= kMaxIdBytes && text.find_first_not_of(kCharacters) == std::string_view::npos &&
         text.find_first_not_of('.') != std::string_view::npos;
}

}  // namespace granary
