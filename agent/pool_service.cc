// SPDX-License-Identifier: Apache-2.0
#include "agent/pool_service.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "agent/convert.h"
#include "agent/log_text.h"
#include "agent/sandbox_controller.h"
#include "agent/shim/own_names.h"
#include "grpc-api/status.h"
#include "vmpool/pool/guest_client.h"

namespace granary::agent {
namespace {

using std::chrono::steady_clock;

// A caller that sets no deadline still must not wait for ever in a pool that never fills.
constexpr std::chrono::minutes kLongestWait{10};

pool::SteadyTime deadline_of(std::chrono::system_clock::time_point rpc_deadline, int64_t wait_ms) {
  std::chrono::milliseconds wait = kLongestWait;
  if (wait_ms > 0) wait = std::min(wait, std::chrono::milliseconds(wait_ms));
  const auto now = std::chrono::system_clock::now();
  // The largest time point means "none": a difference to it would overflow.
  if (rpc_deadline < now + wait) wait = std::chrono::duration_cast<std::chrono::milliseconds>(rpc_deadline - now);
  return steady_clock::now() + wait;
}

// The leases of pods say by their owner whose they are, and end with that.
granary::Status check_owner(const std::string& owner_id) {
  for (const std::string_view prefix : {SandboxController::kOwnerPrefix, shim::kOwnerPrefix}) {
    if (owner_id.starts_with(prefix)) {
      return Error(Errc::kInvalidArgument, "owner \"" + one_line(owner_id.substr(0, 80)) +
                                               "\": names that begin with " + std::string(prefix) + " are pods'");
    }
  }
  return ok();
}

Result<PoolSet::Wish> to_wish(const v1::AcquireRequest& request, std::chrono::system_clock::time_point rpc_deadline) {
  GRANARY_TRY(check_owner(request.owner_id()));
  return PoolSet::Wish{.pool = request.pool(),
                       .owner_id = request.owner_id(),
                       .hostname = request.hostname(),
                       .deadline = deadline_of(rpc_deadline, request.wait_ms()),
                       .disks = to_wishes(request.disks()),
                       .cgroup_parent = request.cgroup_parent(),
                       .netns = request.netns(),
                       .net = to_net_wish(request),
                       .needs = to_needs(request.limits()),
                       .shares = request.shares()};
}

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Errors are logged where they are handled: here they become the caller's.
grpc::Status answer(const char* call, const Error& error) {
  spdlog::warn("request failed call={} error=\"{}\"", call, log_value(error.message()));
  return api::to_grpc(error);
}

}  // namespace

PoolService::PoolService(PoolSet& pools, EventFeed& feed)
    : pools_(pools), watches_(feed), started_unix_s_(unix_seconds()) {
  pools_.on_lease_ended([this](const std::string& clone_id, const std::string& reason) {
    holds_.end(clone_id, {Errc::kCloneGone, "clone " + clone_id + ", " + reason});
  });
}

void PoolService::drain() {
  draining_ = true;
  pools_.drain();
}

void PoolService::end() {
  holds_.end_all({Errc::kShuttingDown, "the agent ends"});
  watches_.end_all();
}

grpc::Status PoolService::Acquire(grpc::ServerContext* context, const v1::AcquireRequest* request,
                                  v1::AcquireResponse* response) {
  const auto wish = to_wish(*request, context->deadline());
  if (!wish) return answer("Acquire", wish.error());
  const auto lease = pools_.acquire(*wish);
  if (!lease) return answer("Acquire", lease.error());
  *response->mutable_clone() = to_message(*lease);
  return grpc::Status::OK;
}

grpc::ServerWriteReactor<v1::AcquireResponse>* PoolService::Hold(grpc::CallbackServerContext* context,
                                                                 const v1::AcquireRequest* request) {
  auto wish = to_wish(*request, context->deadline());
  if (wish && wish->owner_id.empty()) {
    const auto uuid = pool::random_uuid();
    if (uuid) wish->owner_id = "hold-" + pool::to_text(*uuid);
  }
  return holds_.start(pools_, std::move(wish));
}

ExecReactor* PoolService::Exec(grpc::CallbackServerContext*) { return start_exec_call(pools_); }

grpc::Status PoolService::Release(grpc::ServerContext*, const v1::ReleaseRequest* request,
                                  v1::ReleaseResponse* response) {
  if (request->clone_id().empty() == request->owner_id().empty()) {
    return answer("Release", {Errc::kInvalidArgument, "release: give either clone_id or owner_id"});
  }
  const auto start = steady_clock::now();
  const auto released =
      request->clone_id().empty() ? pools_.release_owner(request->owner_id()) : pools_.release(request->clone_id());
  if (!released) return answer("Release", released.error());
  response->set_was_present(*released);
  response->set_reclaim_ns((steady_clock::now() - start).count());
  return grpc::Status::OK;
}

grpc::Status PoolService::Attach(grpc::ServerContext* /*context*/, const v1::AttachRequest* request,
                                 v1::AttachResponse* response) {
  auto disks = open_disks({{.path = request->path(), .read_only = request->read_only()}}, 1);
  if (!disks) return answer("Attach", disks.error());
  const auto disk = pools_.attach(request->clone_id(), std::move(disks->front()));
  if (!disk) return answer("Attach", disk.error());
  response->set_disk(*disk);
  return grpc::Status::OK;
}

grpc::Status PoolService::Detach(grpc::ServerContext* /*context*/, const v1::DetachRequest* request,
                                 v1::DetachResponse* /*response*/) {
  const auto done = pools_.detach(request->clone_id(), request->disk());
  return done ? grpc::Status::OK : answer("Detach", done.error());
}

grpc::Status PoolService::List(grpc::ServerContext*, const v1::ListRequest* request, v1::ListResponse* response) {
  const auto clones = pools_.clones(request->pool());
  if (!clones) return answer("List", clones.error());
  std::vector<Lease> leases;
  for (const pool::CloneStatus& clone : *clones) {
    if (auto lease = pools_.lease_of(clone.info.id)) leases.push_back(*std::move(lease));
  }
  const auto use = pools_.network_use(leases);
  for (const pool::CloneStatus& clone : *clones) {
    v1::Clone* const out = response->add_clones();
    const auto lease = std::ranges::find(leases, clone.info.id, [](const Lease& one) { return one.clone.id; });
    const bool held = lease != leases.end();
    *out = to_message(clone.info);
    out->set_state(clone.state);
    out->set_memory_bytes(clone.memory_bytes);
    out->set_owner_id(held ? lease->owner_id : "");
    if (!held) continue;
    *out->mutable_disks() = to_messages(lease->disks);
    if (!lease->net) continue;
    *out->mutable_network() = to_message(*lease->net, lease->address);
    if (const auto at = use.find(lease->address); at != use.end()) put(at->second, *out->mutable_network());
  }
  return grpc::Status::OK;
}

grpc::Status PoolService::Status(grpc::ServerContext*, const v1::StatusRequest*, v1::StatusResponse* response) {
  response->set_version(GRANARY_VERSION);
  response->set_started_unix_s(started_unix_s_);
  response->set_draining(draining_);
  response->set_retired_clones(pools_.retired_clones());
  *response->mutable_config() = to_message(pools_.configuration());
  for (const pool::PoolStatus& status : pools_.status()) *response->add_pools() = to_message(status);
  return grpc::Status::OK;
}

grpc::ServerWriteReactor<v1::Event>* PoolService::Watch(grpc::CallbackServerContext*, const v1::WatchRequest*) {
  return watches_.start();
}

grpc::Status PoolService::Console(grpc::ServerContext*, const v1::ConsoleRequest* request,
                                  v1::ConsoleResponse* response) {
  auto text = pools_.console(request->clone_id());
  if (!text) return answer("Console", text.error());
  response->set_data(*std::move(text));
  return grpc::Status::OK;
}

grpc::Status PoolService::Flight(grpc::ServerContext*, const v1::FlightRequest* request, v1::FlightResponse* response) {
  const auto records = pools_.flights(request->clone_id());
  if (!records) return answer("Flight", records.error());
  for (const pool::FlightRecord& record : *records) *response->add_records() = to_message(record);
  return grpc::Status::OK;
}

grpc::Status PoolService::Audit(grpc::ServerContext*, const v1::AuditRequest*, v1::AuditResponse* response) {
  const auto differences = pools_.audit();
  if (!differences) return answer("Audit", differences.error());
  for (const std::string& line : *differences) response->add_differences(line);
  return grpc::Status::OK;
}

grpc::Status PoolService::ListTemplates(grpc::ServerContext*, const v1::ListTemplatesRequest*,
                                        v1::ListTemplatesResponse* response) {
  const auto templates = pools_.templates();
  if (!templates) return answer("ListTemplates", templates.error());
  for (const PoolSet::TemplateUse& use : *templates) *response->add_templates() = to_message(use);
  return grpc::Status::OK;
}

grpc::Status PoolService::BuildTemplate(grpc::ServerContext*, const v1::BuildTemplateRequest* request,
                                        grpc::ServerWriter<v1::BuildTemplateResponse>* writer) {
  const auto key = pools_.build_template(request->pool(), request->force(), [&](const std::string& line) {
    v1::BuildTemplateResponse progress;
    progress.set_progress(line);
    writer->Write(progress);  // a caller that left does not stop the build
  });
  if (!key) return answer("BuildTemplate", key.error());
  v1::BuildTemplateResponse done;
  done.set_key(*key);
  writer->Write(done);
  return grpc::Status::OK;
}

grpc::Status PoolService::RemoveTemplate(grpc::ServerContext*, const v1::RemoveTemplateRequest* request,
                                         v1::RemoveTemplateResponse* response) {
  const auto removed = pools_.remove_template(request->key());
  if (!removed) return answer("RemoveTemplate", removed.error());
  response->set_was_present(*removed);
  return grpc::Status::OK;
}

}  // namespace granary::agent
