// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "vmpool/base/event_loop.h"
#include "vmpool/base/status_page.h"
#include "vmpool/vmm/control_server.h"
#include "vmpool/vmm/machine.h"

namespace granary::vmm {

// What granary-vmm inherits (vmpool/base/vmm_fds.h).
struct Inheritance {
  Fd control_socket;
  Fd status_page;
  Fd vsock_listener;
  Fd kvm;
};

// The whole process behind main(): one control server, at most one machine, and the phase that says which requests make
// sense.
//
//   empty --create-shell--> shell --boot--> running <--park/unpark--> parked
//                                 --restore--> running or parked
// From every phase: ended, when the guest ends, a restore fails half-way, the peer asks for it, or nobody holds the
// control socket. As long as the spawner or the agent has a descriptor of it, the VM runs on: either may be restarted
// and come back.
class Vmm {
 public:
  static Result<std::unique_ptr<Vmm>> create(Inheritance inheritance);
  // Until the end, which the status page then holds.
  Status run() { return loop_->run(); }

 private:
  using Clock = ControlServer::Clock;
  Vmm(std::unique_ptr<EventLoop> loop, StatusFile status, Fd vsock_listener, Fd kvm)
      : loop_(std::move(loop)),
        status_(std::move(status)),
        vsock_listener_(std::move(vsock_listener)),
        kvm_(std::move(kvm)) {}

  void serve(uint32_t id, Clock::time_point received, Request& request);
  // One overload per request; each answers or returns the error to answer with.
  Status handle(uint32_t id, const CreateShellRequest& request);
  Status handle(uint32_t id, const BootRequest& request);
  Status handle(uint32_t id, const RestoreRequest& request);
  Status handle(uint32_t id, const ParkRequest& request);
  Status handle(uint32_t id, const UnparkRequest& request);
  Status handle(uint32_t id, const SnapshotRequest& request);
  Status handle(uint32_t id, AttachBlockRequest& request);
  Status handle(uint32_t id, DetachBlockRequest& request);
  Status handle(uint32_t id, AttachNetRequest& request);
  Status handle(uint32_t id, AttachFsRequest& request);
  Status handle(uint32_t id, const StatsRequest& request);
  Status handle(uint32_t id, const TerminateRequest& request);

  void enter(VmPhase phase);
  void finish(const End& end);
  void guest_rang(uint8_t value, uint32_t vcpu, uint64_t monotonic_ns);

  std::unique_ptr<EventLoop> loop_;
  StatusFile status_;
  Fd vsock_listener_;
  Fd kvm_;
  // Asked for before somebody waits for a shell, because it takes long; empty when that failed: then the shell says why.
  kvm::CpuidTable supported_cpuid_;
  VmPhase phase_ = VmPhase::kEmpty;
  Clock::time_point received_;  // of the request being served
  uint64_t restore_ns_ = 0;
  std::unique_ptr<ControlServer> server_;
  std::unique_ptr<Machine> machine_;
};

}  // namespace granary::vmm
