// SPDX-License-Identifier: Apache-2.0
#include "vmpool/spawn/spawner.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmpool/base/build_id.h"
#include "vmpool/base/fault.h"
#include "vmpool/base/log.h"
#include "vmpool/spawn/control_listener.h"

namespace granary::spawn {

using control::Type;

Result<std::unique_ptr<Spawner>> Spawner::create(EventLoop& loop, const SpawnerOptions& options) {
  RunDirectory run = GRANARY_TRY(RunDirectory::open(options.run_directory));
  std::unique_ptr<Spawner> spawner(new Spawner(loop, options.control_socket, std::move(run)));
  GRANARY_TRY(spawner->open(options));
  return spawner;
}

Spawner::Spawner(EventLoop& loop, std::string socket_path, RunDirectory run)
    : loop_(loop), socket_path_(std::move(socket_path)), run_(std::move(run)) {}

Spawner::~Spawner() {
  loop_.remove(listener_token_);
  if (listener_.valid()) ::unlink(socket_path_.c_str());
}

Status Spawner::open(const SpawnerOptions& options) {
  transient_ = options.transient;
  run_path_ = options.run_directory;
  vmm_build_id_ = GRANARY_TRY(read_build_id(options.vmm));
  VmmFiles files;
  files.executable = GRANARY_TRY(open_file(options.vmm, O_PATH));
  if (!options.fsd.empty()) files.fsd = GRANARY_TRY(open_file(options.fsd, O_PATH));
  files.kvm = GRANARY_TRY(open_file(options.kvm, O_RDWR));
  files.null = GRANARY_TRY(open_file("/dev/null", O_RDWR));
  files.jail = GRANARY_TRY(JailNamespaces::create());
  uint32_t first_uid = 0;
  if (::getrandom(&first_uid, sizeof(first_uid), 0) != sizeof(first_uid)) return Error::last_os_error("getrandom");
  UidSlots uids = GRANARY_TRY(UidSlots::create(options.uids, first_uid));
  reserve_ = GRANARY_TRY(open_file("/dev/null", O_RDONLY));
  const VmId last_used = GRANARY_TRY(run_.remove_stale());
  vms_ = std::make_unique<VmTable>(loop_, std::move(files), std::move(uids), run_, last_used,
                                   [this](const control::VmRecord& record) { on_ended(record); });
  Fd shim;
  if (!options.shim.empty()) shim = GRANARY_TRY(open_file(options.shim, O_PATH));
  shims_ = std::make_unique<ShimTable>(loop_, std::move(shim),
                                       [this](const control::ShimRecord& record) { on_shim_ended(record); });
  listener_ = GRANARY_TRY(listen_control(socket_path_));
  listener_token_ = GRANARY_TRY(loop_.add(listener_.get(), EPOLLIN, [this](uint32_t) { accept_one(); }));
  return ok();
}

void Spawner::accept_one() {
  Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (socket.valid()) return add_peer(std::move(socket));
  if (errno == EMFILE || errno == ENFILE) shed_one_connection();
}

// Without this the level-triggered listener would spin until a descriptor becomes free.
void Spawner::shed_one_connection() {
  log_line(LogLevel::kError, "out of file descriptors: a client was turned away; raise the limit");
  reserve_.reset();
  Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)).reset();
  reserve_ = Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

void Spawner::add_peer(Fd socket) {
  if (!peer_allowed(socket)) {
    log_line(LogLevel::kWarn, "turned away a client of another user");
    return;
  }
  const uint64_t number = next_peer_++;
  Peer::Handlers handlers{
      .message = [this](Peer& peer, control::Message message) { on_message(peer, std::move(message)); },
      // Later: the peer is in one of its own methods now.
      .gone = [this](Peer& peer) { loop_.post([this, gone = peer.number()] {
          peers_.erase(gone);
          end_if_unused();
        }); }};
  auto peer = std::make_unique<Peer>(loop_, number, std::move(socket), std::move(handlers));
  if (const Status watched = peer->watch(); !watched) {
    log_line(LogLevel::kError, "watch a client: %s", watched.error().message().c_str());
    return;
  }
  peers_.emplace(number, std::move(peer));
}

