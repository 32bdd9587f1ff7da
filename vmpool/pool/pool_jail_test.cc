// SPDX-License-Identifier: Apache-2.0
// The jail around real VMMs with running guests (vmpool/spawn/jail_test.cc is about what it keeps out).
#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "vmpool/pool/deadline.h"
#include "vmpool/pool/test_bench.h"
#include "vmpool/spawn/proc_status.h"

namespace granary::pool {
namespace {

namespace fs = std::filesystem;

SteadyTime in_time() { return SteadyClock::now() + std::chrono::seconds(120); }

class PoolJailTest : public testing::Test {
 protected:
  PoolJailTest() : bench(GRANARY_VMM, "/dev/kvm") {
    settings = bench.settings();
    settings.source = {.kernel_path = GRANARY_GUEST_DIR "/tiny-vsock.elf", .initramfs_path = "", .command_line = ""};
    settings.shape.memory_bytes = 16 * kMiB;
    settings.shape.devices = Shape{}.devices;  // block devices bring the worker thread
    settings.size = 1;
    settings.boot_timeout = std::chrono::seconds(120);
    bench.print_events = true;
    Result<std::unique_ptr<Pool>> started = Pool::start(settings, bench.resources());
    EXPECT_TRUE(started) << started.error().message();
    if (started) pool = std::move(*started);
  }
  CloneInfo acquire() {
    Result<CloneInfo> clone = pool->acquire({}, in_time());
    EXPECT_TRUE(clone) << clone.error().message();
    return clone ? std::move(*clone) : CloneInfo{};
  }
  TestBench bench;
  PoolSettings settings;
  std::unique_ptr<Pool> pool;
};

std::string field(const fs::path& status, const std::string& name) {
  return spawn::proc_status_field(status.string(), name);
}

fs::path process_of(const CloneInfo& clone) { return "/proc/" + std::to_string(clone.vmm_pid); }

// The loop, the worker, then the vCPUs. Without the thread that newer kernels add for KVM.
std::vector<pid_t> threads_of(const CloneInfo& clone) {
  std::vector<pid_t> threads;
  for (const auto& entry : fs::directory_iterator(process_of(clone) / "task")) {
    if (*read_file((entry.path() / "comm").string()) == "granary-vmm\n") {
      threads.push_back(std::stoi(entry.path().filename().string()));
    }
  }
  std::sort(threads.begin(), threads.end());
  return threads;
}

TEST_F(PoolJailTest, RunningVmmsAreJailed) {
  const CloneInfo clones[] = {acquire(), acquire()};
  std::set<std::string> uids;
  std::set<fs::path> pid_namespaces;
  for (const CloneInfo& clone : clones) {
    const fs::path process = process_of(clone);
    uids.insert(field(process / "status", "Uid"));
    pid_namespaces.insert(fs::read_symlink(process / "ns/pid"));
    EXPECT_TRUE(field(process / "status", "NSpid").ends_with(" 1"));
    EXPECT_TRUE(fs::is_empty(process / "root"));
    for (const char* kind : {"mnt", "net", "ipc", "uts"}) {
      EXPECT_EQ(fs::read_symlink(process / "ns" / kind), fs::read_symlink(process_of(clones[0]) / "ns" / kind)) << kind;
      EXPECT_NE(fs::read_symlink(process / "ns" / kind), fs::read_symlink(fs::path("/proc/self/ns") / kind)) << kind;
    }
    const std::vector<pid_t> threads = threads_of(clone);
    EXPECT_EQ(threads.size(), 3U) << "loop, worker, one vCPU";
    for (const pid_t thread : threads) {
      const fs::path status = process / "task" / std::to_string(thread) / "status";
      EXPECT_EQ(field(status, "NoNewPrivs"), "1");
      EXPECT_EQ(field(status, "Seccomp"), "2");
      EXPECT_TRUE(bench.wait_until([&] { return field(status, "Seccomp_filters") == "2"; })) << "set-up's and its own";
      for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
        EXPECT_EQ(field(status, set), "0000000000000000") << set;
      }
    }
    for (const auto& fd : fs::directory_iterator(process / "fd")) {
      const std::string target = fs::read_symlink(fd).string();
      EXPECT_TRUE(target[0] != '/' || target.starts_with("/dev/") || target.starts_with("/memfd:") ||
                  std::stoi(fd.path().filename().string()) <= 2)
          << fd.path() << " is " << target;
    }
  }
  EXPECT_EQ(uids.size(), 2U);
  EXPECT_EQ(uids.count("0 0 0 0"), 0U);
  EXPECT_EQ(pid_namespaces.size(), 2U);
}

// Makes a thread of the VMM, wherever it is, do socket(2) next, as code injected into it would.
void inject_socket(pid_t thread) {
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, thread, nullptr, nullptr), 0) << strerror(errno);
  ASSERT_EQ(::ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr), 0) << strerror(errno);
  int status = 0;
  ASSERT_EQ(::waitpid(thread, &status, __WALL), thread);
  user_regs_struct registers{};
  ASSERT_EQ(::ptrace(PTRACE_GETREGS, thread, nullptr, &registers), 0);
  // It waits inside a system call: back onto the two bytes of its instruction, which then does another one.
  registers.rip -= 2;
  registers.orig_rax = ~0ULL;
  registers.rax = SYS_socket;
  registers.rdi = 1;
  registers.rsi = 1;
  registers.rdx = 0;
  ASSERT_EQ(::ptrace(PTRACE_SETREGS, thread, nullptr, &registers), 0);
  ASSERT_EQ(::ptrace(PTRACE_DETACH, thread, nullptr, nullptr), 0);
}

TEST_F(PoolJailTest, InjectedSystemCallEndsTheVmmVisibly) {
  std::mutex mutex;
  std::vector<EndState> states;
  std::string reasons;
  pool->on_clone_ended([&](const std::string&, EndState state, const std::string& reason) {
    const std::lock_guard lock(mutex);
    states.push_back(state);
    reasons += reason + "\n";
  });
  for (size_t thread = 0; thread < 3; ++thread) {
    const CloneInfo clone = acquire();
    const std::vector<pid_t> threads = threads_of(clone);
    ASSERT_EQ(threads.size(), 3U);
    inject_socket(threads[thread]);
    ASSERT_TRUE(bench.wait_until([&] { return pool->status().reclaimed == thread + 1; })) << "thread " << thread;
    const std::lock_guard lock(mutex);
    ASSERT_EQ(states.size(), thread + 1);
    EXPECT_EQ(states.back(), EndState::kSeccompViolation) << "thread " << thread;
    EXPECT_NE(reasons.find("seccomp violation"), std::string::npos) << reasons;
    reasons.clear();
  }
  EXPECT_EQ(pool->status().leaks, 0U) << pool->status().last_error;
}

}  // namespace
}  // namespace granary::pool
