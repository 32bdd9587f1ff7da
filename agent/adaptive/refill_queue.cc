// SPDX-License-Identifier: Apache-2.0
#include "agent/adaptive/refill_queue.h"

#include <algorithm>

namespace granary::adaptive {

uint32_t RefillQueue::ask(double now, double refill_seconds, uint32_t concurrency) {
  while (!done_.empty() && done_.front() <= now) done_.pop_front();
  const auto outstanding = static_cast<uint32_t>(done_.size());
  if (outstanding >= kMost) return kMost;
  double begins = now;
  if (outstanding >= concurrency) begins = std::max(now, done_[outstanding - concurrency]);
  // Later than those before, also where refills have become faster: they are served in order.
  done_.push_back(std::max(begins + refill_seconds, done_.empty() ? 0.0 : done_.back()));
  return outstanding;
}

}  // namespace granary::adaptive
