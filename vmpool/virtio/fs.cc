// SPDX-License-Identifier: Apache-2.0
#include "vmpool/virtio/fs.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>

#include "vmpool/base/log.h"
#include "vmpool/virtio/config_space.h"

namespace granary::virtio {
namespace {

// Linux puts at most as many pages into a request as its queue has descriptors, less four.
constexpr std::array<uint16_t, 2> kQueueSizes = {64, 128};
constexpr size_t kMaxSegments = 128 + 1;
// Per turn of the loop and direction, so that other devices have theirs.
constexpr int kMaxMessages = 64;
// What is an errno; the kernel's own numbers begin here.
constexpr int kErrnoEnd = 512;

bool has_no_reply(uint32_t opcode) {
  return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT;
}

std::span<const std::byte> bytes_of(const fuse_out_header& header) { return std::as_bytes(std::span(&header, 1)); }

}  // namespace

// A message on its way to the server: what was copied and checked, then the rest of the chain's readable part.
struct Fs::Outgoing {
  Chain chain;
  Request* request = nullptr;  // where its reply will be waited for; nullptr: there is none
  std::array<std::byte, sizeof(fuse_in_header) + sizeof(fuse_interrupt_in)> copied{};
  size_t copied_bytes = 0;
  size_t copied_sent = 0;
};

// A request that the server has and will answer.
struct Fs::Request {
  std::optional<Chain> chain;
  uint64_t unique = 0;  // the driver's
  uint64_t number = 0;  // ours; the lowest bit is 0
};

// The reply that is being read.
struct Fs::Incoming {
  fuse_out_header header{};
  size_t header_bytes = 0;
  size_t body_left = 0;
  Request* request = nullptr;  // nullptr while the header is incomplete, or when the body is thrown away
};

Fs::Fs(EventLoop& loop, std::string_view tag)
    : loop_(loop),
      requests_(kQueueSizes[kRequestQueue]),
      incoming_(std::make_unique<Incoming>()),
      alive_(std::make_shared<int>(0)) {
  std::copy_n(tag.begin(), std::min(tag.size(), config_.tag.size()), config_.tag.begin());
  config_.num_request_queues = 1;
}

Fs::~Fs() { loop_.remove(watch_); }

std::span<const uint16_t> Fs::queue_sizes() const { return kQueueSizes; }

void Fs::read_config(uint32_t offset, std::span<std::byte> into) const { read_config_struct(config_, offset, into); }

Status Fs::attach(Fd socket) {
  if (attached()) return Error(Errc::kInvalidArgument, "fs device: there is a file server already");
  struct stat st {};
  if (::fstat(socket.get(), &st) != 0) return Error::last_os_error("fstat of a file server's socket");
  if (!S_ISSOCK(st.st_mode))
    return Error(Errc::kInvalidArgument, "fs device: the file server's descriptor is no socket");
  GRANARY_TRY(set_nonblocking(socket.get()));
  // Edge-triggered: a socket that can be written must not keep the loop awake.
  watch_ = GRANARY_TRY(loop_.add(socket.get(), EPOLLIN | EPOLLOUT | EPOLLET, [this](uint32_t) { socket_ready(); }));
  socket_ = std::move(socket);
  used_ = false;
  return ok();
}

Status Fs::activate(uint64_t /*features*/, std::span<Queue> queues, Interrupt& interrupt) {
  queues_ = queues;
  interrupt_ = &interrupt;
  failed_ = false;
  return ok();
}

void Fs::deactivate() {
  queues_ = {};
  interrupt_ = nullptr;
  outgoing_.reset();
  for (Request& request : requests_) request.chain.reset();
  in_flight_ = 0;
  if (used_) lose_server("the driver reset the device");
}

Status Fs::process_queue(uint16_t /*index*/) {
  if (failed_) return Error(Errc::kDeviceInvalid, "fs: a ring was unusable when the file server was ready");
  return run_queues();
}

// Both queues: which of them has waited for the socket is not remembered.
Status Fs::run_queues() {
  if (queues_.empty()) return ok();
  int left = kMaxMessages;
  for (; left > 0; --left) {
    if (outgoing_ != nullptr && !send_message()) break;
    if (GRANARY_TRY(next_message(queues_[kHighPriorityQueue]))) continue;
    if (!GRANARY_TRY(next_message(queues_[kRequestQueue]))) break;
  }
  if (left == 0) go_on_later();
  raise_interrupts();
  return ok();
}

// False: the queue has no more. A message that is to be sent is in outgoing_ afterwards.
Result<bool> Fs::next_message(Queue& queue) {
  std::optional<Chain> chain = GRANARY_TRY(queue.pop());
  if (!chain) return false;
  GRANARY_TRY(take(*std::move(chain)));
  return true;
}

Status Fs::take(Chain chain) {
  // A copy: the guest could change what was checked.
  const auto header = GRANARY_TRY(chain.read_struct<fuse_in_header>("a FUSE header"));
  const bool valid = header.len == sizeof(header) + chain.readable_left() && header.len <= kMaxMessageBytes;
  if (!valid || !attached()) {
    if (has_no_reply(header.opcode)) return ok();  // the buffer goes back as it is dropped
    return refuse(std::move(chain), header.unique, valid ? ENOTCONN : EIO);
  }
  if (header.opcode == FUSE_INTERRUPT) return take_interrupt(std::move(chain), header);
  if (has_no_reply(header.opcode)) {
    put_out(std::move(chain), header, {});
    return ok();
  }
  return take_request(std::move(chain), header);
}

Status Fs::take_request(Chain chain, fuse_in_header header) {
  const auto free = std::find_if(requests_.begin(), requests_.end(), [](const Request& r) { return !r.chain; });
  // Full only by requests on the other queue, which is not theirs; without room the driver could not learn any outcome.
  if (free == requests_.end() || chain.writable_left() < sizeof(fuse_out_header)) {
    return refuse(std::move(chain), header.unique, EIO);
  }
  free->unique = header.unique;
  free->number = (uint64_t{++generation_} << 16 | static_cast<uint64_t>(free - requests_.begin())) << 1;
  header.unique = free->number;
  put_out(std::move(chain), header, {});
  outgoing_->request = &*free;
  return ok();
}

Status Fs::take_interrupt(Chain chain, fuse_in_header header) {
  const auto body = GRANARY_TRY(chain.read_struct<fuse_interrupt_in>("a FUSE_INTERRUPT"));
  const auto target = std::find_if(requests_.begin(), requests_.end(),
                                   [&](const Request& r) { return r.chain && r.unique == body.unique; });
  if (target == requests_.end() || chain.readable_left() != 0) return ok();
  header.unique = target->number | 1;
  const fuse_interrupt_in ours{.unique = target->number};
  put_out(std::move(chain), header, std::as_bytes(std::span(&ours, 1)));
  return ok();
}

// The rest of the chain's readable part follows what was copied.
void Fs::put_out(Chain chain, const fuse_in_header& header, std::span<const std::byte> body) {
  outgoing_ = std::make_unique<Outgoing>(Outgoing{.chain = std::move(chain)});
  std::memcpy(outgoing_->copied.data(), &header, sizeof(header));
  std::copy(body.begin(), body.end(), outgoing_->copied.begin() + sizeof(header));
  outgoing_->copied_bytes = sizeof(header) + body.size();
}

Status Fs::refuse(Chain chain, uint64_t unique, int error) {
  if (chain.writable_left() < sizeof(fuse_out_header)) {
    return Error(Errc::kDeviceInvalid, "fs: a request without room for a reply's header");
  }
  chain.write(bytes_of({.len = sizeof(fuse_out_header), .error = -error, .unique = unique}));
  chain.complete();
  return ok();
}

// True: all of it is sent, or there is no server any more.
bool Fs::send_message() {
  Outgoing& out = *outgoing_;
  used_ = true;
  while (out.copied_sent < out.copied_bytes || out.chain.readable_left() > 0) {
    std::array<iovec, kMaxSegments> segments;
    segments[0] = {out.copied.data() + out.copied_sent, out.copied_bytes - out.copied_sent};
    const auto rest = out.chain.next_readable(std::span(segments).subspan(1), out.chain.readable_left());
    msghdr message{};
    message.msg_iov = segments.data();
    message.msg_iovlen = 1 + rest.size();
    const ssize_t n = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EAGAIN) return false;  // its next event goes on
      lose_server("it cannot be written to");
      return true;
    }
    const size_t of_copied = std::min(static_cast<size_t>(n), out.copied_bytes - out.copied_sent);
    out.copied_sent += of_copied;
    out.chain.skip_readable(static_cast<size_t>(n) - of_copied);
  }
  message_sent();
  return true;
}

