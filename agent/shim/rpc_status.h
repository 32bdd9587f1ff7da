// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <system_error>

#include "vmpool/base/result.h"

namespace granary::shim {

// The codes of an RPC's status (google.rpc.Code), which ttrpc and gRPC share; those that the shim gives or expects.
enum class Rpc {
  kOk = 0,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
};

const std::error_category& rpc_category() noexcept;
std::error_code make_error_code(Rpc code) noexcept;
inline Error rpc_error(Rpc code, std::string text) { return {make_error_code(code), std::move(text)}; }

struct RpcStatus {
  Rpc code = Rpc::kOk;
  std::string message;
};
// What a caller is told of an error: its own code where it is one of the above, else the nearest one.
RpcStatus to_rpc(const Error& error);

}  // namespace granary::shim

template <>
struct std::is_error_code_enum<granary::shim::Rpc> : std::true_type {};
