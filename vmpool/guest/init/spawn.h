// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include "vmpool/base/fd.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::guest {

// This end of a new process's standard streams, non-blocking: three pipes, or a terminal for all of them.
struct Streams {
  Fd stdin_pipe;  // absent: the process reads /dev/null. With a terminal a second descriptor for it
  Fd stdout_pipe;
  Fd stderr_pipe;
  Fd terminal;
};

void set_window_size(int terminal, const v1::WindowSize& size);

struct Spawned {
  pid_t pid = 0;
  Streams streams;
  // Becomes readable when the new process has become the command, or could not: see spawn_result().
  Fd outcome;
};

// Forks a process that becomes the command: leader of a session and process group of its own, default signal
// dispositions, no descriptor but its three streams. The command is looked up as a shell does it, with the request's
// PATH, user and working directory. Does not wait for it: looking the command up may block on a slow file system.
// kInvalidArgument for a request out of bounds, naming the field; else what pipe(2), fork(2) or openpt(3) said.
Result<Spawned> spawn(const v1::Exec& request);

// Takes the readable `outcome`: ok once the command runs (or was killed on the way there). Errors, for failure():
// ENOENT = no such command, E2BIG, EACCES, ENOEXEC … = as execve(2) gives them; kInvalidArgument = a step before it
// (terminal, limits, user, working directory) failed, named with its errno.
Status spawn_result(int outcome, const v1::Exec& request);

}  // namespace granary::guest