void Fs::message_sent() {
  const std::unique_ptr<Outgoing> sent = std::move(outgoing_);
  if (sent->request == nullptr) return;
  sent->request->chain = std::move(sent->chain);
  ++in_flight_;
}

void Fs::receive_replies() {
  int left = kMaxMessages;
  while (left > 0 && attached() && receive_reply()) --left;
  if (left == 0) go_on_later();
  if (!queues_.empty()) raise_interrupts();
}

// True: a reply was read to its end.
bool Fs::receive_reply() {
  Incoming& in = *incoming_;
  if (in.header_bytes < sizeof(in.header)) {
    iovec segment{reinterpret_cast<std::byte*>(&in.header) + in.header_bytes, sizeof(in.header) - in.header_bytes};
    size_t bytes = 0;
    if (!read_some({&segment, 1}, bytes)) return false;
    in.header_bytes += bytes;
    if (in.header_bytes < sizeof(in.header) || !begin_reply()) return false;
  }
  while (in.body_left > 0) {
    std::array<iovec, kMaxSegments> segments;
    std::array<std::byte, 4096> unwanted;
    segments[0] = {unwanted.data(), std::min(unwanted.size(), in.body_left)};
    const std::span<iovec> into =
        in.request != nullptr ? in.request->chain->next_writable(segments, in.body_left) : std::span(segments).first(1);
    size_t bytes = 0;
    if (!read_some(into, bytes)) return false;
    in.body_left -= bytes;
    if (in.request != nullptr) in.request->chain->skip_writable(bytes);
  }
  end_reply();
  return true;
}

