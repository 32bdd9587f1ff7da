// SPDX-License-Identifier: Apache-2.0
#include "agent/host_programs.h"

#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "vmpool/base/build_id.h"
#include "vmpool/base/fd.h"

namespace granary::agent {
namespace {

constexpr size_t kShortIdDigits = 8;

Status make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) return Error::last_os_error("create " + path);
  return ok();
}

Status copy(const Fd& from, const Fd& to, const std::string& name) {
  uint64_t left = GRANARY_TRY(file_size(from.get()));
  while (left > 0) {
    const ssize_t n = ::sendfile(to.get(), from.get(), nullptr, left);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::last_os_error("write " + name);
    if (n == 0) return Error::from_errno(ENODATA, "write " + name);
    left -= static_cast<uint64_t>(n);
  }
  // A VMM executes it under its own uid, whatever the umask. On disk before it gets its name: a name means that it is
  // whole.
  if (::fchmod(to.get(), 0755) != 0 || ::fsync(to.get()) != 0) return Error::last_os_error("write " + name);
  return ok();
}

Status install(const std::string& source, const std::string& target) {
  if (::access(target.c_str(), X_OK) == 0) return ok();
  const std::string unfinished = target + ".new";
  const Fd from = GRANARY_TRY(open_file(source, O_RDONLY));
  {
    const Fd to = GRANARY_TRY(open_file(unfinished, O_WRONLY | O_CREAT | O_TRUNC, 0755));
    GRANARY_TRY(copy(from, to, unfinished));
  }
  if (::rename(unfinished.c_str(), target.c_str()) != 0) return Error::last_os_error("rename " + unfinished);
  return ok();
}

}  // namespace

Result<std::string> install_programs(const std::string& from, const std::string& into, const std::string& version) {
  std::string directory = into + "/" + version;
  for (const char* program : {"/granary-spawn", "/granary-vmm"}) {
    directory += "-" + GRANARY_TRY(read_build_id(from + program)).substr(0, kShortIdDigits);
  }
  GRANARY_TRY(make_directory(into));
  GRANARY_TRY(make_directory(directory));
  for (const char* program : {"/granary-spawn", "/granary-vmm"}) {
    GRANARY_TRY(install(from + program, directory + program));
  }
  return directory;
}

}  // namespace granary::agent
