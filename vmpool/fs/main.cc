// SPDX-License-Identifier: Apache-2.0
// granary-fsd: the file server of one pod. No arguments, no environment: see vmpool/base/fsd_fds.h for what it
// inherits. It ends with exit code 0 once the VMM has closed its socket, with 1 when it could not start or its loop
// failed.
#include <fcntl.h>
#include <malloc.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

#include "vmpool/base/fsd_fds.h"
#include "vmpool/base/log.h"
#include "vmpool/fs/export_server.h"
#include "vmpool/fs/file_server.h"

namespace granary::fs {
namespace {

Result<Fd> inherit(int number, const char* what) {
  if (::fcntl(number, F_SETFD, FD_CLOEXEC) == 0) return Fd(number);
  return Error::last_os_error(std::string("inherited descriptor ") + std::to_string(number) + ", the " + what +
                              " (started by granary-spawn?)");
}

Status run() {
  ::prctl(PR_SET_NAME, "granary-fsd");  // for people: started through a descriptor, it would be called "12"
  ::signal(SIGXFSZ, SIG_IGN);           // a write beyond a limit is the guest's error
  ::umask(0);
  Fd fuse = GRANARY_TRY(inherit(fsd_fds::kFuse, "FUSE socket"));
  Fd control = GRANARY_TRY(inherit(fsd_fds::kControl, "export control socket"));
  Fd listener = GRANARY_TRY(inherit(fsd_fds::kListener, "listening export control socket"));
  const Fd own_files = GRANARY_TRY(inherit(fsd_fds::kOwnFiles, "directory of its own descriptors"));
  if (::fchdir(own_files.get()) != 0) return Error::last_os_error("enter the directory of its own descriptors");
  const Limits limits = GRANARY_TRY(raise_limits());
  const std::unique_ptr<EventLoop> loop = GRANARY_TRY(EventLoop::create());
  const std::unique_ptr<FileServer> server =
      GRANARY_TRY(FileServer::create(*loop, std::move(fuse), limits, [&loop] { loop->stop(); }));
  ExportServer exports(*loop,
                       {.add = [&server](const std::string& name, Fd fd,
                                         bool read_only) { return server->add_export(name, std::move(fd), read_only); },
                        .remove = [&server](const std::string& name) { return server->remove_export(name); }});
  GRANARY_TRY(exports.serve(std::move(control)));
  GRANARY_TRY(exports.listen(std::move(listener)));
  GRANARY_TRY(drop_privileges());
  GRANARY_TRY(enter_filter());
  return loop->run();
}

}  // namespace
}  // namespace granary::fs

int main() {
  granary::set_log_prefix("granary-fsd");
  const granary::Status status = granary::fs::run();
  if (status) return 0;
  granary::log_line(granary::LogLevel::kError, "%s", status.error().message().c_str());
  return 1;
}
