// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>

#include "agent/exec_call.h"
#include "agent/hold_call.h"
#include "agent/pool_set.h"
#include "agent/watch_call.h"
#include "granary/v1/pool.grpc.pb.h"

namespace granary::agent {

// granary.v1.Pool. Hold, Watch and Exec, which live as long as their callers, use gRPC's callback API; the others its
// synchronous one.
class PoolService final
    : public v1::Pool::WithCallbackMethod_Hold<
          v1::Pool::WithCallbackMethod_Watch<v1::Pool::WithCallbackMethod_Exec<v1::Pool::Service>>> {
 public:
  PoolService(PoolSet& pools, EventFeed& feed);

  // What a signal to end does, in this order. drain(): no more clones; idle ones are reclaimed. wait_for_holds(): true
  // when none is left, false at the deadline or after hurry(). end(): every call that still holds, watches or executes
  // ends.
  void drain();
  bool wait_for_holds(pool::SteadyTime deadline) { return holds_.wait_until_empty(deadline); }
  void hurry() { holds_.cut_short(); }
  void end();

  grpc::Status Acquire(grpc::ServerContext* context, const v1::AcquireRequest* request,
                       v1::AcquireResponse* response) override;
  grpc::ServerWriteReactor<v1::AcquireResponse>* Hold(grpc::CallbackServerContext* context,
                                                      const v1::AcquireRequest* request) override;
  ExecReactor* Exec(grpc::CallbackServerContext* context) override;
  grpc::Status Release(grpc::ServerContext* context, const v1::ReleaseRequest* request,
                       v1::ReleaseResponse* response) override;
  grpc::Status Attach(grpc::ServerContext* context, const v1::AttachRequest* request,
                      v1::AttachResponse* response) override;
  grpc::Status Detach(grpc::ServerContext* context, const v1::DetachRequest* request,
                      v1::DetachResponse* response) override;
  grpc::Status List(grpc::ServerContext* context, const v1::ListRequest* request, v1::ListResponse* response) override;
  grpc::Status Status(grpc::ServerContext* context, const v1::StatusRequest* request,
                      v1::StatusResponse* response) override;
  grpc::ServerWriteReactor<v1::Event>* Watch(grpc::CallbackServerContext* context,
                                             const v1::WatchRequest* request) override;
  grpc::Status Console(grpc::ServerContext* context, const v1::ConsoleRequest* request,
                       v1::ConsoleResponse* response) override;
  grpc::Status Flight(grpc::ServerContext* context, const v1::FlightRequest* request,
                      v1::FlightResponse* response) override;
  grpc::Status Audit(grpc::ServerContext* context, const v1::AuditRequest* request,
                     v1::AuditResponse* response) override;
  grpc::Status ListTemplates(grpc::ServerContext* context, const v1::ListTemplatesRequest* request,
                             v1::ListTemplatesResponse* response) override;
  grpc::Status BuildTemplate(grpc::ServerContext* context, const v1::BuildTemplateRequest* request,
                             grpc::ServerWriter<v1::BuildTemplateResponse>* writer) override;
  grpc::Status RemoveTemplate(grpc::ServerContext* context, const v1::RemoveTemplateRequest* request,
                              v1::RemoveTemplateResponse* response) override;

 private:
  PoolSet& pools_;
  HoldTable holds_;
  WatchTable watches_;
  const int64_t started_unix_s_;
  std::atomic<bool> draining_ = false;
};

}  // namespace granary::agent
