// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "vmpool/base/event_loop.h"
#include "vmpool/base/fd.h"

namespace granary::agent {

// Calls back, on a thread of its own, when the configuration may have changed: on SIGHUP (which every thread must
// block), and when something happens in the file's folder that can have changed it: the file written and closed,
// another one renamed to its name, or the `..data` link of a ConfigMap swapped. Not seen: a change behind another
// symbolic link, and one of the folder's own name; SIGHUP serves there.
class ConfigWatch {
 public:
  // `path` empty: SIGHUP alone; so it is, with the reason logged, where the folder cannot be watched. `changed` is also
  // called once at the start: `path` may have changed since it was read. `asked`: by SIGHUP.
  static Result<std::unique_ptr<ConfigWatch>> start(const std::string& path, std::function<void(bool asked)> changed);
  // No callback from here on.
  ~ConfigWatch();

 private:
  ConfigWatch(std::string file, Fd signals, Fd folder, EventFd stop, std::function<void(bool asked)> changed);
  void watch();
  bool concerns_file();

  const std::string file_;  // its name in the folder
  Fd signals_;
  Fd folder_;  // inotify; may be invalid
  EventFd stop_;
  std::function<void(bool asked)> changed_;
  std::thread thread_;
};

}  // namespace granary::agent
