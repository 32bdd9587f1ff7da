// SPDX-License-Identifier: Apache-2.0
#include "tests/soak/workers.h"

#include <grpcpp/grpcpp.h>

namespace granary::soak {
namespace {

constexpr std::chrono::seconds kCallLimit{20};
constexpr int64_t kWaitMs = 5000;

void limit(grpc::ClientContext& context) { context.set_deadline(std::chrono::system_clock::now() + kCallLimit); }

const char* name_of(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return "ok";
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return "RESOURCE_EXHAUSTED";
    case grpc::StatusCode::UNAVAILABLE:
      return "UNAVAILABLE";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case grpc::StatusCode::INTERNAL:
      return "INTERNAL";
    case grpc::StatusCode::FAILED_PRECONDITION:
      return "FAILED_PRECONDITION";
    case grpc::StatusCode::NOT_FOUND:
      return "NOT_FOUND";
    default:
      return "other";
  }
}

}  // namespace

Workers::Workers(const Target& target, unsigned threads, unsigned cycles, bool commands)
    : target_(target), cycles_(cycles), commands_(commands), running_(threads), places_(threads) {
  for (unsigned i = 0; i < threads; ++i) {
    enter(i, "start");
    threads_.emplace_back([this, i](const std::stop_token& stop) { work(i, stop); });
  }
}

Workers::~Workers() = default;

void Workers::work(unsigned thread, const std::stop_token& stop) {
  const auto stub = target_.stub();
  while (!stop.stop_requested()) {
    const unsigned number = begun_++;
    if (number >= cycles_) break;
    cycle(*stub, thread, number);
  }
  --running_;
}

void Workers::cycle(v1::Pool::Stub& stub, unsigned thread, unsigned number) {
  const std::string owner = "worker-" + std::to_string(thread) + "-" + std::to_string(number);
  enter(thread, "acquire " + owner);
  const std::string clone = acquire(stub, owner);
  if (commands_ && !clone.empty()) {
    enter(thread, "command in " + clone);
    run_command(stub, clone, number);
  }
  enter(thread, "release " + owner);
  release(stub, owner, thread);
}

std::string Workers::acquire(v1::Pool::Stub& stub, const std::string& owner) {
  v1::AcquireRequest request;
  request.set_owner_id(owner);
  request.set_wait_ms(kWaitMs);
  grpc::ClientContext context;
  limit(context);
  v1::AcquireResponse response;
  const grpc::Status status = stub.Acquire(&context, request, &response);
  count("acquire", status);
  return status.ok() ? response.clone().id() : "";
}

void Workers::run_command(v1::Pool::Stub& stub, const std::string& clone, unsigned number) {
  grpc::ClientContext context;
  limit(context);
  const auto stream = stub.Exec(&context);
  v1::ExecRequest request;
  request.mutable_start()->set_clone_id(clone);
  for (const std::string& word : {std::string("/bin/echo"), std::to_string(number)})
    request.mutable_start()->add_argv(word);
  stream->Write(request);
  stream->WritesDone();
  std::string output;
  bool exited = false;
  v1::ExecResponse response;
  while (stream->Read(&response)) {
    if (response.has_stdout_data()) output += response.stdout_data();
    if (response.has_exit()) exited = response.exit().status() == 0;
  }
  const grpc::Status status = stream->Finish();
  count("exec", status);
  if (!status.ok() || (exited && output == std::to_string(number) + "\n")) return;
  const std::lock_guard lock(mutex_);
  wrongs_.push_back("command " + std::to_string(number) + " in clone " + clone + " printed \"" + output + "\"");
}

void Workers::release(v1::Pool::Stub& stub, const std::string& owner, unsigned thread) {
  // What stuck() reports ends this, not a number of tries.
  for (;;) {
    v1::ReleaseRequest request;
    request.set_owner_id(owner);
    grpc::ClientContext context;
    limit(context);
    context.set_wait_for_ready(true);
    v1::ReleaseResponse response;
    const grpc::Status status = stub.Release(&context, request, &response);
    count("release", status);
    if (!status.ok()) note(thread, status.error_message());
    if (status.ok() || threads_[thread].get_stop_token().stop_requested()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

void Workers::enter(unsigned thread, const std::string& step) {
  const std::lock_guard lock(mutex_);
  places_[thread] = {.step = step, .since = Clock::now(), .last_error = ""};
}

void Workers::note(unsigned thread, const std::string& error) {
  const std::lock_guard lock(mutex_);
  places_[thread].last_error = error;
}

void Workers::count(const std::string& step, const grpc::Status& status) {
  const std::lock_guard lock(mutex_);
  const char* const name = name_of(status.error_code());
  ++outcomes_[step + " " + name];
  if (std::string(name) == "other") wrongs_.push_back(step + ": " + status.error_message());
}

std::string Workers::stuck(std::chrono::seconds limit) const {
  const std::lock_guard lock(mutex_);
  if (running_ == 0) return "";
  for (const Place& place : places_) {
    if (Clock::now() - place.since > limit) return place.step + ": " + place.last_error;
  }
  return "";
}

std::map<std::string, unsigned> Workers::outcomes() const {
  const std::lock_guard lock(mutex_);
  return outcomes_;
}

std::vector<std::string> Workers::wrongs() const {
  const std::lock_guard lock(mutex_);
  return wrongs_;
}

}  // namespace granary::soak
