// SPDX-License-Identifier: Apache-2.0
// A pod sandbox of a real containerd comes up on a clone from Granary's pool, and goes again without a trace: through
// the remote sandbox controller (containerd >= 2), or with GRANARY_OWN_SHIM through a shim that takes its pod itself.
// Needs /dev/kvm, root, CNI plugins; run by tests/e2e/first-pod, which passes the folders in the environment.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "cri/runtime.grpc.pb.h"
#include "granary/v1/pool.grpc.pb.h"
#include "tests/e2e/containerd.h"

namespace granary::e2e {
namespace {

using runtime::v1::RuntimeService;

std::string setting(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

template <class Request, class Response>
using Method = grpc::Status (RuntimeService::Stub::*)(grpc::ClientContext*, const Request&, Response*);

class FirstPod : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    bin_ = setting("GRANARY_BIN");
    if (bin_.empty()) return;
    std::string pattern = "/var/tmp/granary-pod-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    std::ofstream(dir_ + "/granary.yaml") << "run_dir: " << dir_ << "/run\nstate_dir: " << dir_ << "/state\n"
                                          << "pools:\n  - name: default\n    size: 2\n    memory: 16MiB\n"
                                          << "    template:\n      kernel: " << setting("GRANARY_TINY_GUEST")
                                          << "\n      initramfs: \"\"\n      command_line: \"\"\n";
    socket_ = dir_ + "/run/granaryd.sock";
    ASSERT_TRUE(start_agent()) << agent_->log();
    containerd_ = Containerd::start({.unpacked = setting("GRANARY_CONTAINERD"),
                                     .directory = dir_ + "/containerd",
                                     .sandbox_socket = own_shim_ ? "" : socket_,
                                     .shim_directory = own_shim_ ? bin_ : "",
                                     .run_dir = dir_ + "/run",
                                     .images = {setting("GRANARY_PAUSE_IMAGE")}});
    ASSERT_NE(containerd_, nullptr);
    cri_ = RuntimeService::NewStub(grpc::CreateChannel(containerd_->cri_target(), grpc::InsecureChannelCredentials()));
  }
  static bool start_agent() {
    agent_ = std::make_unique<Process>(
        std::vector<std::string>{bin_ + "/granaryd", "--config", dir_ + "/granary.yaml", "--skip-preflight"},
        dir_ + "/granaryd.log");
    return wait_until([] { return pool_status().warm() >= 1; }, std::chrono::seconds(120));
  }
  static void TearDownTestSuite() {
    cri_.reset();
    containerd_.reset();
    if (agent_ != nullptr) {
      EXPECT_EQ(agent_->terminate(), 0);
    }
    agent_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(dir_, ignored);
  }
  void SetUp() override {
    if (bin_.empty()) GTEST_SKIP() << "run through tests/e2e/first-pod, which prepares containerd and the images";
    ASSERT_NE(cri_, nullptr);
  }

