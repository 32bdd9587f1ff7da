// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/template_builder.h"

#include <fcntl.h>

#include <ctime>
#include <iomanip>
#include <sstream>
#include <thread>

#include "vmpool/base/fault.h"
#include "vmpool/pool/sha256.h"
#include "vmpool/pool/template_manifest.h"

namespace granary::pool {
namespace {

constexpr size_t kConsoleTailBytes = 2048;
constexpr std::chrono::seconds kProgressInterval{5};
constexpr std::chrono::milliseconds kCancelInterval{100};
constexpr std::chrono::seconds kQuiescenceLimit{10};
constexpr std::chrono::milliseconds kQuiescencePause{50};
// A guest that only waits makes a handful of exits between two looks.
constexpr uint64_t kIdleExits = 10;
// So many such looks in a row: work that waits for a timer would pass for idleness once.
constexpr int kIdleLooks = 4;

std::string shape_text(const Shape& shape) {
  std::ostringstream text;
  const control::DeviceSet& d = shape.devices;
  text << shape.vcpus << " vcpus, " << shape.memory_bytes << " bytes, net " << +d.net_slots << ", block "
       << +d.block_slots << ", entropy " << +d.entropy << ", console " << +d.console << ", balloon " << +d.balloon
       << ", fs " << +d.fs;
  return text.str();
}

Result<std::string> hash_of(const std::string& path, Errc missing) {
  Result<std::string> hash = sha256_of_file(path);
  if (!hash && hash.error().is_errno(ENOENT)) return Error(missing, path);
  return hash;
}

// One template build: the VM, what it is made from and when it began.
class Builder {
 public:
  Builder(Clone& clone, const PoolSettings& settings, const BuildProgress& progress, const std::atomic<bool>& cancel)
      : clone_(clone), settings_(settings), progress_(progress), cancel_(cancel) {}

  Result<BuiltTemplate> run();

 private:
  Status boot();
  Status wait_ready();
  Status settle();
  Result<Template> snapshot();
  void say(int percent, const std::string& text) const;
  [[nodiscard]] Status check_cancel() const;
  [[nodiscard]] double elapsed_s() const { return std::chrono::duration<double>(SteadyClock::now() - begin_).count(); }
  [[nodiscard]] Error with_console(const Error& error) const;

