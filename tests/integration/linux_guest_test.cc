// SPDX-License-Identifier: Apache-2.0
// What only a real Linux guest shows, on the real granary-vmm: several vCPUs, the VM generation id's driver, memory
// that goes back to the host, and clones that dirty everything. The parameter: a guest image's name.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <fstream>
#include <iostream>

#include "agent/cgroup.h"
#include "tests/bench/smaps.h"
#include "tests/integration/test_pod.h"
#include "vmpool/guest/guest.pb.h"
#include "vmpool/pool/exec_session.h"
#include "vmpool/pool/linux_image.h"
#include "vmpool/pool/test_bench.h"

namespace granary::pool {
namespace {

SteadyTime in_time() { return SteadyClock::now() + std::chrono::seconds(300); }

struct Output {
  std::string text;  // standard output and error
  int32_t status = -1;
};

Result<std::unique_ptr<ExecSession>> shell(const CloneInfo& clone, const std::string& script) {
  guest::v1::Exec request;
  for (const std::string& word : {std::string("/bin/sh"), std::string("-c"), script}) request.add_argv(word);
  request.add_env("PATH=/bin:/sbin:/usr/bin:/usr/sbin");
  return ExecSession::start(clone.socket_path, request, in_time());
}

// Runs a shell script in the clone.
Output run(const CloneInfo& clone, const std::string& script) {
  Output output;
  const auto session = shell(clone, script);
  EXPECT_TRUE(session) << session.error().message();
  while (session) {
    const Result<std::optional<ExecEvent>> event = (*session)->next(in_time());
    EXPECT_TRUE(event && *event) << script;
    if (!event || !*event) break;
    output.text += (*event)->data;
    output.status = (*event)->exit_status;
    if ((*event)->kind == ExecEvent::Kind::kExited) break;
  }
  return output;
}

// The same for one that ends with its clone.
void run_to_death(const CloneInfo& clone, const std::string& script) {
  const auto session = shell(clone, script);
  EXPECT_TRUE(session) << session.error().message();
  while (session) {
    const auto event = (*session)->next(in_time());
    if (!event || !*event || (*event)->kind == ExecEvent::Kind::kExited) return;
  }
}

// What the template's memory file takes, in blocks of 512 bytes, seen through a clone's private mapping of it.
blkcnt_t template_blocks(int32_t pid) {
  const std::string process = "/proc/" + std::to_string(pid);
  std::ifstream maps(process + "/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("/memfd:") == std::string::npos || line.find(" rw-p ") == std::string::npos) continue;
    struct stat file {};
    EXPECT_EQ(::stat((process + "/map_files/" + line.substr(0, line.find(' '))).c_str(), &file), 0);
    return file.st_blocks;
  }
  ADD_FAILURE() << "no private mapping of a template in " << process;
  return -1;
}

class LinuxGuestTest : public testing::TestWithParam<const char*> {
 protected:
  LinuxGuestTest() : bench_(GRANARY_VMM, "/dev/kvm") {
    settings_ = bench_.settings();
    settings_.source = linux_image(GetParam());
    settings_.shape = {.name = "linux"};
    settings_.size = 1;
    settings_.refill_concurrency = 1;
    settings_.boot_timeout = std::chrono::seconds(400);
    settings_.probe_timeout = settings_.identity_timeout = std::chrono::seconds(60);
    bench_.print_events = true;
  }
  void SetUp() override {
    if (const std::string missing = missing_image(settings_.source); !missing.empty()) GTEST_SKIP() << missing;
  }
  void start(PoolResources resources) {
    Result<std::unique_ptr<Pool>> pool = Pool::start(settings_, std::move(resources));
    ASSERT_TRUE(pool) << pool.error().message();
    pool_ = *std::move(pool);
  }
  // A pool with real cgroups.
  void start_in(agent::Cgroups& groups) {
    PoolResources resources = bench_.resources();
    resources.groups = {.create = [&](const std::string& name) { return groups.create(name); },
                        .add = [&](const std::string& name, int32_t pid) { return groups.add(name, pid); },
                        .remove = [&](const std::string& name) -> Status {
                          GRANARY_TRY(groups.remove(name));
                          return ok();
                        },
                        .memory_bytes = [&](const std::string& name) { return groups.memory_bytes(name); }};
    start(std::move(resources));
  }
  CloneInfo acquire(const std::string& cgroup_parent = "") {
    const Result<CloneInfo> clone = pool_->acquire({}, in_time(), {.cgroup_parent = cgroup_parent});
    EXPECT_TRUE(clone) << clone.error().message() << "; " << pool_->status().last_error;
    return clone ? *clone : CloneInfo{};
  }
  [[nodiscard]] uint64_t private_bytes(const CloneInfo& clone) const {
    const auto memory = bench::read_vmm_memory(clone.vmm_pid, settings_.shape.memory_bytes);
    EXPECT_TRUE(memory) << memory.error().message();
    return memory ? memory->guest_private_bytes : 0;
  }
  void expect_vcpus(uint32_t count);

