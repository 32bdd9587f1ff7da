// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "vmpool/base/result.h"

struct evp_md_ctx_st;

namespace granary::pool {

// An incremental SHA-256. finish() once, at the end.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
  void update_u64(uint64_t value);  // eight bytes, little-endian
  std::string finish();             // 64 hex digits

 private:
  evp_md_ctx_st* context_;
};

std::string sha256_of(std::string_view text);
// The file's content. The error names the path.
Result<std::string> sha256_of_file(const std::string& path);

}  // namespace granary::pool
