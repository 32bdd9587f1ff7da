// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "vmpool/spawn/spawner.h"

namespace granary::spawn {

namespace fs = std::filesystem;
using control::Type;

inline constexpr int kPatienceMs = 60'000;

// A granary-spawn process in a folder of its own, driven message by message.
class SpawnerTest : public testing::Test {
 protected:
  SpawnerTest() {
    std::string name = (fs::temp_directory_path() / "granary-spawn-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    folder = name;
    fs::create_directory(folder / "run");
  }
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: granary-spawn jails its VMMs";
  }
  ~SpawnerTest() override {
    if (spawner > 0) {
      EXPECT_EQ(stop(SIGTERM), 0);
    }
    fs::remove_all(folder);
  }

  void start(const std::string& vmm = GRANARY_REPORT_VMM, const std::vector<std::string>& options = {}) {
    const std::string program = GRANARY_SPAWN;
    std::vector<std::string> words = {
        program, "--control-socket", (folder / "s").string(), "--run-dir", (folder / "run").string(), "--vmm", vmm,
        "--kvm", "/dev/null"};
    words.insert(words.end(), options.begin(), options.end());
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    ASSERT_EQ(::posix_spawn(&spawner, program.c_str(), nullptr, nullptr, arguments.data(), environ), 0);
    client = connect();
    ASSERT_TRUE(client.valid());
  }
  // The wait status; -1 stands for "was ended by a signal".
  int stop(int signal) {
    ::kill(spawner, signal);
    return await_end();
  }
  int await_end() {
    int status = 0;
    ::waitpid(spawner, &status, 0);
    spawner = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // Until it listens; an invalid descriptor if it has ended instead.
  Fd connect() const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, (folder / "s").c_str());
    for (;;) {
      Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
      if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return socket;
      siginfo_t ended{};
      if (::waitid(P_PID, static_cast<id_t>(spawner), &ended, WEXITED | WNOHANG | WNOWAIT) != 0 || ended.si_pid != 0)
        return {};
      ::sched_yield();
    }
  }
  Result<control::Message> receive(const Fd& from) { return control::receive(from.get(), kPatienceMs); }
  template <class Body>
  Result<control::Message> ask(Type type, const Body& body, std::span<const int> fds = {}) {
    EXPECT_TRUE(control::send(client.get(), type, ++request, body, fds));
    for (;;) {
      Result<control::Message> message = receive(client);
      if (!message || message->type != Type::kExited) {
        EXPECT_EQ(message ? message->request : 0, request);
        return message;
      }
      exits.push_back(*message->as<control::VmRecord>());
    }
  }
  struct Vm {
    uint64_t id = 0;
    std::string socket_name;
    Fd control, status, pidfd;
    std::string report;
  };
  Vm spawn() {
    Result<control::Message> answer = ask(Type::kSpawn, control::Spawn{});
    EXPECT_TRUE(answer);
    const Result<control::Spawned> body = answer->as_answer<control::Spawned>(Type::kSpawn, 3);
    EXPECT_TRUE(body) << body.error().message();
    if (!body) return {};
    Vm vm{body->vm_id,
          control::text_of(body->socket_name),
          std::move(answer->fds[0]),
          std::move(answer->fds[1]),
          std::move(answer->fds[2]),
          ""};
    const Result<RawMessage> report = receive_message(vm.control.get(), kPatienceMs);
    EXPECT_TRUE(report);
    if (report) vm.report.assign(reinterpret_cast<const char*>(report->bytes.data()), report->bytes.size());
    return vm;
  }
  Error error_of(const Result<control::Message>& answer) {
    const Result<control::Empty> done = answer->as_answer<control::Empty>(Type::kDone);
    return done ? Error(Errc::kInvalidArgument, "no error") : done.error();
  }
  [[nodiscard]] size_t descriptors_of_spawner() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator("/proc/" + std::to_string(spawner) + "/fd"), {}));
  }

  fs::path folder;
  pid_t spawner = -1;
  Fd client;
  uint32_t request = 0;
  std::vector<control::VmRecord> exits;
};

}  // namespace granary::spawn
