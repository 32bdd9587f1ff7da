// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "agent/leases.h"
#include "vmpool/base/fd.h"
#include "vmpool/base/result.h"

namespace granary::agent {

// What one agent knows of a clone, for the next one.
struct JournalClone {
  std::string id;
  std::string pool;
  std::string group;              // its cgroup's name, as Cgroups takes it
  std::string owners_group = {};  // of the one below its owner's where it has moved, or was about to
  VmId vm = {};                   // 0 until it is spawned
  int32_t pid = 0;
  std::string socket_path = {};
  std::optional<Lease> lease = {};  // somebody holds it
  int64_t leased_unix_ns = 0;
  std::string ended = {};  // why its lease ended; from then on only its reclaim is left

  bool operator==(const JournalClone&) const = default;
};

// The runtime journal: what exists because of this agent, written before the act, so that whoever comes after a kill -9
// finds it. It lies on tmpfs in the run directory and is not fsynced: everything it names dies with the host, and a
// journal of another boot id counts as empty. Thread-safe.
//
// Format: one line per record, "<CRC-32, 8 hex digits> <JSON object>\n", appended with one write(2); the first names
// format and boot id. Replay stops at the first line that is cut off or whose checksum is wrong and says how many bytes
// it ignored; clones that are thereby forgotten are orphans, which reconciling at start reclaims. The file is rewritten
// (new file, rename) when most of its records are history.
class Journal {
 public:
  using Clones = std::map<std::string, JournalClone>;  // by clone id

  // Replays what is there, then writes it anew. errno errors name the path and the remedy.
  static Result<std::unique_ptr<Journal>> open(const std::string& path, const std::string& host_boot_id);

  // Before a cgroup or process of the clone is made.
  Status creating(const std::string& id, const std::string& pool, const std::string& group);
  Status spawned(const std::string& id, VmId vm, int32_t pid, const std::string& socket_path);
  // Before its second cgroup is made.
  Status moving(const std::string& id, const std::string& owners_group);
  // Before the owner hears of it. kCloneGone: its reclaim has come first.
  Status leased(const Lease& lease, int64_t unix_ns);
  // These two have happened, or will in any case. When they cannot be written, the error says so, the journal knows
  // them nevertheless, and the file catches up with the next record that can be. Before the clone is killed.
  Status ended(const std::string& id, const std::string& reason);
  // Nothing of it is left.
  Status gone(const std::string& id);

  // Before anything in a network namespace is changed, and once all of that is taken away. `identity`: device and
  // inode, as its path may be given to another.
  Status wiring(const std::string& netns, const std::string& identity);
  Status unwired(const std::string& netns);

  // What is known now.
  [[nodiscard]] Clones clones() const;
  [[nodiscard]] std::map<std::string, std::string> namespaces() const;  // path -> identity
  // What the file says now, for an audit.
  [[nodiscard]] Result<Clones> read_back();
  // Of the replay at open(): bytes that could not be used, 0 when all was well.
  [[nodiscard]] size_t ignored_bytes() const { return ignored_bytes_; }
  [[nodiscard]] uint64_t records() const;  // in the file
  [[nodiscard]] uint64_t bytes() const;    // of the file
  [[nodiscard]] uint64_t compactions() const;

 private:
  Journal(std::string path, std::string boot_id) : path_(std::move(path)), boot_id_(std::move(boot_id)) {}
  Status put(const JournalClone& clone);
  Status put_fact(const std::string& line, const std::function<void()>& note);
  Status append(const std::string& line);
  Status compact();
  [[nodiscard]] uint64_t needed() const { return clones_.size() + namespaces_.size() + 1; }  // records

  const std::string path_;
  const std::string boot_id_;
  size_t ignored_bytes_ = 0;
  mutable std::mutex mutex_;
  Fd file_;
  uint64_t bytes_ = 0;
  uint64_t records_ = 0;  // in the file
  uint64_t compactions_ = 0;
  bool is_behind_ = false;  // something that happened could not be written: the file is to be written anew
  Clones clones_;
  std::map<std::string, std::string> namespaces_;
};

// This boot of the host, from /proc/sys/kernel/random/boot_id.
Result<std::string> host_boot_id();

}  // namespace granary::agent
