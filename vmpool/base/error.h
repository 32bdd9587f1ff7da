// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>

namespace granary {

// What went wrong, for code to branch on. Each value is one kind of failure that a caller or an operator can act on;
// operating-system errors keep their errno in std::generic_category().
enum class Errc {
  kKvmUnavailable = 1,     // /dev/kvm missing, not accessible, or its API is not version 12
  kKvmCapabilityMissing,   // a required KVM capability is absent
  kHostCannotRunLinux,     // KVM works, but a tiny-guest probe shows that Linux guests cannot run
  kKernelMissing,          // the guest kernel file is not there
  kKernelInvalid,          // neither bzImage nor an ELF with a PVH entry
  kKernelTooBig,           // does not fit into the guest's memory
  kInitramfsMissing,
  kInitramfsInvalid,
  kCommandLineTooLong,
  kMemoryOutOfRange,       // guest memory size not in [min, max] or not page-aligned
  kVcpusOutOfRange,
  kGuestAddressInvalid,    // a guest physical range outside guest memory
  kSnapshotTruncated,
  kSnapshotCorrupt,        // checksum mismatch or a value out of bounds
  kSnapshotVersion,        // written by another snapshot format
  kSnapshotHostMismatch,   // template key: other CPU, microcode, host kernel, VMM build …
  kSnapshotRestoreFailed,  // KVM or a device refused the state
  kDeviceInvalid,          // guest or state asked a device for something it must refuse
  kProtocolVersion,        // control protocol: peer speaks another version
  kProtocolMalformed,      // control protocol or guest protocol: a frame that cannot be parsed
  kPeerGone,               // the other end closed its socket
  kVmmFailed,              // the VMM ended although it should not have
  kGuestUnresponsive,      // probe or identity not answered in time
  kGuestProtocol,          // the guest answered garbage
  kIdentityFailed,         // identity not applied completely: the clone is destroyed
  kConfigInvalid,          // configuration file refused (context: line, column, reason)
  kPoolUnknown,
  kPoolEmpty,              // no warm clone within the deadline
  kCloneUnknown,
  kCloneGone,              // the clone was released or has ended
  kShuttingDown,
  kDeadlineExceeded,
  kAlreadyRunning,         // another agent holds the state directory
  kNotSupported,
  kInvalidArgument,
  kContainerFailed,        // the guest's container runtime could not do it (context: its own words)
  kAddressesExhausted,     // every address of the guests' network is taken
  kSlotsTaken,             // every disk of the clone is in use
};

const std::error_category& granary_category() noexcept;
inline std::error_code make_error_code(Errc e) noexcept {
  return {static_cast<int>(e), granary_category()};
}

// An error: a code to branch on and, for people, what was attempted on which thing with which remedy. The context is
// added once, where the resource is named.
class [[nodiscard]] Error {
 public:
  Error(std::error_code code, std::string context) : code_(code), context_(std::move(context)) {}
  Error(Errc code, std::string context) : Error(make_error_code(code), std::move(context)) {}

  // From errno (call right after the failed system call).
  static Error last_os_error(std::string context) { return from_errno(errno, std::move(context)); }
  static Error from_errno(int number, std::string context) {
    return {std::error_code(number, std::generic_category()), std::move(context)};
  }

  [[nodiscard]] const std::error_code& code() const { return code_; }
  [[nodiscard]] bool is(Errc e) const { return code_ == make_error_code(e); }
  [[nodiscard]] bool is_errno(int number) const {
    return code_ == std::error_code(number, std::generic_category());
  }
  [[nodiscard]] const std::string& context() const { return context_; }
  // "<context>: <code's message>"
  [[nodiscard]] std::string message() const;

 private:
  std::error_code code_;
  std::string context_;
};

}  // namespace granary

template <>
struct std::is_error_code_enum<granary::Errc> : std::true_type {};
