// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vmpool/base/result.h"
#include "vmpool/guest/guest.pb.h"
#include "vmpool/guest/init/container_paths.h"

namespace granary::guest {

// Names that cannot be below /proc/sys: kInvalidArgument, naming them.
Status check_pod(const v1::Pod& pod);
// What all containers share, made or brought in line; may take long (memory is reclaimed): for an Errand. An error
// names the file or the sysctl; what was done before it stays.
Status apply_pod(const v1::Pod& pod, const ContainerPaths& paths);

}  // namespace granary::guest
