// SPDX-License-Identifier: Apache-2.0
#include "vmpool/vmm/vcpu_thread.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <cstring>

#include "vmpool/base/machine_layout.h"
#include "vmpool/vmm/seccomp.h"

namespace granary::vmm {
namespace {

constexpr int kKickSignal = SIGUSR1;

// Its arrival makes KVM_RUN return; there is nothing to do.
void on_kick(int) {}

uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

void count(std::atomic<uint64_t>& counter) { counter.fetch_add(1, std::memory_order_relaxed); }

}  // namespace

Status VcpuThread::install_kick_handler() {
  struct sigaction action {};
  action.sa_handler = on_kick;
  if (::sigaction(kKickSignal, &action, nullptr) != 0) return Error::last_os_error("install the vCPU kick handler");
  return ok();
}

VcpuThread::VcpuThread(kvm::Vcpu vcpu, const VcpuBus& bus)
    : vcpu_(std::move(vcpu)), bus_(bus), thread_([this] { thread_main(); }) {}

VcpuThread::~VcpuThread() {
  command_ = kQuit;
  command_.notify_one();
  // ask() looks at command_ after it has set kAsked: either it sees kQuit or this sees its call.
  if (call_state_ == kAsked) answer();
  vcpu_.request_immediate_exit(true);
  ::pthread_kill(thread_.native_handle(), kKickSignal);
}

void VcpuThread::start_running() {
  vcpu_.request_immediate_exit(false);
  state_ = kRunning;
  command_ = kRun;
  command_.notify_one();
}

void VcpuThread::request_stop() {
  command_ = kStop;
  // A thread on its way into KVM_RUN sees the flag, one that is in it gets the signal.
  vcpu_.request_immediate_exit(true);
  ::pthread_kill(thread_.native_handle(), kKickSignal);
}

void VcpuThread::answer() {
  call_state_.store(kIdle, std::memory_order_release);
  call_state_.notify_one();
}

void VcpuThread::thread_main() {
  seccomp::enter_or_end(seccomp::Filter::kVcpu);
  for (;;) {
    command_.wait(kIdleCommand);
    if (command_ == kQuit) return;
    run_until_told();
    uint32_t expected = kStop;
    command_.compare_exchange_strong(expected, kIdleCommand);
    state_.store(end_ ? kEnded : kStopped, std::memory_order_release);
    bus_.wake.signal();
    if (end_) return;
  }
}

void VcpuThread::run_until_told() {
  while (command_ == kRun && !end_) step();
  // KVM finishes an MMIO or PIO read only when the vCPU is run again: do that without entering the guest. An access in
  // several parts comes back as an exit of its own.
  vcpu_.request_immediate_exit(true);
  while (command_ != kQuit && !end_ && step()) {
  }
}

bool VcpuThread::step() {
  const Result<kvm::Vcpu::RunOutcome> outcome = vcpu_.run();
  if (!outcome) {
    finish(EndState::kInternalError, outcome.error().code().value(), outcome.error().message());
    return true;
  }
  if (*outcome == kvm::Vcpu::RunOutcome::kInterrupted) return false;
  count(bus_.status.page().exits);
  handle_exit();
  return true;
}

void VcpuThread::handle_exit() {
  const struct kvm_run& run = vcpu_.kvm_run();
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      return handle_io();
    case KVM_EXIT_MMIO:
      return handle_mmio();
    case KVM_EXIT_HLT:
      return count(counters_.halt);
    case KVM_EXIT_INTR:
      return;
    case KVM_EXIT_SHUTDOWN:
      return finish(EndState::kTripleFault, 0, "triple fault" + on_this_vcpu());
    case KVM_EXIT_INTERNAL_ERROR:
      return finish(EndState::kInternalError, static_cast<int32_t>(run.internal.suberror),
                    "KVM internal error, suberror " + std::to_string(run.internal.suberror) + on_this_vcpu());
    case KVM_EXIT_FAIL_ENTRY:
      return finish(EndState::kInternalError, static_cast<int32_t>(run.fail_entry.hardware_entry_failure_reason),
                    "KVM could not enter the guest, hardware reason " +
                        std::to_string(run.fail_entry.hardware_entry_failure_reason) + on_this_vcpu());
    default:
      return finish(EndState::kInternalError, static_cast<int32_t>(run.exit_reason),
                    "unexpected KVM exit reason " + std::to_string(run.exit_reason) + on_this_vcpu());
  }
}

std::string VcpuThread::on_this_vcpu() const { return " on vCPU " + std::to_string(vcpu_.id()); }

void VcpuThread::handle_io() {
  count(counters_.pio);
  const auto& io = vcpu_.kvm_run().io;
  const std::span<std::byte> data = vcpu_.io_data();
  // A string instruction comes as `count` accesses of the same port.
  for (size_t at = 0; at + io.size <= data.size() && io.size > 0 && !end_; at += io.size) {
    const std::span<std::byte> item = data.subspan(at, io.size);
    if (io.direction == KVM_EXIT_IO_IN) {
      bus_.ports.read(io.port, item);
    } else if (const std::optional<PortEvent> event = bus_.ports.write(io.port, item)) {
      handle_event(*event);
    }
  }
}

void VcpuThread::handle_event(const PortEvent& event) {
  if (const End* end = std::get_if<End>(&event)) return finish(end->state, end->detail, end->reason);
  bus_.status.page().doorbells.fetch_add(1, std::memory_order_relaxed);
  call_ = BusCall{};
  call_.kind = BusCall::Kind::kRing;
  call_.value = std::get<Ring>(event).value;
  call_.monotonic_ns = monotonic_ns();
  ask();
}

void VcpuThread::handle_mmio() {
  count(counters_.mmio);
  auto& exit = vcpu_.kvm_run().mmio;
  const size_t bytes = std::min<size_t>(exit.len, sizeof(exit.data));
  mmio(exit.phys_addr, exit.is_write != 0, std::as_writable_bytes(std::span(exit.data)).first(bytes));
}

void VcpuThread::mmio(uint64_t address, bool is_write, std::span<std::byte> data) {
  const uint64_t into = address - machine::kVirtioMmioBase;
  const uint64_t slot = into / machine::kVirtioMmioStride;
  const auto offset = static_cast<uint32_t>(into % machine::kVirtioMmioStride);
  if (address < machine::kVirtioMmioBase || slot >= bus_.transports.size() ||
      offset + data.size() > machine::kVirtioMmioStride) {
    count(counters_.unclaimed_mmio);
    if (!is_write) std::fill(data.begin(), data.end(), std::byte{0xff});
    return;
  }
  if (bus_.transports[slot]->fast_access(offset, is_write, data)) return;
  call_ = BusCall{};
  call_.kind = is_write ? BusCall::Kind::kMmioWrite : BusCall::Kind::kMmioRead;
  call_.slot = static_cast<uint32_t>(slot);
  call_.offset = offset;
  call_.bytes = static_cast<uint8_t>(data.size());
  std::copy(data.begin(), data.end(), call_.data.begin());
  ask();
  if (!is_write) std::copy_n(call_.data.begin(), data.size(), data.begin());
}

void VcpuThread::ask() {
  call_state_ = kAsked;
  bus_.wake.signal();
  if (command_ == kQuit) return;  // nobody answers any more
  call_state_.wait(kAsked, std::memory_order_acquire);
}

void VcpuThread::finish(EndState state, int32_t detail, std::string reason) {
  end_ = End{state, detail, std::move(reason)};
}

}  // namespace granary::vmm
