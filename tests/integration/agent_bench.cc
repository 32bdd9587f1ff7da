// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/agent_bench.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>

#include "vmpool/pool/unix_socket.h"

namespace granary::integration {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kPatience{10};

struct Pipe {
  Fd read;
  Fd write;
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) std::abort();
    read = Fd(ends[0]);
    write = Fd(ends[1]);
  }
};

}  // namespace

Process::Process(const std::vector<std::string>& argv, const std::vector<std::string>& environment) {
  Pipe in;
  Pipe out;
  Pipe err;
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    ::dup2(in.read.get(), STDIN_FILENO);
    ::dup2(out.write.get(), STDOUT_FILENO);
    ::dup2(err.write.get(), STDERR_FILENO);
    for (const std::string& setting : environment) ::putenv(const_cast<char*>(setting.c_str()));
    ::execv(words[0], words.data());
    ::_exit(99);
  }
  stdin_ = std::move(in.write);
  collectors_.emplace_back([this, fd = std::move(out.read)]() mutable { collect(std::move(fd), output_); });
  collectors_.emplace_back([this, fd = std::move(err.read)]() mutable { collect(std::move(fd), errors_); });
}

Process::~Process() {
  if (pid_ <= 0) return;
  if (endings_.empty()) endings_ = {SIGKILL};
  for (const int number : endings_) ::kill(pid_, number);
  wait();
}

void Process::collect(Fd from, std::string& into) {
  char buffer[4096];
  for (ssize_t n = 0; (n = ::read(from.get(), buffer, sizeof(buffer))) > 0;) {
    const std::lock_guard lock(mutex_);
    into.append(buffer, static_cast<size_t>(n));
    changed_.notify_all();
  }
  const std::lock_guard lock(mutex_);
  --open_streams_;
  changed_.notify_all();
}

void Process::write(const std::string& text) const {
  EXPECT_TRUE(write_all(stdin_.get(), std::as_bytes(std::span(text))));
}

void Process::signal(int number) const { EXPECT_EQ(::kill(pid_, number), 0); }

bool Process::running() const {
  siginfo_t ended{};
  return pid_ > 0 && ::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         ended.si_pid == 0;
}

int Process::wait() {
  int status = 0;
  ::waitpid(std::exchange(pid_, -1), &status, 0);
  collectors_.clear();
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool Process::wait_for(const std::string& text) {
  std::unique_lock lock(mutex_);
  const auto there = [&] { return output_.find(text) != std::string::npos || errors_.find(text) != std::string::npos; };
  changed_.wait(lock, [&] { return there() || open_streams_ == 0; });
  return there();
}

std::string Process::output() const {
  const std::lock_guard lock(mutex_);
  return output_;
}

std::string Process::errors() const {
  const std::lock_guard lock(mutex_);
  return errors_;
}

Outcome run_to_end(const std::vector<std::string>& argv, const std::string& input) {
  Process process(argv);
  process.write(input);
  process.close_stdin();
  const int status = process.wait();
  return {.status = status, .output = process.output(), .errors = process.errors()};
}

AgentBench::AgentBench() {
  [] {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: granary-spawn jails its VMMs";
  }();
  ::signal(SIGPIPE, SIG_IGN);
  std::string name = (fs::temp_directory_path() / "granary-agent-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) std::abort();
  folder_ = name;
  fs::create_directory(folder_ / "libexec");
  fs::copy_file(GRANARY_SPAWN, folder_ / "libexec/granary-spawn");
  fs::copy_file(GRANARY_FAKE_VMM, folder_ / "libexec/granary-vmm");
  fs::copy_file(GRANARY_FSD, folder_ / "libexec/granary-fsd");
  fs::copy_file(GRANARY_SHIM, folder_ / "libexec/containerd-shim-granary-v2");
  std::ofstream(folder_ / "kernel") << "a kernel";
  configure();
}

AgentBench::~AgentBench() {
  end_spawner();
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

// The kernel knows who listens on its socket.
pid_t AgentBench::spawner_pid() const {
  const auto socket =
      pool::connect_unix(path("run/spawn.sock"), SOCK_SEQPACKET, std::chrono::steady_clock::now() + kPatience);
  ucred listener{};
  socklen_t length = sizeof(listener);
  if (!socket || ::getsockopt(socket->get(), SOL_SOCKET, SO_PEERCRED, &listener, &length) != 0) return -1;
  return listener.pid;
}

// One that a killed agent left behind.
void AgentBench::end_spawner() const {
  if (const pid_t pid = spawner_pid(); pid > 0) ::kill(pid, SIGTERM);
}

void AgentBench::configure(const std::string& pool, const std::string& top, const std::string& name) const {
  std::ofstream(folder_ / "granary.yaml") << "run_dir: " << path("run") << "\nstate_dir: " << path("state") << "\n"
                                          << top << "\nguest: {kernel: " << path("kernel") << ", initramfs: \"\"}\n"
                                          << "pools:\n  - name: " << name << "\n    memory: 1MiB\n    " << pool << "\n";
}

std::vector<std::string> AgentBench::agent_command() const {
  return {GRANARYD,        "--config", path("granary.yaml"), "--libexec-dir",
          path("libexec"), "--kvm",    "/dev/null",          "--skip-preflight"};
}

std::unique_ptr<Process> AgentBench::start_agent(const std::vector<std::string>& environment) const {
  auto agent = std::make_unique<Process>(agent_command(), environment);
  agent->end_with({SIGTERM, SIGINT});  // the second cuts a long grace short
  EXPECT_TRUE(agent->wait_for("ready version=")) << agent->errors();
  EXPECT_TRUE(agent->wait_for("clone-ready")) << agent->errors();
  return agent;
}

std::vector<std::string> AgentBench::ctl_command(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), {GRANARYCTL, "--socket", socket()});
  return arguments;
}

Outcome AgentBench::ctl(const std::vector<std::string>& arguments, const std::string& input) const {
  return run_to_end(ctl_command(arguments), input);
}

std::unique_ptr<Process> AgentBench::start_ctl(const std::vector<std::string>& arguments) const {
  return std::make_unique<Process>(ctl_command(arguments));
}

std::vector<std::string> AgentBench::left_behind() const {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder_ / "run")) {
    if (entry.is_socket()) names.push_back(entry.path().filename().string());
  }
  return names;
}

}  // namespace granary::integration
