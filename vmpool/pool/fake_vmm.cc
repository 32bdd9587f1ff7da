// SPDX-License-Identifier: Apache-2.0
// A stand-in for granary-vmm in tests of the spawner and the pool: it speaks the control protocol and, over the
// per-clone socket, the guest protocol, without any KVM. How it misbehaves stands in the file that it inherits in the
// place of /dev/kvm (it is jailed: no path leads anywhere), one word a line, read anew at every step:
//   never-ready            no doorbell after kBoot       die-at-STEP    crashes at create-shell, boot,
//   restore, garbage-probe          probe answered by noise                      probe, park, unpark, identity,
//   snapshot wrong-nonce            probe answered by another one  error-at-STEP  the same steps answered by kError
//   silent-probe           probe never answered           fail-identity  Failure; silent-identity  never answered
//   (attach is such a step, too)  other-uuid, slow-clock, fast-clock  a wrong acknowledgement; garbage-identity  noise
//   refuse-network         Failure of the kind NETWORK
//   garbage-control        kRestore answered by noise     open-vsock     reports one open connection for ever
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <map>
#include <set>
#include <memory>
#include <string>

#include "vmpool/base/control_protocol.h"
#include "vmpool/base/event_loop.h"
#include "vmpool/base/machine_layout.h"
#include "vmpool/base/vmm_fds.h"
#include "vmpool/guest/frame.h"
#include "vmpool/guest/guest.pb.h"

namespace granary {
namespace {

namespace wire = guest::v1;
using control::Type;

constexpr int kControl = vmm_fds::kControlSocket;
constexpr size_t kStateBytes = 300;
constexpr uint64_t kPopulated[] = {0, 64 * kKiB, 700 * kKiB};

bool is(const std::string& word) {
  std::array<char, 4096> text{};
  const ssize_t n = ::pread(vmm_fds::kKvm, text.data(), text.size(), 0);
  const std::string words(text.data(), n > 0 ? static_cast<size_t>(n) : 0);
  return ("\n" + words + "\n").find("\n" + word + "\n") != std::string::npos;
}

// True: the step is to fail with kError.
bool misbehave(const std::string& step) {
  // Not by a signal to itself: it is the first process of its pid namespace, and those ignore them.
  if (is("die-at-" + step)) __builtin_trap();
  return is("error-at-" + step);
}

std::string text_of(const wire::WindowSize& size) {
  return std::to_string(size.rows()) + "x" + std::to_string(size.columns());
}

struct Conversation {
  Fd socket;
  std::string handshake;
  bool open = false;
  bool tty = false;  // its command has one
  guest::FrameReader reader;
  EventLoop::Token token = 0;
};

class FakeVmm {
 public:
  FakeVmm(EventLoop& loop, StatusFile status) : loop_(loop), status_(std::move(status)) {}

  Status run() {
    GRANARY_TRY(loop_.add(kControl, EPOLLIN, [this](uint32_t) { on_control(); }));
    GRANARY_TRY(loop_.add(vmm_fds::kVsockListener, EPOLLIN, [this](uint32_t) { on_connection(); }));
    return loop_.run();
  }

 private:
  void on_control() {
    const Result<control::Message> message = control::receive(kControl, 0);
    if (!message) return loop_.stop();
    const Status done = answer(*message);
    if (!done) (void)control::send_error(kControl, message->request, done.error());
  }

  Status step(const control::Message& message, const char* name, Type answer_type = Type::kDone) {
    if (misbehave(name)) return Error(Errc::kSnapshotRestoreFailed, std::string("fake refuses ") + name);
    if (answer_type == Type::kDone) return control::send_done(kControl, message.request);
    return ok();
  }

  Status answer(const control::Message& message) {
    switch (message.type) {
      case Type::kCreateShell:
        memory_bytes_ = GRANARY_TRY(message.as<control::CreateShell>()).memory_bytes;
        return step(message, "create-shell");
      case Type::kBoot: {
        static constexpr std::string_view kConsole = "fake kernel says hello\n";
        status_.write_console(std::as_bytes(std::span(kConsole)));
        GRANARY_TRY(step(message, "boot"));
        if (is("never-ready")) return ok();
        control::DoorbellEvent event{
            .value = static_cast<uint32_t>(machine::Doorbell::kReady), .vcpu = 0, .monotonic_ns = 0};
        return control::send(kControl, Type::kDoorbell, 0, event);
      }
      case Type::kRestore: {
        if (is("garbage-control")) return send_message(kControl, std::as_bytes(std::span("noise")));
        GRANARY_TRY(check_template(message));
        return step(message, "restore");
      }
      case Type::kPark:
        return step(message, "park");
      case Type::kUnpark:
        note("unpark");
        return step(message, "unpark");
      case Type::kAttachBlock:
        return attach(message, "disk");
      case Type::kDetachBlock: {
        const auto body = GRANARY_TRY(message.as<control::Slot>());
        if (disks_.erase(body.slot) == 0) return Error(Errc::kInvalidArgument, "fake VMM: the slot is empty");
        note("no disk " + std::to_string(body.slot));
        return control::send_done(kControl, message.request);
      }
      case Type::kAttachNet:
        return attach(message, "tap");
      case Type::kAttachFs:
        return attach(message, "file server");
      case Type::kSnapshot:
        return snapshot(message);
      case Type::kGetStats: {
        control::Stats stats{};
        stats.open_vsock_connections = conversations_.size() + (is("open-vsock") ? 1 : 0);
        return control::send(kControl, Type::kGetStats, message.request, stats);
      }
      case Type::kTerminate:
        status_.set_end(EndState::kTerminated, 0, "asked to");
        GRANARY_TRY(control::send_done(kControl, message.request));
        loop_.stop();
        return ok();
      default:
        return Error(Errc::kProtocolMalformed, "fake VMM: type " + std::to_string(static_cast<int>(message.type)));
    }
  }

