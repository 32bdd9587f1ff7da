// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <grpcpp/support/status.h>

#include "vmpool/base/result.h"

namespace granary::api {

// The one mapping between this tree's errors and gRPC's.
//
// Code: kPoolUnknown, kCloneUnknown NOT_FOUND; kPoolEmpty, kSlotsTaken RESOURCE_EXHAUSTED; kShuttingDown UNAVAILABLE;
// kDeadlineExceeded DEADLINE_EXCEEDED; kInvalidArgument INVALID_ARGUMENT; kNotSupported UNIMPLEMENTED; kCloneGone,
// EBUSY and what is wrong with this host (KVM, guest kernel, a second agent) FAILED_PRECONDITION; everything else
// INTERNAL. Text: Error::message(). Details: a StatusDetails message that carries ErrorDetail, so that a client of this
// tree gets the exact code and context back.
grpc::Status to_grpc(const Error& error);

// OK for a value, to_grpc() for an error.
template <class T>
grpc::Status to_grpc(const Result<T>& result) {
  return result ? grpc::Status::OK : to_grpc(result.error());
}

// The error behind a status that is not OK. Details that are missing (another server, the transport) or malformed are
// ignored: then the code follows from the gRPC code alone (UNAVAILABLE kPeerGone …) and the text is the status's.
Error from_grpc(const grpc::Status& status);

}  // namespace granary::api
