// SPDX-License-Identifier: Apache-2.0
#include "agent/shim_door.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <system_error>
#include <thread>

#include "agent/convert.h"
#include "agent/log_text.h"
#include "agent/shim/own_names.h"
#include "granary/v1/acquire.pb.h"
#include "granary/v1/attach.pb.h"

namespace granary::agent {
namespace {

constexpr const char* kService = "granary.v1.Pool";
constexpr size_t kMostConnections = 8192;  // each pod's shim has one or two for its life
// Requests at once, each on a thread: those for a clone, and all others, which must not wait behind them.
constexpr int kMostWaiting = 256;
constexpr int kMostOthers = 1024;
// As the sandbox controller: a pool that stays empty this long is worth telling.
constexpr std::chrono::milliseconds kLongestWait{30'000};

// Of pods' shims alone: other owners' clones are not theirs.
Status check_owner(const std::string& owner_id) {
  if (!shim::sandbox_of_owner(owner_id).empty()) return ok();
  return Error(Errc::kInvalidArgument, "owner \"" + one_line(owner_id.substr(0, 80)) + "\": a shim's is " +
                                           std::string(shim::kOwnerPrefix) + "<sandbox id>");
}

}  // namespace

Result<std::unique_ptr<ShimDoor>> ShimDoor::open(const std::string& socket_path, Pools pools) {
  ::unlink(socket_path.c_str());
  Fd listener = GRANARY_TRY(ttrpc::listen_unix(socket_path));
  std::unique_ptr<ShimDoor> door(new ShimDoor(socket_path, std::move(pools), GRANARY_TRY(EventLoop::create())));
  ShimDoor* self = door.get();
  self->server_ = GRANARY_TRY(ttrpc::Server::create(
      *self->loop_, std::move(listener),
      [self](ttrpc::Call call, ttrpc::Answer answer) { self->handle(std::move(call), std::move(answer)); },
      kMostConnections));
  self->thread_ = std::jthread([self] { (void)self->loop_->run(); });
  return door;
}

ShimDoor::~ShimDoor() {
  loop_->stop();
  if (thread_.joinable()) thread_.join();
  {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return waiting_ + others_ == 0; });
  }
  server_.reset();
  ::unlink(path_.c_str());
}

void ShimDoor::handle(ttrpc::Call call, ttrpc::Answer answer) {
  using Method = Result<std::string> (ShimDoor::*)(const std::string& payload);
  static const std::map<std::string, Method> kMethods = {
      {"Detach", &ShimDoor::detach}, {"Acquire", &ShimDoor::acquire}, {"Release", &ShimDoor::release}};
  if (call.service == kService && call.method == "Attach") {
    auto file = std::make_shared<Fd>(call.take_fd());
    return do_aside([this, payload = std::move(call.payload), file] { return attach(payload, std::move(*file)); },
                    std::move(answer), others_, kMostOthers);
  }
  if (const auto method = kMethods.find(call.method); call.service == kService && method != kMethods.end()) {
    const bool waits = call.method == "Acquire";
    return do_aside([this, payload = std::move(call.payload), what = method->second] { return (this->*what)(payload); },
                    std::move(answer), waits ? waiting_ : others_, waits ? kMostWaiting : kMostOthers);
  }
  answer(shim::rpc_error(shim::Rpc::kUnimplemented,
                         "shims are answered Acquire, Release, Attach and Detach of granary.v1.Pool alone"));
}

void ShimDoor::do_aside(std::function<Result<std::string>()> work, ttrpc::Answer answer, int& count, int most) {
  const auto refuse = [&answer](const char* why) { answer(shim::rpc_error(shim::Rpc::kResourceExhausted, why)); };
  {
    const std::lock_guard lock(mutex_);
    if (count >= most) return refuse("too many requests of shims at once: pods wait for clones, or VMMs hang");
    ++count;
  }
  const auto done = [this, &count] {
    const std::lock_guard lock(mutex_);
    --count;
    idle_.notify_all();
  };
  try {
    std::thread([this, work = std::move(work), answer, done] {
      Result<std::string> result = work();
      if (!result) spdlog::warn("request of a shim failed error=\"{}\"", log_value(result.error().message()));
      loop_->post([answer, result = std::move(result)] { answer(result); });
      done();
    }).detach();
  } catch (const std::system_error&) {
    done();
    refuse("granaryd can have no more threads: raise its pids limit");
  }
}

Result<std::string> ShimDoor::attach(const std::string& payload, Fd file) {
  v1::AttachRequest request;
  if (!request.ParseFromString(payload)) return Error(Errc::kInvalidArgument, "no AttachRequest");
  if (!file.valid()) return Error(Errc::kInvalidArgument, "Attach of a shim comes with the disk's descriptor");
  v1::AttachResponse response;
  response.set_disk(GRANARY_TRY(
      pools_.attach(request.clone_id(), pool::Disk{.file = std::move(file), .read_only = request.read_only()})));
  return response.SerializeAsString();
}

Result<std::string> ShimDoor::detach(const std::string& payload) {
  v1::DetachRequest request;
  if (!request.ParseFromString(payload)) return Error(Errc::kInvalidArgument, "no DetachRequest");
  GRANARY_TRY(pools_.detach(request.clone_id(), request.disk()));
  return std::string();
}

Result<std::string> ShimDoor::acquire(const std::string& payload) {
  v1::AcquireRequest request;
  if (!request.ParseFromString(payload)) return Error(Errc::kInvalidArgument, "no AcquireRequest");
  GRANARY_TRY(check_owner(request.owner_id()));
  if (request.disks_size() > 0 || request.has_own_network()) {
    return Error(Errc::kInvalidArgument, "a pod's clone has neither disks nor own_network from the start");
  }
  const std::chrono::milliseconds wait(std::clamp(request.wait_ms(), int64_t{1}, kLongestWait.count()));
  const Lease lease = GRANARY_TRY(pools_.acquire({.pool = request.pool(),
                                                  .owner_id = request.owner_id(),
                                                  .hostname = request.hostname(),
                                                  .deadline = std::chrono::steady_clock::now() + wait,
                                                  .cgroup_parent = request.cgroup_parent(),
                                                  .netns = request.netns(),
                                                  .needs = to_needs(request.limits()),
                                                  .shares = request.shares(),
                                                  .forward_loopback = true}));
  v1::AcquireResponse response;
  *response.mutable_clone() = to_message(lease);
  response.set_memory_unlimited(!request.cgroup_parent().empty() &&
                                pools_.has_unlimited_memory(request.cgroup_parent()));
  return response.SerializeAsString();
}

Result<std::string> ShimDoor::release(const std::string& payload) {
  v1::ReleaseRequest request;
  if (!request.ParseFromString(payload)) return Error(Errc::kInvalidArgument, "no ReleaseRequest");
  GRANARY_TRY(check_owner(request.owner_id()));
  v1::ReleaseResponse response;
  response.set_was_present(GRANARY_TRY(pools_.release(request.owner_id())));
  return response.SerializeAsString();
}

}  // namespace granary::agent