void Spawner::on_message(Peer& peer, control::Message message) {
  if (const Status done = dispatch(peer, message); !done) peer.send_error(message.request, done.error());
}

Status Spawner::dispatch(Peer& peer, control::Message& message) {
  switch (message.type) {
    case Type::kHello:
      return hello(peer, message);
    case Type::kSpawn:
      return spawn(peer, message);
    case Type::kSpawnFsd:
      return spawn_fsd(peer, message);
    case Type::kKill:
      return kill(peer, message);
    case Type::kAdopt:
      return adopt(peer, message);
    case Type::kTakeVm:
      return take(peer, message);
    case Type::kPutTemplate:
      return put_template(peer, message);
    case Type::kGetTemplate:
      return get_template(peer, message);
    case Type::kStartShim:
      return start_shim(peer, message, GRANARY_TRY(message.as<control::StartShim>(1)), "");
    case Type::kStartForwardingShim: {
      const auto body = GRANARY_TRY(message.as<control::StartForwardingShim>(1));
      return start_shim(peer, message, body.start, control::text_of(body.netns));
    }
    case Type::kStopShim:
      return stop_shim(peer, message);
    case Type::kFindShim:
      return find_shim(peer, message);
    case Type::kTakeShim:
      return take_shim(peer, message);
    case Type::kListShims: {
      GRANARY_TRY(message.as<control::Empty>());
      peer.send(Type::kListShims, message.request, shims_->list_after(""));
      return ok();
    }
    case Type::kListShimsAfter: {
      const auto ref = GRANARY_TRY(message.as<control::ShimRef>());
      peer.send(Type::kListShimsAfter, message.request, shims_->list_after(control::text_of(ref.sandbox_id)));
      return ok();
    }
    case Type::kListVms: {
      GRANARY_TRY(message.as<control::Empty>());
      peer.send(Type::kListVms, message.request, vms_->list());
      return ok();
    }
    case Type::kListVmsAfter: {
      const auto ref = GRANARY_TRY(message.as<control::VmRef>());
      peer.send(Type::kListVmsAfter, message.request, vms_->list_after(VmId{ref.vm_id}));
      return ok();
    }
    case Type::kForget: {
      const auto ref = GRANARY_TRY(message.as<control::VmRef>());
      GRANARY_TRY(vms_->forget(VmId{ref.vm_id}));
      peer.send_done(message.request);
      return ok();
    }
    case Type::kDropTemplate: {
      const auto ref = GRANARY_TRY(message.as<control::TemplateRef>());
      templates_.drop(control::text_of(ref.key));
      peer.send_done(message.request);
      return ok();
    }
    default:
      return Error(Errc::kProtocolMalformed, "control message type " + std::to_string(static_cast<int>(message.type)) +
                                                 " is no request to the spawner");
  }
}

Status Spawner::hello(Peer& peer, const control::Message& message) {
  const auto body = GRANARY_TRY(message.as<control::Hello>());
  if (body.peer_version != control::kVersion) {
    return Error(Errc::kProtocolVersion, "client speaks version " + std::to_string(body.peer_version) +
                                             ", this spawner " + std::to_string(control::kVersion));
  }
  had_agent_ = true;
  control::HelloReply reply{.version = control::kVersion,
                            .pid = ::getpid(),
                            .vms = vms_->live_count(),
                            .transient = transient_ ? 1U : 0U,
                            .reserved = 0,
                            .vmm_build_id = {}};
  control::set_text(reply.vmm_build_id, vmm_build_id_);
  peer.send(Type::kHello, message.request, reply);
  return ok();
}

