// SPDX-License-Identifier: Apache-2.0
#include <ctime>

#include "vmpool/pool/pool_impl.h"

namespace granary::pool {

void Pool::Impl::rotate_loop() {
  Backoff backoff;
  std::unique_lock lock(mutex_);
  while (!draining_ && template_.content) {
    const std::optional<SteadyTime> due = rotation_due();
    if (!due) {
      work_cv_.wait(lock);
      continue;
    }
    const SteadyTime from = std::max(*due, backoff.not_before());
    if (SteadyClock::now() < from) {
      work_cv_.wait_until(lock, from);
      continue;
    }
    const std::string why = is_used_up() ? "the template has made " + std::to_string(template_.clones) + " clones"
                                         : "the template is too old";
    lock.unlock();
    emit("template-building", "", why);
    const Status rebuilt = rebuild_template([](const std::string&) {});
    lock.lock();
    if (rebuilt) {
      backoff.succeeded();
    } else {
      backoff.failed(SteadyClock::now());
    }
  }
}

uint32_t Pool::Impl::most_clones() const {
  return settings_.sharing == Sharing::kNone ? 1 : settings_.template_max_clones;
}

bool Pool::Impl::is_used_up() const { return most_clones() != 0 && template_.clones >= most_clones(); }

std::optional<SteadyTime> Pool::Impl::rotation_due() const {
  if (is_used_up()) return SteadyTime{};
  if (settings_.template_max_age.count() == 0) return std::nullopt;
  return template_.built_at + settings_.template_max_age;
}

std::optional<SteadyTime> Pool::Impl::stored_since(const std::string& key) const {
  const PoolSettings now = settings();
  if (now.sharing == Sharing::kNone) return std::nullopt;
  if (now.template_max_age.count() == 0) return SteadyClock::now();
  const Result<std::vector<TemplateInfo>> stored = resources_.templates.list();
  if (!stored) return std::nullopt;
  for (const TemplateInfo& info : *stored) {
    if (info.key != key) continue;
    const std::chrono::seconds age(std::max<int64_t>(0, ::time(nullptr) - info.created_unix_s));
    if (age > now.template_max_age) return std::nullopt;
    return SteadyClock::now() - age;
  }
  return std::nullopt;
}

}  // namespace granary::pool
