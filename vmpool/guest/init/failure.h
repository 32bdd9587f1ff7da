// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "vmpool/base/error.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::guest {

// A Failure reply. Characters outside printable ASCII become '?': paths of a workload may hold any bytes.
v1::Reply failure(v1::Failure::Kind kind, std::string_view message);

// The same from an error. kInvalidArgument and E2BIG: INVALID; ENOENT: NOT_FOUND; EACCES, ENOEXEC and their like:
// NOT_EXECUTABLE; EEXIST: EXISTS; kContainerFailed: CONTAINER; anything else: OTHER.
v1::Reply failure(const Error& error);

}  // namespace granary::guest