  // On the console, so that tests see what came and in which order.
  void note(std::string line) const {
    line += '\n';
    status_.write_console(std::as_bytes(std::span(line)));
  }

  // A disk is noted with its first four bytes.
  Status attach(const control::Message& message, const std::string& kind) {
    const auto body = GRANARY_TRY(message.as<control::Attach>(1));
    if (kind == "disk" && !disks_.insert(body.slot).second) return Error::from_errno(EBUSY, "fake VMM: the slot is taken");
    std::string first(kind == "disk" ? 4 : 0, '.');
    GRANARY_TRY(pread_all(message.fds[0].get(), std::as_writable_bytes(std::span(first)), 0));
    note(kind + " " + std::to_string(body.slot) + (body.read_only != 0 ? " ro " : " rw ") + first);
    attached_.push_back(GRANARY_TRY(message.fds[0].duplicate()));
    return step(message, "attach");
  }

  Status check_template(const control::Message& message) const {
    GRANARY_TRY(message.as<control::Restore>(2));
    std::array<char, kStateBytes> state{};
    GRANARY_TRY(pread_all(message.fds[0].get(), std::as_writable_bytes(std::span(state)), 0));
    if (std::string_view(state.data(), 4) != "fake") return Error(Errc::kSnapshotCorrupt, "fake state");
    if (GRANARY_TRY(file_size(message.fds[1].get())) != memory_bytes_)
      return Error(Errc::kSnapshotTruncated, "fake memory");
    const int seals = ::fcntl(message.fds[1].get(), F_GET_SEALS);
    return (seals & F_SEAL_WRITE) != 0 ? ok() : Status(Error(Errc::kSnapshotCorrupt, "fake memory is not sealed"));
  }

  Status snapshot(const control::Message& message) {
    GRANARY_TRY(step(message, "snapshot", Type::kSnapshot));
    std::string state(kStateBytes, '.');
    state.replace(0, 4, "fake");
    GRANARY_TRY(pwrite_all(message.fds.at(0).get(), std::as_bytes(std::span(state)), 0));
    if (::ftruncate(message.fds.at(1).get(), static_cast<off_t>(memory_bytes_)) != 0)
      return Error::last_os_error("size");
    const std::string page(kPageSize, 'm');
    for (const uint64_t at : kPopulated) {
      GRANARY_TRY(pwrite_all(message.fds[1].get(), std::as_bytes(std::span(page)), at));
    }
    control::SnapshotDone done{.state_bytes = kStateBytes,
                               .memory_bytes = memory_bytes_,
                               .populated_bytes = std::size(kPopulated) * kPageSize,
                               .extents = std::size(kPopulated),
                               .reserved = 0};
    return control::send(kControl, Type::kSnapshot, message.request, done);
  }

