// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/rtnetlink.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

namespace granary::guest {
namespace {

constexpr size_t kReceiveBytes = 8192;  // an acknowledgement repeats no more than the request's header

template <class T>
std::string_view as_text(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

nlmsghdr header_of(const std::string& bytes) {
  nlmsghdr header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  return header;
}

// The text of an extended acknowledgement: attributes behind the error and the request's header.
std::string words_of(std::string_view acknowledgement) {
  size_t at = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(nlmsgerr));
  while (at + sizeof(nlattr) <= acknowledgement.size()) {
    nlattr attribute;
    std::memcpy(&attribute, acknowledgement.data() + at, sizeof(attribute));
    if (attribute.nla_len < sizeof(attribute) || at + attribute.nla_len > acknowledgement.size()) break;
    if (attribute.nla_type == NLMSGERR_ATTR_MSG) {
      const std::string_view text = acknowledgement.substr(at + NLA_HDRLEN, attribute.nla_len - NLA_HDRLEN);
      return " (" + std::string(text.substr(0, text.find('\0'))) + ")";
    }
    at += NLA_ALIGN(attribute.nla_len);
  }
  return {};
}

}  // namespace

NetlinkMessage::NetlinkMessage(uint16_t type, uint16_t flags, std::string_view family, std::string what)
    : what_(std::move(what)) {
  nlmsghdr header{};
  header.nlmsg_type = type;
  header.nlmsg_flags = static_cast<uint16_t>(flags | NLM_F_REQUEST | NLM_F_ACK);
  bytes_ = as_text(header);
  bytes_ += family;
  align();
}

void NetlinkMessage::align() { bytes_.resize(NLMSG_ALIGN(bytes_.size())); }

void NetlinkMessage::put(uint16_t type, std::string_view bytes) {
  const size_t begun = begin(type);
  bytes_ += bytes;
  end(begun);
}

void NetlinkMessage::put_u32(uint16_t type, uint32_t value) { put(type, as_text(value)); }

void NetlinkMessage::put_text(uint16_t type, const std::string& text) { put(type, {text.c_str(), text.size() + 1}); }

size_t NetlinkMessage::begin(uint16_t type) { return begin_raw(as_text(nlattr{0, type})); }

size_t NetlinkMessage::begin_raw(std::string_view structure) {
  const size_t begun = bytes_.size();
  bytes_ += structure;
  return begun;
}

void NetlinkMessage::end(size_t begun) {
  const auto length = static_cast<uint16_t>(bytes_.size() - begun);
  std::memcpy(bytes_.data() + begun, &length, sizeof(length));
  align();
}

uint16_t NetlinkMessage::type() const { return header_of(bytes_).nlmsg_type; }

const std::string& NetlinkMessage::bytes() {
  const auto length = static_cast<uint32_t>(bytes_.size());
  std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_len), &length, sizeof(length));
  return bytes_;
}

NetlinkMessage NetlinkMessage::with(uint16_t type, uint16_t flags) const {
  NetlinkMessage other = *this;
  nlmsghdr header = header_of(bytes_);
  header.nlmsg_type = type;
  header.nlmsg_flags = static_cast<uint16_t>(flags | NLM_F_REQUEST | NLM_F_ACK);
  std::memcpy(other.bytes_.data(), &header, sizeof(header));
  return other;
}

void NetlinkMessage::set_byte(size_t offset, uint8_t value) {
  bytes_[NLMSG_HDRLEN + offset] = static_cast<char>(value);
}

Result<Rtnetlink> Rtnetlink::open() {
  Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!socket.valid()) return Error::last_os_error("open a rtnetlink socket");
  const int on = 1;
  // Without them errors are errnos alone.
  (void)::setsockopt(socket.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
  (void)::setsockopt(socket.get(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
  return Rtnetlink(std::move(socket));
}

Status Rtnetlink::request(NetlinkMessage& message) {
  std::string bytes = message.bytes();
  ++sequence_;
  std::memcpy(bytes.data() + offsetof(nlmsghdr, nlmsg_seq), &sequence_, sizeof(sequence_));
  const sockaddr_nl kernel{AF_NETLINK, 0, 0, 0};
  if (::sendto(socket_.get(), bytes.data(), bytes.size(), 0, reinterpret_cast<const sockaddr*>(&kernel),
               sizeof(kernel)) < 0) {
    return Error::last_os_error(message.what());
  }
  for (;;) {
    std::array<char, kReceiveBytes> buffer;
    const ssize_t n = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::last_os_error(message.what());
    const std::string_view answer(buffer.data(), static_cast<size_t>(n));
    nlmsghdr header;
    nlmsgerr error;
    if (answer.size() < NLMSG_HDRLEN + sizeof(error)) continue;
    std::memcpy(&header, answer.data(), sizeof(header));
    std::memcpy(&error, answer.data() + NLMSG_HDRLEN, sizeof(error));
    if (header.nlmsg_type != NLMSG_ERROR || header.nlmsg_seq != sequence_) continue;
    if (error.error == 0) return ok();
    return Error::from_errno(-error.error, message.what() + words_of(answer));
  }
}

}  // namespace granary::guest
