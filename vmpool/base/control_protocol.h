// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "vmpool/base/message_socket.h"
#include "vmpool/base/status_page.h"
#include "vmpool/base/units.h"

// The control protocol: agent <-> granary-spawn, agent <-> granary-vmm, agent or shim <-> granary-fsd, over SOCK_SEQPACKET unix sockets. One message =
// Header + one fixed-size plain body + file descriptors. Resources travel as descriptors, never as paths. Both ends treat the
// other as hostile: a wrong magic, version, length, type or number of descriptors is refused (kProtocol…), never trusted.
// Host byte order: both ends run on one machine.
namespace granary::control {

inline constexpr uint32_t kMagic = 0x4752414e;  // "GRAN"
// Raised on any incompatible change. A peer answers a message of another version with kError/kProtocolVersion.
inline constexpr uint16_t kVersion = 1;

enum class Type : uint16_t {
  // answers; one with a body of its own (HelloReply, Spawned, Stats …) carries the request's own type instead
  kDone = 1,   // Empty
  kError = 2,  // ErrorBody

  // requests to granary-spawn
  kHello = 16,         // Hello -> HelloReply
  kSpawn = 17,         // Spawn [cgroup directory fd, optional] -> Spawned [control socket, status page, pidfd]
  kKill = 18,          // VmRef -> kDone once the process is reaped and its socket path is gone
  kListVms = 19,       // Empty -> VmList
  kAdopt = 20,         // VmRef -> Spawned [control socket, status page, pidfd], for an agent that was restarted
  kForget = 21,        // VmRef -> kDone: drops the exit record of an ended VM
  kPutTemplate = 22,   // TemplateRef [state memfd, memory memfd], both sealed -> kDone: keeps them over an agent restart
  kGetTemplate = 23,   // TemplateRef -> kDone [state memfd, memory memfd]
  kDropTemplate = 24,  // TemplateRef -> kDone
  kTakeVm = 25,        // TakeVm [control socket, status page, pidfd] -> kDone: a VM of a spawner that has died; watched, but no child
  // What kListVms has no room for: the VMs and records with a greater number, in the order of their numbers.
  kListVmsAfter = 26,  // VmRef -> VmList
  kSpawnFsd = 27,      // VmRef [cgroup directory fd, optional] -> FsdSpawned [socket for kAttachFs, export control socket, pidfd]
  // Shims of pods, by sandbox id. Like a VMM a shim outlives the agent; unlike one it is not jailed: it works on the host's files.
  kStartShim = 28,  // StartShim [listening socket] -> ShimRecord [pidfd]
  kStopShim = 29,   // ShimRef -> kDone once the process is reaped, also when there was none
  kListShims = 30,  // Empty -> ShimList
  kFindShim = 31,   // ShimRef -> ShimRecord [pidfd], for an agent that was restarted; ENOENT
  kTakeShim = 40,   // ShimRecord [pidfd] -> kDone: a shim of a spawner that has died; watched, but no child
  // What kListShims has no room for: the shims with a greater id, in the order of their ids.
  kListShimsAfter = 41,  // ShimRef -> ShimList
  kStartForwardingShim = 42,  // StartForwardingShim [listening socket] -> ShimRecord [pidfd]: it forwards to the pod's ports
  // events from granary-spawn
  kExited = 32,      // VmRecord: a VMM was reaped
  kShimExited = 33,  // ShimRecord: a shim was reaped

  // requests to granary-vmm
  kCreateShell = 64,  // CreateShell -> kDone: VM, memory, vCPUs, CPUID, irqchip and devices exist, nothing runs
  kBoot = 65,         // Boot [kernel, initramfs (optional)] -> kDone: vCPUs run
  kRestore = 66,      // Restore [state memfd, memory memfd] -> kDone: state loaded; runs if asked
  kPark = 67,         // Empty -> kDone: vCPUs stopped, clocks saved
  kUnpark = 68,       // Empty -> kDone: clocks put back, vCPUs run
  kSnapshot = 69,     // Empty [empty state memfd, empty memory memfd] -> SnapshotDone; VM must be parked and quiescent
  kAttachBlock = 70,  // Attach [file] -> kDone; EBUSY: the slot has a file
  kAttachNet = 71,    // Attach [tap] -> kDone
  kGetStats = 72,     // Empty -> Stats
  kTerminate = 73,    // Empty -> kDone, then the process exits with EndState::kTerminated
  kAttachFs = 74,     // Attach [stream socket of a granary-fsd] -> kDone
  kDetachBlock = 75,  // Slot -> kDone: the slot is empty again; EBUSY while a request is under way
  // events from granary-vmm
  kDoorbell = 96,  // DoorbellEvent: the guest wrote the doorbell port
  kEnded = 97,     // EndedEvent: the process exits right after

