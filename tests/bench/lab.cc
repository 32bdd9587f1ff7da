// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/lab.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "vmpool/pool/guest_client.h"

namespace granary::bench {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;

Result<std::string> make_folder() {
  std::string name = (std::filesystem::temp_directory_path() / kFolderPattern).string();
  if (::mkdtemp(name.data()) == nullptr) return Error::last_os_error("make the folder " + name);
  return name;
}

Result<Fd> memfd(const char* name) {
  Fd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return Error::last_os_error(std::string("memfd_create ") + name);
  return fd;
}

Status seal(const Fd& fd) {
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0) {
    return Error::last_os_error("seal a template file");
  }
  return ok();
}

}  // namespace

const pool::Shape& shape() {
  static const pool::Shape kShape{.name = "bench"};
  return kShape;
}

unsigned device_count() {
  const control::DeviceSet& set = shape().devices;
  return 1U + set.net_slots + set.block_slots + set.entropy + set.console + set.balloon + set.fs;
}

std::array<uint8_t, 16> new_generation() {
  const auto uuid = pool::random_uuid();
  return uuid ? *uuid : std::array<uint8_t, 16>{1};
}

Status LabVm::end() {
  pool::SpawnerClient& spawner = *std::exchange(spawner_, nullptr);
  GRANARY_TRY(spawner.kill(VmId{spawned_.vm}));
  GRANARY_TRY(spawner.forget(VmId{spawned_.vm}));
  return ok();
}

Result<std::unique_ptr<pool::VmmClient>> LabVm::client() const {
  return std::make_unique<pool::VmmClient>(GRANARY_TRY(spawned_.control.duplicate()));
}

Result<std::unique_ptr<Lab>> Lab::create(const std::string& programs) {
  std::unique_ptr<Lab> lab(new Lab(GRANARY_TRY(make_folder())));
  GRANARY_TRY(lab->start_spawner(programs));
  return lab;
}

Lab::~Lab() {
  spawner_.reset();
  if (spawner_pid_ > 0) {
    ::kill(spawner_pid_, SIGTERM);
    ::waitpid(spawner_pid_, nullptr, 0);
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

Status Lab::start_spawner(const std::string& programs) {
  const std::string program = programs + "/granary-spawn";
  const std::string socket = folder_ + "/spawn.sock";
  const std::string run = folder_ + "/run";
  const std::string vmm = programs + "/granary-vmm";
  const std::string fsd = programs + "/granary-fsd";
  std::error_code code;
  std::filesystem::create_directory(run, code);
  const char* const argv[] = {program.c_str(), "--control-socket", socket.c_str(), "--run-dir", run.c_str(),
                              "--vmm",         vmm.c_str(),        "--fsd",        fsd.c_str(), nullptr};
  const int failed = ::posix_spawn(&spawner_pid_, program.c_str(), nullptr, nullptr, const_cast<char**>(argv), environ);
  if (failed != 0) {
    spawner_pid_ = -1;
    return Error::from_errno(failed, "start " + program + " (is it built?)");
  }
  const auto deadline = pool::SteadyClock::now() + seconds(20);
  for (;;) {
    auto client = pool::SpawnerClient::connect(socket, run, minutes(2));
    if (client) {
      spawner_ = *std::move(client);
      return ok();
    }
    if (::waitpid(spawner_pid_, nullptr, WNOHANG) == spawner_pid_) {
      spawner_pid_ = -1;
      return Error(Errc::kPeerGone, program + " ended at once");
    }
    if (pool::SteadyClock::now() > deadline) return std::move(client).error();
    ::poll(nullptr, 0, 10);
  }
}

Result<LabVm> Lab::spawn(int cgroup) { return LabVm(*spawner_, GRANARY_TRY(spawner_->spawn(cgroup))); }

Result<LabVm> Lab::spawn_shell() {
  LabVm vm = GRANARY_TRY(spawn());
  const auto client = GRANARY_TRY(vm.client());
  GRANARY_TRY(client->create_shell(shape()));
  return vm;
}

Result<Lab::Booted> Lab::boot(const Guest& guest) {
  const Fd kernel = GRANARY_TRY(open_file(guest.kernel, O_RDONLY));
  Fd initramfs;
  if (!guest.initramfs.empty()) initramfs = GRANARY_TRY(open_file(guest.initramfs, O_RDONLY));
  LabVm vm = GRANARY_TRY(spawn_shell());
  auto client = GRANARY_TRY(vm.client());
  GRANARY_TRY(client->boot(kernel.get(), initramfs.get(), guest.command_line));
  if (!GRANARY_TRY(client->wait_doorbell(machine::Doorbell::kReady, pool::SteadyClock::now() + minutes(2)))) {
    return Error(Errc::kGuestUnresponsive, guest.kernel + " was not ready within 2 minutes");
  }
  return Booted{std::move(vm), std::move(client)};
}

Result<pool::Template> Lab::build_template(const Guest& guest) {
  const auto [vm, client] = GRANARY_TRY(boot(guest));
  GRANARY_TRY(client->park());
  pool::Template made{guest.name, GRANARY_TRY(memfd("bench-state")), GRANARY_TRY(memfd("bench-memory"))};
  GRANARY_TRY(client->snapshot(made.state.get(), made.memory.get(), minutes(2)));
  GRANARY_TRY(seal(made.state));
  GRANARY_TRY(seal(made.memory));
  return made;
}

Result<const pool::Template*> Lab::template_of(const Guest& guest) {
  const std::string key = guest.kernel + '\n' + guest.command_line;
  const auto known = templates_.find(key);
  if (known != templates_.end()) return static_cast<const pool::Template*>(&known->second);
  pool::Template made = GRANARY_TRY(build_template(guest));
  return static_cast<const pool::Template*>(&templates_.emplace(key, std::move(made)).first->second);
}

}  // namespace granary::bench
