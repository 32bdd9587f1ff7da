// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/template_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>

#include "vmpool/base/fault.h"
#include "vmpool/pool/sha256.h"
#include "vmpool/pool/template_files.h"
#include "vmpool/pool/template_manifest.h"

namespace granary::pool {
namespace {

namespace fs = std::filesystem;

constexpr char kTemporaryPrefix[] = ".tmp-";
constexpr char kManifestName[] = "/manifest.json";
constexpr char kStateName[] = "/state";
constexpr char kMemoryName[] = "/memory";
// 65536 extents of two 20-digit numbers each, and the inputs.
constexpr size_t kMaxManifestBytes = 8 << 20;

bool is_key(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

Error no_key(const std::string& text) {
  return {Errc::kInvalidArgument, "template key \"" + text.substr(0, 80) + "\": expected 64 hex digits"};
}

// Removes a folder that is being written or was damaged. What cannot be removed is found again at the next open.
void remove_tree(const std::string& path) {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

class TemporaryFolder {
 public:
  static Result<TemporaryFolder> create(const std::string& directory) {
    std::string path = directory + "/" + kTemporaryPrefix + "XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) return Error::last_os_error("make a folder in " + directory);
    return TemporaryFolder(std::move(path));
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder() {
    if (!path_.empty()) remove_tree(path_);
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

Status sync(int fd, const std::string& what) {
  if (::fsync(fd) != 0) return Error::last_os_error("fsync " + what);
  return ok();
}

Result<Fd> create_file(const std::string& path, uint64_t size_bytes) {
  Fd file = GRANARY_TRY(open_file(path, O_RDWR | O_CREAT | O_EXCL));
  if (::ftruncate(file.get(), static_cast<off_t>(size_bytes)) != 0) return Error::last_os_error("size " + path);
  return file;
}

// Copies extents of a memfd into a new file and syncs it; the SHA-256 of the extents.
Result<std::string> write_file(const std::string& path, int from, uint64_t size_bytes,
                               const std::vector<FileExtent>& extents) {
  const Fd file = GRANARY_TRY(create_file(path, size_bytes));
  Result<std::string> hash = copy_extents(from, file.get(), extents);
  if (!hash) return Error(hash.error().code(), "write " + path);
  GRANARY_TRY(sync(file.get(), path));
  return hash;
}

Status write_text(const std::string& path, const std::string& text) {
  const Fd file = GRANARY_TRY(open_file(path, O_WRONLY | O_CREAT | O_EXCL));
  GRANARY_TRY(write_all(file.get(), std::as_bytes(std::span(text))));
  return sync(file.get(), path);
}

// Reads extents of a file into a new sealed memfd, checked against size and hash.
Result<Fd> read_file_verified(const std::string& path, const char* name, uint64_t size_bytes,
                              const std::vector<FileExtent>& extents, const std::string& sha256) {
  const Fd file = GRANARY_TRY(open_file(path, O_RDONLY | O_NOFOLLOW));
  const uint64_t found = GRANARY_TRY(file_size(file.get()));
  if (found != size_bytes) {
    return Error(found < size_bytes ? Errc::kSnapshotTruncated : Errc::kSnapshotCorrupt,
                 path + ": " + std::to_string(found) + " bytes, expected " + std::to_string(size_bytes));
  }
  Fd memory = GRANARY_TRY(create_memfd(name, size_bytes));
  if (GRANARY_TRY(copy_extents(file.get(), memory.get(), extents)) != sha256) {
    return Error(Errc::kSnapshotCorrupt, path + ": checksum mismatch");
  }
  GRANARY_TRY(seal_memfd(memory.get()));
  return memory;
}

// In place of an older one in one step; that one then has the temporary name. File systems that cannot exchange names
// replace in two: a crash between them costs a rebuild.
Status put_in_place(const std::string& from, const std::string& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return ok();
  if (errno == EEXIST && ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) return ok();
  if (errno == EINVAL) {
    remove_tree(to);
    if (::rename(from.c_str(), to.c_str()) == 0) return ok();
  }
  return Error::last_os_error("rename a template to " + to);
}

bool is_damage(const Error& error) {
  return error.is(Errc::kSnapshotCorrupt) || error.is(Errc::kSnapshotTruncated) || error.is(Errc::kSnapshotVersion);
}

}  // namespace

std::string TemplateInputs::text() const {
  std::string text;
  for (const auto& [name, value] : lines) text += name + " " + value + "\n";
  return text;
}

std::string TemplateInputs::key() const { return sha256_of(text()); }

Result<TemplateStore> TemplateStore::open(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return Error(error, "make template directory " + directory);
  Fd lock = GRANARY_TRY(open_file(directory, O_RDONLY | O_DIRECTORY));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return Error(Errc::kAlreadyRunning, "template directory " + directory);
    return Error::last_os_error("lock template directory " + directory);
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    if (entry.path().filename().string().starts_with(kTemporaryPrefix)) remove_tree(entry.path());
  }
  if (error) return Error(error, "read template directory " + directory);
  return TemplateStore(directory, std::move(lock));
}

Result<Template> TemplateStore::load(const std::string& key) {
  if (!is_key(key)) return no_key(key);
  Result<Template> loaded = load_verified(key);
  if (!loaded && is_damage(loaded.error())) remove_tree(path_of(key));
  return loaded;
}

Result<Template> TemplateStore::load_verified(const std::string& key) const {
  const std::string path = path_of(key);
  if (struct stat folder{}; ::stat(path.c_str(), &folder) != 0) return Error::last_os_error("template " + key);
  Result<std::string> text = read_file(path + kManifestName, kMaxManifestBytes);
  if (!text) return Error(Errc::kSnapshotCorrupt, text.error().message());
  const Manifest manifest = GRANARY_TRY(Manifest::from_json(*text));
  if (manifest.info.key != key || sha256_of(manifest.info.inputs) != key) {
    return Error(Errc::kSnapshotCorrupt, path + ": holds a template of another key");
  }
  const uint64_t state_bytes = manifest.info.state_bytes;
  Result<Fd> state =
      read_file_verified(path + kStateName, "granary-state", state_bytes, {{0, state_bytes}}, manifest.state_sha256);
  if (!state)
    return state.error().is_errno(ENOENT) ? Error(Errc::kSnapshotCorrupt, state.error().message()) : state.error();
  Result<Fd> memory = read_file_verified(path + kMemoryName, "granary-memory", manifest.info.memory_bytes,
                                         manifest.extents, manifest.memory_sha256);
  if (!memory)
    return memory.error().is_errno(ENOENT) ? Error(Errc::kSnapshotCorrupt, memory.error().message()) : memory.error();
  return Template{key, std::move(*state), std::move(*memory)};
}

Status TemplateStore::save(const TemplateInfo& info, const Template& content) {
  if (!is_key(content.key)) return no_key(content.key);
  const TemporaryFolder folder = GRANARY_TRY(TemporaryFolder::create(directory_));
  Manifest manifest;
  manifest.info = info;
  manifest.info.key = content.key;
  manifest.info.state_bytes = GRANARY_TRY(file_size(content.state.get()));
  manifest.info.memory_bytes = GRANARY_TRY(file_size(content.memory.get()));
  manifest.extents = GRANARY_TRY(data_extents(content.memory.get()));
  manifest.info.populated_bytes = 0;
  for (const FileExtent& extent : manifest.extents) manifest.info.populated_bytes += extent.bytes;
  const uint64_t state_bytes = manifest.info.state_bytes;
  manifest.state_sha256 =
      GRANARY_TRY(write_file(folder.path() + kStateName, content.state.get(), state_bytes, {{0, state_bytes}}));
  manifest.memory_sha256 = GRANARY_TRY(
      write_file(folder.path() + kMemoryName, content.memory.get(), manifest.info.memory_bytes, manifest.extents));
  fault_point("template.written");
  GRANARY_TRY(write_text(folder.path() + kManifestName, manifest.to_json()));
  const Fd opened = GRANARY_TRY(open_file(folder.path(), O_RDONLY | O_DIRECTORY));
  GRANARY_TRY(sync(opened.get(), folder.path()));
  const std::string target = path_of(content.key);
  GRANARY_TRY(put_in_place(folder.path(), target));
  fault_point("template.in-place");
  return sync(lock_.get(), directory_);
}

Result<std::vector<TemplateInfo>> TemplateStore::list() const {
  std::vector<TemplateInfo> infos;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory_, error)) {
    if (!is_key(entry.path().filename().string())) continue;
    const Result<std::string> text = read_file(entry.path().string() + kManifestName, kMaxManifestBytes);
    if (!text) continue;
    // A damaged one is reported and removed when somebody loads it.
    Result<Manifest> manifest = Manifest::from_json(*text);
    if (manifest) infos.push_back(std::move(manifest->info));
  }
  if (error) return Error(error, "read template directory " + directory_);
  std::sort(infos.begin(), infos.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
  return infos;
}

Result<bool> TemplateStore::remove(const std::string& key) {
  if (!is_key(key)) return no_key(key);
  std::error_code error;
  const uintmax_t removed = fs::remove_all(path_of(key), error);
  if (error) return Error(error, "remove template " + key);
  return removed > 0;
}

}  // namespace granary::pool
