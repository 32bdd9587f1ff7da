// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/server_fixture.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "vmpool/guest/init/server.h"

namespace granary::guest {
namespace {

// Far more than anything takes: only a hang gets here.
constexpr int kPatienceMs = 60'000;

#if defined(__has_feature)
#define GRANARY_HAS_FEATURE(name) __has_feature(name)
#else
#define GRANARY_HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || GRANARY_HAS_FEATURE(address_sanitizer) || \
    GRANARY_HAS_FEATURE(thread_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

[[noreturn]] void serve(Fd listener, const std::string& fail, const std::function<ContainerPaths()>& prepare) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  ::signal(SIGPIPE, SIG_IGN);
  DrySystem system(fail);
  const Result<std::unique_ptr<EventLoop>> loop = EventLoop::create();
  if (!loop) ::_exit(1);
  const Result<std::unique_ptr<Server>> server = Server::create(**loop, system, std::move(listener), prepare());
  if (server) (void)(*loop)->run();
  ::_exit(1);
}

}  // namespace

v1::Request probe_request(uint64_t nonce) {
  v1::Request request;
  request.mutable_probe()->set_nonce(nonce);
  return request;
}

v1::Request identity_request() {
  v1::Request request;
  v1::Identity& identity = *request.mutable_identity();
  identity.set_clone_uuid("0123456789abcdef");
  identity.set_entropy(std::string(32, 'e'));
  identity.set_realtime_ns(1'700'000'000'000'000'000);
  identity.set_hostname("clone-1");
  identity.set_machine_id(std::string("\x01\x23\x45\x67\x89\xab\xcd\xef", 8) + "ABCDEFGH");
  return request;
}

v1::Request exec_request(std::vector<std::string> argv) {
  v1::Request request;
  v1::Exec& exec = *request.mutable_exec();
  for (std::string& argument : argv) exec.add_argv(std::move(argument));
  exec.add_env("PATH=/usr/bin:/bin");
  exec.set_uid(::getuid());
  exec.set_gid(::getgid());
  return request;
}

void Conversation::send(const v1::Request& request) {
  const Status sent = send_message(socket_.get(), request);
  ASSERT_TRUE(sent) << sent.error().message();
}

void Conversation::send_input(std::string data) {
  v1::Request request;
  request.set_stdin_data(std::move(data));
  send(request);
}

void Conversation::close_input() {
  v1::Request request;
  request.set_close_stdin(true);
  send(request);
}

void Conversation::send_signal(int number) {
  v1::Request request;
  request.set_signal(number);
  send(request);
}

v1::Reply Conversation::receive() {
  v1::Reply reply;
  const Status received = receive_message(socket_.get(), reader_, reply, kPatienceMs);
  if (!received) {
    ADD_FAILURE() << received.error().message();
    reply.mutable_failure()->set_message("the test's connection: " + received.error().message());
  }
  return reply;
}

v1::Reply Conversation::ask(const v1::Request& request) {
  send(request);
  return receive();
}

void Conversation::take(const v1::Reply& reply) {
  switch (reply.kind_case()) {
    case v1::Reply::kStarted:
      outcome_.pid = reply.started().pid();
      break;
    case v1::Reply::kStdoutData:
      EXPECT_LE(reply.stdout_data().size(), kDataChunkBytes);
      outcome_.out += reply.stdout_data();
      break;
    case v1::Reply::kStderrData:
      outcome_.err += reply.stderr_data();
      break;
    case v1::Reply::kExited:
      outcome_.exited = reply.exited();
      break;
    case v1::Reply::kContainerCreated:
      outcome_.pid = reply.container_created().pid();
      break;
    case v1::Reply::kOutOfMemory:
      EXPECT_FALSE(outcome_.out_of_memory) << "told twice";
      outcome_.out_of_memory = true;
      break;
    case v1::Reply::kFailure:
      outcome_.failure = reply.failure();
      break;
    default:
      ADD_FAILURE() << "unexpected reply " << reply.kind_case();
  }
}

Conversation::Outcome Conversation::finish() {
  while (!outcome_.exited && !outcome_.failure) take(receive());
  return outcome_;
}

void Conversation::expect_output(const std::string& text) {
  while (outcome_.out.find(text) == std::string::npos) {
    take(receive());
    ASSERT_FALSE(outcome_.exited || outcome_.failure) << "ended without \"" << text << "\": " << outcome_.out;
  }
}

bool Conversation::at_end() {
  v1::Reply reply;
  const Status received = receive_message(socket_.get(), reader_, reply, kPatienceMs);
  return !received && received.error().is(Errc::kPeerGone);
}

Result<Fd> connect_when_there(const std::string& path, pid_t server) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  for (;;) {
    Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return socket;
    const Error error = Error::last_os_error("connect to " + path);
    siginfo_t ended{};
    const bool gone =
        ::waitid(P_PID, static_cast<id_t>(server), &ended, WEXITED | WNOHANG | WNOWAIT) != 0 || ended.si_pid != 0;
    if (gone || !(error.is_errno(ENOENT) || error.is_errno(ECONNREFUSED))) return error;
    ::sched_yield();
  }
}

ProcessEnd::ProcessEnd(pid_t pid) : pidfd_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))) {
  EXPECT_TRUE(pidfd_.valid()) << "process " << pid << " is gone already";
}

bool ProcessEnd::await() const {
  pollfd entry{pidfd_.get(), POLLIN, 0};
  return ::poll(&entry, 1, kPatienceMs) == 1;
}

void ServerTest::SetUp() {
  std::string name = testing::TempDir() + "guest.XXXXXX";
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  folder_ = name;
  Result<Fd> listener = listen_unix(folder_ + "/socket");
  ASSERT_TRUE(listener) << listener.error().message();
  server_ = ::fork();
  ASSERT_GE(server_, 0);
  if (server_ == 0) serve(std::move(*listener), fail_, [this] { return prepare_server(); });
}

void ServerTest::end_server() {
  if (server_ <= 0) return;
  EXPECT_EQ(::waitpid(server_, nullptr, WNOHANG), 0) << "the server has died";
  ::kill(server_, SIGKILL);
  ::waitpid(std::exchange(server_, 0), nullptr, 0);
}

void ServerTest::TearDown() {
  end_server();
  std::error_code code;
  std::filesystem::remove_all(folder_, code);
}

Conversation ServerTest::connect() {
  Result<Fd> socket = connect_when_there(folder_ + "/socket", server_);
  EXPECT_TRUE(socket);
  return Conversation(socket ? std::move(*socket) : Fd());
}

void ServerTest::identify() {
  Conversation conversation = connect();
  ASSERT_TRUE(conversation.ask(identity_request()).has_identity_applied());
}

Conversation::Outcome ServerTest::run(const v1::Request& exec) {
  Conversation conversation = connect();
  conversation.send(exec);
  return conversation.finish();
}

Conversation::Outcome ServerTest::shell(const std::string& script) { return run(exec_request({"sh", "-c", script})); }

long ServerTest::peak_rss_kib() const {
  if (kSanitized) return 0;
  std::ifstream status("/proc/" + std::to_string(server_) + "/status");
  for (std::string word; status >> word;) {
    long kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib;
  }
  return -1;
}

}  // namespace granary::guest
