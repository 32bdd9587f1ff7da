// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>

#include "containerd/ttrpc.pb.h"

namespace granary::shim {

inline void set_time(::ttrpc::Timestamp& to, std::chrono::system_clock::time_point when) {
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(when.time_since_epoch()).count();
  to.set_seconds(ns / 1'000'000'000);
  to.set_nanos(static_cast<int32_t>(ns % 1'000'000'000));
}

}  // namespace granary::shim
