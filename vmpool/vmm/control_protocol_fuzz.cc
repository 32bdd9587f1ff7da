// SPDX-License-Identifier: Apache-2.0
// What a hostile peer can send a VMM: the first byte picks the phase and how many descriptors come along, the rest is
// the message. Run twice, the second time with a right magic, version and length.
#include <fcntl.h>

#include <cstdlib>
#include <cstring>

#include "vmpool/vmm/request.h"

namespace {

void check(granary::RawMessage raw, granary::VmPhase phase) {
  granary::Result<granary::control::Message> message = granary::control::parse(std::move(raw));
  if (!message) return;
  const granary::Result<granary::vmm::Request> request = granary::vmm::check_request(*std::move(message), phase);
  if (!request) return;
  // What got through is in bounds.
  if (const auto* shell = std::get_if<granary::vmm::CreateShellRequest>(&*request)) {
    if (shell->vcpus < 1 || shell->vcpus > 8 || shell->devices.fs > 1 || shell->devices.block_slots > 8) std::abort();
  }
  if (const auto* boot = std::get_if<granary::vmm::BootRequest>(&*request)) {
    if (!boot->kernel.valid() || boot->command_line.size() > 2047) std::abort();
  }
}

granary::RawMessage make(const uint8_t* data, size_t size, unsigned fds) {
  granary::RawMessage raw;
  raw.bytes.resize(size);
  if (size > 0) std::memcpy(raw.bytes.data(), data, size);
  for (unsigned i = 0; i < fds; ++i) raw.fds.emplace_back(::fcntl(0, F_DUPFD_CLOEXEC, 0));
  return raw;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto phase = static_cast<granary::VmPhase>(data[0] % 5);
  const unsigned fds = (data[0] / 5U) % 4;
  check(make(data + 1, size - 1, fds), phase);
  granary::RawMessage raw = make(data + 1, size - 1, fds);
  granary::control::Header header{};
  if (raw.bytes.size() < sizeof(header)) return 0;
  std::memcpy(&header, raw.bytes.data(), sizeof(header));
  header.magic = granary::control::kMagic;
  header.version = granary::control::kVersion;
  header.body_bytes = static_cast<uint32_t>(raw.bytes.size() - sizeof(header));
  std::memcpy(raw.bytes.data(), &header, sizeof(header));
  check(std::move(raw), phase);
  return 0;
}
