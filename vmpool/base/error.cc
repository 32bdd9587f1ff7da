// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/error.h"

namespace granary {
namespace {

class Category final : public std::error_category {
 public:
  [[nodiscard]] const char* name() const noexcept override { return "granary"; }
  [[nodiscard]] std::string message(int value) const override {
    switch (static_cast<Errc>(value)) {
      case Errc::kKvmUnavailable: return "KVM is not available";
      case Errc::kKvmCapabilityMissing: return "KVM lacks a required capability";
      case Errc::kHostCannotRunLinux: return "this host's KVM cannot run Linux guests";
      case Errc::kKernelMissing: return "guest kernel missing";
      case Errc::kKernelInvalid: return "not a bootable kernel";
      case Errc::kKernelTooBig: return "guest kernel does not fit into guest memory";
      case Errc::kInitramfsMissing: return "initramfs missing";
      case Errc::kInitramfsInvalid: return "initramfs invalid";
      case Errc::kCommandLineTooLong: return "kernel command line too long";
      case Errc::kMemoryOutOfRange: return "guest memory size out of range";
      case Errc::kVcpusOutOfRange: return "number of vCPUs out of range";
      case Errc::kGuestAddressInvalid: return "guest physical address out of range";
      case Errc::kSnapshotTruncated: return "snapshot truncated";
      case Errc::kSnapshotCorrupt: return "snapshot damaged";
      case Errc::kSnapshotVersion: return "snapshot has another format version";
      case Errc::kSnapshotHostMismatch: return "snapshot was made on another host or by another build";
      case Errc::kSnapshotRestoreFailed: return "snapshot cannot be restored";
      case Errc::kDeviceInvalid: return "device refused a request";
      case Errc::kProtocolVersion: return "protocol version not supported";
      case Errc::kProtocolMalformed: return "malformed message";
      case Errc::kPeerGone: return "peer closed the connection";
      case Errc::kVmmFailed: return "the VMM ended unexpectedly";
      case Errc::kGuestUnresponsive: return "the guest did not answer in time";
      case Errc::kGuestProtocol: return "the guest answered garbage";
      case Errc::kIdentityFailed: return "identity could not be applied";
      case Errc::kConfigInvalid: return "configuration refused";
      case Errc::kPoolUnknown: return "unknown pool";
      case Errc::kPoolEmpty: return "pool is empty";
      case Errc::kCloneUnknown: return "unknown clone";
      case Errc::kCloneGone: return "clone is gone";
      case Errc::kShuttingDown: return "shutting down";
      case Errc::kDeadlineExceeded: return "deadline exceeded";
      case Errc::kAlreadyRunning: return "another agent is already running";
      case Errc::kNotSupported: return "not supported";
      case Errc::kInvalidArgument: return "invalid argument";
      case Errc::kContainerFailed: return "the container runtime failed";
      case Errc::kAddressesExhausted: return "no free address";
      case Errc::kSlotsTaken: return "every slot is taken";
    }
    return "unknown error " + std::to_string(value);
  }
};

}  // namespace

const std::error_category& granary_category() noexcept {
  static const Category category;
  return category;
}

std::string Error::message() const {
  return context_.empty() ? code_.message() : context_ + ": " + code_.message();
}

}  // namespace granary
