// SPDX-License-Identifier: Apache-2.0
#include "netplumb/netlink.h"

#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <optional>

namespace granary::netplumb {
namespace {

constexpr int kDumpTries = 8;
constexpr size_t kMostAtOnce = 16;  // the answers to more may not fit into a socket's buffer: ENOBUFS
constexpr int kReceiveBytes = 256 * 1024;
constexpr int kMostLosses = 64;  // parts of one dump that were lost
constexpr timeval kAnswerLimit{.tv_sec = 10, .tv_usec = 0};

// libnl keeps the kernel's errno only as one of its own numbers, so receiving is done here and libnl builds and parses.
Result<size_t> receive(nl_sock* socket, std::span<char> into, const std::string& what) {
  while (true) {
    const ssize_t n = ::recv(::nl_socket_get_fd(socket), into.data(), into.size(), MSG_TRUNC);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      return Error::from_errno(error, what + ": netlink: receive" +
                                          (error == ENOBUFS ? " (its buffer is full; raise net.core.rmem_default)" : ""));
    }
    if (static_cast<size_t>(n) > into.size()) return Error::from_errno(EMSGSIZE, what + ": netlink: receive");
    return static_cast<size_t>(n);
  }
}

// What the kernel says beside the errno (NETLINK_EXT_ACK).
std::string words_of(nlmsghdr* message) {
  if ((message->nlmsg_flags & NLM_F_ACK_TLVS) == 0) return {};
  const auto* error = static_cast<const nlmsgerr*>(::nlmsg_data(message));
  size_t header = sizeof(nlmsgerr);
  if ((message->nlmsg_flags & NLM_F_CAPPED) == 0) header += error->msg.nlmsg_len - NLMSG_HDRLEN;
  nlattr* const text = ::nlmsg_find_attr(message, static_cast<int>(header), NLMSGERR_ATTR_MSG);
  return text == nullptr ? "" : std::string(" (") + ::nla_get_string(text) + ")";
}

Error refused(int error, const std::string& context, const char* modules) {
  const bool is_unknown = error == ENOENT || error == EOPNOTSUPP;
  if (modules != nullptr && is_unknown) {
    return Error(Errc::kNotSupported, context + ": the kernel lacks " + modules + "; load it (modprobe -a " + modules +
                                          "), or boot a kernel that has it");
  }
  return Error::from_errno(error, context + (error == EPERM ? "; needs CAP_NET_ADMIN there" : ""));
}

}  // namespace

Result<Netlink> Netlink::open() {
  Socket socket(::nl_socket_alloc(), &::nl_socket_free);
  if (!socket) return Error::from_errno(ENOMEM, "netlink: allocate a socket");
  if (::nl_connect(socket.get(), NETLINK_ROUTE) < 0) return Error::last_os_error("netlink: open a socket");
  const int fd = ::nl_socket_get_fd(socket.get());
  const int on = 1;
  // Older kernels lack one or the other: then there is more to read, and less is said.
  ::setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
  ::setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
  ::setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof(on));
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kAnswerLimit, sizeof(kAnswerLimit));
  return Netlink(std::move(socket));
}

Status Netlink::ask(std::span<const Request> requests, std::span<const std::string> whats,
                    std::span<const char* const> modules) {
  Status first = ok();
  for (size_t at = 0; at < requests.size(); at += kMostAtOnce) {
    const size_t count = std::min(kMostAtOnce, requests.size() - at);
    Status done = ask_some(requests.subspan(at, count), whats.subspan(at, count),
                           modules.empty() ? modules : modules.subspan(at, count));
    if (first && !done) first = std::move(done);
  }
  return first;
}

