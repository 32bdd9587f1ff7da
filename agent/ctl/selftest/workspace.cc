// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/workspace.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

namespace granary::ctl::selftest {
namespace {

namespace fs = std::filesystem;
constexpr const char* kPrefix = "gran-st-";

// The folder itself is what is locked. Without `wait` EWOULDBLOCK where another process has the lock.
Result<Fd> lock_folder(const std::string& path, bool wait) {
  Fd folder = GRANARY_TRY(open_file(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  if (::flock(folder.get(), LOCK_EX | (wait ? 0 : LOCK_NB)) != 0) return Error::last_os_error("lock " + path);
  return folder;
}

// An empty one may be between its making and its lock.
bool is_abandoned(const std::string& path) {
  struct stat st {};
  std::error_code code;
  const Result<Fd> lock = lock_folder(path, false);
  return lock && ::fstat(lock->get(), &st) == 0 && st.st_uid == ::geteuid() && !fs::is_empty(path, code) && !code;
}

}  // namespace

Result<Workspace> Workspace::create() {
  std::error_code code;
  const fs::path parent = fs::temp_directory_path(code);
  if (code) return Error(code, "the folder for temporary files; set TMPDIR");
  std::string path = (parent / kPrefix).string() + "XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) return Error::last_os_error("make a folder in " + parent.string());
  Fd lock = GRANARY_TRY(lock_folder(path, true));  // who looks whether it is abandoned has it for a moment
  // From now on it is no empty one.
  (void)GRANARY_TRY(open_file(path + "/selftest", O_WRONLY | O_CREAT | O_EXCL, 0600));
  return Workspace(std::move(path), std::move(lock));
}

Status Workspace::remove() {
  std::error_code code;
  fs::remove_all(path_, code);
  if (code) return Error(code, "remove " + path_);
  return ok();
}

std::vector<std::string> remove_abandoned_workspaces() {
  std::vector<std::string> removed;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(fs::temp_directory_path(code), code)) {
    if (!entry.path().filename().native().starts_with(kPrefix)) continue;
    if (!is_abandoned(entry.path().native())) continue;
    std::error_code failed;
    fs::remove_all(entry.path(), failed);
    if (!failed) removed.push_back(entry.path().native());
  }
  return removed;
}

}  // namespace granary::ctl::selftest