  // requests to granary-fsd
  kAddExport = 128,     // AddExport [O_PATH descriptor of a directory or file] -> kDone
  kRemoveExport = 129,  // ExportRef -> kDone: nothing of it is open any more; ENOENT when there is none
};

struct Header {
  uint32_t magic;
  uint16_t version;
  uint16_t type;
  uint32_t request;     // chosen by the asker, repeated in the answer; 0 in events
  uint32_t body_bytes;  // exactly what follows
};
static_assert(sizeof(Header) == 16);

struct Empty {
  uint32_t reserved;
};
struct ErrorBody {
  uint32_t category;  // 0 = errno, 1 = granary::Errc
  int32_t code;
  char context[512];
};

struct Hello {
  uint32_t peer_version;
};
struct HelloReply {
  uint32_t version;
  int32_t pid;
  uint64_t vms;
  uint32_t transient;  // 1: it ends by itself once it has neither VMs nor clients
  uint32_t reserved;
  char vmm_build_id[64];  // hex digits; part of the template key
};
// The VMM gets a core-scheduling cookie of its own (Linux: admin-guide/hw-vuln/core-scheduling.rst): no other process runs
// on the sibling of a hardware thread while one of its threads runs. Nothing to do on a host without such siblings;
// EINVAL: a kernel without CONFIG_SCHED_CORE.
inline constexpr uint32_t kSpawnCoreScheduling = 1U << 0;
struct Spawn {
  uint32_t flags;  // kSpawn…
  uint32_t reserved;
};
struct Spawned {
  uint64_t vm_id;
  int32_t pid;
  uint32_t reserved;
  char socket_name[64];  // file name of the per-clone vsock socket in the spawner's run directory
};
struct VmRef {
  uint64_t vm_id;
};
struct TakeVm {
  uint64_t vm_id;
  int32_t pid;
  uint32_t reserved;
};
struct FsdSpawned {
  int32_t pid;
  uint32_t reserved;
  char socket_name[64];  // file name of its listening export control socket in the spawner's run directory
};
struct VmRecord {
  uint64_t vm_id;
  int32_t pid;
  uint32_t alive;
  int32_t wait_status;  // as waitpid(2) gives it; valid when !alive. Exit code 137 for a VM that was no child (kTakeVm)
  uint32_t end_state;   // EndState
};
struct VmList {
  uint32_t count;
  uint32_t more;  // 1 if there are more than fit: kListVmsAfter
  std::array<VmRecord, 1024> vms;
};
struct ShimRef {
  char sandbox_id[132];  // [a-zA-Z0-9_.-], at most 128 bytes, NUL
};
struct StartShim {
  ShimRef shim;
  char clone_id[40];
  uint32_t reserved;
  uint64_t vm_id;            // a live VM, whose socket it gets
  char agent_socket[108];    // where it finds the agent of the day
  char events_socket[108];   // containerd's; empty: none
};
struct StartForwardingShim {
  StartShim start;
  char netns[256];  // path of the pod's network namespace
};
struct ShimRecord {
  ShimRef shim;
  int32_t pid;
};
struct ShimList {
  uint32_t count;
  uint32_t more;  // 1 if there are more than fit: kListShimsAfter
  std::array<ShimRecord, 400> shims;
};
struct TemplateRef {
  char key[72];  // 64 hex digits, NUL
};

struct DeviceSet {
  uint8_t net_slots;    // <= 2
  uint8_t block_slots;  // <= 8
  uint8_t entropy;      // 0 or 1 …
  uint8_t console;
  uint8_t balloon;
  uint8_t fs;
  uint8_t reserved[2];

