// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "containerd/events.pb.h"
#include "containerd/task.pb.h"

namespace granary::shim {

inline containerd::events::TaskCreate created_event(const containerd::task::v3::CreateTaskRequest& request, uint32_t pid) {
  containerd::events::TaskCreate event;
  event.set_container_id(request.id());
  event.set_bundle(request.bundle());
  *event.mutable_rootfs() = request.rootfs();
  event.mutable_io()->set_stdin(request.stdin());
  event.mutable_io()->set_stdout(request.stdout());
  event.mutable_io()->set_stderr(request.stderr());
  event.mutable_io()->set_terminal(request.terminal());
  event.set_pid(pid);
  return event;
}

}  // namespace granary::shim
