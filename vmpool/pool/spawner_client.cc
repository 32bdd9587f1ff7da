// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/spawner_client.h"

#include <poll.h>
#include <sys/socket.h>

#include "vmpool/pool/unix_socket.h"

namespace granary::pool {
namespace {

using control::Type;

// Of requests nobody waits for.
constexpr uint32_t kNobodyWaits = UINT32_MAX;

}  // namespace

Result<std::unique_ptr<SpawnerClient>> SpawnerClient::connect(const std::string& control_socket,
                                                              std::string run_directory,
                                                              std::chrono::milliseconds timeout) {
  Fd socket = GRANARY_TRY(connect_unix(control_socket, SOCK_SEQPACKET, SteadyClock::now() + timeout));
  EventFd stop = GRANARY_TRY(EventFd::create());
  std::unique_ptr<SpawnerClient> client(
      new SpawnerClient(std::move(socket), std::move(stop), std::move(run_directory), timeout));
  GRANARY_TRY(client->say_hello());
  return client;
}

SpawnerClient::SpawnerClient(Fd socket, EventFd stop, std::string run_directory, std::chrono::milliseconds timeout)
    : socket_(std::make_shared<const Fd>(std::move(socket))), stop_(std::move(stop)), run_directory_(std::move(run_directory)), timeout_(timeout) {
  reader_ = std::thread([this, socket = socket_] { read_all(*socket); });
}

SpawnerClient::~SpawnerClient() {
  stop_.signal();
  reader_.join();
}

Status SpawnerClient::reconnect(const std::string& control_socket) {
  Fd socket = GRANARY_TRY(connect_unix(control_socket, SOCK_SEQPACKET, SteadyClock::now() + timeout_));
  reader_.join();  // its connection is lost, so it ends
  const auto shared = std::make_shared<const Fd>(std::move(socket));
  {
    const std::lock_guard lock(mutex_);
    socket_ = shared;
    late_spawns_.clear();
    ++epoch_;
    connected_ = true;
  }
  reader_ = std::thread([this, shared] { read_all(*shared); });
  Status greeted = say_hello();
  if (!greeted) {
    // Lost like any other connection, so that the reader ends and the next attempt can join it.
    connected_ = false;
    ::shutdown(shared->get(), SHUT_RDWR);
  }
  return greeted;
}

Status SpawnerClient::say_hello() {
  const control::Message answer = GRANARY_TRY(ask(Type::kHello, control::Hello{.peer_version = control::kVersion}));
  const auto hello = GRANARY_TRY(answer.as_answer<control::HelloReply>(Type::kHello));
  const std::lock_guard lock(mutex_);
  hello_ = hello;
  return ok();
}

control::HelloReply SpawnerClient::hello() {
  const std::lock_guard lock(mutex_);
  return hello_;
}

Result<SpawnedVm> SpawnerClient::spawn(int cgroup, uint32_t flags) {
  const std::span<const int> fds(&cgroup, cgroup >= 0 ? 1 : 0);
  return take_vm(GRANARY_TRY(ask(Type::kSpawn, control::Spawn{.flags = flags, .reserved = 0}, fds)), Type::kSpawn);
}

Status SpawnerClient::take(const SpawnedVm& vm, int control) {
  const int fds[] = {control, vm.status.get(), vm.pidfd.get()};
  const control::Message answer =
      GRANARY_TRY(ask(Type::kTakeVm, control::TakeVm{.vm_id = vm.vm.value, .pid = vm.pid, .reserved = 0}, fds));
  GRANARY_TRY(answer.as_answer<control::Empty>(Type::kDone));
  return ok();
}

Result<SpawnedVm> SpawnerClient::adopt(VmId vm) {
  return take_vm(GRANARY_TRY(ask(Type::kAdopt, control::VmRef{vm.value})), Type::kAdopt);
}

Result<SpawnedVm> SpawnerClient::take_vm(control::Message answer, Type type) {
  const auto body = GRANARY_TRY(answer.as_answer<control::Spawned>(type, 3));
  std::string path = GRANARY_TRY(path_in_run_directory(control::text_of(body.socket_name)));
  return SpawnedVm{VmId{body.vm_id},
                   body.pid,
                   std::move(path),
                   std::move(answer.fds[0]),
                   std::move(answer.fds[1]),
                   std::move(answer.fds[2])};
}

Result<std::string> SpawnerClient::path_in_run_directory(const std::string& name) const {
  if (!name.empty() && name.find('/') == std::string::npos) return run_directory_ + "/" + name;
  return Error(Errc::kProtocolMalformed, "the spawner named a per-clone socket \"" + name + "\"");
}

Result<SpawnedFsd> SpawnerClient::spawn_fsd(VmId vm) {
  control::Message answer = GRANARY_TRY(ask(Type::kSpawnFsd, control::VmRef{vm.value}));
  const auto body = GRANARY_TRY(answer.as_answer<control::FsdSpawned>(Type::kSpawnFsd, 3));
  std::string path = GRANARY_TRY(path_in_run_directory(control::text_of(body.socket_name)));
  return SpawnedFsd{body.pid, std::move(path), std::move(answer.fds[0]), std::move(answer.fds[1]),
                    std::move(answer.fds[2])};
}

Status SpawnerClient::kill(VmId vm) {
  const control::Message answer = GRANARY_TRY(ask(Type::kKill, control::VmRef{vm.value}));
  GRANARY_TRY(answer.as_answer<control::Empty>(Type::kDone));
  return ok();
}

template <class Body>
Result<control::VmList> SpawnerClient::ask_for_list(Type type, const Body& body) {
  const control::Message answer = GRANARY_TRY(ask(type, body));
  const auto list = GRANARY_TRY(answer.as_answer<control::VmList>(type));
  if (list.count > list.vms.size()) {
    return Error(Errc::kProtocolMalformed, "the spawner listed " + std::to_string(list.count) + " VMs in one message");
  }
  return list;
}

Result<std::vector<control::VmRecord>> SpawnerClient::list() {
  control::VmList list = GRANARY_TRY(ask_for_list(Type::kListVms, control::Empty{}));
  if (list.more == 0) return std::vector<control::VmRecord>(list.vms.begin(), list.vms.begin() + list.count);
  std::vector<control::VmRecord> all;
  uint64_t last = 0;
  for (list.more = 1; list.more != 0;) {
    list = GRANARY_TRY(ask_for_list(Type::kListVmsAfter, control::VmRef{last}));
    for (uint32_t i = 0; i < list.count; ++i) {
      // Or it would never come to an end.
      if (list.vms[i].vm_id <= last) return Error(Errc::kProtocolMalformed, "the spawner listed its VMs in no order");
      last = list.vms[i].vm_id;
      all.push_back(list.vms[i]);
    }
    if (list.count == 0 && list.more != 0) return Error(Errc::kProtocolMalformed, "the spawner listed nothing, and more");
  }
  return all;
}

Status SpawnerClient::forget(VmId vm) {
  const control::Message answer = GRANARY_TRY(ask(Type::kForget, control::VmRef{vm.value}));
  GRANARY_TRY(answer.as_answer<control::Empty>(Type::kDone));
  return ok();
}

Result<SpawnedShim> SpawnerClient::start_shim(const ShimWish& wish) {
  control::StartForwardingShim body{};
  control::StartShim& start = body.start;
  if (wish.agent_socket.size() >= sizeof(start.agent_socket) || wish.events_socket.size() >= sizeof(start.events_socket)) {
    return Error(Errc::kInvalidArgument, "a socket path of a shim is longer than 107 bytes");
  }
  if (wish.netns.size() >= sizeof(body.netns)) {
    return Error(Errc::kInvalidArgument, "the path of a pod's network namespace is longer than 255 bytes");
  }
  control::set_text(start.shim.sandbox_id, wish.sandbox_id);
  control::set_text(start.clone_id, wish.clone_id);
  control::set_text(start.agent_socket, wish.agent_socket);
  control::set_text(start.events_socket, wish.events_socket);
  control::set_text(body.netns, wish.netns);
  start.vm_id = wish.vm.value;
  const int fds[] = {wish.listener};
  if (!wish.netns.empty()) {
    control::Message answer = GRANARY_TRY(ask(Type::kStartForwardingShim, body, fds));
    auto started = shim_of(std::move(answer), Type::kStartForwardingShim);
    // A spawner of an older version does not know the request: its pods run without port-forward.
    if (started || !started.error().is(Errc::kProtocolMalformed)) return started;
  }
  return shim_of(GRANARY_TRY(ask(Type::kStartShim, start, fds)), Type::kStartShim);
}

Result<SpawnedShim> SpawnerClient::shim_of(control::Message answer, Type type) {
  const auto record = GRANARY_TRY(answer.as_answer<control::ShimRecord>(type, 1));
  return SpawnedShim{control::text_of(record.shim.sandbox_id), record.pid, std::move(answer.fds[0])};
}

Result<SpawnedShim> SpawnerClient::find_shim(const std::string& sandbox_id) {
  control::ShimRef ref{};
  control::set_text(ref.sandbox_id, sandbox_id);
  return shim_of(GRANARY_TRY(ask(Type::kFindShim, ref)), Type::kFindShim);
}

Status SpawnerClient::stop_shim(const std::string& sandbox_id) {
  control::ShimRef ref{};
  control::set_text(ref.sandbox_id, sandbox_id);
  const control::Message answer = GRANARY_TRY(ask(Type::kStopShim, ref));
  GRANARY_TRY(answer.as_answer<control::Empty>(Type::kDone));
  return ok();
}

Status SpawnerClient::take_shim(const SpawnedShim& shim) {
  control::ShimRecord record{.shim = {}, .pid = shim.pid};
  control::set_text(record.shim.sandbox_id, shim.sandbox_id);
  const int fds[] = {shim.pidfd.get()};
  const control::Message answer = GRANARY_TRY(ask(Type::kTakeShim, record, fds));
  GRANARY_TRY(answer.as_answer<control::Empty>(Type::kDone));
  return ok();
}

Result<std::vector<control::ShimRecord>> SpawnerClient::list_shims() {
  control::Message answer = GRANARY_TRY(ask(Type::kListShims, control::Empty{}));
  auto list = GRANARY_TRY(answer.as_answer<control::ShimList>(Type::kListShims));
  std::vector<control::ShimRecord> all;
  std::string last;
  for (;;) {
    if (list.count > list.shims.size()) {
      return Error(Errc::kProtocolMalformed, "the spawner listed " + std::to_string(list.count) + " shims in one message");
    }
    for (uint32_t i = 0; i < list.count; ++i) {
      const std::string id = control::text_of(list.shims[i].shim.sandbox_id);
      // Or it would never come to an end.
      if (id <= last) return Error(Errc::kProtocolMalformed, "the spawner listed its shims in no order");
      last = id;
      all.push_back(list.shims[i]);
    }
    if (list.more == 0) return all;
    if (list.count == 0) return Error(Errc::kProtocolMalformed, "the spawner listed nothing, and more");
    control::ShimRef ref{};
    control::set_text(ref.sandbox_id, last);
    answer = GRANARY_TRY(ask(Type::kListShimsAfter, ref));
    list = GRANARY_TRY(answer.as_answer<control::ShimList>(Type::kListShimsAfter));
  }
}

Status SpawnerClient::put_template(const Template& content) {
  control::TemplateRef ref{};
  control::set_text(ref.key, content.key);
  const int fds[] = {content.state.get(), content.memory.get()};
  const control::Message answer = GRANARY_TRY(ask(Type::kPutTemplate, ref, fds));
  GRANARY_TRY(answer.as_answer<control::Empty>(Type::kDone));
  return ok();
}

Result<Template> SpawnerClient::get_template(const std::string& key) {
  control::TemplateRef ref{};
  control::set_text(ref.key, key);
  control::Message answer = GRANARY_TRY(ask(Type::kGetTemplate, ref));
  GRANARY_TRY(answer.as_answer<control::Empty>(Type::kDone, 2));
  return Template{key, std::move(answer.fds[0]), std::move(answer.fds[1])};
}

Status SpawnerClient::drop_template(const std::string& key) {
  control::TemplateRef ref{};
  control::set_text(ref.key, key);
  const control::Message answer = GRANARY_TRY(ask(Type::kDropTemplate, ref));
  GRANARY_TRY(answer.as_answer<control::Empty>(Type::kDone));
  return ok();
}

uint64_t SpawnerClient::add_exit_handler(ExitHandler handler) {
  const std::lock_guard lock(handlers_mutex_);
  handlers_.emplace(next_handler_, std::move(handler));
  return next_handler_++;
}

void SpawnerClient::remove_exit_handler(uint64_t number) {
  const std::lock_guard lock(handlers_mutex_);
  handlers_.erase(number);
}

Result<control::Message> SpawnerClient::ask_bytes(Type type, std::span<const std::byte> body,
                                                  std::span<const int> fds) {
  const SteadyTime deadline = SteadyClock::now() + timeout_;
  Pending mine;
  std::unique_lock lock(mutex_);
  if (!connected_) return Error(Errc::kPeerGone, "granary-spawn");
  const uint32_t request = next_request_++;
  if (next_request_ == kNobodyWaits) next_request_ = 1;
  pending_.emplace(request, &mine);
  const std::shared_ptr<const Fd> socket = socket_;
  lock.unlock();
  Status sent = control::send_bytes(socket->get(), type, request, body, fds);
  while (!sent && sent.error().is_errno(EAGAIN)) {
    const Result<bool> ready = wait_ready(socket->get(), POLLOUT, deadline);
    if (!ready || !*ready) break;
    sent = control::send_bytes(socket->get(), type, request, body, fds);
  }
  lock.lock();
  if (sent) answered_.wait_until(lock, deadline, [&] { return mine.answered; });
  pending_.erase(request);
  if (mine.answered) return std::move(*mine.answer);
  if (!sent) {
    if (sent.error().is(Errc::kPeerGone) && socket == socket_) connected_ = false;  // the reading thread may not have seen the end yet
    return std::move(sent).error();
  }
  if (type == Type::kSpawn) late_spawns_.insert(request);
  return Error(Errc::kDeadlineExceeded, "granary-spawn did not answer request type " +
                                            std::to_string(static_cast<int>(type)) + " within " +
                                            std::to_string(timeout_.count()) + " ms");
}

void SpawnerClient::read_all(const Fd& socket) {
  for (;;) {
    pollfd wait[2] = {{.fd = socket.get(), .events = POLLIN, .revents = 0},
                      {.fd = stop_.get(), .events = POLLIN, .revents = 0}};
    if (::poll(wait, 2, -1) < 0) continue;
    if (wait[1].revents != 0) return;
    Result<control::Message> message = control::receive(socket.get(), 0);
    if (message) {
      dispatch(std::move(*message));
    } else if (!message.error().is(Errc::kDeadlineExceeded)) {
      // Garbage ends the connection as well: a spawner that sends it cannot be relied on.
      fail_all(message.error());
      lost_();
      return;
    }
  }
}

void SpawnerClient::dispatch(control::Message message) {
  if (message.type == Type::kExited) return dispatch_exit(message);
  if (message.type == Type::kShimExited) return dispatch_shim_exit(message);
  const std::lock_guard lock(mutex_);
  if (message.type == Type::kError && message.request == 0) {
    // The spawner could not read one of our headers, so it cannot say whose answer this is.
    for (const auto& [request, pending] : pending_) {
      const Result<control::Empty> why = message.as_answer<control::Empty>(Type::kDone);
      pending->answer.emplace(why.error());
      pending->answered = true;
    }
  } else if (const auto found = pending_.find(message.request); found != pending_.end()) {
    found->second->answer.emplace(std::move(message));
    found->second->answered = true;
    pending_.erase(found);
  } else if (late_spawns_.erase(message.request) > 0) {
    end_late_spawn(message);
  }
  answered_.notify_all();
}

void SpawnerClient::end_late_spawn(const control::Message& message) const {
  const Result<control::Spawned> body = message.as_answer<control::Spawned>(Type::kSpawn, 3);
  if (body) (void)control::send(socket_->get(), Type::kKill, kNobodyWaits, control::VmRef{body->vm_id});
}

void SpawnerClient::dispatch_exit(const control::Message& message) {
  const Result<control::VmRecord> record = message.as<control::VmRecord>();
  if (!record) return;
  const std::lock_guard lock(handlers_mutex_);
  for (const auto& [number, handler] : handlers_) handler(*record);
}

void SpawnerClient::on_shim_exit(ShimExitHandler handler) {
  const std::lock_guard lock(handlers_mutex_);
  shim_handler_ = std::move(handler);
}

void SpawnerClient::dispatch_shim_exit(const control::Message& message) {
  const Result<control::ShimRecord> record = message.as<control::ShimRecord>();
  const std::lock_guard lock(handlers_mutex_);
  if (record && shim_handler_) shim_handler_(*record);
}

void SpawnerClient::fail_all(const Error& error) {
  const std::lock_guard lock(mutex_);
  connected_ = false;
  for (const auto& [request, pending] : pending_) {
    pending->answer.emplace(Error(error.code(), "granary-spawn: " + error.context()));
    pending->answered = true;
  }
  pending_.clear();
  answered_.notify_all();
}

}  // namespace granary::pool
