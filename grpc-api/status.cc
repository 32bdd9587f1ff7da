// SPDX-License-Identifier: Apache-2.0
#include "grpc-api/status.h"

#include <cerrno>
#include <optional>

#include "granary/v1/pool.pb.h"

namespace granary::api {
namespace {

constexpr const char* kGranaryCategory = "granary";
constexpr const char* kErrnoCategory = "errno";

grpc::StatusCode code_of(Errc code) {
  switch (code) {
    case Errc::kPoolUnknown:
    case Errc::kCloneUnknown:
      return grpc::StatusCode::NOT_FOUND;
    case Errc::kPoolEmpty:
    case Errc::kSlotsTaken:
    case Errc::kAddressesExhausted:
      return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case Errc::kShuttingDown:
      return grpc::StatusCode::UNAVAILABLE;
    case Errc::kDeadlineExceeded:
      return grpc::StatusCode::DEADLINE_EXCEEDED;
    case Errc::kInvalidArgument:
      return grpc::StatusCode::INVALID_ARGUMENT;
    case Errc::kNotSupported:
      return grpc::StatusCode::UNIMPLEMENTED;
    case Errc::kCloneGone:
    case Errc::kKvmUnavailable:
    case Errc::kKvmCapabilityMissing:
    case Errc::kHostCannotRunLinux:
    case Errc::kKernelMissing:
    case Errc::kKernelInvalid:
    case Errc::kKernelTooBig:
    case Errc::kInitramfsMissing:
    case Errc::kInitramfsInvalid:
    case Errc::kCommandLineTooLong:
    case Errc::kMemoryOutOfRange:
    case Errc::kVcpusOutOfRange:
    case Errc::kAlreadyRunning:
      return grpc::StatusCode::FAILED_PRECONDITION;
    default:
      return grpc::StatusCode::INTERNAL;
  }
}

Errc code_of(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::NOT_FOUND:
      return Errc::kCloneUnknown;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return Errc::kPoolEmpty;
    case grpc::StatusCode::UNAVAILABLE:
      return Errc::kPeerGone;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return Errc::kDeadlineExceeded;
    case grpc::StatusCode::INVALID_ARGUMENT:
      return Errc::kInvalidArgument;
    case grpc::StatusCode::UNIMPLEMENTED:
      return Errc::kNotSupported;
    case grpc::StatusCode::FAILED_PRECONDITION:
      return Errc::kCloneGone;
    default:
      return Errc::kProtocolMalformed;
  }
}

// What the caller named is missing, taken or not permitted: for the caller to set right.
bool is_precondition(const Error& error) {
  return error.is_errno(EBUSY) || error.is_errno(ENOENT) || error.is_errno(ENODEV) || error.is_errno(ENOTDIR) ||
         error.is_errno(EACCES) || error.is_errno(EPERM) || error.is_errno(EROFS);
}

std::optional<Error> from_details(const std::string& bytes) {
  v1::StatusDetails details;
  v1::ErrorDetail detail;
  if (bytes.empty() || !details.ParseFromString(bytes) || details.details_size() != 1) return std::nullopt;
  if (!details.details(0).UnpackTo(&detail) || detail.code() <= 0) return std::nullopt;
  if (detail.category() == kErrnoCategory) return Error::from_errno(detail.code(), detail.context());
  if (detail.category() != kGranaryCategory) return std::nullopt;
  return Error(std::error_code(detail.code(), granary_category()), detail.context());
}

}  // namespace

grpc::Status to_grpc(const Error& error) {
  const bool ours = error.code().category() == granary_category();
  const grpc::StatusCode code =
      ours ? code_of(static_cast<Errc>(error.code().value()))
           : (is_precondition(error) ? grpc::StatusCode::FAILED_PRECONDITION : grpc::StatusCode::INTERNAL);
  v1::ErrorDetail detail;
  detail.set_category(ours ? kGranaryCategory : kErrnoCategory);
  detail.set_code(error.code().value());
  detail.set_context(error.context());
  v1::StatusDetails details;
  details.set_code(code);
  details.set_message(error.message());
  details.add_details()->PackFrom(detail);
  return {code, error.message(), details.SerializeAsString()};
}

Error from_grpc(const grpc::Status& status) {
  if (auto error = from_details(status.error_details())) return *std::move(error);
  return {code_of(status.error_code()), status.error_message()};
}

}  // namespace granary::api
