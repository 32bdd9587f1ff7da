// SPDX-License-Identifier: Apache-2.0
#include "agent/adaptive/profile.h"

#include <algorithm>
#include <cmath>

namespace granary::adaptive {
namespace {

constexpr float kWeight = 0.2F;  // of one visit: four busy ones in a row are enough
constexpr float kMostly = 0.5F;
constexpr double kLeastBusy = 2;  // acquires
constexpr double kTimesUsual = 4;

}  // namespace

int64_t Profile::slot_number(double wall) const {
  return wall > 0 && wall < 1e12 ? static_cast<int64_t>(std::floor(wall / slot_seconds_)) : 0;
}

void Profile::look(double wall, double usual_rate) {
  const int64_t now = slot_number(wall);
  if (now == slot_) return;
  if (whole_ && now == slot_ + 1) {
    const bool busy = asked_ >= std::max(kLeastBusy, kTimesUsual * usual_rate * slot_seconds_);
    float& often = often_[static_cast<size_t>(slot_) % often_.size()];
    often += kWeight * ((busy ? 1.0F : 0.0F) - often);
  }
  whole_ = now == slot_ + 1;
  slot_ = now;
  asked_ = 0;
}

bool Profile::is_busy_within(double wall, double seconds) const {
  const int64_t first = slot_number(wall);
  const int64_t last = std::min(slot_number(wall + seconds), first + static_cast<int64_t>(often_.size()) - 1);
  for (int64_t slot = first; slot <= last; ++slot) {
    if (often_[static_cast<size_t>(slot) % often_.size()] >= kMostly) return true;
  }
  return false;
}

void Profile::restore(const std::vector<float>& often) {
  if (often.size() == often_.size()) often_ = often;
}

}  // namespace granary::adaptive