Status Spawner::spawn(Peer& peer, const control::Message& message) {
  const auto body = GRANARY_TRY(message.as<control::Spawn>(message.fds.empty() ? 0 : 1));
  if ((body.flags & ~control::kSpawnCoreScheduling) != 0) {
    return Error(Errc::kProtocolMalformed, "spawn flags " + std::to_string(body.flags) + ": some are not defined");
  }
  if (finishing_) return Error(Errc::kShuttingDown, "spawn a VMM");
  const int cgroup = message.fds.empty() ? -1 : message.fds.front().get();
  const VmId vm = GRANARY_TRY(vms_->spawn(cgroup, (body.flags & control::kSpawnCoreScheduling) != 0));
  return send_vm(peer, message, vm);
}

Status Spawner::spawn_fsd(Peer& peer, const control::Message& message) {
  const auto ref = GRANARY_TRY(message.as<control::VmRef>(message.fds.empty() ? 0 : 1));
  if (finishing_) return Error(Errc::kShuttingDown, "start a file server");
  const int cgroup = message.fds.empty() ? -1 : message.fds.front().get();
  const NewFsd made = GRANARY_TRY(vms_->spawn_fsd(VmId{ref.vm_id}, cgroup));
  control::FsdSpawned body{.pid = made.pid, .reserved = 0, .socket_name = {}};
  control::set_text(body.socket_name, RunDirectory::fsd_socket_name(VmId{ref.vm_id}));
  const int fds[] = {made.fuse.get(), made.control.get(), made.pidfd.get()};
  peer.send(Type::kSpawnFsd, message.request, body, fds);
  return ok();
}

Status Spawner::adopt(Peer& peer, const control::Message& message) {
  const auto ref = GRANARY_TRY(message.as<control::VmRef>());
  return send_vm(peer, message, VmId{ref.vm_id});
}

Status Spawner::take(Peer& peer, control::Message& message) {
  const auto body = GRANARY_TRY(message.as<control::TakeVm>(3));
  Vm vm;
  vm.pid = body.pid;
  vm.control = std::move(message.fds[0]);
  vm.status = std::move(message.fds[1]);
  vm.pidfd = std::move(message.fds[2]);
  GRANARY_TRY(vms_->take(VmId{body.vm_id}, std::move(vm)));
  peer.send_done(message.request);
  return ok();
}

Status Spawner::send_vm(Peer& peer, const control::Message& question, VmId id) {
  const Vm* vm = GRANARY_TRY(vms_->live(id));
  control::Spawned body{.vm_id = id.value, .pid = vm->pid, .reserved = 0, .socket_name = {}};
  control::set_text(body.socket_name, RunDirectory::socket_name(id));
  const int fds[] = {vm->control.get(), vm->status.get(), vm->pidfd.get()};
  peer.send(question.type, question.request, body, fds);
  return ok();
}

Status Spawner::start_shim(Peer& peer, const control::Message& message, const control::StartShim& body,
                           const std::string& netns) {
  if (finishing_) return Error(Errc::kShuttingDown, "start a shim");
  const VmId vm{body.vm_id};
  GRANARY_TRY(vms_->live(vm));
  const ShimPlan plan{.sandbox_id = control::text_of(body.shim.sandbox_id),
                      .clone_id = control::text_of(body.clone_id),
                      .guest_socket = run_path_ + "/" + RunDirectory::socket_name(vm),
                      .agent_socket = control::text_of(body.agent_socket),
                      .events_socket = control::text_of(body.events_socket),
                      .netns = netns,
                      .listener = message.fds[0].get()};
  const ShimTable::Shim* shim = GRANARY_TRY(shims_->start(plan));
  const int pidfd = shim->pidfd.get();
  peer.send(message.type, message.request, shim_record(plan.sandbox_id, shim->pid), std::span(&pidfd, 1));
  return ok();
}

Status Spawner::find_shim(Peer& peer, const control::Message& message) {
  const std::string id = control::text_of(GRANARY_TRY(message.as<control::ShimRef>()).sandbox_id);
  const ShimTable::Shim* shim = GRANARY_TRY(shims_->find(id));
  const int pidfd = shim->pidfd.get();
  peer.send(Type::kFindShim, message.request, shim_record(id, shim->pid), std::span(&pidfd, 1));
  return ok();
}

