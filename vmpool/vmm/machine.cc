// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/machine.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include <algorithm>

#include "vmpool/base/machine_layout.h"
#include "vmpool/boot/loader.h"
#include "vmpool/kvm/boot_registers.h"
#include "vmpool/kvm/cpuid.h"

namespace granary::vmm {
namespace {

// Four pages that Intel's KVM needs in the guest's address space, between the LAPIC and the end of 4 GiB
// (api.rst, 4.11, 4.42).
constexpr Gpa kIdentityMap{0xfffb'c000};
constexpr Gpa kTssArea{0xfffb'd000};

// Lets a device finish what the guest asked for before its vCPUs stopped. A device works on a long queue in portions.
void settle(virtio::MmioTransport& transport) {
  constexpr int kMostPortions = 1024;
  pollfd kick{.fd = transport.kick().get(), .events = POLLIN, .revents = 0};
  for (int i = 0; i<kMostPortions&& ::poll(&kick, 1, 0)> 0; ++i) transport.process_kicks();
}

}  // namespace

Result<std::unique_ptr<Machine>> Machine::create(const CreateShellRequest& request, Resources resources) {
  GuestMemory memory = GRANARY_TRY(GuestMemory::create(request.memory_bytes));
  kvm::Vm vm = GRANARY_TRY(resources.kvm.create_vm());
  EventFd serial_irq = GRANARY_TRY(EventFd::create());
  EventFd generation_irq = GRANARY_TRY(EventFd::create());
  EventFd wake = GRANARY_TRY(EventFd::create());
  const kvm::CpuidTable& supported = resources.supported_cpuid;
  std::unique_ptr<Machine> machine(new Machine(request, std::move(resources), std::move(memory), std::move(vm),
                                               std::move(serial_irq), std::move(generation_irq), std::move(wake)));
  GRANARY_TRY(machine->assemble(supported));
  return machine;
}

Machine::Machine(const CreateShellRequest& request, Resources resources, GuestMemory memory, kvm::Vm vm,
                 EventFd serial_irq, EventFd generation_irq, EventFd wake)
    : shape_{request.memory_bytes, request.vcpus, 0, request.devices},
      kvm_(std::move(resources.kvm)),
      status_(resources.status),
      loop_(resources.loop),
      callbacks_(std::move(resources.callbacks)),
      vsock_listener_(std::move(resources.vsock_listener)),
      memory_(std::move(memory)),
      vm_(std::move(vm)),
      generation_irq_(std::move(generation_irq)),
      wake_(std::move(wake)),
      console_(status_),
      serial_(std::move(serial_irq), [this](std::span<const std::byte> bytes) { console_.write(bytes); }),
      ports_(serial_, console_) {}

Machine::~Machine() {
  for (const EventLoop::Token token : tokens_) loop_.remove(token);
}

Status Machine::assemble(const kvm::CpuidTable& supported) {
  // Memory before the irqchip: a later memslot change waits for an SRCU grace period of milliseconds.
  GRANARY_TRY(kvm::map_guest_memory(vm_, memory_));
  GRANARY_TRY(vm_.set_identity_map_addr(kIdentityMap));
  GRANARY_TRY(vm_.set_tss_addr(kTssArea));
  GRANARY_TRY(vm_.create_irqchip());
  devices_ =
      GRANARY_TRY(make_devices(shape_.devices, DeviceResources{memory_, loop_, console_, std::move(vsock_listener_)}));
  bus_.emplace(VcpuBus{ports_, devices_.transports, status_, wake_});
  GRANARY_TRY(create_vcpus(supported));
  GRANARY_TRY(connect_interrupts());
  return watch();
}

Status Machine::create_vcpus(const kvm::CpuidTable& supported) {
  const kvm::CpuidShape cpuid_shape = GRANARY_TRY(kvm::cpuid_shape(kvm_, shape_.vcpus));
  for (uint32_t id = 0; id < shape_.vcpus; ++id) {
    kvm::Vcpu vcpu = GRANARY_TRY(vm_.create_vcpu(id));
    const kvm::CpuidTable cpuid = GRANARY_TRY(kvm::build_cpuid(supported, cpuid_shape, id));
    GRANARY_TRY(vcpu.set_cpuid2(cpuid));
    GRANARY_TRY(kvm::apply_firmware_state(vcpu));
    vcpus_.push_back(std::make_unique<VcpuThread>(std::move(vcpu), *bus_));
  }
  return ok();
}

Status Machine::connect_interrupts() {
  GRANARY_TRY(vm_.irqfd(generation_irq_.get(), machine::kGedGsi));
  GRANARY_TRY(vm_.irqfd(serial_.irq().get(), machine::kSerialGsi));
  uint32_t gsi = machine::kVirtioFirstGsi;
  for (const auto& transport : devices_.transports) {
    GRANARY_TRY(vm_.irqfd(transport->interrupt().irq().get(), gsi++));
  }
  return ok();
}

Status Machine::watch() {
  tokens_.push_back(GRANARY_TRY(loop_.add(wake_.get(), EPOLLIN, [this](uint32_t) { serve_vcpus(); })));
  for (const auto& transport : devices_.transports) {
    virtio::MmioTransport* t = transport.get();
    tokens_.push_back(GRANARY_TRY(loop_.add(t->kick().get(), EPOLLIN, [t](uint32_t) { t->process_kicks(); })));
  }
  return ok();
}

Status Machine::boot(const BootRequest& request) {
  boot::BootRequest what;
  what.kernel_fd = request.kernel.get();
  what.initramfs_fd = request.initramfs ? request.initramfs->get() : -1;
  what.command_line = request.command_line;
  what.vcpus = shape_.vcpus;
  what.virtio_slots = static_cast<uint32_t>(devices_.transports.size());
  const Result<boot::BootPlan> plan = boot::load_guest(memory_, what);
  if (!plan) {
    // What was loaded so far goes, so that another try finds zeroed memory.
    ::madvise(memory_.mapping().data(), memory_.size(), MADV_DONTNEED);
    return plan.error();
  }
  GRANARY_TRY(kvm::apply_boot_registers(vcpus_.front()->vcpu(), *plan));
  start_vcpus();
  return ok();
}

void Machine::start_vcpus() {
  for (const auto& vcpu : vcpus_) vcpu->start_running();
}

bool Machine::any_running() const {
  return std::any_of(vcpus_.begin(), vcpus_.end(), [](const auto& vcpu) { return vcpu->running(); });
}

Status Machine::park() {
  for (const auto& vcpu : vcpus_) vcpu->request_stop();
  // Short: each vCPU has been kicked and can only wait for an answer from here.
  while (any_running()) {
    pollfd wake{.fd = wake_.get(), .events = POLLIN, .revents = 0};
    ::poll(&wake, 1, -1);
    serve_vcpus();
  }
  serve_vcpus();
  if (ended_) return Error(Errc::kVmmFailed, "park: the guest ended meanwhile");
  clock_ = GRANARY_TRY(read_clock(vm_, vcpus_));
  return ok();
}

Status Machine::unpark() {
  GRANARY_TRY(start_clock(vm_, vcpus_, clock_));
  start_vcpus();
  return ok();
}

void Machine::serve_vcpus() {
  (void)wake_.drain();
  for (uint32_t id = 0; id < vcpus_.size(); ++id) {
    VcpuThread& vcpu = *vcpus_[id];
    if (BusCall* call = vcpu.pending_call()) {
      serve(*call, id);
      vcpu.answer();
    }
    if (vcpu.end() != nullptr && !ended_) {
      ended_ = true;
      callbacks_.ended(*vcpu.end());
    }
  }
}

void Machine::serve(BusCall& call, uint32_t vcpu) {
  const std::span<std::byte> data = std::span(call.data).first(call.bytes);
  switch (call.kind) {
    case BusCall::Kind::kMmioRead:
      return devices_.transports[call.slot]->read(call.offset, data);
    case BusCall::Kind::kMmioWrite:
      return devices_.transports[call.slot]->write(call.offset, data);
    case BusCall::Kind::kRing:
      return callbacks_.rung(call.value, vcpu, call.monotonic_ns);
  }
}

Result<snapshot::Snapshot> Machine::save() {
  snapshot::Snapshot state;
  state.shape = shape_;
  for (const auto& transport : devices_.transports) {
    settle(*transport);
    if (!transport->device().quiescent()) {
      return Error(Errc::kInvalidArgument, std::string("snapshot: the ") + device_name(transport->device().type()) +
                                               " device is busy; close its connections and wait for its requests");
    }
    state.transports.push_back(GRANARY_TRY(transport->save()));
  }
  const std::vector<uint32_t> msrs = GRANARY_TRY(kvm::msrs_to_save(kvm_));
  for (const auto& vcpu : vcpus_) state.vcpus.push_back(GRANARY_TRY(kvm::save(vcpu->vcpu(), msrs)));
  state.vm = GRANARY_TRY(kvm::save(vm_));
  stop_clock_in(state, clock_);
  state.serial = serial_.save();
  return state;
}

Status Machine::restore(const snapshot::Snapshot& state, int memory_fd,
                        const std::array<uint8_t, 16>& vm_generation_id) {
  for (const snapshot::Extent& extent : state.extents) {
    GRANARY_TRY(memory_.mapping().overlay_private(extent.offset, extent.bytes, memory_fd, extent.offset));
  }
  for (size_t id = 0; id < vcpus_.size(); ++id) GRANARY_TRY(kvm::restore(vcpus_[id]->vcpu(), state.vcpus[id]));
  GRANARY_TRY(kvm::restore(vm_, state.vm));
  GRANARY_TRY(restore_devices(state));
  clock_ = clock_of(state);
  return announce_generation(vm_generation_id);
}

Status Machine::restore_devices(const snapshot::Snapshot& state) {
  for (size_t slot = 0; slot < devices_.transports.size(); ++slot) {
    virtio::MmioTransport& transport = *devices_.transports[slot];
    GRANARY_TRY(transport.restore(state.transports[slot]));
    // An irqfd delivers through a work queue: an interrupt raised right before the snapshot may be neither in the saved
    // irqchip nor handled. Once too often is harmless.
    if (transport.interrupt().status() != 0) transport.interrupt().irq().signal();
  }
  return serial_.restore(state.serial);
}

Status Machine::announce_generation(const std::array<uint8_t, 16>& id) {
  GRANARY_TRY(memory_.write(machine::kVmGenIdAddress, id));
  generation_irq_.signal();
  return ok();
}

Status Machine::attach_block(AttachBlockRequest request) {
  return vmm::attach_block(devices_, request.slot, std::move(request.file), request.read_only);
}

Status Machine::attach_fs(AttachFsRequest request) { return vmm::attach_fs(devices_, std::move(request.socket)); }

Status Machine::detach_block(uint32_t slot) { return vmm::detach_block(devices_, slot); }

Status Machine::attach_net(AttachNetRequest request) {
  return vmm::attach_net(devices_, request.slot, std::move(request.tap));
}

control::Stats Machine::stats() const {
  control::Stats stats{};
  stats.exits = status_.page().exits.load(std::memory_order_relaxed);
  for (const auto& vcpu : vcpus_) {
    stats.mmio_exits += vcpu->counters().mmio.load(std::memory_order_relaxed);
    stats.pio_exits += vcpu->counters().pio.load(std::memory_order_relaxed);
    stats.halt_exits += vcpu->counters().halt.load(std::memory_order_relaxed);
    stats.device_errors += vcpu->counters().unclaimed_mmio.load(std::memory_order_relaxed);
  }
  for (const auto& transport : devices_.transports) stats.device_errors += transport->errors();
  stats.open_vsock_connections = devices_.vsock->open_connections();
  return stats;
}

}  // namespace granary::vmm
