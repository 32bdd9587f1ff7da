// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/pod_clone.h"

#include "agent/shim/own_names.h"
#include "vmpool/base/log.h"

namespace granary::shim {
namespace {

constexpr const char* kService = "granary.v1.Pool";
// Beyond the wait for a clone: what its hand-over takes, and its reclaim.
constexpr std::chrono::seconds kHandOverLimit{60};
constexpr std::chrono::seconds kReleaseLimit{30};

}  // namespace

PodClone::PodClone(EventLoop& loop, const std::string& agent_socket, const std::string& sandbox_id)
    : loop_(loop), client_(loop, agent_socket), owner_(owner_of_sandbox(sandbox_id)) {}

PodClone::~PodClone() { loop_.remove(timer_); }

void PodClone::take(const SandboxSpec& spec, std::chrono::milliseconds wait,
                    std::function<void(Result<v1::AcquireResponse>)> done) {
  v1::AcquireRequest request;
  request.set_pool(spec.pool);
  request.set_owner_id(owner_);
  request.set_hostname(spec.hostname);
  request.set_wait_ms(wait.count());
  request.set_cgroup_parent(spec.cgroup_parent);
  request.set_netns(spec.netns);
  request.set_shares(true);
  const guest::v1::Limits& limits = spec.pod.limits();
  request.mutable_limits()->set_memory_bytes(limits.memory_bytes());
  request.mutable_limits()->set_cpu_quota_us(limits.cpu_quota_us());
  request.mutable_limits()->set_cpu_period_us(limits.cpu_period_us());
  client_.call(kService, "Acquire", request.SerializeAsString(), wait + kHandOverLimit,
               [done = std::move(done)](const Result<std::string>& result) {
                 if (!result && result.error().is(Errc::kPeerGone)) {
                   return done(Error(Errc::kPeerGone, result.error().context() + "; does granaryd run?"));
                 }
                 if (!result) return done(result.error());
                 v1::AcquireResponse response;
                 if (!response.ParseFromString(*result)) return done(Error(Errc::kProtocolMalformed, "the agent's answer"));
                 done(std::move(response));
               });
}

void PodClone::give_back(std::function<bool()> is_gone, std::function<void()> done) {
  v1::ReleaseRequest request;
  request.set_owner_id(owner_);
  client_.call(kService, "Release", request.SerializeAsString(), kReleaseLimit,
               [this, is_gone = std::move(is_gone), done = std::move(done)](const Result<std::string>& result) mutable {
                 if (result) return done();
                 log_line(LogLevel::kWarn, "release of %s: %s", owner_.c_str(), result.error().message().c_str());
                 if (is_gone()) return done();
                 timer_ = loop_.call_at(EventLoop::Clock::now() + kRetry,
                                        [this, is_gone = std::move(is_gone), done = std::move(done)]() mutable {
                                          timer_ = 0;
                                          give_back(std::move(is_gone), std::move(done));
                                        });
               });
}

}  // namespace granary::shim
