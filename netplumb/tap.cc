// SPDX-License-Identifier: Apache-2.0
#include "netplumb/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <cstring>

namespace granary::netplumb {
namespace {

const char* remedy(int error) {
  switch (error) {
    case EPERM:
    case EACCES:
      return "; needs CAP_NET_ADMIN and read and write access to /dev/net/tun";
    case ENOENT:
    case ENXIO:
    case ENODEV:
      return "; needs the kernel module tun (modprobe tun) and /dev/net/tun";
    case ENOSPC:
    case ENFILE:
    case EMFILE:
    case ENOMEM:
      return "; no room for another one: release clones, or raise the limit";
    case EBUSY:
      return "; a VMM still has it open: release its clone first";
    case EINVAL:
      return "; an interface that is no such tap has this name";
    default:
      return "";
  }
}

Error refuse(const std::string& name) {
  const int error = errno;
  return Error::from_errno(error, "make tap " + name + remedy(error));
}

}  // namespace

Result<Fd> make_tap(const std::string& name) {
  Fd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!tap.valid()) return refuse(name);
  ifreq request{};
  if (name.size() >= sizeof(request.ifr_name))
    return Error(Errc::kInvalidArgument, "tap " + name + ": a name of more than 15 bytes");
  std::memcpy(request.ifr_name, name.data(), name.size());
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (::ioctl(tap.get(), TUNSETIFF, &request) != 0) return refuse(name);
  if (::ioctl(tap.get(), TUNSETPERSIST, 1) != 0) return refuse(name);
  return tap;
}

}  // namespace granary::netplumb
