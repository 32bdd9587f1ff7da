// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/rpc_status.h"

#include <array>

namespace granary::shim {
namespace {

class RpcCategory final : public std::error_category {
 public:
  [[nodiscard]] const char* name() const noexcept override { return "rpc"; }
  [[nodiscard]] std::string message(int value) const override {
    static constexpr std::array<const char*, 17> kNames = {
        "ok",           "cancelled",        "unknown error",     "invalid argument",   "deadline exceeded",
        "not found",    "already exists",   "permission denied", "resource exhausted", "failed precondition",
        "aborted",      "out of range",     "not implemented",   "internal error",     "unavailable",
        "data is lost", "not authenticated"};
    return value >= 0 && static_cast<size_t>(value) < kNames.size() ? kNames[static_cast<size_t>(value)]
                                                                    : "status code " + std::to_string(value);
  }
};

Rpc code_of(Errc code) {
  switch (code) {
    case Errc::kCloneUnknown:
    case Errc::kPoolUnknown:
      return Rpc::kNotFound;
    case Errc::kInvalidArgument:
      return Rpc::kInvalidArgument;
    case Errc::kDeadlineExceeded:
    case Errc::kGuestUnresponsive:
      return Rpc::kDeadlineExceeded;
    case Errc::kNotSupported:
      return Rpc::kUnimplemented;
    case Errc::kPoolEmpty:
    case Errc::kSlotsTaken:
      return Rpc::kResourceExhausted;
    case Errc::kPeerGone:
    case Errc::kShuttingDown:
      return Rpc::kUnavailable;
    case Errc::kCloneGone:
      return Rpc::kFailedPrecondition;
    default:
      return Rpc::kInternal;
  }
}

Rpc code_of(const std::error_code& code) {
  if (code.category() == rpc_category()) return static_cast<Rpc>(code.value());
  if (code.category() == granary_category()) return code_of(static_cast<Errc>(code.value()));
  switch (code.value()) {
    case ENOENT:
    case ENOTDIR:
    case EACCES:
    case EBUSY:
      return Rpc::kFailedPrecondition;
    case EINVAL:
    case ENAMETOOLONG:
      return Rpc::kInvalidArgument;
    default:
      return Rpc::kInternal;
  }
}

}  // namespace

const std::error_category& rpc_category() noexcept {
  static const RpcCategory category;
  return category;
}

std::error_code make_error_code(Rpc code) noexcept { return {static_cast<int>(code), rpc_category()}; }

RpcStatus to_rpc(const Error& error) {
  // The name of an RPC code adds nothing to a status that carries the code.
  const bool own = error.code().category() == rpc_category();
  return {code_of(error.code()), own ? error.context() : error.message()};
}

}  // namespace granary::shim
