// SPDX-License-Identifier: Apache-2.0
#include <malloc.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>

#include "agent/daemon.h"
#include "vmpool/base/time_slice.h"

namespace granary::agent {
namespace {

constexpr const char* kDefaultConfigFile = "/etc/granary/granary.yaml";

struct Flags {
  std::string config;
  std::string state_dir;
  std::string run_dir;
  std::string libexec_dir;
  std::string host_libexec_dir;
  std::string kvm = "/dev/kvm";
  std::string proc = "/proc";
  std::string cgroup_parent = "granary.slice/pool";
  bool check_config = false;
  bool skip_preflight = false;
};

// What is wrong with it; nothing: it is below the root of a hierarchy, wherever that is mounted.
std::string refuse_cgroup_parent(const std::string& path) {
  const std::string whole = "/" + path + "/";
  if (whole.find("//") == std::string::npos && whole.find("/.") == std::string::npos) return "";
  return path + ": give a path like granary.slice/pool, without / at its ends and without names that start with a dot";
}

void define(CLI::App& app, Flags& flags) {
  app.add_option("--config", flags.config,
                 std::string("configuration file; default ") + kDefaultConfigFile + " if it exists");
  app.add_option("--state-dir", flags.state_dir, "in place of the configuration's state_dir");
  app.add_option("--run-dir", flags.run_dir, "in place of the configuration's run_dir");
  app.add_option("--libexec-dir", flags.libexec_dir, "holds granary-spawn, granary-vmm and granary-fsd; default: where granaryd is");
  app.add_option(
      "--host-libexec-dir", flags.host_libexec_dir,
      "for an agent in a container: copy those into a versioned directory here, at the same path on the host, "
      "and have the host's systemd run granary-spawn from it");
  app.add_option("--kvm", flags.kvm, "the KVM device")->capture_default_str();
  app.add_option("--proc", flags.proc, "has meminfo and pressure/memory of this host")->capture_default_str();
  app.add_option("--cgroup-parent", flags.cgroup_parent,
                 "the cgroup of the clones' groups; agents with the same one share its memory limit")
      ->check(CLI::Validator(refuse_cgroup_parent, "PATH"))
      ->capture_default_str();
  app.add_flag("--check-config", flags.check_config, "check the configuration, say what is wrong, and exit (0 or 2)");
  app.add_flag("--skip-preflight", flags.skip_preflight,
               "start although this host cannot run Linux guests (tiny guests, tests)");
  app.set_version_flag("--version", std::string("granaryd ") + GRANARY_VERSION);
  app.footer(
      "Runs in the foreground and logs to standard error.\n"
      "Exit codes: 0 ended by a signal, 1 failed, 2 configuration or command line refused,\n"
      "3 this host cannot run Linux guests, 4 another agent holds the state directory.");
}

ConfigSource config_source(const Flags& flags) {
  const bool installed = flags.config.empty() && ::access(kDefaultConfigFile, F_OK) == 0;
  return {installed ? kDefaultConfigFile : flags.config, {.run_dir = flags.run_dir, .state_dir = flags.state_dir}};
}

std::string own_directory() {
  std::error_code code;
  return std::filesystem::read_symlink("/proc/self/exe", code).parent_path().string();
}

int run(const Flags& flags) {
  ConfigSource source = config_source(flags);
  auto config = source.load();
  if (!config) {
    std::cerr << "granaryd: " << config.error().message() << "\n";
    return kExitConfig;
  }
  if (flags.check_config) {
    std::cout << "configuration is valid: " << config->pools.size() << " pool(s)\n";
    return kExitOk;
  }
  auto logger = spdlog::stderr_color_mt("granaryd");
  logger->set_level(spdlog::level::from_str(config->log_level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  return run_daemon({.config = *std::move(config),
                     .source = source,
                     .libexec_dir = flags.libexec_dir.empty() ? own_directory() : flags.libexec_dir,
                     .host_libexec_dir = flags.host_libexec_dir,
                     .kvm_path = flags.kvm,
                     .proc = flags.proc,
                     .cgroup_parent = flags.cgroup_parent,
                     .skip_preflight = flags.skip_preflight});
}

}  // namespace
}  // namespace granary::agent

int main(int argc, char** argv) {
  granary::agent::Flags flags;
  CLI::App app("Granary's agent: keeps pools of warm microVMs and hands them out", "granaryd");
  granary::agent::define(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? granary::agent::kExitOk : granary::agent::kExitConfig;
  }
  // glibc gives each of gRPC's threads an arena, which keeps a megabyte that was used once: mallopt(3).
  ::mallopt(M_ARENA_MAX, 2);
  granary::prefer_short_time_slices(granary::Children::kInherit);
  return granary::agent::run(flags);
}
