// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/vmm.h"

#include "vmpool/base/log.h"
#include "vmpool/vmm/seccomp.h"
#include "vmpool/vmm/snapshot_io.h"

namespace granary::vmm {
namespace {

Result<kvm::CpuidTable> supported_cpuid(const Fd& kvm) {
  return GRANARY_TRY(kvm::Kvm::from(GRANARY_TRY(kvm.duplicate()))).get_supported_cpuid();
}

}  // namespace

Result<std::unique_ptr<Vmm>> Vmm::create(Inheritance inheritance) {
  std::unique_ptr<EventLoop> loop = GRANARY_TRY(EventLoop::create());
  StatusFile status = GRANARY_TRY(StatusFile::map(inheritance.status_page.get(), true));
  GRANARY_TRY(VcpuThread::install_kick_handler());
  std::unique_ptr<Vmm> vmm(
      new Vmm(std::move(loop), std::move(status), std::move(inheritance.vsock_listener), std::move(inheritance.kvm)));
  if (Result<kvm::CpuidTable> table = supported_cpuid(vmm->kvm_)) vmm->supported_cpuid_ = *std::move(table);
  Vmm* self = vmm.get();
  ControlServer::Callbacks callbacks;
  callbacks.phase = [self] { return self->phase_; };
  callbacks.request = [self](uint32_t id, Clock::time_point received, Request& request) {
    self->serve(id, received, request);
  };
  callbacks.gone = [self] { self->finish({EndState::kTerminated, 0, "nobody holds the control socket"}); };
  vmm->server_ =
      GRANARY_TRY(ControlServer::create(*vmm->loop_, std::move(inheritance.control_socket), std::move(callbacks)));
  return vmm;
}

void Vmm::serve(uint32_t id, Clock::time_point received, Request& request) {
  received_ = received;
  const Status status = std::visit([&](auto& what) { return handle(id, what); }, request);
  if (!status) server_->fail(id, status.error());
}

Status Vmm::handle(uint32_t id, const CreateShellRequest& request) {
  // Copies stay here, so that a request with impossible numbers can be followed by a better one.
  if (supported_cpuid_.empty()) supported_cpuid_ = GRANARY_TRY(supported_cpuid(kvm_));
  Machine::Resources resources{GRANARY_TRY(kvm::Kvm::from(GRANARY_TRY(kvm_.duplicate()))),
                               supported_cpuid_,
                               GRANARY_TRY(vsock_listener_.duplicate()),
                               status_,
                               *loop_,
                               Machine::Callbacks{[this](uint8_t value, uint32_t vcpu, uint64_t monotonic_ns) {
                                                    guest_rang(value, vcpu, monotonic_ns);
                                                  },
                                                  [this](const End& end) { finish(end); }}};
  machine_ = GRANARY_TRY(Machine::create(request, std::move(resources)));
  kvm_.reset();
  vsock_listener_.reset();
  // All threads exist; the first act of each is to put on its own filter.
  if (const Status confined = seccomp::enter(seccomp::Filter::kLoop); !confined) {
    server_->fail(id, confined.error());
    finish({EndState::kInternalError, confined.error().code().value(), confined.error().message()});
    return ok();
  }
  enter(VmPhase::kShell);
  server_->done(id);
  return ok();
}

Status Vmm::handle(uint32_t id, const BootRequest& request) {
  GRANARY_TRY(machine_->boot(request));
  enter(VmPhase::kRunning);
  server_->done(id);
  return ok();
}

Status Vmm::handle(uint32_t id, const RestoreRequest& request) {
  const snapshot::Snapshot state =
      GRANARY_TRY(read_snapshot(request.state.get(), request.memory.get(), machine_->shape()));
  Status status = machine_->restore(state, request.memory.get(), request.vm_generation_id);
  if (status && request.resume) status = machine_->unpark();
  if (!status) {
    // Half of the state is in the shell: it is good for nothing now.
    server_->fail(id, status.error());
    finish({EndState::kInternalError, status.error().code().value(), "restore: " + status.error().message()});
    return ok();
  }
  restore_ns_ = static_cast<uint64_t>((Clock::now() - received_).count());
  enter(request.resume ? VmPhase::kRunning : VmPhase::kParked);
  server_->done(id);
  return ok();
}

Status Vmm::handle(uint32_t id, const ParkRequest&) {
  GRANARY_TRY(machine_->park());
  enter(VmPhase::kParked);
  server_->done(id);
  return ok();
}

Status Vmm::handle(uint32_t id, const UnparkRequest&) {
  GRANARY_TRY(machine_->unpark());
  enter(VmPhase::kRunning);
  server_->done(id);
  return ok();
}

Status Vmm::handle(uint32_t id, const SnapshotRequest& request) {
  snapshot::Snapshot state = GRANARY_TRY(machine_->save());
  const control::SnapshotDone done =
      GRANARY_TRY(write_snapshot(std::move(state), machine_->memory(), request.state.get(), request.memory.get()));
  server_->answer(id, control::Type::kSnapshot, done);
  return ok();
}

Status Vmm::handle(uint32_t id, AttachBlockRequest& request) {
  GRANARY_TRY(machine_->attach_block(std::move(request)));
  server_->done(id);
  return ok();
}

Status Vmm::handle(uint32_t id, DetachBlockRequest& request) {
  GRANARY_TRY(machine_->detach_block(request.slot));
  server_->done(id);
  return ok();
}

Status Vmm::handle(uint32_t id, AttachNetRequest& request) {
  GRANARY_TRY(machine_->attach_net(std::move(request)));
  server_->done(id);
  return ok();
}

Status Vmm::handle(uint32_t id, AttachFsRequest& request) {
  GRANARY_TRY(machine_->attach_fs(std::move(request)));
  server_->done(id);
  return ok();
}

Status Vmm::handle(uint32_t id, const StatsRequest&) {
  control::Stats stats = machine_ ? machine_->stats() : control::Stats{};
  stats.restore_ns = restore_ns_;
  status_.page().device_errors.store(stats.device_errors, std::memory_order_relaxed);
  server_->answer(id, control::Type::kGetStats, stats);
  return ok();
}

Status Vmm::handle(uint32_t id, const TerminateRequest&) {
  server_->done(id);
  finish({EndState::kTerminated, 0, "the control socket asked for the end"});
  return ok();
}

void Vmm::enter(VmPhase phase) {
  // A guest may have ended while its own start was being answered.
  if (phase_ == VmPhase::kEnded) return;
  phase_ = phase;
  status_.page().phase.store(static_cast<uint32_t>(phase), std::memory_order_release);
}

void Vmm::finish(const End& end) {
  if (phase_ == VmPhase::kEnded) return;
  phase_ = VmPhase::kEnded;
  if (machine_) status_.page().device_errors.store(machine_->stats().device_errors, std::memory_order_relaxed);
  status_.set_end(end.state, end.detail, end.reason.c_str());
  server_->event(control::Type::kEnded, control::EndedEvent{static_cast<uint32_t>(end.state), end.detail});
  log_line(LogLevel::kInfo, "ended state=%s detail=%d malformed=%llu dropped_events=%llu reason=\"%s\"",
           to_string(end.state), end.detail, static_cast<unsigned long long>(server_->malformed()),
           static_cast<unsigned long long>(server_->dropped_events()), end.reason.c_str());
  loop_->stop();
}

void Vmm::guest_rang(uint8_t value, uint32_t vcpu, uint64_t monotonic_ns) {
  server_->event(control::Type::kDoorbell, control::DoorbellEvent{value, vcpu, monotonic_ns});
}

}  // namespace granary::vmm
