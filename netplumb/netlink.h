// SPDX-License-Identifier: Apache-2.0
#pragma once

// Of this room only: no other includes it, and no public header does.

#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmpool/base/result.h"

namespace granary::netplumb {

// A netlink request under construction: a header of type T, then attributes. What does not fit into `most_bytes` is
// noticed when it is sent.
class Request {
 public:
  template <class T>
  Request(uint16_t type, uint16_t flags, const T& header, size_t most_bytes = 4096)
      : message_(::nlmsg_alloc_size(most_bytes), &::nlmsg_free) {
    fits_ = message_ && ::nlmsg_put(message_.get(), 0, 0, type, 0, NLM_F_REQUEST | flags) != nullptr &&
            ::nlmsg_append(message_.get(), const_cast<T*>(&header), sizeof(T), NLMSG_ALIGNTO) == 0;
  }

  Request& put(int attribute, std::span<const uint8_t> bytes) {
    fits_ = fits_ && ::nla_put(message_.get(), attribute, static_cast<int>(bytes.size()), bytes.data()) == 0;
    return *this;
  }
  template <class T>
  requires std::is_trivially_copyable_v<T> Request& put_value(int attribute, const T& value) {
    return put(attribute, {reinterpret_cast<const uint8_t*>(&value), sizeof(value)});
  }
  Request& put_text(int attribute, const std::string& text) {  // with its NUL
    return put(attribute, {reinterpret_cast<const uint8_t*>(text.c_str()), text.size() + 1});
  }
  // The attributes that `fill` puts, nested in one.
  Request& nest(int attribute, const std::function<void(Request&)>& fill) {
    nlattr* const start = fits_ ? ::nla_nest_start(message_.get(), attribute) : nullptr;
    fits_ = start != nullptr;
    fill(*this);
    if (fits_) ::nla_nest_end(message_.get(), start);
    return *this;
  }

  [[nodiscard]] bool fits() const { return fits_; }
  [[nodiscard]] nlmsghdr* header() const { return ::nlmsg_hdr(message_.get()); }

 private:
  std::unique_ptr<nl_msg, decltype(&::nlmsg_free)> message_;
  bool fits_ = false;
};

// The attributes that follow a header of type T, by number.
template <class T, int kHighest>
struct Attributes {
  explicit Attributes(const nlmsghdr* message)
      : header(*static_cast<const T*>(::nlmsg_data(message))),
        valid(::nlmsg_parse(const_cast<nlmsghdr*>(message), sizeof(T), table.data(), kHighest, nullptr) == 0) {}
  [[nodiscard]] nlattr* operator[](int attribute) const { return table[static_cast<size_t>(attribute)]; }
  // 0 where it is absent or shorter than T.
  template <class V>
  [[nodiscard]] V value(int attribute) const {
    V result{};
    nlattr* const found = (*this)[attribute];
    if (found != nullptr && ::nla_len(found) >= static_cast<int>(sizeof(V))) ::nla_memcpy(&result, found, sizeof(V));
    return result;
  }
  [[nodiscard]] std::string text(int attribute) const {
    nlattr* const found = (*this)[attribute];
    if (found == nullptr) return {};
    const std::string_view bytes(static_cast<const char*>(::nla_data(found)), static_cast<size_t>(::nla_len(found)));
    return std::string(bytes.substr(0, bytes.find('\0')));
  }

  std::array<nlattr*, kHighest + 1> table{};
  T header;
  bool valid;
};

// A NETLINK_ROUTE socket in the network namespace that its thread was in when it was opened, and in which it stays.
class Netlink {
 public:
  static Result<Netlink> open();

  // Sends the requests, many in one go, and waits for every acknowledgement. The first that the kernel refused is the error:
  // its errno, `whats` of it, and the kernel's own words where it has some. Those after it were tried all the same.
  // `modules`: the kernel modules that a request needs, or nullptr: where the kernel does not know what it asks for
  // (ENOENT, EOPNOTSUPP), the error is kNotSupported and names them. ENOBUFS: an answer did not fit into the socket's
  // buffer, so what became of the requests is not known.
  Status ask(std::span<const Request> requests, std::span<const std::string> whats,
             std::span<const char* const> modules = {});
  // Hands the one object that a request asks for to `each`.
  Status get(const Request& request, const std::string& what, const std::function<void(const nlmsghdr*)>& each);
  // Hands every object of a dump to `each`, from the start again (after `restart`) when it changed meanwhile or a part
  // of it was lost (ENOBUFS). EAGAIN: it did so again and again.
  Status dump(const Request& request, const std::string& what, const std::function<void()>& restart,
              const std::function<void(const nlmsghdr*)>& each);

  [[nodiscard]] int fd() const { return ::nl_socket_get_fd(socket_.get()); }

 private:
  Status ask_some(std::span<const Request> requests, std::span<const std::string> whats,
                  std::span<const char* const> modules);
  using Socket = std::unique_ptr<nl_sock, decltype(&::nl_socket_free)>;
  explicit Netlink(Socket socket) : socket_(std::move(socket)) {}
  Socket socket_;
};

}  // namespace granary::netplumb
