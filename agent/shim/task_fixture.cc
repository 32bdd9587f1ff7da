// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/task_fixture.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "granary/v1/attach.pb.h"

namespace granary::shim {
namespace {

constexpr const char* kSpec = R"({"ociVersion":"1.2.0","process":{"args":["sh"],"cwd":"/"},"linux":{}})";

}  // namespace

FakeGuest::FakeGuest(EventLoop& loop, const std::string& path)
    : loop_(loop), path_(path), listener_(*ttrpc::listen_unix(path)) {
  token_ = *loop_.add(listener_.get(), EPOLLIN, [this](uint32_t) { accept_one(); });
}

FakeGuest::~FakeGuest() { die(); }

void FakeGuest::die() {
  loop_.remove(token_);
  listener_.reset();
  ::unlink(path_.c_str());
  for (const auto& peer : peers_) loop_.remove(peer->token);
  peers_.clear();
}

void FakeGuest::accept_one() {
  auto peer = std::make_unique<Peer>();
  peer->socket = Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  listen_to(*peer);
  peers_.push_back(std::move(peer));
}

void FakeGuest::listen_to(Peer& peer) {
  peer.token = *loop_.add(peer.socket.get(), EPOLLIN, [this, &peer](uint32_t) { on_readable(peer); });
}

void FakeGuest::on_readable(Peer& peer) {
  if (!peer.greeted) {
    char line[64];
    if (::read(peer.socket.get(), line, sizeof(line)) <= 0 || !greets) return loop_.remove(peer.token);
    EXPECT_EQ(::write(peer.socket.get(), "OK 7\n", 5), 5);
    peer.greeted = true;
    return;
  }
  const auto read = peer.reader.read_from(peer.socket.get());
  if (!read || *read == guest::FrameReader::Read::kEnd) {
    loop_.remove(peer.token);
    std::erase_if(peers_, [&peer](const auto& other) { return other.get() == &peer; });
    return;
  }
  guest::v1::Request request;
  while (*peer.reader.next(request)) {
    requests.push_back(request);
    if (!on_request(peer, request)) serve(peer, request);
  }
}

void FakeGuest::serve(Peer& peer, const guest::v1::Request& request) {
  guest::v1::Reply answer;
  switch (request.kind_case()) {
    case guest::v1::Request::kContainerCreate:
      peer.container = request.container_create().container_id();
      answer.mutable_container_created()->set_pid(7);
      return reply(peer, answer);
    case guest::v1::Request::kExec:
      peer.container = request.exec().container_id();
      peer.is_exec = true;
      [[fallthrough]];
    case guest::v1::Request::kContainerStart:
      answer.mutable_started()->set_pid(7);
      return reply(peer, answer);
    case guest::v1::Request::kStdinData:
      peer.input += request.stdin_data();
      return;
    case guest::v1::Request::kCloseStdin:
      peer.input_closed = true;
      return;
    case guest::v1::Request::kContainerQuery:
      answer.mutable_container_state()->set_memory_bytes(4096);
      return reply(peer, answer);
    case guest::v1::Request::kSignal:
    case guest::v1::Request::kWindowSize:
      return;
    default:
      answer.mutable_done();
      return reply(peer, answer);
  }
}

void FakeGuest::reply(Peer& peer, const guest::v1::Reply& reply) {
  const std::string frame = *guest::encode_frame(reply);
  ASSERT_EQ(::send(peer.socket.get(), frame.data(), frame.size(), MSG_NOSIGNAL), static_cast<ssize_t>(frame.size()));
}

void FakeGuest::fail(Peer& peer, guest::v1::Failure::Kind kind, const std::string& message) {
  guest::v1::Reply answer;
  answer.mutable_failure()->set_kind(kind);
  answer.mutable_failure()->set_message(message);
  reply(peer, answer);
}

void FakeGuest::output(Peer& peer, const std::string& bytes) {
  guest::v1::Reply answer;
  answer.set_stdout_data(bytes);
  reply(peer, answer);
}

FakeGuest::Peer* FakeGuest::conversation(const std::string& container, bool exec) {
  for (auto at = peers_.rbegin(); at != peers_.rend(); ++at) {
    if ((*at)->container == container && (*at)->is_exec == exec) return at->get();
  }
  return nullptr;
}

void FakeGuest::exit(const std::string& container, int32_t status, bool exec) {
  Peer* peer = conversation(container, exec);
  ASSERT_NE(peer, nullptr);
  guest::v1::Reply answer;
  answer.mutable_exited()->set_status(status);
  reply(*peer, answer);
}

TaskTest::TaskTest() {
  std::ofstream(directory_ + "/config.json") << kSpec;
  std::ofstream(directory_ + "/image") << std::string(4096, 'x');
  guest_ = std::make_unique<FakeGuest>(*loop_, directory_ + "/guest");
  agent_ = *ttrpc::Server::create(*loop_, *ttrpc::listen_unix(directory_ + "/agent"),
                                  [this](const ttrpc::Call& call, const ttrpc::Answer& answer) {
                                    if (call.method == "Detach") {
                                      v1::DetachRequest request;
                                      EXPECT_TRUE(request.ParseFromString(call.payload));
                                      detached_.push_back(request.disk());
                                      return answer(std::string());
                                    }
                                    EXPECT_TRUE(call.take_fd().valid());
                                    if (attach_fails_) return answer(*attach_fails_);
                                    v1::AttachResponse response;
                                    response.set_disk(static_cast<uint32_t>(attached_.size()));
                                    attached_.push_back(response.disk());
                                    answer(response.SerializeAsString());
                                  });
  containerd_ = *ttrpc::Server::create(*loop_, *ttrpc::listen_unix(directory_ + "/containerd"),
                                       [this](const ttrpc::Call& call, const ttrpc::Answer& answer) {
                                         containerd::events::ForwardRequest request;
                                         EXPECT_TRUE(request.ParseFromString(call.payload));
                                         events_.push_back(request.envelope());
                                         answer(std::string());
                                       });
  service_ = std::make_unique<TaskService>(*loop_, Pod{.sandbox_id = "s1",
                                                       .clone_id = "clone",
                                                       .guest_socket = directory_ + "/guest",
                                                       .agent_socket = directory_ + "/agent",
                                                       .events_socket = directory_ + "/containerd"});
  service_->open();
}

TaskTest::~TaskTest() { settle(); }

Result<std::string> TaskTest::call_raw(const std::string& method, const std::string& payload,
                                       const std::string& version) {
  std::optional<Result<std::string>> result;
  service_->handle({.service = "containerd.task." + version + ".Task",
                    .method = method,
                    .payload = payload,
                    .metadata = {{"containerd-namespace-ttrpc", "k8s.io"}},
                    .take_fd = [] { return Fd(); }},
                   [&result](Result<std::string> answer) { result.emplace(std::move(answer)); });
  EXPECT_TRUE(run_until([&] { return result.has_value(); })) << method;
  return result ? *result : Error(Errc::kDeadlineExceeded, method);
}

containerd::task::v3::CreateTaskRequest TaskTest::create_request(const std::string& id) {
  containerd::task::v3::CreateTaskRequest request;
  request.set_id(id);
  request.set_bundle(directory_);
  auto& mount = *request.add_rootfs();
  mount.set_type("ext4");
  mount.set_source(directory_ + "/image");
  mount.add_options("rw");
  mount.add_options("loop");
  return request;
}

void TaskTest::create_and_start(const std::string& id) {
  const auto created = call("Create", create_request(id));
  ASSERT_TRUE(created) << created.error().message();
  ASSERT_TRUE(ask<containerd::task::v3::StartRequest>("Start", id));
}

Result<std::string> TaskTest::exec(const std::string& id, const std::string& exec_id) {
  containerd::task::v3::ExecProcessRequest request;
  request.set_id(id);
  request.set_exec_id(exec_id);
  request.mutable_spec()->set_value(R"({"args":["true"],"cwd":"/"})");
  return call("Exec", request);
}

std::string TaskTest::make_fifo(const std::string& name) {
  const std::string path = directory_ + "/" + name;
  EXPECT_EQ(::mkfifo(path.c_str(), 0600), 0);
  return path;
}

std::vector<std::string> TaskTest::topics() const {
  std::vector<std::string> all;
  for (const auto& event : events_) all.push_back(event.topic());
  return all;
}

}  // namespace granary::shim
