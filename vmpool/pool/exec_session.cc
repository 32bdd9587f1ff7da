// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/exec_session.h"

#include "vmpool/base/machine_layout.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::pool {

namespace wire = guest::v1;

Result<std::unique_ptr<ExecSession>> ExecSession::start(const std::string& socket_path, const wire::Exec& exec,
                                                        SteadyTime deadline) {
  wire::Request request;
  *request.mutable_exec() = exec;
  if (request.ByteSizeLong() > guest::kMaxFrameBytes) {
    return Error(Errc::kInvalidArgument, "command line and environment of " + std::to_string(request.ByteSizeLong()) +
                                             " bytes; allowed: " + std::to_string(guest::kMaxFrameBytes));
  }
  GuestConnection connection = GRANARY_TRY(GuestConnection::connect(socket_path, machine::kInitVsockPort, deadline));
  std::unique_ptr<ExecSession> session(new ExecSession(std::move(connection)));
  GRANARY_TRY(session->send(request, deadline));
  wire::Reply reply;
  GRANARY_TRY(session->answer(reply, "start the command", deadline));
  if (!reply.has_started()) return Error(Errc::kGuestProtocol, "exec: unexpected message instead of Started");
  session->set_guest_pid(reply.started().pid());
  return session;
}

}  // namespace granary::pool
