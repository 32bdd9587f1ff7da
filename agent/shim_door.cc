// SPDX-License-Identifier: Apache-2.0
#include "agent/shim_door.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include "agent/log_text.h"
#include "granary/v1/attach.pb.h"

namespace granary::agent {
namespace {

constexpr const char* kService = "granary.v1.Pool";
constexpr int kMostBusy = 64;

}  // namespace

Result<std::unique_ptr<ShimDoor>> ShimDoor::open(const std::string& socket_path, Disks disks) {
  ::unlink(socket_path.c_str());
  Fd listener = GRANARY_TRY(ttrpc::listen_unix(socket_path));
  std::unique_ptr<ShimDoor> door(new ShimDoor(socket_path, std::move(disks), GRANARY_TRY(EventLoop::create())));
  ShimDoor* self = door.get();
  self->server_ = GRANARY_TRY(ttrpc::Server::create(
      *self->loop_, std::move(listener),
      [self](ttrpc::Call call, ttrpc::Answer answer) { self->handle(std::move(call), std::move(answer)); }));
  self->thread_ = std::jthread([self] { (void)self->loop_->run(); });
  return door;
}

ShimDoor::~ShimDoor() {
  loop_->stop();
  if (thread_.joinable()) thread_.join();
  {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return busy_ == 0; });
  }
  server_.reset();
  ::unlink(path_.c_str());
}

void ShimDoor::handle(ttrpc::Call call, ttrpc::Answer answer) {
  if (call.service == kService && call.method == "Attach") {
    auto file = std::make_shared<Fd>(call.take_fd());
    return do_aside([this, payload = std::move(call.payload), file] { return attach(payload, std::move(*file)); },
                    std::move(answer));
  }
  if (call.service == kService && call.method == "Detach") {
    return do_aside([this, payload = std::move(call.payload)] { return detach(payload); }, std::move(answer));
  }
  answer(shim::rpc_error(shim::Rpc::kUnimplemented, "shims are answered Attach and Detach of granary.v1.Pool alone"));
}

void ShimDoor::do_aside(std::function<Result<std::string>()> work, ttrpc::Answer answer) {
  {
    const std::lock_guard lock(mutex_);
    if (busy_ >= kMostBusy) return answer(shim::rpc_error(shim::Rpc::kResourceExhausted, "the agent is busy"));
    ++busy_;
  }
  std::thread([this, work = std::move(work), answer = std::move(answer)] {
    Result<std::string> result = work();
    if (!result) spdlog::warn("request of a shim failed error=\"{}\"", log_value(result.error().message()));
    loop_->post([answer, result = std::move(result)] { answer(result); });
    const std::lock_guard lock(mutex_);
    --busy_;
    idle_.notify_all();
  }).detach();
}

Result<std::string> ShimDoor::attach(const std::string& payload, Fd file) {
  v1::AttachRequest request;
  if (!request.ParseFromString(payload)) return Error(Errc::kInvalidArgument, "no AttachRequest");
  if (!file.valid()) return Error(Errc::kInvalidArgument, "Attach of a shim comes with the disk's descriptor");
  v1::AttachResponse response;
  response.set_disk(GRANARY_TRY(
      disks_.attach(request.clone_id(), pool::Disk{.file = std::move(file), .read_only = request.read_only()})));
  return response.SerializeAsString();
}

Result<std::string> ShimDoor::detach(const std::string& payload) {
  v1::DetachRequest request;
  if (!request.ParseFromString(payload)) return Error(Errc::kInvalidArgument, "no DetachRequest");
  GRANARY_TRY(disks_.detach(request.clone_id(), request.disk()));
  return std::string();
}

}  // namespace granary::agent
