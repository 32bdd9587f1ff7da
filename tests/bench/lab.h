// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmpool/pool/pool.h"
#include "vmpool/pool/spawner_client.h"
#include "vmpool/pool/template_store.h"
#include "vmpool/pool/vmm_client.h"

namespace granary::bench {

// Of the folders that benchmarks make below $TMPDIR (mkdtemp(3)). Short: an agent's sockets are below it.
inline constexpr const char* kFolderPattern = "gb.XXXXXX";

// What a benchmark boots.
struct Guest {
  std::string name;  // "tiny", "minimal", "distro"
  std::string kernel;
  std::string initramfs;  // empty: none
  std::string command_line;
};

// A VMM process in the spawner's care; killed and reaped with its owner.
class LabVm {
 public:
  LabVm(pool::SpawnerClient& spawner, pool::SpawnedVm spawned) : spawner_(&spawner), spawned_(std::move(spawned)) {}
  LabVm(LabVm&& other) noexcept
      : spawner_(std::exchange(other.spawner_, nullptr)), spawned_(std::move(other.spawned_)) {}
  LabVm& operator=(LabVm&&) = delete;
  ~LabVm() {
    if (spawner_ != nullptr) (void)end();
  }
  // Killed, reaped, its socket gone, its record dropped.
  Status end();

  [[nodiscard]] int32_t pid() const { return spawned_.pid; }
  [[nodiscard]] int control() const { return spawned_.control.get(); }
  [[nodiscard]] const std::string& socket_path() const { return spawned_.socket_path; }
  // A client of its own descriptor for the same socket: not to be used while one talks over control() directly.
  [[nodiscard]] Result<std::unique_ptr<pool::VmmClient>> client() const;

 private:
  pool::SpawnerClient* spawner_;
  pool::SpawnedVm spawned_;
};

// A folder, a granary-spawn and templates of the guests, for rows that drive VMMs directly. Everything ends with it.
class Lab {
 public:
  // `programs`: the folder of granary-spawn and granary-vmm.
  static Result<std::unique_ptr<Lab>> create(const std::string& programs);
  ~Lab();
  Lab(const Lab&) = delete;
  Lab& operator=(const Lab&) = delete;

  [[nodiscard]] pool::SpawnerClient& spawner() { return *spawner_; }
  [[nodiscard]] const std::string& folder() const { return folder_; }
  Result<LabVm> spawn(int cgroup = -1);
  // A VMM with a shell made.
  Result<LabVm> spawn_shell();
  // Boots the guest up to its ready doorbell. The client has seen that; take no other.
  struct Booted {
    LabVm vm;
    std::unique_ptr<pool::VmmClient> client;
  };
  Result<Booted> boot(const Guest& guest);
  // Boots the guest and snapshots it at its ready doorbell.
  Result<pool::Template> build_template(const Guest& guest);
  // The same, once for each guest.
  Result<const pool::Template*> template_of(const Guest& guest);

 private:
  explicit Lab(std::string folder) : folder_(std::move(folder)) {}
  Status start_spawner(const std::string& programs);
  std::string folder_;
  pid_t spawner_pid_ = -1;
  std::unique_ptr<pool::SpawnerClient> spawner_;
  std::map<std::string, pool::Template> templates_;
};

// One vCPU, 256 MiB, the default device set.
const pool::Shape& shape();
unsigned device_count();
std::array<uint8_t, 16> new_generation();

}  // namespace granary::bench
