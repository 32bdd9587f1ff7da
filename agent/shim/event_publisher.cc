// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/event_publisher.h"

#include <chrono>
#include <map>

#include "agent/shim/timestamp.h"
#include "containerd/events.pb.h"
#include "vmpool/base/log.h"

namespace granary::shim {
namespace {

constexpr std::chrono::seconds kLimit{5};

// runtime/events.go of containerd.
const std::map<std::string, std::string>& topics() {
  static const std::map<std::string, std::string> kTopics = {
      {"containerd.events.TaskCreate", "/tasks/create"},
      {"containerd.events.TaskStart", "/tasks/start"},
      {"containerd.events.TaskExit", "/tasks/exit"},
      {"containerd.events.TaskOOM", "/tasks/oom"},
      {"containerd.events.TaskDelete", "/tasks/delete"},
      {"containerd.events.TaskPaused", "/tasks/paused"},
      {"containerd.events.TaskResumed", "/tasks/resumed"},
      {"containerd.events.TaskExecAdded", "/tasks/exec-added"},
      {"containerd.events.TaskExecStarted", "/tasks/exec-started"}};
  return kTopics;
}

}  // namespace

EventPublisher::~EventPublisher() { loop_.remove(timer_); }

void EventPublisher::publish(const std::string& containerd_namespace, const google::protobuf::MessageLite& event) {
  if (!has_reader_) return;
  containerd::events::ForwardRequest request;
  auto& envelope = *request.mutable_envelope();
  set_time(*envelope.mutable_timestamp(), std::chrono::system_clock::now());
  envelope.set_namespace_(containerd_namespace);
  envelope.set_topic(topics().at(event.GetTypeName()));
  envelope.mutable_event()->set_type_url(event.GetTypeName());
  event.SerializeToString(envelope.mutable_event()->mutable_value());
  queue_.push_back(request.SerializeAsString());
  if (queue_.size() > kKept) {
    // Not the first: it may be on its way.
    queue_.erase(queue_.begin() + 1);
    log_line(LogLevel::kError, "an event is lost: containerd does not take them");
  }
  send_next();
}

void EventPublisher::send_next() {
  if (sending_ || timer_ != 0 || queue_.empty()) return;
  sending_ = true;
  client_.call("containerd.services.events.ttrpc.v1.Events", "Forward", queue_.front(), kLimit,
               [this](const Result<std::string>& result) {
                 sending_ = false;
                 if (!result && result.error().code().category() != rpc_category()) {
                   timer_ = loop_.call_at(EventLoop::Clock::now() + kRetry, [this] {
                     timer_ = 0;
                     send_next();
                   });
                   return;
                 }
                 if (!result)
                   log_line(LogLevel::kWarn, "containerd refuses an event: %s", result.error().message().c_str());
                 queue_.pop_front();
                 send_next();
               });
}

}  // namespace granary::shim
