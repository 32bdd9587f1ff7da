// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include "vmpool/base/guest_memory.h"
#include "vmpool/pool/pool_impl.h"

namespace granary::pool {
namespace {

constexpr uint32_t kMaxPoolSize = 4096;
constexpr uint32_t kMaxRefillConcurrency = 64;

Status check_shape(const Shape& shape) {
  if (shape.memory_bytes < kMinGuestMemory || shape.memory_bytes > kMaxGuestMemory ||
      shape.memory_bytes % kPageSize != 0) {
    return Error(Errc::kMemoryOutOfRange, "shape \"" + shape.name + "\": memory of " +
                                              std::to_string(shape.memory_bytes) +
                                              " bytes; allowed: multiples of 4096 from 1 MiB to 512 GiB");
  }
  if (shape.vcpus == 0 || shape.vcpus > machine::kMaxVcpus) {
    return Error(Errc::kVcpusOutOfRange, "shape \"" + shape.name + "\": " + std::to_string(shape.vcpus) +
                                             " vCPUs; allowed: 1 to " + std::to_string(machine::kMaxVcpus));
  }
  return ok();
}

Status check_readable(const std::string& path, Errc missing) {
  if (::access(path.c_str(), R_OK) == 0) return ok();
  if (errno == ENOENT || errno == ENOTDIR) return Error(missing, path);
  return Error::last_os_error("read " + path);
}

}  // namespace

Status check_limits(const std::string& name, const PoolLimits& limits) {
  const auto refuse = [&](const std::string& what) {
    return Status(Error(Errc::kInvalidArgument, "pool \"" + name + "\": " + what));
  };
  if (limits.max == 0 || limits.max > kMaxPoolSize) {
    return refuse("max is " + std::to_string(limits.max) + "; allowed: 1 to " + std::to_string(kMaxPoolSize));
  }
  if (limits.size > limits.max) {
    return refuse("size " + std::to_string(limits.size) + " is above max " + std::to_string(limits.max));
  }
  if (limits.min > limits.size) {
    return refuse("min " + std::to_string(limits.min) + " is above size " + std::to_string(limits.size));
  }
  if (limits.charge == Charge::kExact && limits.size > 0) {
    return refuse("size " + std::to_string(limits.size) + " with exact charging, which keeps no warm clones");
  }
  if (limits.refill_concurrency == 0 || limits.refill_concurrency > kMaxRefillConcurrency) {
    return refuse("refill_concurrency is " + std::to_string(limits.refill_concurrency) + "; allowed: 1 to " +
                  std::to_string(kMaxRefillConcurrency));
  }
  return ok();
}

Status check_settings(const PoolSettings& settings) {
  if (settings.name.empty() || settings.name.find_first_of("/\n") != std::string::npos) {
    return Error(Errc::kInvalidArgument, "pool \"" + settings.name + "\": not a name");
  }
  GRANARY_TRY(check_limits(settings.name, settings));
  GRANARY_TRY(check_shape(settings.shape));
  if (settings.source.command_line.size() >= sizeof(control::Boot::command_line)) {
    return Error(Errc::kCommandLineTooLong,
                 "pool \"" + settings.name + "\": " + std::to_string(settings.source.command_line.size()) +
                     " bytes; allowed: " + std::to_string(sizeof(control::Boot::command_line) - 1));
  }
  GRANARY_TRY(check_readable(settings.source.kernel_path, Errc::kKernelMissing));
  if (settings.source.initramfs_path.empty()) return ok();
  return check_readable(settings.source.initramfs_path, Errc::kInitramfsMissing);
}

}  // namespace granary::pool
