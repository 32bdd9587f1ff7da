// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/guest_client.h"

#include <sys/random.h>

#include <algorithm>
#include <charconv>
#include <ctime>

#include "vmpool/guest/guest.pb.h"

namespace granary::pool {
namespace {

namespace wire = guest::v1;

constexpr uint32_t kProtocol = 1;
constexpr size_t kEntropyBytes = 256;

// What went wrong in which conversation.
Status in_words(const Status& status, const char* what) {
  if (status) return status;
  if (status.error().is(Errc::kDeadlineExceeded)) return Error(Errc::kGuestUnresponsive, what);
  return Error(status.error().code(), std::string(what) + ": " + status.error().context());
}

int64_t realtime_now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

// The guest read its clock between the two times of ours.
Status check_clock(int64_t guest_ns, int64_t sent_ns, int64_t received_ns) {
  constexpr int64_t kTolerance = std::chrono::nanoseconds(GuestClient::kClockTolerance).count();
  constexpr int64_t kNsPerMs = 1'000'000;
  const auto off = [](int64_t by, const char* way) {
    return Status(Error(Errc::kIdentityFailed,
                        "the guest's clock is " + std::to_string(by / kNsPerMs) + " ms " + way + " the host's"));
  };
  // A hostile number must not overflow.
  if (guest_ns < 0 || guest_ns < sent_ns - kTolerance) return off(sent_ns - std::max<int64_t>(guest_ns, 0), "behind");
  if (guest_ns > received_ns + kTolerance) return off(guest_ns - received_ns, "ahead of");
  return ok();
}

}  // namespace

Status fill_random(std::span<uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::getrandom(bytes.data(), bytes.size(), 0);
    if (n < 0 && errno != EINTR) return Error::last_os_error("getrandom");
    if (n > 0) bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return ok();
}

Result<Uuid> random_uuid() {
  Uuid uuid;
  GRANARY_TRY(fill_random(uuid));
  uuid[6] = static_cast<uint8_t>((uuid[6] & 0x0f) | 0x40);
  uuid[8] = static_cast<uint8_t>((uuid[8] & 0x3f) | 0x80);
  return uuid;
}

std::string to_text(const Uuid& uuid) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kDigits[uuid[i] >> 4];
    text += kDigits[uuid[i] & 0x0f];
  }
  return text;
}

Result<Uuid> parse_uuid(std::string_view text) {
  Uuid uuid{};
  std::string digits(text);
  std::erase(digits, '-');
  for (size_t i = 0; i < uuid.size() && digits.size() == 2 * uuid.size(); ++i) {
    std::from_chars(&digits[2 * i], &digits[2 * i] + 2, uuid[i], 16);
  }
  // Whatever was not read as it was meant does not come out as it went in.
  if (to_text(uuid) != text) return Error(Errc::kInvalidArgument, "UUID \"" + std::string(text.substr(0, 40)) + "\"");
  return uuid;
}

Result<GuestClient> GuestClient::connect(const std::string& socket_path, SteadyTime deadline) {
  return GuestClient(GRANARY_TRY(GuestConnection::connect(socket_path, machine::kInitVsockPort, deadline)));
}

Status GuestClient::probe(SteadyTime deadline) {
  std::array<uint8_t, 8> random;
  GRANARY_TRY(fill_random(random));
  uint64_t nonce = 0;
  std::memcpy(&nonce, random.data(), sizeof(nonce));
  wire::Request request;
  request.mutable_probe()->set_nonce(nonce);
  wire::Reply reply;
  GRANARY_TRY(in_words(connection_.send(request, deadline), "probe"));
  GRANARY_TRY(in_words(connection_.receive(reply, deadline), "probe"));
  if (!reply.has_ready()) return Error(Errc::kGuestProtocol, "probe: the answer is not Ready");
  if (reply.ready().nonce() != nonce) return Error(Errc::kGuestProtocol, "probe: the answer has another nonce");
  if (reply.ready().protocol() != kProtocol) {
    return Error(Errc::kGuestProtocol, "probe: the guest speaks protocol " + std::to_string(reply.ready().protocol()) +
                                           ", expected " + std::to_string(kProtocol));
  }
  return ok();
}

Status GuestClient::send_identity(const Uuid& clone_uuid, const std::string& hostname, const wire::Network* network,
                                  SteadyTime deadline) {
  std::array<uint8_t, kEntropyBytes> entropy;
  std::array<uint8_t, 16> machine_id;
  GRANARY_TRY(fill_random(entropy));
  GRANARY_TRY(fill_random(machine_id));
  wire::Request request;
  wire::Identity& identity = *request.mutable_identity();
  identity.set_clone_uuid(clone_uuid.data(), clone_uuid.size());
  identity.set_entropy(entropy.data(), entropy.size());
  identity.set_hostname(hostname);
  identity.set_machine_id(machine_id.data(), machine_id.size());
  if (network != nullptr) *identity.mutable_network() = *network;
  identity_sent_ns_ = realtime_now_ns();
  identity.set_realtime_ns(identity_sent_ns_);
  return in_words(connection_.send(request, deadline), "identity");
}

Result<AppliedIdentity> GuestClient::identity_applied(const Uuid& clone_uuid, SteadyTime deadline) {
  wire::Reply reply;
  GRANARY_TRY(in_words(connection_.receive(reply, deadline), "identity"));
  if (reply.has_failure()) {
    const bool refused = reply.failure().kind() == wire::Failure::NETWORK;
    return Error(refused ? Errc::kInvalidArgument : Errc::kIdentityFailed, reply.failure().message().substr(0, 256));
  }
  if (!reply.has_identity_applied()) return Error(Errc::kGuestProtocol, "identity: the answer is not IdentityApplied");
  const wire::IdentityApplied& applied = reply.identity_applied();
  if (!std::ranges::equal(applied.clone_uuid(), clone_uuid, {}, [](char c) { return static_cast<uint8_t>(c); })) {
    return Error(Errc::kGuestProtocol, "identity: the answer has another UUID");
  }
  GRANARY_TRY(check_clock(applied.realtime_ns(), identity_sent_ns_, realtime_now_ns()));
  return AppliedIdentity{applied.boot_id().substr(0, 64), applied.realtime_ns()};
}

}  // namespace granary::pool
