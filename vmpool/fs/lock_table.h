// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>

#include <functional>
#include <list>
#include <map>
#include <memory>

#include "vmpool/base/event_loop.h"
#include "vmpool/fs/node_table.h"

namespace granary::fs {

// POSIX locks of the guest's lock owners, as open-file-description locks of the host (fcntl(2)): each owner has a
// descriptor of its own for each file. So they exclude processes of the host and of other guests, too. And the queue of
// those who wait for a lock, of either kind: nobody waits in the kernel; each is tried again, in the order in which
// they came, when the guest unlocks anything and every few milliseconds for what others unlock.
class LockTable {
 public:
  // Fewer than a request queue has places, or those who wait could fill it and nobody could unlock.
  static constexpr size_t kMaxWaiting = 64;

  // Tries to take the lock: 0, EAGAIN (taken), or another errno.
  using Try = std::function<int()>;
  using Answer = std::function<void(int error)>;

  LockTable(EventLoop& loop, size_t limit) : loop_(loop), limit_(limit) {}
  ~LockTable();
  LockTable(const LockTable&) = delete;
  LockTable& operator=(const LockTable&) = delete;

  // Sets or takes away a lock; `open` gives a descriptor of the file for an owner that has none yet. 0, EAGAIN: taken
  // by another one; ENOLCK: too many owners.
  int set(NodeId node, uint64_t owner, struct flock lock, const std::function<OrErrno<Fd>()>& open);
  // Finds what would be in the way; F_UNLCK: nothing.
  OrErrno<struct flock> get(NodeId node, uint64_t owner, struct flock lock, const std::function<OrErrno<Fd>()>& open);
  // An owner closed the file, the guest forgot it, or its export is gone: POSIX locks on it go.
  void release(NodeId node, uint64_t owner);
  void release_all(NodeId node);

  // Answers now, or later when the lock is free; ENOLCK when too many wait.
  void wait(uint64_t unique, Try attempt, Answer answer);
  // Ends one who waits with EINTR.
  void interrupt(uint64_t unique);
  // Something was unlocked.
  void retry();

 private:
  struct Waiting {
    uint64_t unique;
    Try attempt;
    Answer answer;
  };
  using Key = std::pair<NodeId, uint64_t>;
  OrErrno<Fd*> descriptor(const Key& key, const std::function<OrErrno<Fd>()>& open);
  void arm();

  EventLoop& loop_;
  size_t limit_;
  std::map<Key, Fd> owners_;
  std::list<Waiting> waiting_;
  EventLoop::Token timer_ = 0;
};

}  // namespace granary::fs
