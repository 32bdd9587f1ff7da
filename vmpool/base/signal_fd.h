// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>

#include "vmpool/base/fd.h"

namespace granary {

// Blocks the signals in the calling thread (so before any other starts) and makes them readable (signalfd(2), not blocking).
Result<Fd> take_signals(std::initializer_list<int> numbers);

}  // namespace granary
