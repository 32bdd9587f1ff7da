// SPDX-License-Identifier: Apache-2.0
#include "agent/journal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "vmpool/base/fault.h"

namespace granary::agent {
namespace {

using nlohmann::json;

constexpr int kFormat = 1;
constexpr size_t kChecksumDigits = 8;
constexpr size_t kMaxFileBytes = 256 << 20;
// Rewritten once the file has this many records and four times as many as it needs.
constexpr uint64_t kCompactFrom = 1024;

std::string checksum_of(const std::string& text) {
  const auto crc = ::crc32(0, reinterpret_cast<const Bytef*>(text.data()), static_cast<uInt>(text.size()));
  char digits[kChecksumDigits + 1];
  std::snprintf(digits, sizeof(digits), "%08lx", crc);
  return digits;
}

// Names and reasons may quote what is no UTF-8: such bytes are replaced, never refused.
std::string line_of(const json& record) {
  const std::string text = record.dump(-1, ' ', false, json::error_handler_t::replace);
  return checksum_of(text) + " " + text + "\n";
}

json to_json(const Lease& lease) {
  const pool::CloneInfo& clone = lease.clone;
  json disks = json::array();
  for (const DiskWish& disk : lease.disks) disks.push_back({{"path", disk.path}, {"read_only", disk.read_only}});
  json record = {{"owner", lease.owner_id},  {"disks", std::move(disks)},     {"cgroup_parent", lease.cgroup_parent},
                 {"netns", lease.netns},     {"bound", lease.bound_to_call},  {"template", clone.template_key},
                 {"boot_id", clone.boot_id}, {"hostname", clone.hostname},    {"handover_ns", clone.handover.count()},
                 {"warm", clone.warm},       {"residue", clone.residue_bytes}};
  if (lease.net) record["net"] = {{"address", lease.address}, {"allow", lease.net->allow}};
  return record;
}

json to_json(const JournalClone& clone) {
  json record = {{"clone", clone.id}, {"pool", clone.pool}, {"group", clone.group}};
  if (!clone.owners_group.empty()) record["owners_group"] = clone.owners_group;
  if (clone.vm.value != 0) {
    record["vm"] = clone.vm.value;
    record["pid"] = clone.pid;
    record["socket"] = clone.socket_path;
  }
  if (clone.lease) {
    record["lease"] = to_json(*clone.lease);
    record["leased_ns"] = clone.leased_unix_ns;
  }
  if (!clone.ended.empty()) record["ended"] = clone.ended;
  return record;
}

// json::value() throws for a value of another type, at() for a missing one: both are caught in parse_line().
Lease lease_from(const json& record, const JournalClone& clone) {
  Lease lease{.owner_id = record.at("owner"), .pool = clone.pool, .clone = {}};
  lease.bound_to_call = record.at("bound");
  for (const json& disk : record.at("disks")) {
    lease.disks.push_back({.path = disk.at("path"), .read_only = disk.at("read_only")});
  }
  lease.cgroup_parent = record.value("cgroup_parent", "");
  lease.netns = record.value("netns", "");
  if (record.contains("net")) {
    lease.net = NetWish{.allow = record["net"].at("allow")};
    lease.address = record["net"].at("address");
  }
  lease.clone = {.id = clone.id,
                 .vm = clone.vm,
                 .pool = clone.pool,
                 .template_key = record.at("template"),
                 .vmm_pid = clone.pid,
                 .socket_path = clone.socket_path,
                 .boot_id = record.at("boot_id"),
                 .hostname = record.at("hostname"),
                 .handover = std::chrono::nanoseconds(record.at("handover_ns").get<int64_t>()),
                 .warm = record.at("warm"),
                 .residue_bytes = record.value("residue", uint64_t{0})};
  return lease;
}

JournalClone clone_from(const json& record) {
  JournalClone clone{.id = record.at("clone"), .pool = record.at("pool"), .group = record.at("group")};
  clone.owners_group = record.value("owners_group", "");
  clone.vm = VmId{record.value("vm", uint64_t{0})};
  clone.pid = record.value("pid", 0);
  clone.socket_path = record.value("socket", "");
  if (record.contains("lease")) {
    clone.lease = lease_from(record["lease"], clone);
    clone.leased_unix_ns = record.at("leased_ns");
  }
  clone.ended = record.value("ended", "");
  return clone;
}

json wired_record(const std::string& netns, const std::string& identity) {
  return {{"netns", netns}, {"identity", identity}};
}

struct Replay {
  Journal::Clones clones;
  std::map<std::string, std::string> namespaces;
  size_t ignored_bytes = 0;
};

// False: this is no record of a journal.
bool apply(const std::string& text, Replay& replay) try {
  const json record = json::parse(text);
  if (record.contains("gone")) {
    replay.clones.erase(record["gone"].get<std::string>());
  } else if (record.contains("netns")) {
    replay.namespaces.insert_or_assign(record["netns"].get<std::string>(), record.at("identity").get<std::string>());
  } else if (record.contains("unwired")) {
    replay.namespaces.erase(record["unwired"].get<std::string>());
  } else {
    JournalClone clone = clone_from(record);
    replay.clones.insert_or_assign(clone.id, std::move(clone));
  }
  return true;
} catch (const json::exception&) {
  return false;
}

bool is_header(const std::string& text, const std::string& boot_id) {
  const json header = json::parse(text, nullptr, /*allow_exceptions=*/false);
  return header.is_object() && header.value("journal", json()) == kFormat && header.value("boot_id", json()) == boot_id;
}

json header_of(const std::string& boot_id) { return {{"journal", kFormat}, {"boot_id", boot_id}}; }

// The record in the line that starts at `from`, and where the next line starts; nothing for a line that is cut off or
// damaged.
std::optional<std::string> record_at(const std::string& content, size_t from, size_t& next) {
  const size_t end = content.find('\n', from);
  if (end == std::string::npos || end < from + kChecksumDigits + 1) return std::nullopt;
  std::string text = content.substr(from + kChecksumDigits + 1, end - from - kChecksumDigits - 1);
  if (content.compare(from, kChecksumDigits, checksum_of(text)) != 0 || content[from + kChecksumDigits] != ' ') {
    return std::nullopt;
  }
  next = end + 1;
  return text;
}

Replay replay(const std::string& content, const std::string& boot_id) {
  Replay replay;
  size_t at = 0;
  const auto header = record_at(content, 0, at);
  // Another boot's journal, or none: not damage.
  if (content.empty()) return replay;
  if (!header) {
    replay.ignored_bytes = content.size();
    return replay;
  }
  if (!is_header(*header, boot_id)) return replay;
  while (at < content.size()) {
    size_t next = at;
    const auto record = record_at(content, at, next);
    if (!record || !apply(*record, replay)) break;
    at = next;
  }
  replay.ignored_bytes = content.size() - at;
  return replay;
}

Result<std::string> read_if_there(const std::string& path) {
  auto content = read_file(path, kMaxFileBytes);
  if (!content && content.error().is_errno(ENOENT)) return std::string();
  return content;
}

}  // namespace

Result<std::string> host_boot_id() {
  std::string text = GRANARY_TRY(read_file("/proc/sys/kernel/random/boot_id"));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

Result<std::unique_ptr<Journal>> Journal::open(const std::string& path, const std::string& host_boot_id) {
  std::unique_ptr<Journal> journal(new Journal(path, host_boot_id));
  Replay found = replay(GRANARY_TRY(read_if_there(path)), host_boot_id);
  journal->clones_ = std::move(found.clones);
  journal->namespaces_ = std::move(found.namespaces);
  journal->ignored_bytes_ = found.ignored_bytes;
  GRANARY_TRY(journal->compact());
  return journal;
}

Status Journal::creating(const std::string& id, const std::string& pool, const std::string& group) {
  const std::lock_guard lock(mutex_);
  return put({.id = id, .pool = pool, .group = group});
}

Status Journal::spawned(const std::string& id, VmId vm, int32_t pid, const std::string& socket_path) {
  const std::lock_guard lock(mutex_);
  const auto at = clones_.find(id);
  if (at == clones_.end()) return Error(Errc::kCloneUnknown, "journal: clone " + id);
  JournalClone clone = at->second;
  clone.vm = vm;
  clone.pid = pid;
  clone.socket_path = socket_path;
  return put(clone);
}

Status Journal::moving(const std::string& id, const std::string& owners_group) {
  const std::lock_guard lock(mutex_);
  const auto at = clones_.find(id);
  if (at == clones_.end()) return Error(Errc::kCloneUnknown, "journal: clone " + id);
  JournalClone clone = at->second;
  clone.owners_group = owners_group;
  return put(clone);
}

Status Journal::leased(const Lease& lease, int64_t unix_ns) {
  const std::lock_guard lock(mutex_);
  const auto at = clones_.find(lease.clone.id);
  if (at == clones_.end()) return Error(Errc::kCloneGone, "clone " + lease.clone.id + ", before its lease was written");
  JournalClone clone = at->second;
  clone.lease = lease;
  clone.pool = lease.pool;
  clone.leased_unix_ns = unix_ns;
  return put(clone);
}

Status Journal::ended(const std::string& id, const std::string& reason) {
  const std::lock_guard lock(mutex_);
  const auto at = clones_.find(id);
  if (at == clones_.end()) return ok();
  JournalClone clone = at->second;
  clone.lease.reset();
  clone.leased_unix_ns = 0;
  clone.ended = reason.empty() ? "ended" : reason;
  return put_fact(line_of(to_json(clone)), [&] { clones_.insert_or_assign(id, clone); });
}

Status Journal::gone(const std::string& id) {
  const std::lock_guard lock(mutex_);
  if (!clones_.contains(id)) return ok();
  return put_fact(line_of({{"gone", id}}), [&] { clones_.erase(id); });
}

Status Journal::wiring(const std::string& netns, const std::string& identity) {
  const std::lock_guard lock(mutex_);
  GRANARY_TRY(append(line_of(wired_record(netns, identity))));
  namespaces_.insert_or_assign(netns, identity);
  return ok();
}

Status Journal::unwired(const std::string& netns) {
  const std::lock_guard lock(mutex_);
  if (!namespaces_.contains(netns)) return ok();
  return put_fact(line_of({{"unwired", netns}}), [&] { namespaces_.erase(netns); });
}

std::map<std::string, std::string> Journal::namespaces() const {
  const std::lock_guard lock(mutex_);
  return namespaces_;
}

Journal::Clones Journal::clones() const {
  const std::lock_guard lock(mutex_);
  return clones_;
}

Result<Journal::Clones> Journal::read_back() {
  const std::lock_guard lock(mutex_);
  if (is_behind_) GRANARY_TRY(compact());
  Replay found = replay(GRANARY_TRY(read_file(path_, kMaxFileBytes)), boot_id_);
  if (found.ignored_bytes > 0) {
    return Error::from_errno(
        EIO, "journal " + path_ + ": " + std::to_string(found.ignored_bytes) + " damaged bytes at its end");
  }
  return std::move(found.clones);
}

uint64_t Journal::records() const {
  const std::lock_guard lock(mutex_);
  return records_;
}

uint64_t Journal::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

uint64_t Journal::compactions() const {
  const std::lock_guard lock(mutex_);
  return compactions_;
}

Status Journal::put(const JournalClone& clone) {
  GRANARY_TRY(append(line_of(to_json(clone))));
  clones_.insert_or_assign(clone.id, clone);
  return ok();
}

// What has happened is so, written or not.
Status Journal::put_fact(const std::string& line, const std::function<void()>& note) {
  const Status written = append(line);
  note();
  if (!written) is_behind_ = true;
  return written;
}

Status Journal::append(const std::string& line) {
  const bool is_history = records_ >= kCompactFrom && records_ >= 4 * needed();
  // One that fails is tried again at the next record.
  if (is_history || is_behind_) (void)compact();
  const Status written = write_all(file_.get(), std::as_bytes(std::span(line)));
  if (!written) {
    // Whatever part of the line is there must not hide what comes after it.
    (void)::ftruncate(file_.get(), static_cast<off_t>(bytes_));
    return Error(written.error().code(), "write journal " + path_ + "; make room in its file system");
  }
  bytes_ += line.size();
  ++records_;
  return ok();
}

Status Journal::compact() {
  std::string content = line_of(header_of(boot_id_));
  for (const auto& [id, clone] : clones_) content += line_of(to_json(clone));
  for (const auto& [netns, identity] : namespaces_) content += line_of(wired_record(netns, identity));
  const std::string fresh = path_ + ".new";
  ::unlink(fresh.c_str());
  Fd file = GRANARY_TRY(open_file(fresh, O_WRONLY | O_CREAT | O_EXCL | O_APPEND, 0600));
  if (const Status written = write_all(file.get(), std::as_bytes(std::span(content))); !written) {
    ::unlink(fresh.c_str());
    return Error(written.error().code(), "rewrite journal " + path_ + "; make room in its file system");
  }
  fault_point("journal.written");
  if (::rename(fresh.c_str(), path_.c_str()) != 0) return Error::last_os_error("rename " + fresh + " to " + path_);
  file_ = std::move(file);
  fault_point("journal.renamed");
  bytes_ = content.size();
  records_ = needed();
  is_behind_ = false;
  ++compactions_;
  return ok();
}

}  // namespace granary::agent
