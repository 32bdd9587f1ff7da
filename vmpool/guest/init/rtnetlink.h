// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "vmpool/base/fd.h"

// Just enough of rtnetlink(7) to configure a network. Not libnl: its errors are not errnos, it keeps the kernel's words
// to itself, and it reads /proc before main().
namespace granary::guest {

// One request. `what` is its name in errors: "address 10.0.0.2/24 on eth0".
class NetlinkMessage {
 public:
  // `family` is the structure that the type wants: ifinfomsg, ifaddrmsg, rtmsg …
  template <class Family>
  NetlinkMessage(uint16_t type, uint16_t flags, const Family& family, std::string what)
      : NetlinkMessage(type, flags, {reinterpret_cast<const char*>(&family), sizeof(family)}, std::move(what)) {
    static_assert(std::is_trivially_copyable_v<Family>);
  }

  void put(uint16_t type, std::string_view bytes);
  void put_u32(uint16_t type, uint32_t value);
  void put_text(uint16_t type, const std::string& text);  // with its NUL
  // An attribute of what is put until end().
  size_t begin(uint16_t type);
  void end(size_t begun);
  // A structure inside an attribute that holds a list of them (rtnexthop); its first field is its length, set by end().
  size_t begin_raw(std::string_view structure);

  [[nodiscard]] const std::string& what() const { return what_; }
  [[nodiscard]] uint16_t type() const;
  // With its length.
  [[nodiscard]] const std::string& bytes();
  // The same for another type, e.g. to delete what it would have made.
  [[nodiscard]] NetlinkMessage with(uint16_t type, uint16_t flags) const;
  // Of the family's structure.
  void set_byte(size_t offset, uint8_t value);

 private:
  NetlinkMessage(uint16_t type, uint16_t flags, std::string_view family, std::string what);
  void align();
  std::string bytes_;
  std::string what_;
};

// A connection to the kernel's routing of this thread's network namespace.
class Rtnetlink {
 public:
  static Result<Rtnetlink> open();
  // Sends and waits for the acknowledgement. The kernel's errno and, if it has any, its words, after the message's
  // name.
  Status request(NetlinkMessage& message);

 private:
  explicit Rtnetlink(Fd socket) : socket_(std::move(socket)) {}
  Fd socket_;
  uint32_t sequence_ = 0;
};

}  // namespace granary::guest