// False: there is nothing for now, or no server any more.
bool Fs::read_some(std::span<iovec> into, size_t& bytes) {
  const ssize_t n = ::readv(socket_.get(), into.data(), static_cast<int>(into.size()));
  if (n > 0) {
    bytes = static_cast<size_t>(n);
    return true;
  }
  if (n == 0 || errno != EAGAIN) lose_server(n == 0 ? "it closed its socket" : "it cannot be read from");
  return false;
}

// Linux checks an error's range as well, and that it comes alone.
bool Fs::begin_reply() {
  Incoming& in = *incoming_;
  const fuse_out_header& header = in.header;
  Request* request = waiting(header.unique);
  if (request == nullptr || header.len < sizeof(header) || header.len > kMaxMessageBytes || header.error > 0 ||
      header.error <= -kErrnoEnd || (header.error != 0 && header.len != sizeof(header))) {
    lose_server(request == nullptr ? "it answered what nobody asked" : "it sent a malformed reply");
    return false;
  }
  in.body_left = header.len - sizeof(header);
  if (header.len > request->chain->writable_left()) {
    end_request(*request, EIO);
    return true;
  }
  in.request = request;
  request->chain->write(bytes_of({.len = header.len, .error = header.error, .unique = request->unique}));
  return true;
}

void Fs::end_reply() {
  Request* request = std::exchange(*incoming_, Incoming{}).request;
  if (request == nullptr) return;
  request->chain->complete();
  request->chain.reset();
  --in_flight_;
}

Fs::Request* Fs::waiting(uint64_t number) {
  const uint64_t slot = (number >> 1) & 0xffff;
  if (slot >= requests_.size()) return nullptr;
  Request& request = requests_[slot];
  return request.chain && request.number == number ? &request : nullptr;
}

// Its chain has room for a header: that was checked when it came.
void Fs::end_request(Request& request, int error) {
  const fuse_out_header header{.len = sizeof(fuse_out_header), .error = -error, .unique = request.unique};
  const bool begun = request.chain->writable_left() != request.chain->writable_size();
  begun ? request.chain->patch(0, bytes_of(header)) : void(request.chain->write(bytes_of(header)));
  request.chain->complete(sizeof(header));
  request.chain.reset();
  --in_flight_;
}

void Fs::lose_server(const char* why) {
  log_line(LogLevel::kInfo, "fs: the file server is gone: %s", why);
  loop_.remove(watch_);
  socket_.reset();
  used_ = false;
  *incoming_ = Incoming{};
  if (const std::unique_ptr<Outgoing> out = std::move(outgoing_); out && out->request != nullptr) {
    (void)refuse(std::move(out->chain), out->request->unique, ENOTCONN);
  }
  for (Request& request : requests_) {
    if (request.chain) end_request(request, ENOTCONN);
  }
  // What waits in the rings is answered, too.
  if (!queues_.empty()) go_on_later();
}

void Fs::socket_ready() {
  receive_replies();
  run();
}

void Fs::go_on_later() {
  if (std::exchange(goes_on_later_, true)) return;
  loop_.post([this, alive = std::weak_ptr(alive_)] {
    if (alive.expired()) return;
    goes_on_later_ = false;
    if (attached()) receive_replies();
    run();
  });
}

void Fs::run() {
  if (failed_ || queues_.empty()) return;
  const Status done = run_queues();
  failed_ = !done;
  if (failed_) interrupt_->fail(done.error());
}

void Fs::raise_interrupts() {
  for (Queue& queue : queues_) {
    if (queue.should_interrupt()) interrupt_->used_buffer();
  }
}

DeviceBlob Fs::save() const { return to_blob(FsState{config_, attached() ? 1U : 0U}); }

Status Fs::restore(const DeviceBlob& state) {
  const auto saved = GRANARY_TRY(from_blob<FsState>(state, "fs"));
  if (saved.attached != 0) return Error(Errc::kSnapshotCorrupt, "fs state: a file server was attached");
  if (saved.config.tag != config_.tag || saved.config.num_request_queues != config_.num_request_queues) {
    return Error(Errc::kSnapshotCorrupt, "fs state: its driver saw another tag or number of queues than this build's");
  }
  return ok();
}

}  // namespace granary::virtio
