// SPDX-License-Identifier: Apache-2.0
#include "agent/watch_call.h"

#include <algorithm>

#include "agent/convert.h"

namespace granary::agent {

// StartWrite() and Finish() are called under the mutex: gRPC runs the reactions to them on other threads.
class WatchCall final : public grpc::ServerWriteReactor<v1::Event> {
 public:
  WatchCall(WatchTable& table, EventFeed& feed) : table_(table) {
    subscription_ = feed.subscribe([this] { pump(); });
    StartSendInitialMetadata();  // the caller learns that it has missed nothing from here on
  }

  void end() {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(finished_, true)) Finish(grpc::Status::OK);
  }
  void OnCancel() override { end(); }
  void OnWriteDone(bool ok) override {
    if (!ok) return end();
    {
      const std::lock_guard lock(mutex_);
      writing_ = false;
    }
    pump();
  }
  void OnDone() override {
    subscription_.reset();  // waits for a publisher that is in pump()
    table_.remove(this);
  }

 private:
  void pump() {
    const std::lock_guard lock(mutex_);
    if (writing_ || finished_ || !subscription_) return;
    const auto event = subscription_->take();
    if (!event) return;
    writing_ = true;
    message_ = to_message(*event);
    StartWrite(&message_);
  }

  WatchTable& table_;
  std::mutex mutex_;
  std::unique_ptr<Subscription> subscription_;
  bool writing_ = false;
  bool finished_ = false;
  v1::Event message_;
};

grpc::ServerWriteReactor<v1::Event>* WatchTable::start() {
  const auto call = std::make_shared<WatchCall>(*this, feed_);
  const std::lock_guard lock(mutex_);
  calls_.push_back(call);
  return call.get();
}

void WatchTable::end_all() {
  std::vector<std::shared_ptr<WatchCall>> calls;
  {
    const std::lock_guard lock(mutex_);
    calls = calls_;
  }
  for (const auto& call : calls) call->end();
}

void WatchTable::remove(WatchCall* call) {
  std::shared_ptr<WatchCall> last;
  const std::lock_guard lock(mutex_);
  const auto at = std::ranges::find(calls_, call, &std::shared_ptr<WatchCall>::get);
  last = std::move(*at);
  calls_.erase(at);
}

}  // namespace granary::agent
