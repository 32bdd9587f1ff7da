// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/failure.h"

#include <algorithm>
#include <array>

namespace granary::guest {
namespace {

constexpr size_t kMaxMessageText = 1024;

v1::Failure::Kind kind_of(const Error& error) {
  // What execve(2) says about a file that is there but cannot be run.
  constexpr std::array kNotExecutable = {EACCES, ENOEXEC, EPERM, EISDIR, ELIBBAD, ETXTBSY, EINVAL, ELOOP};
  if (error.is(Errc::kInvalidArgument) || error.is_errno(E2BIG)) return v1::Failure::INVALID;
  if (error.is(Errc::kContainerFailed)) return v1::Failure::CONTAINER;
  if (error.is_errno(ENOENT)) return v1::Failure::NOT_FOUND;
  if (error.is_errno(EEXIST)) return v1::Failure::EXISTS;
  const bool refused = std::any_of(kNotExecutable.begin(), kNotExecutable.end(),
                                   [&error](int number) { return error.is_errno(number); });
  return refused ? v1::Failure::NOT_EXECUTABLE : v1::Failure::OTHER;
}

}  // namespace

v1::Reply failure(v1::Failure::Kind kind, std::string_view message) {
  std::string text(message.substr(0, kMaxMessageText));
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  v1::Reply reply;
  reply.mutable_failure()->set_kind(kind);
  reply.mutable_failure()->set_message(text);
  return reply;
}

v1::Reply failure(const Error& error) {
  // What a code of ours says in general adds nothing to the words that came with it.
  const bool own_words = error.is(Errc::kContainerFailed) || error.is_errno(EEXIST);
  return failure(kind_of(error), own_words ? error.context() : error.message());
}

}  // namespace granary::guest
