// SPDX-License-Identifier: Apache-2.0
#include "tests/cri/cri_runtime.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace granary::cri {
namespace {

constexpr std::chrono::seconds kAgentLimit{300};

std::string setting(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

}  // namespace

bool Runtime::is_asked_for() { return !setting("GRANARY_CRI_HANDLER").empty(); }

std::unique_ptr<Runtime> Runtime::start() {
  if (!is_asked_for()) return nullptr;
  std::unique_ptr<Runtime> runtime(new Runtime);
  runtime->handler_ = setting("GRANARY_CRI_HANDLER");
  std::string pattern = "/var/tmp/granary-cri-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) return nullptr;
  runtime->folder_ = pattern;
  if (runtime->handler_ == e2e::kGranaryHandler && !runtime->start_agent()) return nullptr;
  runtime->containerd_ =
      e2e::Containerd::start({.unpacked = setting("GRANARY_CONTAINERD"),
                              .directory = runtime->folder_ + "/containerd",
                              .sandbox_socket = runtime->folder_ + "/run/granaryd.sock",
                              .images = {setting("GRANARY_PAUSE_IMAGE"), setting("GRANARY_BUSYBOX_IMAGE")}});
  return runtime->containerd_ != nullptr ? std::move(runtime) : nullptr;
}

bool Runtime::start_agent() {
  const std::string guest = setting("GRANARY_GUEST");
  std::ofstream(folder_ + "/granary.yaml") << "run_dir: " << folder_ << "/run\nstate_dir: " << folder_ << "/state\n"
                                           << "containerd_events: " << folder_ << "/containerd/containerd.sock.ttrpc\n"
                                           << "guest: {kernel: " << guest << "/vmlinuz, initramfs: " << guest
                                           << "/initramfs.cpio}\npools:\n  - name: default\n    size: 2\n"
                                           << "    memory: 512MiB\n    devices: {fs: true}\n    boot_timeout: 300s\n"
                                           << "    probe_timeout: 60s\n    identity_timeout: 60s\n";
  agent_ = std::make_unique<e2e::Process>(
      std::vector<std::string>{setting("GRANARY_BIN") + "/granaryd", "--config", folder_ + "/granary.yaml"},
      folder_ + "/granaryd.log");
  const bool ready = e2e::wait_until([&] { return agent_->log().find("clone-ready") != std::string::npos; }, kAgentLimit);
  if (!ready) std::fprintf(stderr, "granaryd has no clone ready:\n%s\n", agent_->log().c_str());
  return ready;
}

Runtime::~Runtime() {
  containerd_.reset();
  agent_.reset();
  std::error_code ignored;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
}

}  // namespace granary::cri
