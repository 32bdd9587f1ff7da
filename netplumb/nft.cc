// SPDX-License-Identifier: Apache-2.0
#include "netplumb/nft.h"

#include <linux/netlink.h>
#include <nftables/libnftables.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "netplumb/policy.h"
#include "vmpool/base/fd.h"

namespace granary::netplumb {
namespace {

constexpr size_t kMaxWords = 400;

// The library's first line, "internal:3:5-9: Error: Could not process rule: No such file or directory".
std::string words_of(const char* errors) {
  std::string text = errors == nullptr ? "" : errors;
  text = text.substr(0, std::min(text.find('\n'), kMaxWords));
  const size_t start = text.find("Error: ");
  return start == std::string::npos ? text : text.substr(start + 7);
}

// Of the whole process: the library promises nothing about contexts on several threads.
std::mutex& library_mutex() {
  static std::mutex mutex;
  return mutex;
}

}  // namespace

Result<std::unique_ptr<Nft>> Nft::open() {
  // The library ends the process when it cannot have this.
  const Fd first(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!first.valid())
    return Error::last_os_error("nf_tables: open a netlink socket (kernel modules nfnetlink, nf_tables)");
  const std::lock_guard lock(library_mutex());
  nft_ctx* const context = ::nft_ctx_new(NFT_CTX_DEFAULT);
  if (context == nullptr) return Error::from_errno(ENOMEM, "nf_tables: start libnftables");
  ::nft_ctx_output_set_flags(context, NFT_CTX_OUTPUT_JSON);
  ::nft_ctx_buffer_output(context);
  ::nft_ctx_buffer_error(context);
  return std::unique_ptr<Nft>(new Nft(context));
}

Nft::~Nft() {
  const std::lock_guard lock(library_mutex());
  ::nft_ctx_free(context_);
}

bool Nft::run_locked(const std::string& text) {
  const uint32_t flags = ::nft_ctx_output_get_flags(context_);
  const bool lists = text.starts_with("list ");
  // With the flag set, commands are read as JSON, too.
  ::nft_ctx_output_set_flags(context_, lists ? flags | NFT_CTX_OUTPUT_JSON : flags & ~uint32_t{NFT_CTX_OUTPUT_JSON});
  return ::nft_run_cmd_from_buffer(context_, text.c_str()) == 0;
}

Status Nft::run(const std::string& text, const std::string& what) {
  if (text.empty()) return ok();
  std::string words;
  {
    const std::lock_guard lock(library_mutex());
    if (run_locked(text)) {
      (void)::nft_ctx_get_output_buffer(context_);  // empties it
      return ok();
    }
    words = words_of(::nft_ctx_get_error_buffer(context_));
  }
  if (words.find(std::strerror(EEXIST)) != std::string::npos) return Error::from_errno(EEXIST, what);
  for (const Feature& feature : features()) {
    if (would_run(feature.probe)) continue;
    return Error(Errc::kNotSupported, what + ": " + words + "; the kernel lacks " + feature.module +
                                          " (modprobe), or granaryd CAP_NET_ADMIN");
  }
  return Error::from_errno(EIO, what + ": nf_tables: " + words);
}

Result<bool> Nft::remove_table(const std::string& table, const std::string& what) {
  const std::lock_guard lock(library_mutex());
  const bool removed = run_locked("delete table " + table);
  (void)::nft_ctx_get_output_buffer(context_);
  const std::string words = words_of(::nft_ctx_get_error_buffer(context_));
  if (removed) return true;
  // EOPNOTSUPP: a kernel that has nfnetlink and no nf_tables.
  for (const int none : {ENOENT, EOPNOTSUPP}) {
    if (words.find(std::strerror(none)) != std::string::npos) return false;
  }
  return Error::from_errno(EIO, what + ": nf_tables: " + words);
}

bool Nft::would_run(const std::string& text) {
  const std::lock_guard lock(library_mutex());
  ::nft_ctx_set_dry_run(context_, true);
  const bool would = run_locked(text);
  ::nft_ctx_set_dry_run(context_, false);
  (void)::nft_ctx_get_output_buffer(context_);
  (void)::nft_ctx_get_error_buffer(context_);
  return would;
}

std::optional<std::string> Nft::list(const std::string& text) {
  const std::lock_guard lock(library_mutex());
  const bool done = run_locked(text);
  std::string answer = ::nft_ctx_get_output_buffer(context_);
  (void)::nft_ctx_get_error_buffer(context_);
  return done ? std::optional(std::move(answer)) : std::nullopt;
}

std::map<std::string, Count> elements_of(const std::string& listing) try {
  using nlohmann::json;
  std::map<std::string, Count> all;
  const json answer = json::parse(listing);
  for (const json& object : answer.at("nftables")) {
    if (!object.contains("set") || !object["set"].contains("elem")) continue;
    for (const json& element : object["set"]["elem"]) {
      const bool carries = element.is_object() && element.contains("elem");
      const json& key = carries ? element["elem"].at("val") : element;
      const json& name = key.is_object() && key.contains("concat") ? key["concat"].at(0) : key;
      Count count;
      if (carries && element["elem"].contains("counter")) {
        count.packets = element["elem"]["counter"].at("packets");
        count.bytes = element["elem"]["counter"].at("bytes");
      }
      all.emplace(name.get<std::string>(), count);
    }
  }
  return all;
} catch (const nlohmann::json::exception&) {
  return {};
}

}  // namespace granary::netplumb
