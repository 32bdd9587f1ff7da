// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/export_client.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>

namespace granary::fs {
namespace {

constexpr int kTimeoutSeconds = 10;
constexpr std::string_view kCloneSuffix = ".sock";

Status check_name(std::string_view name) {
  if (is_export_name(name)) return ok();
  return Error(Errc::kInvalidArgument, "export \"" + std::string(name.substr(0, control::kMaxExportNameBytes)) +
                                           "\": a name has 1 to 64 characters of a-z, 0-9 and -");
}

// A full backlog blocks connect(2), a full socket sendmsg(2): neither for ever.
Status limit_waiting(int socket) {
  const timeval limit{.tv_sec = kTimeoutSeconds, .tv_usec = 0};
  if (::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) == 0) return ok();
  return Error::last_os_error("set a time limit on an export control socket");
}

}  // namespace

std::string export_socket_beside(std::string_view clone_socket) {
  if (clone_socket.ends_with(kCloneSuffix)) clone_socket.remove_suffix(kCloneSuffix.size());
  return std::string(clone_socket) + ".fsd";
}

bool is_export_name(std::string_view name) {
  return !name.empty() && name.size() <= control::kMaxExportNameBytes &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
}

Result<Fd> confined_mount(int fd, bool read_only) {
  Fd mount(::open_tree(fd, "", AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!mount.valid()) {
    if (errno != EPERM && errno != EINVAL) return Error::last_os_error("clone the mount of an export");
    mount = Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!mount.valid()) return Error::last_os_error("duplicate an export");
    return mount;
  }
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_NODEV | (read_only ? uint64_t{MOUNT_ATTR_RDONLY} : 0);
  // Older than Linux 5.12: the file server's own checks stand alone.
  if (::mount_setattr(mount.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof(attributes)) != 0 &&
      errno != ENOSYS) {
    return Error::last_os_error("restrict the mount of an export");
  }
  return mount;
}

Result<ExportClient> ExportClient::connect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return Error(Errc::kInvalidArgument, "export control socket \"" + path + "\": 1 to 107 bytes are possible");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return Error::last_os_error("create an export control socket");
  GRANARY_TRY(limit_waiting(socket.get()));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Error::last_os_error("connect to the file server's export socket " + path);
  }
  return ExportClient(std::move(socket));
}

Status ExportClient::add(std::string_view name, int fd, bool read_only) {
  GRANARY_TRY(check_name(name));
  control::AddExport body{};
  control::set_text(body.name, name);
  body.read_only = read_only ? 1 : 0;
  const Fd mount = GRANARY_TRY(confined_mount(fd, read_only));
  const int fds[] = {mount.get()};
  const uint32_t request = next_request_++;
  GRANARY_TRY(control::send(socket_.get(), control::Type::kAddExport, request, body, fds));
  const control::Message answer = GRANARY_TRY(receive_answer(request));
  (void)GRANARY_TRY(answer.as_answer<control::Empty>(control::Type::kDone));
  return ok();
}

Result<bool> ExportClient::remove(std::string_view name) {
  GRANARY_TRY(check_name(name));
  control::ExportRef body{};
  control::set_text(body.name, name);
  const uint32_t request = next_request_++;
  GRANARY_TRY(control::send(socket_.get(), control::Type::kRemoveExport, request, body));
  const control::Message answer = GRANARY_TRY(receive_answer(request));
  const Result<control::Empty> done = answer.as_answer<control::Empty>(control::Type::kDone);
  if (done) return true;
  if (done.error().is_errno(ENOENT)) return false;
  return done.error();
}

Result<control::Message> ExportClient::receive_answer(uint32_t request) {
  control::Message answer = GRANARY_TRY(control::receive(socket_.get(), kTimeoutSeconds * 1000));
  if (answer.request == request) return answer;
  return Error(Errc::kProtocolMalformed, "the file server answered request " + std::to_string(answer.request) +
                                             " instead of " + std::to_string(request));
}

}  // namespace granary::fs
