// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/control_protocol.h"

namespace granary::control {
namespace {

constexpr uint32_t kCategoryErrno = 0;
constexpr uint32_t kCategoryGranary = 1;

Error decode(const ErrorBody& body) {
  std::string context = text_of(body.context);
  if (body.category == kCategoryGranary) return {std::error_code(body.code, granary_category()), std::move(context)};
  return Error::from_errno(body.code, std::move(context));
}

}  // namespace

Status Message::check_shape(size_t body_bytes, size_t fd_count) const {
  if (body.size() == body_bytes && fds.size() == fd_count) return ok();
  return Error(Errc::kProtocolMalformed,
               "control message type " + std::to_string(static_cast<int>(type)) + ": " + std::to_string(body.size()) +
                   " bytes and " + std::to_string(fds.size()) + " descriptors, expected " +
                   std::to_string(body_bytes) + " and " + std::to_string(fd_count));
}

Status Message::check_answer(Type wanted) const {
  if (type == Type::kError) return decode(GRANARY_TRY(as<ErrorBody>(fds.size())));
  if (type == wanted) return ok();
  return Error(Errc::kProtocolMalformed, "control answer of type " + std::to_string(static_cast<int>(type)) +
                                             ", expected " + std::to_string(static_cast<int>(wanted)));
}

Result<Message> parse(RawMessage raw) {
  Header header{};
  if (raw.bytes.size() < sizeof(header)) {
    return Error(Errc::kProtocolMalformed, "control message of " + std::to_string(raw.bytes.size()) + " bytes");
  }
  std::memcpy(&header, raw.bytes.data(), sizeof(header));
  if (header.magic != kMagic) return Error(Errc::kProtocolMalformed, "control message without magic");
  if (header.version != kVersion) {
    return Error(Errc::kProtocolVersion, "control message of version " + std::to_string(header.version) +
                                             ", this build speaks " + std::to_string(kVersion));
  }
  if (header.body_bytes != raw.bytes.size() - sizeof(header)) {
    return Error(Errc::kProtocolMalformed, "control message whose length field lies");
  }
  Message message;
  message.type = static_cast<Type>(header.type);
  message.request = header.request;
  message.body.assign(raw.bytes.begin() + sizeof(header), raw.bytes.end());
  message.fds = std::move(raw.fds);
  return message;
}

Result<Message> receive(int socket, int timeout_ms) {
  return parse(GRANARY_TRY(receive_message(socket, timeout_ms)));
}

Status send_bytes(int socket, Type type, uint32_t request, std::span<const std::byte> body, std::span<const int> fds) {
  const Header header{kMagic, kVersion, static_cast<uint16_t>(type), request, static_cast<uint32_t>(body.size())};
  std::vector<std::byte> bytes(sizeof(header) + body.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::memcpy(bytes.data() + sizeof(header), body.data(), body.size());
  return send_message(socket, bytes, fds);
}

Status send_done(int socket, uint32_t request, std::span<const int> fds) {
  return send(socket, Type::kDone, request, Empty{}, fds);
}

Status send_error(int socket, uint32_t request, const Error& error) {
  ErrorBody body{};
  body.category = error.code().category() == granary_category() ? kCategoryGranary : kCategoryErrno;
  body.code = error.code().value();
  set_text(body.context, error.context());
  return send(socket, Type::kError, request, body);
}

}  // namespace granary::control
