// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/containerd.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace granary::e2e {
namespace {

// Facts behind each line: docs/testing.md, "containerd".
constexpr const char* kConfig = R"(version = 3
root = '@DIR@/root'
state = '@DIR@/state'
[grpc]
  address = '@DIR@/containerd.sock'
[ttrpc]
  address = '@DIR@/containerd.sock.ttrpc'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '@PAUSE@'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dir = '/usr/lib/cni'
    conf_dir = '@DIR@/cni'
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = 'granary'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.grpc.v1.cri']
  stream_server_address = '127.0.0.1'
  stream_server_port = '0'
)";

// Of containerd 1.6 and 1.7.
constexpr const char* kConfig1 = R"(version = 2
root = '@DIR@/root'
state = '@DIR@/state'
[grpc]
  address = '@DIR@/containerd.sock'
[ttrpc]
  address = '@DIR@/containerd.sock.ttrpc'
[plugins.'io.containerd.internal.v1.opt']
  path = '@DIR@/opt'
[plugins.'io.containerd.grpc.v1.cri']
  sandbox_image = '@PAUSE@'
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = '127.0.0.1'
  stream_server_port = '0'
  [plugins.'io.containerd.grpc.v1.cri'.cni]
    bin_dir = '/usr/lib/cni'
    conf_dir = '@DIR@/cni'
  [plugins.'io.containerd.grpc.v1.cri'.containerd]
    default_runtime_name = 'runc'
    [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'
)";

// Goes on with the runtime's table.
constexpr const char* kBlockfile = R"(
  snapshotter = 'blockfile'
[plugins.'io.containerd.snapshotter.v1.blockfile']
  scratch_file = '@SCRATCH@'
  fs_type = 'ext4'
  mount_options = []
)";

constexpr const char* kNetwork = R"({
  "cniVersion": "1.0.0", "name": "granary-test",
  "plugins": [{"type": "bridge", "bridge": "grtest0", "isGateway": true, "ipMasq": false,
    "ipam": {"type": "host-local", "dataDir": "@DIR@/ipam", "ranges": [[{"subnet": "10.88.0.0/24"}]],
             "routes": [{"dst": "0.0.0.0/0"}]}}]
})";

std::string substitute(std::string text, const std::string& name, const std::string& value) {
  for (size_t at = 0; (at = text.find(name, at)) != std::string::npos; at += value.size()) {
    text.replace(at, name.size(), value);
  }
  return text;
}

// "containerd github.com/containerd/containerd 1.6.20~ds1 …": before 2 another configuration.
bool is_before_2(const std::string& program) {
  std::string output;
  run_command({program, "--version"}, &output);
  return output.find(" 1.") != std::string::npos || output.find(" v1.") != std::string::npos;
}

// What deploy/containerd gives to users, with this test's paths. Empty: it is not what this knows how to change.
std::string granary_runtime(const ContainerdSetup& setup, bool before_2) {
  const bool by_shim = setup.sandbox_socket.empty();
  std::ifstream file(std::string(GRANARY_DEPLOY_DIR "/containerd/config-") + (by_shim ? "1" : "2") + ".toml");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto replace = [&text](const std::string& name, const std::string& value) {
    if (text.find(name) == std::string::npos) text.clear();
    text = substitute(text, name, value);
  };
  if (!by_shim) {
    replace("/run/granary/granaryd.sock", setup.sandbox_socket);
    return setup.scratch_image.empty() ? text : text + substitute(kBlockfile, "@SCRATCH@", setup.scratch_image);
  }
  replace("  # [plugins", "  [plugins");
  replace("  #   ConfigPath = '/run/granary'", "    ConfigPath = '" + setup.run_dir + "'");
  return before_2 ? text : substitute(text, "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime");
}

std::string config_of(const ContainerdSetup& setup) {
  const bool before_2 = is_before_2(setup.unpacked + "/usr/bin/containerd");
  std::string text = substitute(before_2 ? kConfig1 : kConfig, "@DIR@", setup.directory);
  const std::string granary = granary_runtime(setup, before_2);
  if (granary.empty()) return "";
  return substitute(text, "@PAUSE@", kPauseImage) + granary;
}

void write_text(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

}  // namespace

std::unique_ptr<Containerd> Containerd::start(const ContainerdSetup& setup) {
  std::filesystem::create_directories(setup.directory + "/cni");
  const std::string config = config_of(setup);
  if (config.empty()) {
    std::fprintf(stderr, "deploy/containerd is missing, or has changed: tests/e2e/containerd.cc must know how\n");
    return nullptr;
  }
  write_text(setup.directory + "/config.toml", config);
  write_text(setup.directory + "/cni/10-test.conflist", substitute(kNetwork, "@DIR@", setup.directory));

  auto containerd = std::unique_ptr<Containerd>(new Containerd());
  containerd->binary_directory_ = setup.unpacked + "/usr/bin";
  containerd->socket_ = setup.directory + "/containerd.sock";
  std::string path = containerd->binary_directory_ + ":" + std::getenv("PATH");
  if (!setup.shim_directory.empty()) path = setup.shim_directory + ":" + path;
  containerd->command_ = {"env", "PATH=" + path, containerd->binary_directory_ + "/containerd", "--config",
                          setup.directory + "/config.toml"};
  containerd->log_path_ = setup.directory + "/containerd.log";
  const bool up = containerd->launch();
  std::string output;
  bool imported = up;
  for (const std::string& image : setup.images) {
    imported = imported && containerd->ctr({"-n", "k8s.io", "images", "import", image}, &output) == 0;
  }
  if (!imported) {
    std::fprintf(stderr, "containerd did not come up: %s\n%s\n", output.c_str(), containerd->process_->log().c_str());
    return nullptr;
  }
  return containerd;
}

bool Containerd::launch() {
  process_ = std::make_unique<Process>(command_, log_path_);
  return wait_until([&] { return ctr({"version"}) == 0; }, std::chrono::seconds(180));
}

bool Containerd::restart() {
  process_->kill_now();
  return launch();
}

int Containerd::ctr(std::vector<std::string> arguments, std::string* output) const {
  std::vector<std::string> argv{binary_directory_ + "/ctr", "-a", socket_};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  std::string ignored;
  return run_command(argv, output != nullptr ? output : &ignored);
}

}  // namespace granary::e2e
