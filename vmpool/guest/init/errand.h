// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>

#include "vmpool/guest/init/reaper.h"

namespace granary::guest {

// Work that may block (mounting, flushing a file system, reclaiming memory), done in a forked child so that the event
// loop goes on.
class Errand {
 public:
  // `work` runs in the child, without any descriptor of this process; `done` gets what it returned, from the loop and
  // once, unless the Errand is gone by then: the child then goes on to its end. It may destroy the Errand.
  static Result<std::unique_ptr<Errand>> run(Reaper& reaper, const std::function<Status()>& work,
                                             std::function<void(Status)> done);
  ~Errand();
  // `done` gets an error soon, ECHILD if the work was not done before.
  void cancel() const;

 private:
  explicit Errand(std::function<void(Status)> done) : done_(std::move(done)) {}
  void on_ending(Reaper::Ending ending);

  pid_t pid_ = 0;  // while the child is not reaped
  Fd report_;
  std::function<void(Status)> done_;
  std::shared_ptr<Errand*> self_ = std::make_shared<Errand*>(this);  // null once it is gone
};

}  // namespace granary::guest
