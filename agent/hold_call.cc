// SPDX-License-Identifier: Apache-2.0
#include "agent/hold_call.h"

#include <thread>

#include "agent/convert.h"
#include "grpc-api/status.h"

namespace granary::agent {

// One Hold. The callback API tells at once when the caller vanishes, which the synchronous one does not. Taking a clone
// may wait, so it has a thread of its own for that long. StartWrite() and Finish() are called under the mutex: gRPC
// runs the reactions to them on other threads, never from within.
class HoldCall final : public grpc::ServerWriteReactor<v1::AcquireResponse> {
 public:
  HoldCall(HoldTable& table, PoolSet& pools, Result<PoolSet::Wish> wish)
      : table_(table), pools_(pools), wish_(std::move(wish)) {}

  void acquire() {
    const Result<Lease> lease = wish_ ? pools_.acquire_new(*wish_) : wish_.error();
    if (!hand_over(lease)) give_back();
  }

  // The clone has gone, or the agent goes.
  void end(const Error& error) {
    const std::lock_guard lock(mutex_);
    if (!clone_id_.empty()) finish(api::to_grpc(error));
  }
  [[nodiscard]] bool holds(const std::string& clone_id) {
    const std::lock_guard lock(mutex_);
    return clone_id_ == clone_id;
  }

  void OnWriteDone(bool ok) override {
    if (!ok) give_back();  // else the stream stays open
  }
  void OnCancel() override {
    {
      const std::lock_guard lock(mutex_);
      cancelled_ = true;
      if (clone_id_.empty()) return;  // acquire() sees it
    }
    give_back();
  }
  void OnDone() override { table_.remove(this); }

 private:
  // False: the caller went away meanwhile.
  bool hand_over(const Result<Lease>& lease) {
    const std::lock_guard lock(mutex_);
    if (!lease) {
      finish(api::to_grpc(lease.error()));
      return true;
    }
    clone_id_ = lease->clone.id;
    if (cancelled_) return false;
    if (const auto alive = pools_.running(clone_id_); !alive) {
      finish(api::to_grpc(alive.error()));
      return true;
    }
    *response_.mutable_clone() = to_message(*lease);
    StartWrite(&response_);
    return true;
  }
  // Without the mutex: the end of the lease comes back as end(). Finish() is last, because the pools outlive unfinished
  // calls only.
  void give_back() {
    pools_.release_later(clone_id_, "its caller went away");
    const std::lock_guard lock(mutex_);
    finish(grpc::Status::CANCELLED);
  }
  void finish(const grpc::Status& status) {
    if (!finished_) Finish(status);
    finished_ = true;
  }

  HoldTable& table_;
  PoolSet& pools_;
  const Result<PoolSet::Wish> wish_;
  std::mutex mutex_;
  std::string clone_id_;  // empty: none yet
  bool cancelled_ = false;
  bool finished_ = false;
  v1::AcquireResponse response_;
};

grpc::ServerWriteReactor<v1::AcquireResponse>* HoldTable::start(PoolSet& pools, Result<PoolSet::Wish> wish) {
  const auto call = std::make_shared<HoldCall>(*this, pools, std::move(wish));
  {
    const std::lock_guard lock(mutex_);
    calls_[call.get()] = call;
  }
  // Detached: it ends the call, and a server that shuts down waits for its calls.
  std::thread([call] { call->acquire(); }).detach();
  return call.get();
}

std::vector<std::shared_ptr<HoldCall>> HoldTable::calls() {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<HoldCall>> all;
  for (const auto& [raw, call] : calls_) all.push_back(call);
  return all;
}

void HoldTable::end(const std::string& clone_id, const Error& error) {
  for (const auto& call : calls()) {
    if (call->holds(clone_id)) call->end(error);
  }
}

void HoldTable::end_all(const Error& error) {
  for (const auto& call : calls()) call->end(error);
}

bool HoldTable::wait_until_empty(pool::SteadyTime deadline) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, deadline, [&] { return calls_.empty() || cut_short_; });
  return calls_.empty();
}

void HoldTable::cut_short() {
  {
    const std::lock_guard lock(mutex_);
    cut_short_ = true;
  }
  changed_.notify_all();
}

void HoldTable::remove(HoldCall* call) {
  std::shared_ptr<HoldCall> last;
  const std::lock_guard lock(mutex_);
  const auto at = calls_.find(call);
  last = std::move(at->second);
  calls_.erase(at);
  changed_.notify_all();
}

}  // namespace granary::agent