  Clone& clone_;
  const PoolSettings& settings_;
  const BuildProgress& progress_;
  const std::atomic<bool>& cancel_;
  SteadyTime begin_ = SteadyClock::now();
};

void Builder::say(int percent, const std::string& text) const {
  std::ostringstream line;
  line << text << " (" << std::fixed << std::setprecision(1) << elapsed_s() << " s)";
  progress_(percent, line.str());
}

Error Builder::with_console(const Error& error) const {
  const std::string tail = clone_.console(kConsoleTailBytes);
  return {error.code(), error.context() + (tail.empty() ? "; the guest's console is empty"
                                                        : "; the guest's console ends with:\n" + tail + "\n")};
}

Result<BuiltTemplate> Builder::run() {
  say(5, "starting a VMM");
  GRANARY_TRY(clone_.make_shell(settings_.shape));
  GRANARY_TRY(boot());
  fault_point("template.booting");
  if (const Status ready = wait_ready(); !ready) return with_console(ready.error());
  BuiltTemplate built;
  built.info.boot_seconds = elapsed_s();
  say(75, "guest is ready, probing");
  GRANARY_TRY(clone_.probe(settings_.probe_timeout));
  clone_.close_guest_connection();
  say(80, "waiting until the guest is quiescent");
  GRANARY_TRY(settle());
  say(85, "snapshot");
  built.content = GRANARY_TRY(snapshot());
  fault_point("template.snapshotted");
  built.info.created_unix_s = ::time(nullptr);
  return built;
}

Status Builder::boot() {
  const Fd kernel = GRANARY_TRY(open_file(settings_.source.kernel_path, O_RDONLY));
  Fd initramfs;
  if (!settings_.source.initramfs_path.empty()) {
    initramfs = GRANARY_TRY(open_file(settings_.source.initramfs_path, O_RDONLY));
  }
  say(10, "loading the guest kernel");
  return clone_.vmm().boot(kernel.get(), initramfs.get(), settings_.source.command_line);
}

Status Builder::check_cancel() const { return cancel_ ? Status(Error(Errc::kShuttingDown, "template build")) : ok(); }

Status Builder::wait_ready() {
  const SteadyTime deadline = SteadyClock::now() + settings_.boot_timeout;
  SteadyTime next_line = SteadyClock::now();
  int percent = 20;
  for (;;) {
    GRANARY_TRY(check_cancel());
    const SteadyTime now = SteadyClock::now();
    if (now >= next_line) {
      say(percent, "guest kernel booting");
      percent = std::min(percent + 5, 70);
      next_line = now + kProgressInterval;
    }
    const SteadyTime slice = std::min(deadline, now + kCancelInterval);
    if (GRANARY_TRY(clone_.vmm().wait_doorbell(machine::Doorbell::kReady, slice))) return ok();
    if (SteadyClock::now() >= deadline) {
      return Error(Errc::kGuestUnresponsive, "template boot: the guest was not ready within " +
                                                 std::to_string(settings_.boot_timeout.count()) + " ms");
    }
  }
}

// No vsock connection is open and the vCPUs do next to nothing. The first is required: a snapshot with a connection
// would restore clones that believe in a peer. The second is only worth waiting for.
Status Builder::settle() {
  const SteadyTime deadline = SteadyClock::now() + kQuiescenceLimit;
  control::Stats before = GRANARY_TRY(clone_.vmm().stats());
  int idle_looks = 0;
  for (;;) {
    GRANARY_TRY(check_cancel());
    std::this_thread::sleep_for(kQuiescencePause);
    const control::Stats now = GRANARY_TRY(clone_.vmm().stats());
    const bool late = SteadyClock::now() >= deadline;
    idle_looks = now.exits - before.exits <= kIdleExits ? idle_looks + 1 : 0;
    if (now.open_vsock_connections == 0 && (late || idle_looks >= kIdleLooks)) return ok();
    if (late) {
      return Error(Errc::kGuestUnresponsive, "template: " + std::to_string(now.open_vsock_connections) +
                                                 " vsock connections stay open, so it cannot be snapshotted");
    }
    before = now;
  }
}

Result<Template> Builder::snapshot() {
  GRANARY_TRY(clone_.park());
  Template content;
  content.state = GRANARY_TRY(create_memfd("granary-state"));
  content.memory = GRANARY_TRY(create_memfd("granary-memory"));
  GRANARY_TRY(clone_.vmm().snapshot(content.state.get(), content.memory.get(), settings_.boot_timeout));
  GRANARY_TRY(seal_memfd(content.state.get()));
  GRANARY_TRY(seal_memfd(content.memory.get()));
  const uint64_t state_bytes = GRANARY_TRY(file_size(content.state.get()));
  const uint64_t memory_bytes = GRANARY_TRY(file_size(content.memory.get()));
  if (state_bytes == 0 || state_bytes > Manifest::kMaxStateBytes || memory_bytes != settings_.shape.memory_bytes) {
    return Error(Errc::kSnapshotCorrupt, "the VMM wrote a snapshot of " + std::to_string(state_bytes) +
                                             " bytes of state and " + std::to_string(memory_bytes) +
                                             " bytes of memory");
  }
  return content;
}

}  // namespace

Result<TemplateInputs> template_inputs(const PoolSettings& settings, const std::string& vmm_build_id,
                                       const std::string& host_fingerprint) {
  TemplateInputs inputs;
  inputs.lines["kernel"] = GRANARY_TRY(hash_of(settings.source.kernel_path, Errc::kKernelMissing));
  inputs.lines["initramfs"] = settings.source.initramfs_path.empty()
                                  ? "none"
                                  : GRANARY_TRY(hash_of(settings.source.initramfs_path, Errc::kInitramfsMissing));
  inputs.lines["command-line"] = settings.source.command_line;
  inputs.lines["shape"] = shape_text(settings.shape);
  if (settings.sharing != Sharing::kNode) inputs.lines["pool"] = settings.name;
  inputs.lines["vmm"] = vmm_build_id;
  inputs.lines["format"] = std::to_string(Manifest::kFormat);
  std::istringstream host(host_fingerprint);
  for (std::string line; std::getline(host, line);) {
    const size_t equals = line.find('=');
    if (equals != std::string::npos) inputs.lines["host-" + line.substr(0, equals)] = line.substr(equals + 1);
  }
  return inputs;
}

Result<BuiltTemplate> build_template(CloneTools tools, const PoolSettings& settings, const TemplateInputs& inputs,
                                     const BuildProgress& progress, const std::atomic<bool>& cancel,
                                     std::vector<std::string>& leaks) {
  const std::shared_ptr<Clone> clone = GRANARY_TRY(Clone::create(tools, "template"));
  Result<BuiltTemplate> built = Builder(*clone, settings, progress, cancel).run();
  leaks = clone->destroy();
  if (!built) return built;
  built->content.key = inputs.key();
  built->info.key = built->content.key;
  built->info.inputs = inputs.text();
  return built;
}

}  // namespace granary::pool
