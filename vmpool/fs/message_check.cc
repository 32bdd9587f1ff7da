// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/message_check.h"

#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string_view>

namespace granary::fs {
namespace {

// From here on no layout depends on the version: 7.27 is what Linux asks of a virtio-fs server, too.
constexpr uint32_t kMinMinor = 27;
constexpr size_t kInitBytesBefore736 = 16;
// Without FUSE_SETXATTR_EXT, which this server does not offer (linux/fuse.h).
constexpr size_t kSetxattrBytes = FUSE_COMPAT_SETXATTR_IN_SIZE;

// What follows the fixed part of a message.
enum class Rest { kNothing, kName, kTwoNames, kNameAndTarget, kAttribute, kSized };

struct Layout {
  uint32_t opcode;
  size_t fixed_bytes;
  Rest rest;
};
constexpr Layout kLayouts[] = {
    {FUSE_LOOKUP, 0, Rest::kName},
    {FUSE_FORGET, sizeof(fuse_forget_in), Rest::kNothing},
    {FUSE_GETATTR, sizeof(fuse_getattr_in), Rest::kNothing},
    {FUSE_SETATTR, sizeof(fuse_setattr_in), Rest::kNothing},
    {FUSE_READLINK, 0, Rest::kNothing},
    {FUSE_SYMLINK, 0, Rest::kNameAndTarget},
    {FUSE_MKNOD, sizeof(fuse_mknod_in), Rest::kName},
    {FUSE_MKDIR, sizeof(fuse_mkdir_in), Rest::kName},
    {FUSE_UNLINK, 0, Rest::kName},
    {FUSE_RMDIR, 0, Rest::kName},
    {FUSE_RENAME, sizeof(fuse_rename_in), Rest::kTwoNames},
    {FUSE_LINK, sizeof(fuse_link_in), Rest::kName},
    {FUSE_OPEN, sizeof(fuse_open_in), Rest::kNothing},
    {FUSE_READ, sizeof(fuse_read_in), Rest::kNothing},
    {FUSE_WRITE, sizeof(fuse_write_in), Rest::kSized},
    {FUSE_STATFS, 0, Rest::kNothing},
    {FUSE_RELEASE, sizeof(fuse_release_in), Rest::kNothing},
    {FUSE_FSYNC, sizeof(fuse_fsync_in), Rest::kNothing},
    {FUSE_SETXATTR, kSetxattrBytes, Rest::kSized},
    {FUSE_GETXATTR, sizeof(fuse_getxattr_in), Rest::kAttribute},
    {FUSE_LISTXATTR, sizeof(fuse_getxattr_in), Rest::kNothing},
    {FUSE_REMOVEXATTR, 0, Rest::kAttribute},
    {FUSE_FLUSH, sizeof(fuse_flush_in), Rest::kNothing},
    {FUSE_INIT, kInitBytesBefore736, Rest::kSized},
    {FUSE_OPENDIR, sizeof(fuse_open_in), Rest::kNothing},
    {FUSE_READDIR, sizeof(fuse_read_in), Rest::kNothing},
    {FUSE_RELEASEDIR, sizeof(fuse_release_in), Rest::kNothing},
    {FUSE_FSYNCDIR, sizeof(fuse_fsync_in), Rest::kNothing},
    {FUSE_GETLK, sizeof(fuse_lk_in), Rest::kNothing},
    {FUSE_SETLK, sizeof(fuse_lk_in), Rest::kNothing},
    {FUSE_SETLKW, sizeof(fuse_lk_in), Rest::kNothing},
    {FUSE_CREATE, sizeof(fuse_create_in), Rest::kName},
    {FUSE_INTERRUPT, sizeof(fuse_interrupt_in), Rest::kNothing},
    {FUSE_DESTROY, 0, Rest::kNothing},
    {FUSE_BATCH_FORGET, sizeof(fuse_batch_forget_in), Rest::kSized},
    {FUSE_FALLOCATE, sizeof(fuse_fallocate_in), Rest::kNothing},
    {FUSE_READDIRPLUS, sizeof(fuse_read_in), Rest::kNothing},
    {FUSE_RENAME2, sizeof(fuse_rename2_in), Rest::kTwoNames},
    {FUSE_LSEEK, sizeof(fuse_lseek_in), Rest::kNothing},
    {FUSE_COPY_FILE_RANGE, sizeof(fuse_copy_file_range_in), Rest::kNothing},
};

const Layout* layout_of(uint32_t opcode) {
  for (const Layout& layout : kLayouts) {
    if (layout.opcode == opcode) return &layout;
  }
  return nullptr;
}

template <class T>
T fixed_part(std::string_view body, size_t bytes = sizeof(T)) {
  T value{};
  std::memcpy(&value, body.data(), bytes);
  return value;
}

// Takes a string off the front; false if it has no end.
bool take_string(std::string_view& rest, std::string_view& string) {
  const size_t end = rest.find('\0');
  if (end == std::string_view::npos) return false;
  string = rest.substr(0, end);
  rest.remove_prefix(end + 1);
  return true;
}

int check_name(std::string_view name) {
  if (name.empty() || name.find('/') != std::string_view::npos) return EPROTO;
  if (name == "." || name == "..") return EPERM;
  return name.size() <= NAME_MAX ? 0 : ENAMETOOLONG;
}

int check_names(std::string_view rest, int count) {
  int first_error = 0;
  for (int i = 0; i < count; ++i) {
    std::string_view name;
    if (!take_string(rest, name)) return EPROTO;
    if (const int error = check_name(name); error != 0 && first_error == 0) first_error = error;
  }
  return rest.empty() ? first_error : EPROTO;
}

int check_name_and_target(std::string_view rest) {
  std::string_view name;
  std::string_view target;
  if (!take_string(rest, name) || !take_string(rest, target) || !rest.empty() || target.empty()) return EPROTO;
  if (target.size() >= PATH_MAX) return ENAMETOOLONG;
  return check_name(name);
}

int check_attribute(std::string_view rest, size_t value_bytes) {
  std::string_view name;
  if (!take_string(rest, name) || rest.size() != value_bytes || name.empty()) return EPROTO;
  return name.size() <= XATTR_NAME_MAX ? 0 : ERANGE;
}

int check_init(std::string_view body) {
  const auto init = fixed_part<fuse_init_in>(body, kInitBytesBefore736);
  const bool extended = (init.flags & FUSE_INIT_EXT) != 0;
  if (init.major != FUSE_KERNEL_VERSION || init.minor < kMinMinor) return EPROTO;
  return !extended || body.size() >= sizeof(fuse_init_in) ? 0 : EPROTO;
}

// A part whose size the fixed part tells.
int check_sized(uint32_t opcode, std::string_view body, std::string_view rest) {
  switch (opcode) {
    case FUSE_WRITE:
      return fixed_part<fuse_write_in>(body).size == rest.size() ? 0 : EPROTO;
    case FUSE_BATCH_FORGET:
      return rest.size() == fixed_part<fuse_batch_forget_in>(body).count * sizeof(fuse_forget_one) ? 0 : EPROTO;
    case FUSE_SETXATTR:
      return check_attribute(rest, fixed_part<fuse_setxattr_in>(body, kSetxattrBytes).size);
    default:
      return check_init(body);
  }
}

}  // namespace

int check_message(std::span<const std::byte> message) {
  fuse_in_header header{};
  if (message.size() < sizeof(header)) return EPROTO;
  std::memcpy(&header, message.data(), sizeof(header));
  if (header.len != message.size()) return EPROTO;
  const Layout* layout = layout_of(header.opcode);
  if (layout == nullptr) return ENOSYS;
  const std::string_view body(reinterpret_cast<const char*>(message.data()) + sizeof(header),
                              message.size() - sizeof(header));
  if (body.size() < layout->fixed_bytes) return EPROTO;
  const std::string_view rest = body.substr(layout->fixed_bytes);
  switch (layout->rest) {
    case Rest::kNothing:
      return rest.empty() ? 0 : EPROTO;
    case Rest::kName:
      return check_names(rest, 1);
    case Rest::kTwoNames:
      return check_names(rest, 2);
    case Rest::kNameAndTarget:
      return check_name_and_target(rest);
    case Rest::kAttribute:
      return check_attribute(rest, 0);
    case Rest::kSized:
      return check_sized(header.opcode, body, rest);
  }
  return ENOSYS;
}

}  // namespace granary::fs
