// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/container_session.h"

#include "vmpool/base/machine_layout.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::pool {
namespace {

namespace wire = guest::v1;

Status check_size(const wire::Request& request) {
  if (request.ByteSizeLong() <= guest::kMaxFrameBytes) return ok();
  return Error(Errc::kInvalidArgument, "a container's request of " + std::to_string(request.ByteSizeLong()) +
                                           " bytes; allowed: " + std::to_string(guest::kMaxFrameBytes) +
                                           ": is its specification too long?");
}

Error unexpected(const std::string& what) {
  return {Errc::kGuestProtocol, "unexpected message instead of the answer to: " + what};
}

// The guest's answer to a request that needs no conversation of its own.
Result<wire::Reply> ask(const std::string& socket_path, const wire::Request& request, const std::string& what,
                        SteadyTime deadline) {
  GRANARY_TRY(check_size(request));
  GuestConnection connection = GRANARY_TRY(GuestConnection::connect(socket_path, machine::kInitVsockPort, deadline));
  GRANARY_TRY(connection.send(request, deadline));
  wire::Reply reply;
  const Status received = connection.receive(reply, deadline);
  if (!received && received.error().is(Errc::kDeadlineExceeded)) {
    return Error(Errc::kGuestUnresponsive, "the guest did not " + what + " in time");
  }
  if (!received) return received.error();
  if (reply.has_failure()) return to_error(reply.failure());
  return reply;
}

Status order(const std::string& socket_path, const wire::Request& request, const std::string& what,
             SteadyTime deadline) {
  const wire::Reply reply = GRANARY_TRY(ask(socket_path, request, what, deadline));
  return reply.has_done() ? ok() : Status(unexpected(what));
}

}  // namespace

Result<std::unique_ptr<ContainerSession>> ContainerSession::create(const std::string& socket_path,
                                                                   const wire::ContainerCreate& create,
                                                                   SteadyTime deadline) {
  wire::Request request;
  *request.mutable_container_create() = create;
  GRANARY_TRY(check_size(request));
  GuestConnection connection = GRANARY_TRY(GuestConnection::connect(socket_path, machine::kInitVsockPort, deadline));
  std::unique_ptr<ContainerSession> session(new ContainerSession(std::move(connection)));
  GRANARY_TRY(session->send(request, deadline));
  wire::Reply reply;
  GRANARY_TRY(session->answer(reply, "create the container", deadline));
  if (!reply.has_container_created()) return unexpected("create a container");
  session->set_guest_pid(reply.container_created().pid());
  return session;
}

Status ContainerSession::start(SteadyTime deadline) {
  constexpr int kMostEarly = 2;
  int early = 0;
  wire::Request request;
  request.mutable_container_start();
  GRANARY_TRY(send(request, deadline));
  for (;;) {
    wire::Reply reply;
    GRANARY_TRY(answer(reply, "start the container", deadline));
    if (reply.has_started()) return ok();
    // Somebody killed it meanwhile.
    if (!reply.has_out_of_memory() && !reply.has_exited()) return unexpected("start a container");
    keep(GRANARY_TRY(to_event(reply)));
    if (reply.has_exited()) return Error::from_errno(ENOENT, "start a container that has ended");
    if (++early > kMostEarly) return unexpected("start a container");
  }
}

Status set_pod(const std::string& socket_path, const wire::Pod& pod, SteadyTime deadline) {
  wire::Request request;
  *request.mutable_pod() = pod;
  return order(socket_path, request, "set up the pod", deadline);
}

Status kill_container(const std::string& socket_path, const wire::ContainerKill& kill, SteadyTime deadline) {
  wire::Request request;
  *request.mutable_container_kill() = kill;
  return order(socket_path, request, "kill a container", deadline);
}

Status delete_container(const std::string& socket_path, const wire::ContainerDelete& deletion, SteadyTime deadline) {
  wire::Request request;
  *request.mutable_container_delete() = deletion;
  return order(socket_path, request, "delete a container", deadline);
}

Status update_container(const std::string& socket_path, const wire::ContainerUpdate& update, SteadyTime deadline) {
  wire::Request request;
  *request.mutable_container_update() = update;
  return order(socket_path, request, "update a container", deadline);
}

Status freeze_container(const std::string& socket_path, const wire::ContainerFreeze& freeze, SteadyTime deadline) {
  wire::Request request;
  *request.mutable_container_freeze() = freeze;
  return order(socket_path, request, "freeze a container", deadline);
}

Result<wire::ContainerState> query_container(const std::string& socket_path, const wire::ContainerQuery& query,
                                             SteadyTime deadline) {
  wire::Request request;
  *request.mutable_container_query() = query;
  wire::Reply reply = GRANARY_TRY(ask(socket_path, request, "report on a container", deadline));
  if (!reply.has_container_state()) return unexpected("report on a container");
  return std::move(*reply.mutable_container_state());
}

}  // namespace granary::pool
