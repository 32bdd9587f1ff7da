// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/test_bench.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iostream>
#include <thread>

#include "vmpool/pool/deadline.h"

namespace granary::pool {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kPatience{120};
constexpr size_t kBehaviourBytes = 256;

}  // namespace

TestBench::TestBench() : TestBench(GRANARY_FAKE_VMM, "") {}

TestBench::TestBench(const std::string& vmm, const std::string& kvm) : vmm_(vmm), kvm_(kvm) {
  std::string name = (fs::temp_directory_path() / "granary-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) std::abort();
  folder_ = name;
  fs::create_directory(folder_ / "run");
  if (kvm_.empty()) {
    kvm_ = path("behaviour");
    set_behaviour("");
  }
  std::ofstream(folder_ / "kernel") << "a kernel";
  std::ofstream(folder_ / "initramfs") << "an initramfs";
  start_spawner();
  Result<TemplateStore> store = TemplateStore::open(path("templates"));
  EXPECT_TRUE(store) << store.error().message();
  templates_ = std::make_unique<TemplateStore>(std::move(*store));
}

TestBench::~TestBench() {
  spawner_.reset();
  if (spawner_pid_ > 0) {
    ::kill(spawner_pid_, SIGTERM);
    int status = 0;
    ::waitpid(spawner_pid_, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "granary-spawn ended with " << status;
    EXPECT_TRUE(sockets().empty());
  }
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

void TestBench::start_spawner() {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: granary-spawn jails its VMMs";
  const std::string program = GRANARY_SPAWN;
  std::vector<std::string> words = {
      program, "--control-socket", path("spawn.sock"), "--run-dir", path("run"), "--vmm", vmm_, "--kvm", kvm_,
      "--fsd", GRANARY_FSD, "--shim", GRANARY_REPORT_SHIM};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  ASSERT_EQ(::posix_spawn(&spawner_pid_, program.c_str(), nullptr, nullptr, arguments.data(), environ), 0);
  const SteadyTime deadline = SteadyClock::now() + kPatience;
  for (;;) {
    Result<std::unique_ptr<SpawnerClient>> client = SpawnerClient::connect(path("spawn.sock"), path("run"));
    if (client) {
      spawner_ = std::move(*client);
      return;
    }
    ASSERT_LT(SteadyClock::now(), deadline) << client.error().message();
    std::this_thread::yield();
  }
}

void TestBench::kill_spawner() {
  ::kill(spawner_pid_, SIGKILL);
  ::waitpid(spawner_pid_, nullptr, 0);
  spawner_pid_ = -1;
}

void TestBench::set_behaviour(const std::string& words) const {
  // VMMs have the file open. One write of one size: they read the old words or the new ones.
  std::string text = words + "\n";
  ASSERT_LE(text.size(), kBehaviourBytes);
  text.resize(kBehaviourBytes, '\n');
  const Result<Fd> file = open_file(path("behaviour"), O_WRONLY | O_CREAT, 0600);
  ASSERT_TRUE(file) << file.error().message();
  ASSERT_TRUE(pwrite_all(file->get(), std::as_bytes(std::span(text)), 0));
}

void TestBench::set_vmm_build(const std::string& build) {
  const std::lock_guard lock(mutex_);
  vmm_build_ = build;
}

std::set<std::string> TestBench::sockets() const {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder_ / "run")) names.insert(entry.path().filename().string());
  return names;
}

std::set<std::string> TestBench::groups() const {
  const std::lock_guard lock(mutex_);
  return groups_;
}

PoolSettings TestBench::settings() const {
  PoolSettings settings;
  settings.name = "test";
  settings.shape = {.name = "tiny", .vcpus = 1, .memory_bytes = kMiB, .devices = {}};
  settings.source = {.kernel_path = path("kernel"), .initramfs_path = path("initramfs"), .command_line = "quiet"};
  settings.size = 3;
  settings.max = 8;
  settings.probe_timeout = std::chrono::milliseconds(20'000);
  settings.boot_timeout = std::chrono::milliseconds(20'000);
  return settings;
}

PoolResources TestBench::resources() {
  return {.spawner = *spawner_,
          .templates = *templates_,
          .vmm_build_id = [this] {
            const std::lock_guard lock(mutex_);
            return vmm_build_;
          },
          .host_fingerprint = "cpu=fake\nkernel=fake\n",
          .groups = {.create = [this](const std::string& name) -> Result<Fd> {
                       const std::lock_guard lock(mutex_);
                       groups_.insert(name);
                       return Fd();
                     },
                     .add = [](const std::string&, int32_t) { return ok(); },
                     .remove = [this](const std::string& name) -> Status {
                       const std::lock_guard lock(mutex_);
                       if (fail_group_removal) return Error::from_errno(EBUSY, "test group");
                       groups_.erase(name);
                       return ok();
                     }},
          .on_event = [this](const Event& event) {
            const std::lock_guard lock(mutex_);
            events_.push_back(event);
            if (print_events) std::cout << event.kind << " " << event.clone_id << " " << event.text << std::endl;
            event_cv_.notify_all();
          }};
}

bool TestBench::wait_until(const std::function<bool()>& condition) {
  const SteadyTime deadline = SteadyClock::now() + kPatience;
  while (!condition()) {
    if (SteadyClock::now() >= deadline) return false;
    std::unique_lock lock(mutex_);
    event_cv_.wait_for(lock, std::chrono::milliseconds(5));
  }
  return true;
}

size_t TestBench::events(const std::string& kind) const {
  const std::lock_guard lock(mutex_);
  size_t n = 0;
  for (const Event& event : events_) n += event.kind == kind ? 1 : 0;
  return n;
}

std::string TestBench::last_text(const std::string& kind) const {
  const std::lock_guard lock(mutex_);
  for (auto it = events_.rbegin(); it != events_.rend(); ++it) {
    if (it->kind == kind) return it->text;
  }
  return "";
}

}  // namespace granary::pool
