// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "vmpool/base/result.h"

struct nft_ctx;

namespace granary::netplumb {

// nf_tables in the network namespace that its thread was in when it was opened, through libnftables, which takes
// nft(8)'s language. Thread-safe.
class Nft {
 public:
  // EPROTONOSUPPORT: the kernel has no nfnetlink; EPERM; ENFILE, EMFILE.
  static Result<std::unique_ptr<Nft>> open();
  ~Nft();
  Nft(const Nft&) = delete;
  Nft& operator=(const Nft&) = delete;

  // All of it or nothing. What fails is an error that says `what` and what the library says; kNotSupported with the
  // missing kernel module where that is why (policy.h, features()); EEXIST of a `create`.
  Status run(const std::string& text, const std::string& what);
  // Whether the kernel would take it; nothing is changed.
  bool would_run(const std::string& text);
  // False: there was no such table ("inet granary").
  Result<bool> remove_table(const std::string& table, const std::string& what);
  // The answer to a "list …" command, as JSON (libnftables-json(5)); nothing when there is no such thing.
  std::optional<std::string> list(const std::string& text);

 private:
  explicit Nft(nft_ctx* context) : context_(context) {}
  bool run_locked(const std::string& text);
  nft_ctx* context_;
};

struct Count {
  uint64_t packets = 0;
  uint64_t bytes = 0;
};
// The elements of a listed set by their first part, which is a name, with their counter if they have one. Empty for
// what is no such listing.
std::map<std::string, Count> elements_of(const std::string& listing);

}  // namespace granary::netplumb
