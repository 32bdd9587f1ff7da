// SPDX-License-Identifier: Apache-2.0
#include "vmpool/base/status_page.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace granary {

const char* to_string(EndState state) {
  switch (state) {
    case EndState::kRunning: return "running";
    case EndState::kShutdown: return "shutdown";
    case EndState::kReboot: return "reboot";
    case EndState::kPanic: return "panic";
    case EndState::kTripleFault: return "triple-fault";
    case EndState::kInternalError: return "internal-error";
    case EndState::kTerminated: return "terminated";
    case EndState::kLost: return "lost";
    case EndState::kSeccompViolation: return "seccomp-violation";
  }
  return "lost";
}

const char* to_string(VmPhase phase) {
  switch (phase) {
    case VmPhase::kEmpty: return "empty";
    case VmPhase::kShell: return "shell";
    case VmPhase::kRunning: return "running";
    case VmPhase::kParked: return "parked";
    case VmPhase::kEnded: return "ended";
  }
  return "invalid";
}

Result<Fd> StatusFile::create() {
  Fd fd = GRANARY_TRY(create_memfd("granary-status", StatusPage::kFileBytes));
  const StatusFile file = GRANARY_TRY(map(fd.get(), true));
  file.page().magic = StatusPage::kMagic;
  file.page().version = 1;
  return fd;
}

Result<StatusFile> StatusFile::map(int fd, bool writable) {
  // A shorter file would turn every later access into SIGBUS.
  if (GRANARY_TRY(file_size(fd)) < StatusPage::kFileBytes) {
    return Error(Errc::kProtocolMalformed, "status page shorter than " + std::to_string(StatusPage::kFileBytes));
  }
  return StatusFile(GRANARY_TRY(Mapping::shared_file(fd, StatusPage::kFileBytes, writable)));
}

void StatusFile::write_console(std::span<const std::byte> bytes) const {
  uint64_t written = page().console_written.load(std::memory_order_relaxed);
  for (const std::byte b : bytes) {
    mapping_.data()[StatusPage::kConsoleOffset + written % StatusPage::kConsoleBytes] = b;
    ++written;
  }
  page().console_written.store(written, std::memory_order_release);
}

std::string StatusFile::console_tail(size_t limit_bytes) const {
  const uint64_t written = page().console_written.load(std::memory_order_acquire);
  const uint64_t length = std::min({written, StatusPage::kConsoleBytes, static_cast<uint64_t>(limit_bytes)});
  std::string text(length, '\0');
  for (uint64_t i = 0; i < length; ++i) {
    const uint64_t at = (written - length + i) % StatusPage::kConsoleBytes;
    text[i] = static_cast<char>(mapping_.data()[StatusPage::kConsoleOffset + at]);
  }
  return text;
}

void StatusFile::set_end(EndState state, int detail, const char* reason) const {
  uint32_t expected = static_cast<uint32_t>(EndState::kRunning);
  if (!page().end_state.compare_exchange_strong(expected, static_cast<uint32_t>(state))) return;
  page().end_detail = detail;
  std::snprintf(page().end_reason, sizeof(page().end_reason), "%s", reason);
  page().phase = static_cast<uint32_t>(VmPhase::kEnded);
}

void StatusFile::overrule_end(EndState state, int detail, const char* reason) const {
  page().end_detail = detail;
  std::snprintf(page().end_reason, sizeof(page().end_reason), "%s", reason);
  page().phase = static_cast<uint32_t>(VmPhase::kEnded);
  page().end_state.store(static_cast<uint32_t>(state), std::memory_order_release);
}

bool is_written_end(uint32_t state) {
  return state == static_cast<uint32_t>(EndState::kSeccompViolation) ||
         (state != static_cast<uint32_t>(EndState::kRunning) && state <= static_cast<uint32_t>(EndState::kTerminated));
}

EndState StatusFile::end_state() const {
  const uint32_t value = page().end_state.load(std::memory_order_acquire);
  if (value == static_cast<uint32_t>(EndState::kRunning)) return EndState::kRunning;
  return is_written_end(value) ? static_cast<EndState>(value) : EndState::kLost;
}

}  // namespace granary