  TestBench bench_;
  PoolSettings settings_;
  std::unique_ptr<Pool> pool_;
};

// Every vCPU of a restored clone runs processes, and each takes what its neighbour sends: all of them at once, with
// interrupts between them.
void LinuxGuestTest::expect_vcpus(uint32_t count) {
  settings_.shape.vcpus = count;
  ASSERT_NO_FATAL_FAILURE(start(bench_.resources()));
  const CloneInfo clone = acquire();
  const std::string n = std::to_string(count);
  std::string each;
  for (uint32_t cpu = 0; cpu < count; ++cpu) each += std::to_string(cpu) + "\n";
  const Output cpus = run(clone, "nproc; i=0; while test $i -lt " + n +
                                     "; do taskset $(printf %x $((1 << i))) cut -d' ' -f39 /proc/self/stat;"
                                     " i=$((i+1)); done");
  EXPECT_EQ(cpus.text, n + "\n" + each);
  EXPECT_EQ(cpus.status, 0);
  const Output busy = run(clone, "i=0; while test $i -lt " + n +
                                     "; do (for j in 1 2 3 4; do taskset $(printf %x $((1 << i))) seq 2000 |"
                                     " taskset $(printf %x $((1 << (i + 1) % " +
                                     n + "))) tail -n 1; done) & i=$((i+1)); done; wait");
  std::string lines;
  for (uint32_t i = 0; i < 4 * count; ++i) lines += "2000\n";
  EXPECT_EQ(busy.text, lines);
  EXPECT_TRUE(*pool_->release(clone.id));
}

TEST_P(LinuxGuestTest, TwoVcpusSurviveTemplateAndRestore) { expect_vcpus(2); }
TEST_P(LinuxGuestTest, FourVcpusSurviveTemplateAndRestore) { expect_vcpus(4); }
TEST_P(LinuxGuestTest, EightVcpusSurviveTemplateAndRestore) { expect_vcpus(8); }

// Debian 12's 6.1 cloud kernel is built without the driver; there granary-init's reseeding stands alone.
TEST_P(LinuxGuestTest, TheVmGenerationIdReseedsTheKernel) {
  ASSERT_NO_FATAL_FAILURE(start(bench_.resources()));
  const CloneInfo clone = acquire();
  // A driver of the ACPI bus before Linux 6.10, of the platform bus since.
  if (run(clone, "ls -d /sys/bus/*/drivers/vmgenid").status != 0) {
    EXPECT_STREQ(GetParam(), "distro");
    GTEST_SKIP() << "this guest kernel has no vmgenid driver";
  }
  // The driver runs from an interrupt that arrives with the first instructions after the restore.
  const Output log = run(clone,
                         "i=0; until dmesg | grep 'crng reseeded due to virtual machine fork'; do"
                         " i=$((i+1)); test $i -lt 200 || exit 1; done; dmesg | grep -c 'virtual machine fork'");
  EXPECT_EQ(log.status, 0) << run(clone, "dmesg").text;
  EXPECT_NE(log.text.find("\n1\n"), std::string::npos) << log.text << "once: for the restore, not for the boot";
}

// Free-page reporting (virtio 1.2, 5.5.6.7): Linux reports free blocks of 2 MiB some seconds after they became free. A
// block of which one page is in use stays.
TEST_P(LinuxGuestTest, FreedMemoryGoesBackToTheHost) {
  constexpr uint64_t kWritten = 100 * kMiB;
  constexpr uint64_t kMayStay = 30 * kMiB;
  ASSERT_NO_FATAL_FAILURE(start(bench_.resources()));
  const CloneInfo clone = acquire();
  const uint64_t before = private_bytes(clone);
  ASSERT_EQ(run(clone, "dd if=/dev/zero of=/tmp/file bs=1M count=100").status, 0);
  const uint64_t full = private_bytes(clone);
  EXPECT_GE(full, before + kWritten);
  ASSERT_EQ(run(clone, "rm /tmp/file").status, 0);
  EXPECT_TRUE(bench_.wait_until([&] { return private_bytes(clone) < before + kMayStay; }));
  std::cout << "private MiB: handed over " << before / kMiB << ", after writing 100 MiB " << full / kMiB
            << ", after its removal " << private_bytes(clone) / kMiB << "\n";
  // What went back can be used again.
  EXPECT_EQ(run(clone, "dd if=/dev/zero of=/tmp/file bs=1M count=100").status, 0);
  EXPECT_GE(private_bytes(clone), before + kWritten);
}

// Fills a file system in memory with what the kernel says it can give, and prints how many MiB that were.
constexpr char kDirty[] =
    "mount -t tmpfs -o size=100% none /mnt && n=$(awk '/MemAvailable/ {print int($2 / 1024) - 16}' /proc/meminfo) && "
    "dd if=/dev/zero of=/mnt/all bs=1M count=$n 2>/mnt/log && echo $n";

// The tiny-guest version (vmm_test) does it with 100 clones; twice 12 Linux guests of 128 MiB are what the emulated
// node has memory and time for.
TEST_P(LinuxGuestTest, ManyClonesDirtyTheirMemoryAndLeaveNothing) {
  constexpr uint32_t kAtOnce = 12;
  constexpr int kRounds = 2;
  constexpr uint64_t kLeastDirtied = 32 * kMiB;
  auto groups = agent::Cgroups::open("granary-linux-guest-test");
  if (!groups) GTEST_SKIP() << groups.error().message();
  settings_.shape.memory_bytes = 128 * kMiB;
  settings_.size = 2;
  settings_.max = kAtOnce + 4;
  ASSERT_NO_FATAL_FAILURE(start_in(**groups));
  blkcnt_t blocks = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<CloneInfo> clones;
    while (clones.size() < kAtOnce) clones.push_back(acquire());
    if (blocks == 0) blocks = template_blocks(clones.front().vmm_pid);
    for (const CloneInfo& clone : clones) {
      const Output dirtied = run(clone, kDirty);
      ASSERT_EQ(dirtied.status, 0) << dirtied.text;
      const uint64_t written = std::stoul(dirtied.text) * kMiB;
      EXPECT_GE(written, kLeastDirtied);
      EXPECT_GE(private_bytes(clone), written);
    }
    EXPECT_EQ(template_blocks(clones.front().vmm_pid), blocks);
    for (const CloneInfo& clone : clones) EXPECT_TRUE(*pool_->release(clone.id));
  }
  EXPECT_EQ(pool_->status().leaks, 0U) << pool_->status().last_error;
  pool_.reset();
  EXPECT_TRUE((*groups)->remove_parent()) << "a clone's cgroup is left";
}

// The pod's cgroup pays for what its guest touches, and bounds it; what was touched before stays the pool's.
TEST_P(LinuxGuestTest, APodPaysForItsGuestsMemory) {
  constexpr uint64_t kWritten = 64 * kMiB;
  constexpr uint64_t kElse = 24 * kMiB;  // that the guest or its VMM touches on the way
  const integration::TestPod pod;
  auto groups = agent::Cgroups::open("granary-linux-guest-test/pool");
  if (pod.path().empty() || !groups) GTEST_SKIP() << "no cgroups can be made here";
  ASSERT_NO_FATAL_FAILURE(start_in(**groups));
  pod.limit_memory(2 * kWritten);
  const CloneInfo clone = acquire(pod.path());
  const std::string in_pool = "clone-" + clone.id;
  EXPECT_GT(clone.residue_bytes, 0U);
  const uint64_t pods_before = pod.memory_bytes();
  ASSERT_EQ(run(clone, "dd if=/dev/zero of=/tmp/file bs=1M count=64").status, 0);
  const uint64_t pods = pod.memory_bytes();
  const uint64_t pools = *(*groups)->memory_bytes(in_pool);
  EXPECT_GE(pods, pods_before + kWritten);
  EXPECT_LT(pools, clone.residue_bytes + kMiB) << "nothing more after the move";
  std::cout << "MiB charged to the pod after hand-over " << pods_before / kMiB << ", after writing 64 MiB "
            << pods / kMiB << "; to the pool at hand-over " << clone.residue_bytes / kMiB << ", then " << pools / kMiB
            << "\n";

  PoolLimits exact = settings_;
  exact.charge = Charge::kExact;
  exact.size = 0;
  ASSERT_TRUE(pool_->resize(exact));
  const uint64_t before = pod.memory_bytes();
  const CloneInfo born_there = acquire(pod.path());
  EXPECT_GE(pod.memory_bytes(), before + private_bytes(born_there)) << "all of it";
  EXPECT_LT(pod.memory_bytes(), before + private_bytes(born_there) + kElse);
  EXPECT_FALSE((*groups)->contains("clone-" + born_there.id));
  EXPECT_TRUE(*pool_->release(born_there.id));

  // Beyond the pod's limit the kernel ends its VMM, and nobody else's.
  const CloneInfo neighbour = acquire();
  run_to_death(clone, "mount -t tmpfs -o size=100% none /mnt && dd if=/dev/zero of=/mnt/more bs=1M count=120");
  EXPECT_TRUE(bench_.wait_until([&] { return pool_->clones().size() == 1; }));
  EXPECT_NE(bench_.last_text("clone-failed").find("killed by signal 9"), std::string::npos);
  EXPECT_EQ(run(neighbour, "echo well").text, "well\n");
  EXPECT_TRUE(pod.groups().empty());
  EXPECT_TRUE(*pool_->release(neighbour.id));
  EXPECT_EQ(pool_->status().leaks, 0U) << pool_->status().last_error;
  pool_.reset();
  EXPECT_TRUE((*groups)->remove_parent()) << "a clone's cgroup is left";
}

std::string name_of(const testing::TestParamInfo<const char*>& info) { return info.param; }
INSTANTIATE_TEST_SUITE_P(Guest, LinuxGuestTest, testing::Values("distro", "minimal"), name_of);

}  // namespace
}  // namespace granary::pool
