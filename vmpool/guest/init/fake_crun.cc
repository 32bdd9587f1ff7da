// SPDX-License-Identifier: Apache-2.0
// Stands in for crun in tests of what the real one cannot be made to do here: it fails as told and writes the cgroup
// files of a kernel with all controllers. Its containers are plain processes that run process.args of their
// configuration.
//   fake-crun [--root DIR] … create|start|exec|delete … NAME
// Words in the file "behaviour" beside --root: fail-COMMAND, hang-create, hang-start, silent, no-pid, wordy, dirty-delete.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct Call {
  std::string command;
  std::string name;
  std::map<std::string, std::string> options;
};

Call parse(int argc, char** argv) {
  Call call;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--detach" || word == "--force") continue;
    if (word.starts_with("--") && i + 1 < argc) {
      call.options[word] = argv[++i];
    } else if (call.command.empty()) {
      call.command = word;
    } else {
      call.name = word;
    }
  }
  return call;
}

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The process that a container or an exec is; with `gate` once somebody opens that FIFO.
[[noreturn]] void become(const nlohmann::json& process, const std::string& gate) {
  ::setsid();
  if (!gate.empty()) ::close(::open(gate.c_str(), O_RDONLY));
  std::vector<std::string> words = process.at("args");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  ::_exit(127);
}

int leave(const Call& call, const nlohmann::json& process, const std::string& gate, bool tell_pid) {
  const pid_t pid = ::fork();
  if (pid == 0) become(process, gate);
  if (tell_pid) std::ofstream(call.options.at("--pid-file")) << pid;
  return pid;
}

[[noreturn]] void hang(const fs::path& state) {
  std::ofstream(state / "hangs") << ::getpid() << std::flush;
  for (;;) ::pause();
}

int create(const Call& call, const fs::path& state, const std::string& behaviour) {
  const nlohmann::json config = nlohmann::json::parse(text_of(call.options.at("--bundle") + "/config.json"));
  fs::create_directories(state);
  // Beside the run folder: the test's own.
  const std::string group = state.parent_path().parent_path().parent_path().string() + "/cgroups" +
                            config.at("linux").at("cgroupsPath").get<std::string>();
  fs::create_directories(group);
  std::ofstream(state / "group") << group;
  ::mkfifo((state / "gate").c_str(), 0600);
  if (behaviour.find("hang-create") != std::string::npos) hang(state);
  const int pid = leave(call, config.at("process"), state / "gate", behaviour.find("no-pid") == std::string::npos);
  std::ofstream(group + "/cgroup.procs") << pid << "\n";
  for (const char* file : {"memory.max", "cpu.max", "cpu.weight", "pids.max"})
    std::ofstream(group + "/" + file) << "max\n";
  std::ofstream(group + "/memory.events") << "low 0\noom 0\noom_kill 0\n";
  return 0;
}

int run(const Call& call) {
  const fs::path root = call.options.at("--root");
  const fs::path state = root / call.name;
  const std::string behaviour = text_of(root.parent_path().parent_path() / "behaviour");
  if (behaviour.find("wordy") != std::string::npos) {
    std::ofstream(call.options.at("--log")) << std::string(100'000, 'w');
    return 1;
  }
  if (behaviour.find("fail-" + call.command) != std::string::npos) {
    if (behaviour.find("silent") == std::string::npos) std::ofstream(call.options.at("--log")) << "told\x01 to fail\n";
    return 1;
  }
  if (call.command == "create") return create(call, state, behaviour);
  if (call.command == "start") {
    if (behaviour.find("hang-start") != std::string::npos) hang(state);
    ::close(::open((state / "gate").c_str(), O_WRONLY));
  } else if (call.command == "exec") {
    leave(call, nlohmann::json::parse(text_of(call.options.at("--process"))), "", true);
  } else {
    if (behaviour.find("dirty-delete") == std::string::npos) fs::remove_all(text_of(state / "group"));
    fs::remove_all(state);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run(parse(argc, argv)); }
