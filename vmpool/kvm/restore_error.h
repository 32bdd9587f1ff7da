// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vmpool/base/result.h"

namespace granary::kvm {

// What KVM refuses of a snapshot is the snapshot's fault: the failed ioctl's name and errno become the context.
inline Status as_restore_error(const Status& status) {
  if (status) return ok();
  return Error(Errc::kSnapshotRestoreFailed, status.error().message());
}

}  // namespace granary::kvm
