// SPDX-License-Identifier: Apache-2.0
#include "tests/cri/cri_runtime.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "vmpool/base/fd.h"

namespace granary::cri {
namespace {

namespace fs = std::filesystem;

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
  const bool own_shim = !setting("GRANARY_CRI_OWN_SHIM").empty();
  runtime->containerd_ =
      e2e::Containerd::start({.unpacked = setting("GRANARY_CONTAINERD"),
                              .directory = runtime->folder_ + "/containerd",
                              .sandbox_socket = own_shim ? "" : runtime->folder_ + "/run/granaryd.sock",
                              .shim_directory = own_shim ? setting("GRANARY_BIN") : "",
                              .run_dir = runtime->folder_ + "/run",
                              .scratch_image = setting("GRANARY_CRI_SCRATCH"),
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
      folder_ + "/granaryd-" + std::to_string(++agents_) + ".log");
  const bool ready = e2e::wait_until([&] { return agent_->log().find("clone-ready") != std::string::npos; }, kAgentLimit);
  if (!ready) std::fprintf(stderr, "granaryd has no clone ready:\n%s\n", agent_->log().c_str());
  return ready;
}

pid_t Runtime::process_of(const std::string& victim) const {
  std::map<pid_t, std::string> words;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    const Result<std::string> text = pid > 0 ? read_file(entry.path().string() + "/cmdline") : std::string();
    if (text && !text->empty()) words[pid] = *text;
  }
  const auto find = [&](const std::string& program, const std::string& with) {
    for (const auto& [pid, text] : words) {
      const std::string name = text.substr(0, text.find_first_of(std::string_view(" \0", 2)));
      if (name.ends_with(program) && text.find(with) != std::string::npos) return pid;
    }
    return pid_t{0};
  };
  if (victim == "granary-spawn") return find(victim, folder_ + "/run");
  if (victim == "shim") return find("containerd-shim-granary-v2", folder_ + "/run");
  // Both call themselves "granary-vmm vm=3", and only a pod's has a file server.
  const pid_t file_server = find("granary-fsd", "vm=");
  if (victim == "granary-fsd" || file_server == 0) return file_server;
  const std::string& text = words[file_server];
  return find(victim, text.substr(text.find("vm=")));
}

bool Runtime::kill(const std::string& victim) {
  if (victim == "containerd") return containerd_->restart();
  if (victim == "granaryd") {
    agent_->kill_now();
    return start_agent();
  }
  const pid_t pid = process_of(victim);
  return pid > 0 && ::kill(pid, SIGKILL) == 0;
}

std::string Runtime::audit() const {
  std::string output;
  e2e::run_command({setting("GRANARY_BIN") + "/granaryctl", "--socket", folder_ + "/run/granaryd.sock", "audit"}, &output);
  return output;
}

std::vector<std::string> Runtime::leftovers() const {
  std::vector<std::string> found;
  for (const char* kind : {"containers", "tasks"}) {
    std::string output;
    if (containerd_->ctr({"-n", "k8s.io", kind, "ls", "-q"}, &output) != 0) found.push_back(output);
    std::istringstream lines(output);
    for (std::string line; std::getline(lines, line);) {
      if (line.find("level=warning") == std::string::npos) found.push_back(kind + (" " + line));
    }
  }
  std::ifstream mounts("/proc/self/mounts");
  for (std::string line; std::getline(mounts, line);) {
    if (line.find(folder_ + "/containerd/state/") != std::string::npos) found.push_back(line);
  }
  std::error_code code;
  for (const auto& entry : fs::recursive_directory_iterator(folder_ + "/containerd/state", code)) {
    if (entry.is_fifo(code)) found.push_back(entry.path().string());
  }
  return found;
}

Runtime::~Runtime() {
  containerd_.reset();
  agent_.reset();
  std::error_code ignored;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
}

}  // namespace granary::cri