  bool operator==(const DeviceSet&) const = default;
};
// vsock is always there, in slot 0.

struct CreateShell {
  uint64_t memory_bytes;
  uint32_t vcpus;
  uint32_t reserved;
  DeviceSet devices;
};
struct Boot {
  uint32_t with_initramfs;
  uint32_t command_line_bytes;
  char command_line[2048];
};
struct Restore {
  uint32_t resume;   // 1: vCPUs run when kDone is sent
  uint32_t reserved;
  std::array<uint8_t, 16> vm_generation_id;  // written and signalled before the first instruction
};
struct SnapshotDone {
  uint64_t state_bytes;
  uint64_t memory_bytes;     // size of the memory file (= guest memory)
  uint64_t populated_bytes;  // in extents
  uint32_t extents;
  uint32_t reserved;
};
struct Attach {
  uint32_t slot;       // n-th device of its kind
  uint32_t read_only;  // block only
};
struct Slot {
  uint32_t slot;
};
struct Stats {
  uint64_t exits;
  uint64_t mmio_exits;
  uint64_t pio_exits;
  uint64_t halt_exits;
  uint64_t restore_ns;             // last kRestore, received -> state loaded
  uint64_t device_errors;
  uint64_t open_vsock_connections;
};
struct DoorbellEvent {
  uint32_t value;
  uint32_t vcpu;
  uint64_t monotonic_ns;  // CLOCK_MONOTONIC when the exit was seen
};
struct EndedEvent {
  uint32_t end_state;
  int32_t detail;
};

inline constexpr size_t kMaxExportNameBytes = 64;  // [a-z0-9-], at least one
struct AddExport {
  char name[kMaxExportNameBytes + 1];
  uint8_t reserved[3];
  uint32_t read_only;
};
struct ExportRef {
  char name[kMaxExportNameBytes + 1];
  uint8_t reserved[3];
};

// A received message whose header has been checked.
struct Message {
  Type type{};
  uint32_t request = 0;
  std::vector<std::byte> body;
  std::vector<Fd> fds;

  // The body as a Body and exactly `fd_count` descriptors, else kProtocolMalformed.
  template <class Body>
  [[nodiscard]] Result<Body> as(size_t fd_count = 0) const {
    static_assert(std::is_trivially_copyable_v<Body>);
    GRANARY_TRY(check_shape(sizeof(Body), fd_count));
    Body value;
    std::memcpy(&value, body.data(), sizeof(Body));
    return value;
  }
  // The body of an answer of type `wanted`; a kError answer becomes the Error it carries.
  template <class Body>
  [[nodiscard]] Result<Body> as_answer(Type wanted, size_t fd_count = 0) const {
    GRANARY_TRY(check_answer(wanted));
    return as<Body>(fd_count);
  }

 private:
  [[nodiscard]] Status check_shape(size_t body_bytes, size_t fd_count) const;
  [[nodiscard]] Status check_answer(Type wanted) const;
};

// Parses one raw message; kProtocolMalformed or kProtocolVersion.
Result<Message> parse(RawMessage raw);
Result<Message> receive(int socket, int timeout_ms = -1);

Status send_bytes(int socket, Type type, uint32_t request, std::span<const std::byte> body,
                  std::span<const int> fds);
template <class Body>
Status send(int socket, Type type, uint32_t request, const Body& body, std::span<const int> fds = {}) {
  static_assert(std::is_trivially_copyable_v<Body> && sizeof(Body) + sizeof(Header) <= kMaxMessageBytes);
  return send_bytes(socket, type, request, std::as_bytes(std::span(&body, 1)), fds);
}
Status send_done(int socket, uint32_t request, std::span<const int> fds = {});
Status send_error(int socket, uint32_t request, const Error& error);

// Copies text into a fixed array, NUL-terminated, cut if too long; and back, stopping at the first NUL.
template <size_t N>
void set_text(char (&to)[N], std::string_view text) {
  const size_t n = std::min(text.size(), N - 1);
  std::memcpy(to, text.data(), n);
  std::memset(to + n, 0, N - n);
}
template <size_t N>
std::string text_of(const char (&from)[N]) {
  return {from, strnlen(from, N)};
}

}  // namespace granary::control