Status Spawner::take_shim(Peer& peer, control::Message& message) {
  const auto record = GRANARY_TRY(message.as<control::ShimRecord>(1));
  GRANARY_TRY(shims_->take(control::text_of(record.shim.sandbox_id),
                           ShimTable::Shim{.pid = record.pid, .pidfd = std::move(message.fds[0])}));
  peer.send_done(message.request);
  return ok();
}

Status Spawner::stop_shim(Peer& peer, const control::Message& message) {
  std::string id = control::text_of(GRANARY_TRY(message.as<control::ShimRef>()).sandbox_id);
  if (shims_->stop(id)) {
    waiting_stops_.push_back({peer.number(), message.request, std::move(id)});
  } else {
    peer.send_done(message.request);
  }
  return ok();
}

Status Spawner::kill(Peer& peer, const control::Message& message) {
  const auto ref = GRANARY_TRY(message.as<control::VmRef>());
  const VmId vm{ref.vm_id};
  if (GRANARY_TRY(vms_->kill(vm))) {
    waiting_kills_.push_back({peer.number(), message.request, vm});
  } else {
    peer.send_done(message.request);
  }
  return ok();
}

Status Spawner::put_template(Peer& peer, const control::Message& message) {
  fault_point("spawner.put-template");
  const auto ref = GRANARY_TRY(message.as<control::TemplateRef>(2));
  TemplateShelf::Entry entry{GRANARY_TRY(message.fds[0].duplicate()), GRANARY_TRY(message.fds[1].duplicate())};
  GRANARY_TRY(templates_.put(control::text_of(ref.key), std::move(entry)));
  peer.send_done(message.request);
  return ok();
}

Status Spawner::get_template(Peer& peer, const control::Message& message) {
  const auto ref = GRANARY_TRY(message.as<control::TemplateRef>());
  const TemplateShelf::Entry* entry = GRANARY_TRY(templates_.get(control::text_of(ref.key)));
  const int fds[] = {entry->state.get(), entry->memory.get()};
  peer.send(Type::kDone, message.request, control::Empty{}, fds);
  return ok();
}

void Spawner::on_ended(const control::VmRecord& record) {
  // The event goes first: whoever waits for the answer to its kill then knows the record already.
  for (const auto& [number, peer] : peers_) peer->send(Type::kExited, 0, record);
  std::erase_if(waiting_kills_, [&](const WaitingKill& waiting) {
    if (waiting.vm.value != record.vm_id) return false;
    if (const auto found = peers_.find(waiting.peer); found != peers_.end()) found->second->send_done(waiting.request);
    return true;
  });
  stop_if_finished();
  end_if_unused();
}

void Spawner::on_shim_ended(const control::ShimRecord& record) {
  for (const auto& [number, peer] : peers_) peer->send(Type::kShimExited, 0, record);
  const std::string id = control::text_of(record.shim.sandbox_id);
  std::erase_if(waiting_stops_, [&](const WaitingStop& waiting) {
    if (waiting.sandbox_id != id) return false;
    if (const auto found = peers_.find(waiting.peer); found != peers_.end()) found->second->send_done(waiting.request);
    return true;
  });
  stop_if_finished();
  end_if_unused();
}

void Spawner::stop_if_finished() {
  if (finishing_ && vms_->live_count() == 0 && shims_->count() == 0) loop_.stop();
}

void Spawner::end_if_unused() {
  if (transient_ && had_agent_ && peers_.empty() && vms_->live_count() == 0 && shims_->count() == 0) finish();
}

void Spawner::finish() {
  finishing_ = true;
  loop_.remove(listener_token_);
  vms_->kill_all();
  shims_->stop_all();
  stop_if_finished();
}

}  // namespace granary::spawn