Status Netlink::ask_some(std::span<const Request> requests, std::span<const std::string> whats,
                         std::span<const char* const> modules) {
  std::vector<iovec> parts;
  const uint32_t first = ::nl_socket_use_seq(socket_.get());
  // At once: an answer that comes after this call has failed must not pass for one to the next.
  for (size_t i = 1; i < requests.size(); ++i) ::nl_socket_use_seq(socket_.get());
  for (size_t i = 0; i < requests.size(); ++i) {
    if (!requests[i].fits()) return Error::from_errno(EMSGSIZE, whats[i]);
    nlmsghdr* const header = requests[i].header();
    header->nlmsg_flags |= NLM_F_ACK;
    header->nlmsg_seq = first + static_cast<uint32_t>(i);
    parts.push_back({header, NLMSG_ALIGN(header->nlmsg_len)});
  }
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  if (!parts.empty() && ::sendmsg(::nl_socket_get_fd(socket_.get()), &message, 0) < 0) {
    return Error::last_os_error(whats.front() + ": netlink: send");
  }
  std::optional<Error> failed;
  alignas(nlmsghdr) std::array<char, 16 * 1024> buffer;
  for (size_t left = requests.size(); left > 0;) {
    const size_t bytes = GRANARY_TRY(receive(socket_.get(), buffer, whats.front()));
    int rest = static_cast<int>(bytes);
    for (auto* answer = reinterpret_cast<nlmsghdr*>(buffer.data()); ::nlmsg_ok(answer, rest) != 0;
         answer = ::nlmsg_next(answer, &rest)) {
      const size_t index = answer->nlmsg_seq - first;
      if (answer->nlmsg_type != NLMSG_ERROR || index >= requests.size()) continue;
      --left;
      const int code = static_cast<const nlmsgerr*>(::nlmsg_data(answer))->error;
      if (code == 0 || failed) continue;
      failed = refused(-code, whats[index] + words_of(answer), modules.empty() ? nullptr : modules[index]);
    }
  }
  return failed ? Status(*failed) : ok();
}

Status Netlink::get(const Request& request, const std::string& what, const std::function<void(const nlmsghdr*)>& each) {
  nlmsghdr* const header = request.header();
  if (!request.fits()) return Error::from_errno(EMSGSIZE, what);
  header->nlmsg_seq = ::nl_socket_use_seq(socket_.get());
  if (::send(::nl_socket_get_fd(socket_.get()), header, header->nlmsg_len, 0) < 0) {
    return Error::last_os_error(what + ": netlink: send");
  }
  alignas(nlmsghdr) std::array<char, 16 * 1024> buffer;
  while (true) {
    int rest = static_cast<int>(GRANARY_TRY(receive(socket_.get(), buffer, what)));
    for (auto* answer = reinterpret_cast<nlmsghdr*>(buffer.data()); ::nlmsg_ok(answer, rest) != 0;
         answer = ::nlmsg_next(answer, &rest)) {
      if (answer->nlmsg_seq != header->nlmsg_seq) continue;
      if (answer->nlmsg_type != NLMSG_ERROR) {
        each(answer);
        return ok();
      }
      return Error::from_errno(-static_cast<const nlmsgerr*>(::nlmsg_data(answer))->error, what + words_of(answer));
    }
  }
}

Status Netlink::dump(const Request& request, const std::string& what, const std::function<void()>& restart,
                     const std::function<void(const nlmsghdr*)>& each) {
  static thread_local std::vector<char> buffer(kReceiveBytes);
  for (int left = kDumpTries; left > 0; --left) {
    restart();
    nlmsghdr* const header = request.header();
    if (!request.fits()) return Error::from_errno(EMSGSIZE, what);
    header->nlmsg_flags |= NLM_F_DUMP;
    header->nlmsg_seq = ::nl_socket_use_seq(socket_.get());
    if (::send(::nl_socket_get_fd(socket_.get()), header, header->nlmsg_len, 0) < 0) {
      return Error::last_os_error(what + ": netlink: send");
    }
    bool interrupted = false;
    int losses = 0;
    for (bool done = false; !done;) {
      const Result<size_t> got = receive(socket_.get(), buffer, what);
      // What is not lost still comes, its end included: the kernel takes no second dump before that.
      if (!got && got.error().is_errno(ENOBUFS) && ++losses < kMostLosses) {
        interrupted = true;
        continue;
      }
      int rest = static_cast<int>(GRANARY_TRY(got));
      for (auto* answer = reinterpret_cast<nlmsghdr*>(buffer.data()); ::nlmsg_ok(answer, rest) != 0;
           answer = ::nlmsg_next(answer, &rest)) {
        if (answer->nlmsg_seq != header->nlmsg_seq) continue;  // of a dump that was given up
        interrupted = interrupted || (answer->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
        done = answer->nlmsg_type == NLMSG_DONE || answer->nlmsg_type == NLMSG_ERROR;
        const int code = done ? *static_cast<const int*>(::nlmsg_data(answer)) : 0;
        if (code < 0) return Error::from_errno(-code, what + words_of(answer));
        if (done) break;
        each(answer);
      }
    }
    if (!interrupted) return ok();
  }
  return Error::from_errno(EAGAIN, what + ": it changed during each of " + std::to_string(kDumpTries) + " dumps");
}

}  // namespace granary::netplumb
