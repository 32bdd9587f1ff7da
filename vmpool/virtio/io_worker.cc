// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/io_worker.h"

#include <condition_variable>
#include <deque>
#include <mutex>

namespace granary::virtio {

struct IoWorker::Shared {
  struct Job {
    const void* owner;
    std::function<void()> work;
    std::function<void()> done;
  };
  explicit Shared(EventLoop& l) : loop(l) {}

  EventLoop& loop;
  std::mutex mutex;
  std::condition_variable_any changed;
  std::deque<Job> waiting;
  const void* running = nullptr;  // the owner of the job that runs
  std::vector<Job> completed;     // to be delivered on the loop thread
};

IoWorker::IoWorker(EventLoop& loop, std::function<void()> begin)
    : shared_(std::make_shared<Shared>(loop)),
      thread_([shared = shared_, begin = std::move(begin)](const std::stop_token& stop) {
        if (begin) begin();
        run(shared, stop);
      }) {}

IoWorker::~IoWorker() {
  thread_.request_stop();
  thread_.join();
  // A delivery that is still posted finds nothing.
  const std::lock_guard lock(shared_->mutex);
  shared_->completed.clear();
}

bool IoWorker::submit(const void* owner, std::function<void()> work, std::function<void()> done) {
  {
    const std::lock_guard lock(shared_->mutex);
    if (shared_->waiting.size() >= kMaxJobs) return false;
    shared_->waiting.push_back({owner, std::move(work), std::move(done)});
  }
  shared_->changed.notify_all();
  return true;
}

void IoWorker::cancel(const void* owner) {
  const auto owned = [owner](const Shared::Job& job) { return job.owner == owner; };
  std::unique_lock lock(shared_->mutex);
  std::erase_if(shared_->waiting, owned);
  shared_->changed.wait(lock, [&] { return shared_->running != owner; });
  std::erase_if(shared_->completed, owned);
}

void IoWorker::run(const std::shared_ptr<Shared>& shared, const std::stop_token& stop) {
  std::unique_lock lock(shared->mutex);
  while (shared->changed.wait(lock, stop, [&] { return !shared->waiting.empty(); }) && !stop.stop_requested()) {
    Shared::Job job = std::move(shared->waiting.front());
    shared->waiting.pop_front();
    shared->running = job.owner;
    lock.unlock();
    job.work();
    lock.lock();
    shared->running = nullptr;
    shared->completed.push_back(std::move(job));
    const bool first = shared->completed.size() == 1;
    shared->changed.notify_all();
    if (first) shared->loop.post([shared] { deliver(shared); });
  }
}

void IoWorker::deliver(const std::shared_ptr<Shared>& shared) {
  std::vector<Shared::Job> completed;
  {
    const std::lock_guard lock(shared->mutex);
    completed.swap(shared->completed);
  }
  for (const Shared::Job& job : completed) job.done();
}

}  // namespace granary::virtio