  static granary::v1::PoolStatus pool_status() {
    const auto stub =
        granary::v1::Pool::NewStub(grpc::CreateChannel("unix:" + socket_, grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    granary::v1::StatusResponse status;
    if (!stub->Status(&context, {}, &status).ok() || status.pools().empty()) return {};
    return status.pools(0);
  }
  template <class Request, class Response>
  static grpc::Status call(Method<Request, Response> method, const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    return (cri_.get()->*method)(&context, request, response);
  }
  static runtime::v1::RunPodSandboxRequest pod(const std::string& name) {
    runtime::v1::RunPodSandboxRequest request;
    request.set_runtime_handler(kGranaryHandler);
    auto* metadata = request.mutable_config()->mutable_metadata();
    metadata->set_name(name);
    metadata->set_uid(name + "-uid");
    metadata->set_namespace_("default");
    request.mutable_config()->set_hostname(name);
    request.mutable_config()->set_log_directory(dir_ + "/logs");
    request.mutable_config()->mutable_linux_config();
    return request;
  }
  static runtime::v1::PodSandboxStatusResponse status_of(const std::string& id) {
    runtime::v1::PodSandboxStatusRequest request;
    request.set_pod_sandbox_id(id);
    runtime::v1::PodSandboxStatusResponse response;
    const grpc::Status status = call(&RuntimeService::Stub::PodSandboxStatus, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  static std::vector<pid_t> shims_of(const std::string& sandbox_id) {
    std::vector<pid_t> pids;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      std::ifstream file(entry.path() / "cmdline");
      const std::string line((std::istreambuf_iterator<char>(file)), {});
      if (line.starts_with("containerd-shim-granary-v2") && line.find(sandbox_id) != std::string::npos)
        pids.push_back(std::stoi(entry.path().filename()));
    }
    return pids;
  }
  static void kill_shim(const std::string& sandbox_id) {
    for (const pid_t pid : shims_of(sandbox_id)) ::kill(pid, SIGKILL);
  }
  // containerd finds an agent that was away within a second or so.
  static bool becomes(runtime::v1::PodSandboxState state, const std::string& id) {
    runtime::v1::PodSandboxStatusRequest request;
    request.set_pod_sandbox_id(id);
    return wait_until(
        [&] {
          runtime::v1::PodSandboxStatusResponse response;
          return call(&RuntimeService::Stub::PodSandboxStatus, request, &response).ok() &&
                 response.status().state() == state;
        },
        std::chrono::seconds(30));
  }
  static bool becomes_not_ready(const std::string& id) { return becomes(runtime::v1::SANDBOX_NOTREADY, id); }
  static void expect_clean_audit() {
    EXPECT_TRUE(wait_until([] { return pool_status().running() == 0 && pool_status().reclaiming() == 0; },
                           std::chrono::seconds(60)));
    EXPECT_EQ(pool_status().leaks(), 0U);
    std::string report;
    EXPECT_EQ(run_command({bin_ + "/granaryctl", "--socket", socket_, "audit"}, &report), 0) << report;
  }
  static void stop_and_remove(const std::string& id) {
    runtime::v1::StopPodSandboxRequest stop;
    stop.set_pod_sandbox_id(id);
    runtime::v1::StopPodSandboxResponse stopped;
    grpc::Status status = call(&RuntimeService::Stub::StopPodSandbox, stop, &stopped);
    EXPECT_TRUE(status.ok()) << status.error_message();
    runtime::v1::RemovePodSandboxRequest remove;
    remove.set_pod_sandbox_id(id);
    runtime::v1::RemovePodSandboxResponse removed;
    status = call(&RuntimeService::Stub::RemovePodSandbox, remove, &removed);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }

  static inline std::string bin_;
  static inline std::string dir_;
  static inline std::string socket_;
  static inline const bool own_shim_ = !setting("GRANARY_OWN_SHIM").empty();
  static inline std::unique_ptr<Process> agent_;
  static inline std::unique_ptr<Containerd> containerd_;
  static inline std::unique_ptr<RuntimeService::Stub> cri_;
};

TEST_F(FirstPod, BecomesReadyOnACloneAndGoesWithoutATrace) {
  runtime::v1::RunPodSandboxResponse running;
  const grpc::Status status = call(&RuntimeService::Stub::RunPodSandbox, pod("first"), &running);
  ASSERT_TRUE(status.ok()) << status.error_message() << "\n" << agent_->log() << "\n" << containerd_->process().log();
  const auto sandbox = status_of(running.pod_sandbox_id()).status();
  EXPECT_EQ(sandbox.state(), runtime::v1::SANDBOX_READY);
  EXPECT_FALSE(sandbox.network().ip().empty());
  EXPECT_EQ(pool_status().running(), 1U);
  const std::string task_socket =
      dir_ + (own_shim_ ? "/run/shims/" : "/run/tasks/") + running.pod_sandbox_id() + ".sock";
  EXPECT_TRUE(std::filesystem::is_socket(task_socket));
  EXPECT_EQ(shims_of(running.pod_sandbox_id()).size(), 1U);

  stop_and_remove(running.pod_sandbox_id());
  EXPECT_FALSE(std::filesystem::exists(task_socket));
  EXPECT_THAT(shims_of(running.pod_sandbox_id()), ::testing::IsEmpty());
  EXPECT_TRUE(wait_until([] { return pool_status().running() == 0 && pool_status().reclaiming() == 0; },
                         std::chrono::seconds(30)));
  EXPECT_EQ(pool_status().leaks(), 0U);
  runtime::v1::ListPodSandboxResponse list;
  ASSERT_TRUE(call(&RuntimeService::Stub::ListPodSandbox, runtime::v1::ListPodSandboxRequest{}, &list).ok());
  EXPECT_EQ(list.items_size(), 0);
}

TEST_F(FirstPod, AKilledVmmMakesTheSandboxNotReady) {
  runtime::v1::RunPodSandboxResponse running;
  const grpc::Status status = call(&RuntimeService::Stub::RunPodSandbox, pod("killed"), &running);
  ASSERT_TRUE(status.ok()) << status.error_message();
  granary::v1::ListResponse clones;
  const auto stub =
      granary::v1::Pool::NewStub(grpc::CreateChannel("unix:" + socket_, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  ASSERT_TRUE(stub->List(&context, {}, &clones).ok());
  for (const auto& clone : clones.clones()) {
    if (clone.state() == "running") ::kill(clone.vmm_pid(), SIGKILL);
  }
  EXPECT_TRUE(becomes_not_ready(running.pod_sandbox_id()));
  stop_and_remove(running.pod_sandbox_id());
}

TEST_F(FirstPod, AKilledShimMakesTheSandboxNotReady) {
  runtime::v1::RunPodSandboxResponse running;
  const grpc::Status status = call(&RuntimeService::Stub::RunPodSandbox, pod("shimless"), &running);
  ASSERT_TRUE(status.ok()) << status.error_message();
  kill_shim(running.pod_sandbox_id());
  EXPECT_TRUE(becomes_not_ready(running.pod_sandbox_id()));
  stop_and_remove(running.pod_sandbox_id());
  EXPECT_TRUE(wait_until([] { return pool_status().running() == 0; }, std::chrono::seconds(30)));
}

TEST_F(FirstPod, AKilledAgentCostsNoPodAndAShimThatDiesMeanwhileItsOwn) {
  runtime::v1::RunPodSandboxResponse lives;
  runtime::v1::RunPodSandboxResponse dies;
  ASSERT_TRUE(call(&RuntimeService::Stub::RunPodSandbox, pod("lives"), &lives).ok());
  ASSERT_TRUE(call(&RuntimeService::Stub::RunPodSandbox, pod("dies"), &dies).ok());
  agent_->kill_now();
  kill_shim(dies.pod_sandbox_id());
  ASSERT_TRUE(start_agent()) << agent_->log();
  EXPECT_TRUE(becomes_not_ready(dies.pod_sandbox_id()));
  EXPECT_TRUE(wait_until([] { return pool_status().running() == 1; }, std::chrono::seconds(30)));
  EXPECT_TRUE(becomes(runtime::v1::SANDBOX_READY, lives.pod_sandbox_id()));
  // And it is watched again: by the agent, or where containerd started it by containerd.
  kill_shim(lives.pod_sandbox_id());
  EXPECT_TRUE(becomes_not_ready(lives.pod_sandbox_id()));
  stop_and_remove(lives.pod_sandbox_id());
  stop_and_remove(dies.pod_sandbox_id());
  expect_clean_audit();
}

// Its other steps have no guest here and are linux.selftest's.
TEST_F(FirstPod, TheSelfTestsPodComesAndGoes) {
  const std::string socket = containerd_->cri_target().substr(std::string("unix:").size());
  std::string report;
  const int code = run_command({bin_ + "/granaryctl", "selftest", "--skip-preflight", "--guest", dir_, "--libexec-dir",
                                dir_, "--containerd", socket},
                               &report);
  EXPECT_EQ(code, 77) << report;
  EXPECT_NE(report.find("\npod           passed"), std::string::npos) << report;
  EXPECT_NE(report.find("\nnothing-left  passed"), std::string::npos) << report;
  EXPECT_TRUE(wait_until([] { return pool_status().running() == 0; }, std::chrono::seconds(30)));
}

TEST_F(FirstPod, HostNetworkIsRefusedWithAReason) {
  runtime::v1::RunPodSandboxRequest request = pod("host-network");
  request.mutable_config()
      ->mutable_linux_config()
      ->mutable_security_context()
      ->mutable_namespace_options()
      ->set_network(runtime::v1::NODE);
  runtime::v1::RunPodSandboxResponse running;
  const grpc::Status status = call(&RuntimeService::Stub::RunPodSandbox, request, &running);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error_message().find("hostNetwork"), std::string::npos) << status.error_message();
}

// Many pods: the pool holds two, so that most of them wait for a clone.
class ManyPods : public FirstPod {
 protected:
  static std::string run(const std::string& name) {
    runtime::v1::RunPodSandboxResponse running;
    const grpc::Status status = call(&RuntimeService::Stub::RunPodSandbox, pod(name), &running);
    EXPECT_TRUE(status.ok()) << name << ": " << status.error_message();
    return running.pod_sandbox_id();
  }
  static std::vector<std::string> names_in(const std::string& folder) {
    std::vector<std::string> names;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(folder, none))
      names.push_back(entry.path().filename());
    return names;
  }
  static std::string netns_folder() { return dir_ + "/containerd/state/io.containerd.grpc.v1.cri/netns"; }
  // What pods leave, if they leave something: processes, sockets, mounts, network namespaces, leases.
  static void expect_nothing_left() {
    expect_clean_audit();
    for (const char* sockets : {"/run/tasks", "/run/shims"})
      EXPECT_THAT(names_in(dir_ + sockets), ::testing::IsEmpty());
    EXPECT_THAT(names_in(netns_folder()), ::testing::IsEmpty());
    std::ifstream mounts("/proc/self/mounts");
    const std::string all((std::istreambuf_iterator<char>(mounts)), {});
    EXPECT_EQ(all.find(dir_), std::string::npos) << all;
  }
};

TEST_F(ManyPods, FiftyAtOnce) {
  constexpr size_t kPods = 50;
  std::vector<std::string> ids(kPods);
  {
    std::vector<std::jthread> callers;
    for (size_t n = 0; n < kPods; ++n) {
      callers.emplace_back([&ids, n] { ids[n] = run("at-once-" + std::to_string(n)); });
    }
  }
  std::set<std::string> addresses;
  for (const std::string& id : ids) {
    const auto sandbox = status_of(id).status();
    EXPECT_EQ(sandbox.state(), runtime::v1::SANDBOX_READY) << id;
    addresses.insert(sandbox.network().ip());
  }
  EXPECT_EQ(addresses.size(), kPods);
  EXPECT_EQ(names_in(netns_folder()).size(), kPods);
  EXPECT_EQ(pool_status().running(), kPods);
  {
    std::vector<std::jthread> callers;
    for (const std::string& id : ids) callers.emplace_back([&id] { stop_and_remove(id); });
  }
  expect_nothing_left();
}

TEST_F(ManyPods, FiveHundredInSequence) {
  const auto descriptors = [] { return names_in("/proc/" + std::to_string(agent_->pid()) + "/fd").size(); };
  stop_and_remove(run("warm-up"));
  const size_t before = descriptors();
  for (int n = 0; n < 500 && !HasFailure(); ++n) stop_and_remove(run("in-sequence-" + std::to_string(n)));
  expect_nothing_left();
  // Two clones, of which each has some, may be more or less ready than before.
  EXPECT_LE(descriptors(), before + 16);
}

}  // namespace
}  // namespace granary::e2e
