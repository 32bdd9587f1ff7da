// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "vmpool/base/event_loop.h"

namespace granary::virtio {

// The one thread per VM that may block on files. Jobs run in order; completions come back to the loop thread. Every
// method belongs to the loop thread. Must not outlive the loop.
class IoWorker {
 public:
  static constexpr size_t kMaxJobs = 2048;

  // `begin`, if given, is the first thing that the worker thread does.
  explicit IoWorker(EventLoop& loop, std::function<void()> begin = {});
  // Finishes the job that runs and drops the rest.
  ~IoWorker();
  IoWorker(const IoWorker&) = delete;
  IoWorker& operator=(const IoWorker&) = delete;

  // `work` runs on the worker thread, then `done` on the loop thread. `owner` names the submitter for cancel(). False
  // when kMaxJobs are waiting.
  bool submit(const void* owner, std::function<void()> work, std::function<void()> done);
  // Returns once nothing of this owner runs any more; none of its jobs or completions will be called afterwards. Waits
  // at most for the one job that runs.
  void cancel(const void* owner);

 private:
  struct Shared;
  static void run(const std::shared_ptr<Shared>& shared, const std::stop_token& stop);
  static void deliver(const std::shared_ptr<Shared>& shared);

  std::shared_ptr<Shared> shared_;
  std::jthread thread_;
};

}  // namespace granary::virtio
