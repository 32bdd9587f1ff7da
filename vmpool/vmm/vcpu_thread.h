// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <thread>

#include "vmpool/base/event_loop.h"
#include "vmpool/base/status_page.h"
#include "vmpool/kvm/vcpu.h"
#include "vmpool/virtio/mmio_transport.h"
#include "vmpool/vmm/ports.h"

namespace granary::vmm {

// What a vCPU thread asks the loop thread to do while it waits.
struct BusCall {
  enum class Kind : uint8_t { kMmioRead, kMmioWrite, kRing };
  Kind kind = Kind::kRing;
  uint8_t value = 0;    // kRing
  uint8_t bytes = 0;    // kMmio…: 1, 2, 4 or 8
  uint32_t slot = 0;    // kMmio…
  uint32_t offset = 0;  // kMmio…, inside the slot's window
  std::array<std::byte, 8> data{};
  uint64_t monotonic_ns = 0;  // kRing: when the exit was seen
};

// What the vCPU threads of one machine share; outlives them.
struct VcpuBus {
  Ports& ports;
  std::span<const std::unique_ptr<virtio::MmioTransport>> transports;  // by slot
  const StatusFile& status;
  // Raised when a thread has a BusCall, has stopped or has ended.
  const EventFd& wake;
};

// A vCPU and the thread that runs it. The thread exists from the start and sleeps; it does KVM_RUN and the bus call,
// nothing else. Accesses that a transport cannot serve on this thread are handed over to the loop thread through a
// mailbox with room for one call, and the vCPU waits: no lock is shared.
//
// Threads: all public methods belong to the loop thread. vcpu() may be used only while !running().
class VcpuThread {
 public:
  struct Counters {
    std::atomic<uint64_t> mmio = 0;
    std::atomic<uint64_t> pio = 0;
    std::atomic<uint64_t> halt = 0;
    std::atomic<uint64_t> unclaimed_mmio = 0;  // no device there: reads as ones
  };

  // Install the signal handler that kicks vCPU threads; once per process, before the first vCPU runs.
  static Status install_kick_handler();

  VcpuThread(kvm::Vcpu vcpu, const VcpuBus& bus);
  ~VcpuThread();
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;

  // Only while stopped.
  void start_running();
  // Asks the thread to leave KVM_RUN and to complete a pending MMIO or PIO access, so that its registers can be saved;
  // the bus's wake is raised when it has. Until then the caller must go on answering calls.
  void request_stop();
  [[nodiscard]] bool running() const { return state_.load(std::memory_order_acquire) == kRunning; }
  // Why the VM must end, if this vCPU says so. It never runs again then.
  [[nodiscard]] const End* end() const { return state_.load(std::memory_order_acquire) == kEnded ? &*end_ : nullptr; }

  // The call that waits for an answer, or nullptr; answer() lets the thread go on with what is in it then.
  [[nodiscard]] BusCall* pending_call() {
    return call_state_.load(std::memory_order_acquire) == kAsked ? &call_ : nullptr;
  }
  void answer();

  [[nodiscard]] kvm::Vcpu& vcpu() { return vcpu_; }
  [[nodiscard]] const Counters& counters() const { return counters_; }

 private:
  // Values of the atomics, which are words of futex(2) size. kStop is not kIdleCommand, so that a stop right after a
  // start cannot pass unseen: the thread itself goes back to idle.
  enum Command : uint32_t { kIdleCommand, kRun, kStop, kQuit };
  enum State : uint32_t { kStopped, kRunning, kEnded };
  enum CallState : uint32_t { kIdle, kAsked };

  void thread_main();
  void run_until_told();
  // One KVM_RUN and what it asks for; false when it only came back because of a kick.
  bool step();
  void handle_exit();
  void handle_io();
  void handle_mmio();
  void handle_event(const PortEvent& event);
  void mmio(uint64_t address, bool is_write, std::span<std::byte> data);
  void ask();
  [[nodiscard]] std::string on_this_vcpu() const;
  void finish(EndState state, int32_t detail, std::string reason);

  kvm::Vcpu vcpu_;
  const VcpuBus& bus_;
  Counters counters_;
  std::atomic<uint32_t> command_ = kIdleCommand;
  std::atomic<uint32_t> state_ = kStopped;
  std::optional<End> end_;  // written by the thread before state_ becomes kEnded
  std::atomic<uint32_t> call_state_ = kIdle;
  BusCall call_;         // the thread's while kIdle, the loop's while kAsked
  std::jthread thread_;  // last: starts when the rest exists
};

}  // namespace granary::vmm
