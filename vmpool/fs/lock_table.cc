// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/lock_table.h"

#include <algorithm>
#include <cerrno>
#include <chrono>

namespace granary::fs {
namespace {

// How late a lock that somebody outside the guest gave up is noticed.
constexpr std::chrono::milliseconds kRetryInterval{20};

bool is_taken(int error) { return error == EAGAIN || error == EACCES; }

}  // namespace

LockTable::~LockTable() {
  loop_.remove(timer_);
  for (const Waiting& each : waiting_) each.answer(EINTR);
}

OrErrno<Fd*> LockTable::descriptor(const Key& key, const std::function<OrErrno<Fd>()>& open) {
  if (const auto found = owners_.find(key); found != owners_.end()) return &found->second;
  if (owners_.size() >= limit_) return errno_of(ENOLCK);
  OrErrno<Fd> fd = open();
  if (!fd) return errno_of(fd.error());
  return &owners_.emplace(key, std::move(*fd)).first->second;
}

int LockTable::set(NodeId node, uint64_t owner, struct flock lock, const std::function<OrErrno<Fd>()>& open) {
  const Key key{node, owner};
  if (lock.l_type == F_UNLCK && !owners_.contains(key)) return 0;
  const OrErrno<Fd*> fd = descriptor(key, open);
  if (!fd) return fd.error();
  lock.l_pid = 0;
  if (::fcntl((*fd)->get(), F_OFD_SETLK, &lock) != 0) return is_taken(errno) ? EAGAIN : errno;
  return 0;
}

OrErrno<struct flock> LockTable::get(NodeId node, uint64_t owner, struct flock lock,
                                     const std::function<OrErrno<Fd>()>& open) {
  const OrErrno<Fd*> fd = descriptor({node, owner}, open);
  if (!fd) return errno_of(fd.error());
  lock.l_pid = 0;
  if (::fcntl((*fd)->get(), F_OFD_GETLK, &lock) != 0) return last_errno();
  lock.l_pid = 0;  // a process of the host means nothing to the guest
  return lock;
}

void LockTable::release(NodeId node, uint64_t owner) {
  if (owners_.erase({node, owner}) > 0) retry();
}

void LockTable::release_all(NodeId node) {
  const auto first = owners_.lower_bound({node, 0});
  const auto last = std::find_if(first, owners_.end(), [&](const auto& each) { return each.first.first != node; });
  if (first == last) return;
  owners_.erase(first, last);
  retry();
}

void LockTable::wait(uint64_t unique, Try attempt, Answer answer) {
  if (const int error = attempt(); error != EAGAIN) return answer(error);
  if (waiting_.size() >= kMaxWaiting) return answer(ENOLCK);
  waiting_.push_back({unique, std::move(attempt), std::move(answer)});
  arm();
}

void LockTable::interrupt(uint64_t unique) {
  const auto found =
      std::find_if(waiting_.begin(), waiting_.end(), [&](const Waiting& w) { return w.unique == unique; });
  if (found == waiting_.end()) return;
  const Waiting ended = std::move(*found);
  waiting_.erase(found);
  ended.answer(EINTR);
}

void LockTable::retry() {
  for (auto each = waiting_.begin(); each != waiting_.end();) {
    const int error = each->attempt();
    if (error == EAGAIN) {
      ++each;
      continue;
    }
    const Waiting ended = std::move(*each);
    each = waiting_.erase(each);
    ended.answer(error);
  }
}

void LockTable::arm() {
  if (timer_ != 0) return;
  timer_ = loop_.call_at(EventLoop::Clock::now() + kRetryInterval, [this] {
    timer_ = 0;
    retry();
    if (!waiting_.empty()) arm();
  });
}

}  // namespace granary::fs
