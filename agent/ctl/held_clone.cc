// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/held_clone.h"

#include <grpcpp/support/sync_stream.h>

#include <utility>

namespace granary::ctl {

Result<std::unique_ptr<HeldClone>> HeldClone::take(Client& client, const v1::AcquireRequest& request) {
  std::unique_ptr<HeldClone> held(new HeldClone(client));
  held->stream_ = client.stub().Hold(&held->context_, request);
  v1::AcquireResponse response;
  if (held->stream_->Read(&response)) {
    held->clone_ = response.clone();
    return held;
  }
  return api::from_grpc(std::exchange(held->stream_, nullptr)->Finish());
}

HeldClone::~HeldClone() {
  if (!stream_) return;
  context_.TryCancel();
  stream_->Finish();
}

Status HeldClone::release() {
  v1::ReleaseRequest request;
  request.set_clone_id(clone_.id());
  GRANARY_TRY(client_.call(&v1::Pool::Stub::Release, request));
  return ok();
}

}  // namespace granary::ctl
