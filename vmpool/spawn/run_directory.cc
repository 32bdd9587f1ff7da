// SPDX-License-Identifier: Apache-2.0
#include "vmpool/spawn/run_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>

namespace granary::spawn {
namespace {

constexpr std::string_view kSuffix = ".sock";
constexpr std::string_view kFsdSuffix = ".fsd";

// The number in "<number>.sock" or "<number>.fsd".
std::optional<VmId> number_in(std::string_view name) {
  if (!name.ends_with(kSuffix) && !name.ends_with(kFsdSuffix)) return std::nullopt;
  name.remove_suffix(name.size() - name.rfind('.'));
  VmId vm;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), vm.value);
  if (error != std::errc{} || end != name.data() + name.size()) return std::nullopt;
  return vm;
}

// An address that is reached through the directory's descriptor, however long the directory's path is.
sockaddr_un address_of(int directory, const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = "/proc/self/fd/" + std::to_string(directory) + "/" + name;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  return address;
}

Result<Fd> make_socket(int type) {
  Fd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return Error::last_os_error("create a per-clone socket");
  return socket;
}

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

}  // namespace

Result<RunDirectory> RunDirectory::open(const std::string& path) {
  Fd directory = GRANARY_TRY(open_file(path, O_RDONLY | O_DIRECTORY));
  if (::flock(directory.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      return Error(Errc::kAlreadyRunning, "run directory " + path + " belongs to another spawner; stop it first");
    }
    return Error::last_os_error("lock run directory " + path);
  }
  return RunDirectory(std::move(directory));
}

std::string RunDirectory::socket_name(VmId vm) { return std::to_string(vm.value) + std::string(kSuffix); }

std::string RunDirectory::fsd_socket_name(VmId vm) { return std::to_string(vm.value) + std::string(kFsdSuffix); }

bool RunDirectory::is_listening(const std::string& name) const {
  const Result<Fd> socket = make_socket(name.ends_with(kFsdSuffix) ? SOCK_SEQPACKET : SOCK_STREAM);
  // When in doubt it stays: a socket too many does less harm than a clone that cannot be reached.
  if (!socket) return true;
  const sockaddr_un address = address_of(directory_.get(), name);
  if (::connect(socket->get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return true;
  return errno != ECONNREFUSED;
}

Result<VmId> RunDirectory::remove_stale() const {
  // fdopendir takes over the descriptor it reads from, and a duplicate shares its position: a fresh one is opened.
  const int fd = ::openat(directory_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Error::last_os_error("read the run directory");
  const std::unique_ptr<DIR, CloseDirectory> listing(::fdopendir(fd));
  if (!listing) return Error::last_os_error("read the run directory");
  VmId highest;
  while (const dirent* entry = ::readdir(listing.get())) {
    const std::string name = entry->d_name;
    const std::optional<VmId> vm = number_in(name);
    if (!vm) continue;
    highest = std::max(highest, *vm);
    if (is_listening(name)) continue;
    if (::unlinkat(directory_.get(), name.c_str(), 0) != 0 && errno != ENOENT) {
      return Error::last_os_error("remove stale socket " + name);
    }
  }
  return highest;
}

Result<Fd> RunDirectory::listen(VmId vm) const { return listen_at(socket_name(vm), SOCK_STREAM); }

Result<Fd> RunDirectory::listen_fsd(VmId vm) const { return listen_at(fsd_socket_name(vm), SOCK_SEQPACKET); }

Result<Fd> RunDirectory::listen_at(const std::string& name, int type) const {
  Fd socket = GRANARY_TRY(make_socket(type));
  const sockaddr_un address = address_of(directory_.get(), name);
  // On Linux the mode of a unix socket's file is that of the socket at bind(2), cut by the umask.
  if (::fchmod(socket.get(), 0600) != 0 ||
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Error::last_os_error("bind per-clone socket " + name);
  }
  if (::listen(socket.get(), SOMAXCONN) != 0) {
    const Error error = Error::last_os_error("listen on per-clone socket " + name);
    ::unlinkat(directory_.get(), name.c_str(), 0);
    return error;
  }
  return socket;
}

Result<bool> RunDirectory::unlink(VmId vm) const {
  const bool had_fsd = GRANARY_TRY(unlink_fsd(vm));
  return GRANARY_TRY(unlink_name(socket_name(vm))) || had_fsd;
}

Result<bool> RunDirectory::unlink_fsd(VmId vm) const { return unlink_name(fsd_socket_name(vm)); }

Result<bool> RunDirectory::unlink_name(const std::string& name) const {
  if (::unlinkat(directory_.get(), name.c_str(), 0) == 0) return true;
  if (errno == ENOENT) return false;
  return Error::last_os_error("remove per-clone socket " + name);
}

}  // namespace granary::spawn
