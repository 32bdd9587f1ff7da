// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "vmpool/base/control_protocol.h"
#include "vmpool/base/event_loop.h"
#include "vmpool/base/guest_memory.h"
#include "vmpool/kvm/kvm.h"
#include "vmpool/kvm/vm.h"
#include "vmpool/snapshot/snapshot_format.h"
#include "vmpool/vmm/console_sink.h"
#include "vmpool/vmm/devices.h"
#include "vmpool/vmm/guest_clock.h"
#include "vmpool/vmm/ports.h"
#include "vmpool/vmm/request.h"
#include "vmpool/vmm/serial.h"
#include "vmpool/vmm/vcpu_thread.h"

namespace granary::vmm {

// One microVM: memory, KVM objects, devices and vCPU threads, all made by create(), so that a restore is mapping memory
// and loading state. It knows no phases: the caller keeps the order of calls (request.h).
//
// Loop thread only. A guest that ends (for whatever reason) is reported once through Callbacks::ended, after which the
// machine must only be destroyed.
class Machine {
 public:
  struct Callbacks {
    std::function<void(uint8_t value, uint32_t vcpu, uint64_t monotonic_ns)> rung;
    std::function<void(const End&)> ended;
  };
  struct Resources {
    kvm::Kvm kvm;
    const kvm::CpuidTable& supported_cpuid;  // of kvm; used by create() only
    Fd vsock_listener;
    const StatusFile& status;
    EventLoop& loop;
    Callbacks callbacks;
  };

  // A shell in which nothing runs. Errors: kMemoryOutOfRange, kKvm…, errno of a failed ioctl.
  static Result<std::unique_ptr<Machine>> create(const CreateShellRequest& request, Resources resources);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // Loads the kernel and starts the vCPUs. After an error the machine is an empty shell as before. Errors:
  // vmpool/boot/loader.h.
  Status boot(const BootRequest& request);

  // Stops the vCPUs between two instructions, with no access half done, and notes the clocks. kVmmFailed if the guest
  // ended.
  Status park();
  // Puts the clocks back and lets the vCPUs run.
  Status unpark();

  // Parked. kInvalidArgument naming the device that is not quiescent.
  Result<snapshot::Snapshot> save();
  // Into a fresh shell that equals state.shape; the machine is parked afterwards. After an error it is unusable.
  Status restore(const snapshot::Snapshot& state, int memory_fd, const std::array<uint8_t, 16>& vm_generation_id);

  Status attach_block(AttachBlockRequest request);
  Status detach_block(uint32_t slot);
  Status attach_net(AttachNetRequest request);
  Status attach_fs(AttachFsRequest request);

  [[nodiscard]] const snapshot::Shape& shape() const { return shape_; }
  [[nodiscard]] const GuestMemory& memory() const { return memory_; }
  // All fields but restore_ns.
  [[nodiscard]] control::Stats stats() const;

 private:
  Machine(const CreateShellRequest& request, Resources resources, GuestMemory memory, kvm::Vm vm, EventFd serial_irq,
          EventFd generation_irq, EventFd wake);
  Status assemble(const kvm::CpuidTable& supported);
  Status create_vcpus(const kvm::CpuidTable& supported);
  Status connect_interrupts();
  Status watch();
  Status restore_devices(const snapshot::Snapshot& state);
  Status announce_generation(const std::array<uint8_t, 16>& id);
  void start_vcpus();
  // Answers what vCPU threads ask and notices their end.
  void serve_vcpus();
  void serve(BusCall& call, uint32_t vcpu);
  [[nodiscard]] bool any_running() const;

  snapshot::Shape shape_;
  kvm::Kvm kvm_;
  const StatusFile& status_;
  EventLoop& loop_;
  Callbacks callbacks_;
  Fd vsock_listener_;  // until the vsock device takes it
  GuestMemory memory_;
  kvm::Vm vm_;
  EventFd generation_irq_;
  EventFd wake_;
  ConsoleSink console_;
  Serial serial_;
  Ports ports_;
  Devices devices_;
  std::optional<VcpuBus> bus_;
  std::vector<EventLoop::Token> tokens_;
  GuestClock clock_;
  bool ended_ = false;
  std::vector<std::unique_ptr<VcpuThread>> vcpus_;  // last: the threads use what is above
};

}  // namespace granary::vmm
