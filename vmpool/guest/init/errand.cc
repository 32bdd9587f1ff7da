// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/errand.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace granary::guest {
namespace {

// What the child writes if its work failed; one write(2) that a pipe takes whole.
struct Report {
  bool granary = false;  // the value is an Errc, else an errno
  int value = 0;
  std::array<char, 1024> text{};
};

constexpr int kReportFd = 3;

[[noreturn]] void work_as_child(const std::function<Status()>& work, int report) {
  if (report != kReportFd) ::dup2(report, kReportFd);
  // Else it would hold conversations open that this process closes.
  ::syscall(SYS_close_range, kReportFd + 1, ~0U, 0);
  const Status status = work();
  if (!status) {
    Report said;
    said.granary = &status.error().code().category() == &granary_category();
    said.value = status.error().code().value();
    status.error().context().copy(said.text.data(), said.text.size() - 1);
    [[maybe_unused]] const ssize_t n = ::write(kReportFd, &said, sizeof(said));
  }
  ::_exit(status ? 0 : 1);
}

}  // namespace

Result<std::unique_ptr<Errand>> Errand::run(Reaper& reaper, const std::function<Status()>& work,
                                            std::function<void(Status)> done) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) return Error::last_os_error("pipe for an errand");
  std::unique_ptr<Errand> errand(new Errand(std::move(done)));
  errand->report_ = Fd(fds[0]);
  const Fd write_end(fds[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return Error::last_os_error("fork");
  if (pid == 0) work_as_child(work, write_end.get());
  errand->pid_ = pid;
  reaper.watch(pid, [self = errand->self_](Reaper::Ending ending) {
    if (*self != nullptr) (*self)->on_ending(ending);
  });
  return errand;
}

Errand::~Errand() { *self_ = nullptr; }

void Errand::cancel() const {
  if (pid_ > 0) ::kill(pid_, SIGKILL);
}

void Errand::on_ending(Reaper::Ending ending) {
  pid_ = 0;
  Report said;
  const std::function<void(Status)> done = std::move(done_);
  if (ending.signal == 0 && ending.code == 0) return done(ok());
  if (::read(report_.get(), &said, sizeof(said)) != static_cast<ssize_t>(sizeof(said))) {
    return done(Error::from_errno(ECHILD, "a step of a container ended without a word"));
  }
  const std::string text(said.text.data(), ::strnlen(said.text.data(), said.text.size()));
  if (said.granary) return done(Error(static_cast<Errc>(said.value), text));
  done(Error::from_errno(said.value, text));
}

}  // namespace granary::guest