  void on_connection() {
    Fd socket(::accept4(vmm_fds::kVsockListener, nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.valid()) return;
    auto conversation = std::make_shared<Conversation>();
    const int fd = socket.get();
    conversation->socket = std::move(socket);
    const Result<EventLoop::Token> token = loop_.add(fd, EPOLLIN, [this, conversation](uint32_t) {
      if (!on_readable(*conversation)) {
        loop_.remove(conversation->token);
        conversations_.erase(conversation->socket.get());
      }
    });
    if (!token) return;
    conversation->token = *token;
    conversations_[fd] = conversation;
  }

  // False: over.
  bool on_readable(Conversation& c) {
    if (!c.open) {
      char byte = 0;
      if (::read(c.socket.get(), &byte, 1) != 1) return false;
      c.handshake += byte;
      if (byte != '\n') return c.handshake.size() < 64;
      c.open = c.handshake == "CONNECT 1024\n";
      static constexpr std::string_view kOk = "OK 1073741824\n";
      return c.open && write_all(c.socket.get(), std::as_bytes(std::span(kOk)));
    }
    const Result<guest::FrameReader::Read> read = c.reader.read_from(c.socket.get());
    if (!read || *read == guest::FrameReader::Read::kEnd) return false;
    wire::Request request;
    for (;;) {
      const Result<bool> complete = c.reader.next(request);
      if (!complete) return false;
      if (!*complete) return true;
      if (!reply(c, request)) return false;
    }
  }

  static bool send_noise(const Conversation& c) {
    static constexpr std::string_view kNoise("\xff\xff\xff\x7fnoise", 9);
    return bool(write_all(c.socket.get(), std::as_bytes(std::span(kNoise))));
  }

  bool reply(Conversation& c, const wire::Request& request) {
    wire::Reply answer;
    if (request.has_probe()) {
      if (misbehave("probe") || is("silent-probe")) return true;
      if (is("garbage-probe")) return send_noise(c);
      answer.mutable_ready()->set_nonce(request.probe().nonce() + (is("wrong-nonce") ? 1 : 0));
      answer.mutable_ready()->set_protocol(1);
    } else if (request.has_identity()) {
      if (misbehave("identity") || is("silent-identity")) return true;
      if (is("garbage-identity")) return send_noise(c);
      if (is("fail-identity")) {
        answer.mutable_failure()->set_kind(wire::Failure::IDENTITY);
        answer.mutable_failure()->set_message("fake cannot set the clock");
      } else if (is("refuse-network") && request.identity().has_network()) {
        answer.mutable_failure()->set_kind(wire::Failure::NETWORK);
        answer.mutable_failure()->set_message("fake refuses its network");
      } else {
        if (request.identity().has_network()) {
          note("network " + std::to_string(request.identity().network().links_size()) + " links");
        }
        answer = identity_applied(request.identity());
      }
    } else if (request.has_pod()) {
      answer.mutable_done();
    } else {
      return exec_reply(c, request);
    }
    return bool(guest::send_message(c.socket.get(), answer));
  }

  static wire::Reply identity_applied(const wire::Identity& identity) {
    constexpr int64_t kWrong = 3'600'000'000'000;
    wire::Reply answer;
    wire::IdentityApplied& applied = *answer.mutable_identity_applied();
    applied.set_clone_uuid(is("other-uuid") ? std::string(16, 'x') : identity.clone_uuid());
    applied.set_boot_id("fake-boot-id");
    applied.set_realtime_ns(identity.realtime_ns() + (is("fast-clock") ? kWrong : is("slow-clock") ? -kWrong : 0));
    return answer;
  }

  // "echo": stderr gets one word, stdin is copied to stdout until it is closed. With a terminal stdout gets the
  // window's size at the start, and the byte ^D closes stdin.
  bool exec_reply(Conversation& c, const wire::Request& request) {
    wire::Reply answer;
    if (request.has_exec() && request.exec().argv(0) != "echo") {
      answer.mutable_failure()->set_kind(request.exec().argv(0) == "noexec" ? wire::Failure::NOT_EXECUTABLE
                                                                            : wire::Failure::NOT_FOUND);
      answer.mutable_failure()->set_message(request.exec().argv(0));
      return bool(guest::send_message(c.socket.get(), answer));
    }
    if (request.has_exec()) {
      answer.mutable_started()->set_pid(42);
      if (!guest::send_message(c.socket.get(), answer)) return false;
      c.tty = request.exec().tty();
      if (c.tty) {
        answer.set_stdout_data("started with " + text_of(request.exec().window_size()));
      } else {
        answer.set_stderr_data("started");
      }
    } else if (request.close_stdin() || (c.tty && request.stdin_data() == "\x04")) {
      answer.mutable_exited()->set_status(7);
    } else if (request.kind_case() == wire::Request::kStdinData) {
      answer.set_stdout_data(request.stdin_data());
    } else if (request.has_window_size()) {
      answer.set_stdout_data("resized to " + text_of(request.window_size()));
    } else {
      answer.set_stdout_data("signal " + std::to_string(request.signal()));
    }
    return bool(guest::send_message(c.socket.get(), answer));
  }

  EventLoop& loop_;
  StatusFile status_;
  uint64_t memory_bytes_ = 0;
  std::vector<Fd> attached_;
  std::set<uint32_t> disks_;  // slots
  std::map<int, std::shared_ptr<Conversation>> conversations_;
};

Status serve() {
  const std::unique_ptr<EventLoop> loop = GRANARY_TRY(EventLoop::create());
  FakeVmm vmm(*loop, GRANARY_TRY(StatusFile::map(vmm_fds::kStatusPage, true)));
  return vmm.run();
}

}  // namespace
}  // namespace granary

int main() { return granary::serve() ? 0 : 1; }
