// SPDX-License-Identifier: Apache-2.0
#include "agent/host_programs.h"

#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <set>
#include <string_view>
#include <utility>

#include "vmpool/base/build_id.h"
#include "vmpool/base/fd.h"

namespace granary::agent {
namespace {

namespace fs = std::filesystem;

const std::array<std::string, 4> kPrograms = {"granary-spawn", "granary-vmm", "granary-fsd", "containerd-shim-granary-v2"};
constexpr size_t kShortIdDigits = 8;
constexpr std::string_view kDigits = "0123456789";
constexpr std::string_view kHexDigits = "0123456789abcdef";

bool consists_of(std::string_view text, std::string_view characters) {
  return !text.empty() && text.find_first_not_of(characters) == std::string_view::npos;
}

bool is_version(std::string_view text) {
  for (;;) {
    const size_t point = text.find('.');
    if (!consists_of(text.substr(0, point), kDigits)) return false;
    if (point == std::string_view::npos) return true;
    text.remove_prefix(point + 1);
  }
}

// `<version>-<id>-<id>-<id>`, the version being numbers with points between them. Older versions had two programs.
bool is_our_name(std::string_view name) {
  size_t ids = 0;
  for (; ids < kPrograms.size() && name.size() > 1 + kShortIdDigits; ++ids) {
    const std::string_view id = name.substr(name.size() - 1 - kShortIdDigits);
    if (id[0] != '-' || !consists_of(id.substr(1), kHexDigits)) break;
    name.remove_suffix(id.size());
  }
  return ids >= 2 && is_version(name);
}

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

using FileId = std::pair<dev_t, ino_t>;

// The files that processes execute, of kernel threads and ended ones none.
Result<std::set<FileId>> executed_files(const std::string& proc) {
  std::set<FileId> files;
  std::error_code code;
  for (fs::directory_iterator entry(proc, code), end; !code && entry != end; entry.increment(code)) {
    if (!consists_of(entry->path().filename().native(), kDigits)) continue;
    struct stat info {};
    const std::string program = entry->path().native() + "/exe";
    if (::stat(program.c_str(), &info) == 0) {
      files.emplace(info.st_dev, info.st_ino);
    } else if (errno != ENOENT && errno != ESRCH) {
      return Error::last_os_error("tell what runs at " + program + " (needs CAP_SYS_PTRACE)");
    }
  }
  if (code) return Error(code, "list the processes in " + proc);
  return files;
}

Result<bool> is_executed(const Fd& directory, const std::set<FileId>& executed) {
  for (const std::string& program : kPrograms) {
    struct stat info {};
    if (::fstatat(directory.get(), program.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT) continue;
      return Error::last_os_error("look at " + program);
    }
    if (executed.contains({info.st_dev, info.st_ino})) return true;
  }
  return false;
}

// True: removed. Files of others in it make the last step fail.
Result<bool> remove_unless_executed(const std::string& path, const std::set<FileId>& executed) {
  const Fd directory = GRANARY_TRY(open_file(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  if (GRANARY_TRY(is_executed(directory, executed))) return false;
  for (const std::string& program : kPrograms) {
    for (const std::string& file : {program, program + ".new"}) {
      if (::unlinkat(directory.get(), file.c_str(), 0) != 0 && errno != ENOENT) {
        return Error::last_os_error("remove " + path + "/" + file);
      }
    }
  }
  if (::rmdir(path.c_str()) != 0) return Error::last_os_error("remove " + path);
  return true;
}

}  // namespace

Result<std::string> install_programs(const std::string& from, const std::string& into, const std::string& version) {
  std::string directory = into + "/" + version;
  for (const std::string& program : kPrograms) {
    directory += "-" + GRANARY_TRY(read_build_id(from + "/" + program)).substr(0, kShortIdDigits);
  }
  GRANARY_TRY(make_directory(into));
  GRANARY_TRY(make_directory(directory));
  for (const std::string& program : kPrograms) {
    GRANARY_TRY(install(from + "/" + program, directory + "/" + program));
  }
  return directory;
}

OldPrograms remove_unused_programs(const std::string& own, const std::string& proc) {
  OldPrograms result;
  std::vector<std::string> others;
  std::error_code code;
  const fs::path all = fs::path(own).parent_path();
  for (fs::directory_iterator entry(all, code), end; !code && entry != end; entry.increment(code)) {
    const fs::path name = entry->path().filename();
    if (name != fs::path(own).filename() && is_our_name(name.native())) others.push_back(entry->path().native());
  }
  if (code) result.left_over.push_back(Error(code, "list " + all.native()).message());
  if (others.empty()) return result;
  const auto executed = executed_files(proc);
  if (!executed) {
    result.left_over.push_back(executed.error().message());
    return result;
  }
  for (const std::string& path : others) {
    const auto removed = remove_unless_executed(path, *executed);
    if (!removed) result.left_over.push_back(removed.error().message());
    if (removed && *removed) result.removed.push_back(path);
  }
  return result;
}

}  // namespace granary::agent
