// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmpool/guest/init/container_paths.h"
#include "vmpool/guest/init/reaper.h"
#include "vmpool/guest/init/spawn.h"

namespace granary::guest {

// One run of the OCI runtime (crun(1)), awaited without blocking. What it leaves behind (the first process of a
// container, an exec'ed one) is orphaned to this process: adopt_process() takes it.
class CrunCall {
 public:
  struct Settings {
    std::vector<std::string> arguments;  // from the command on
    bool has_stdin = false;
    // --pid-file, as adopt_process() needs it; and --console-socket, as take_terminal() does.
    bool leaves_process = false;
    bool on_terminal = false;
    std::string process;  // --process, if not empty: the JSON
    std::string target;   // the last argument: the container
  };

  // `done` is called once, from the loop, and may destroy the CrunCall: ok, or kContainerFailed with crun's own words,
  // at most 512 bytes. A call that is destroyed before its end is killed.
  static Result<std::unique_ptr<CrunCall>> start(Reaper& reaper, const ContainerPaths& paths, Settings settings,
                                                 std::function<void(Status)> done);
  ~CrunCall();

  // After it was done: the ends of the streams that the process has which it left. On a terminal its main side.
  Result<Streams> take_streams();
  // After it was done: the process that it left, whose ending is told to `callback`.
  Result<pid_t> adopt_process(Reaper::Callback callback);
  // Ends it; `done` is still called.
  void kill() const;

 private:
  CrunCall(Reaper& reaper, const ContainerPaths& paths, Settings settings, std::function<void(Status)> done);
  Status write_process() const;
  Status listen_for_terminal();
  Result<Fd> take_terminal() const;
  [[nodiscard]] std::vector<std::string> command_line() const;
  void on_ending(Reaper::Ending ending);
  [[nodiscard]] std::string words() const;

  Reaper& reaper_;
  const Settings settings_;
  const std::string crun_;
  const std::string state_;
  const std::string name_;  // of its files, without their endings
  std::function<void(Status)> done_;
  std::optional<Reaper::OrphanWatch> orphans_;
  Fd console_;
  Fd outcome_;
  Streams streams_;
  pid_t pid_ = 0;
  bool ended_ = false;
};

}  // namespace granary::guest
