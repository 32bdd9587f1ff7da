// SPDX-License-Identifier: Apache-2.0
#include "agent/state_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace granary::agent {
namespace {

std::string holder_of(const std::string& path) {
  auto text = read_file(path, 64);
  if (!text || text->empty()) return "unknown";
  std::erase_if(*text, [](unsigned char c) { return c < '0' || c > '9'; });
  return *text;
}

}  // namespace

Status make_directories(const std::string& directory) {
  for (size_t slash = directory.find('/', 1);; slash = directory.find('/', slash + 1)) {
    const std::string part = directory.substr(0, slash);
    if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST) return Error::last_os_error("make directory " + part);
    if (slash == std::string::npos) return ok();
  }
}

Result<Fd> lock_state_directory(const std::string& directory) {
  GRANARY_TRY(make_directories(directory));
  const std::string path = directory + "/granaryd.lock";
  Fd fd = GRANARY_TRY(open_file(path, O_RDWR | O_CREAT, 0600));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return Error::last_os_error("lock " + path);
    return Error(Errc::kAlreadyRunning, "state directory " + directory + ": held by the agent with pid " +
                                            holder_of(path) + "; stop it or give another --state-dir");
  }
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(fd.get(), 0) != 0) return Error::last_os_error("write " + path);
  GRANARY_TRY(pwrite_all(fd.get(), std::as_bytes(std::span(pid)), 0));
  return fd;
}

}  // namespace granary::agent
