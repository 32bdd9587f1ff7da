// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "vmpool/base/fd.h"
#include "vmpool/base/mapping.h"

namespace granary {

// How a VM ended, or kRunning. Written by the VMM before it exits; with neither this nor a wait status the state is kLost.
enum class EndState : uint32_t {
  kRunning = 0,
  kShutdown = 1,       // ACPI S5
  kReboot = 2,         // guest asked for a reset; Granary's VMs do not reboot
  kPanic = 3,          // pvpanic, or a reset that granary-init had not announced after "Kernel panic" on the console
  kTripleFault = 4,    // KVM_EXIT_SHUTDOWN
  kInternalError = 5,  // KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_FAIL_ENTRY or a failed ioctl
  kTerminated = 6,     // the control socket asked for the end, or closed
  kLost = 7,           // set by readers: the VMM left nothing
  // Set by granary-spawn: the kernel killed the VMM for a system call that its filter forbids. The VMM was taken over,
  // or the filter lacks a call.
  kSeccompViolation = 8,
};
// Whether a status page may hold it at the end of a VMM; kRunning and kLost are not written.
bool is_written_end(uint32_t state);
const char* to_string(EndState state);

enum class VmPhase : uint32_t { kEmpty = 0, kShell = 1, kRunning = 2, kParked = 3, kEnded = 4 };
const char* to_string(VmPhase phase);

// A memfd shared by the VMM (writer), the spawner (keeper) and the agent (reader); it outlives the VMM. Page 0 holds the
// fields below; the console ring follows. Readers treat it as hostile: every value is checked or only printed.
struct StatusPage {
  static constexpr uint32_t kMagic = 0x47534c50;  // "GSLP"
  static constexpr uint64_t kConsoleOffset = 4096;
  static constexpr uint64_t kConsoleBytes = 64 * 1024;
  static constexpr uint64_t kFileBytes = kConsoleOffset + kConsoleBytes;

  uint32_t magic;
  uint32_t version;
  std::atomic<uint32_t> phase;
  std::atomic<uint32_t> end_state;
  std::atomic<int32_t> end_detail;        // exit reason, suberror or errno that goes with end_state
  std::atomic<uint32_t> doorbells;        // how many doorbell writes
  std::atomic<uint64_t> exits;            // KVM exits to user space, all vCPUs
  std::atomic<uint64_t> console_written;  // bytes ever written to the console ring
  std::atomic<uint64_t> device_errors;    // malformed guest requests refused by devices
  char end_reason[256];                   // text for people, NUL-terminated
};
static_assert(sizeof(StatusPage) <= StatusPage::kConsoleOffset);

// The page and the ring behind it, mapped. Writer side for the VMM, reader side for everybody else.
class StatusFile {
 public:
  // A new memfd with an initialised page.
  static Result<Fd> create();
  static Result<StatusFile> map(int fd, bool writable);

  [[nodiscard]] StatusPage& page() const { return *reinterpret_cast<StatusPage*>(mapping_.data()); }
  // VMM side: appends console output; the oldest bytes are overwritten.
  void write_console(std::span<const std::byte> bytes) const;
  // The newest `limit_bytes` of console output; safe against a hostile writer.
  [[nodiscard]] std::string console_tail(size_t limit_bytes = StatusPage::kConsoleBytes) const;
  // VMM side: the first end state wins.
  void set_end(EndState state, int detail, const char* reason) const;
  // Spawner side: what the kernel says about the end outranks what the VMM wrote.
  void overrule_end(EndState state, int detail, const char* reason) const;
  // Reader side: kLost for values that nobody writes.
  [[nodiscard]] EndState end_state() const;

 private:
  explicit StatusFile(Mapping mapping) : mapping_(std::move(mapping)) {}
  Mapping mapping_;
};

}  // namespace granary
