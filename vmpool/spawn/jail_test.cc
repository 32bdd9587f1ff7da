// SPDX-License-Identifier: Apache-2.0
// What a VMM that was taken over cannot do: jail_probe.cc tries it, started by a real granary-spawn.
#include <linux/capability.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <sstream>
#include <thread>

#include "vmpool/spawn/proc_status.h"
#include "vmpool/spawn/spawner_fixture.h"

namespace granary::spawn {
namespace {

// How an attempt ends with the jail alone around it: an errno, or "done" where only the filters are in its way.
struct Case {
  const char* attempt;
  const char* outcome;
};

constexpr Case kCases[] = {
    {"open-host-file", "ENOENT"},   // the root is empty
    {"open-proc", "ENOENT"},        //
    {"open-above-root", "ENOENT"},  //
    {"create-file", "EROFS"},       // and read-only
    {"execute-file", "ENOENT"},
    {"connect-inet", "ENETUNREACH"},       // a net namespace without a device that is up
    {"connect-abstract", "ECONNREFUSED"},  // abstract names belong to the net namespace
    {"packet-socket", "EPERM"},            // no capabilities
    {"signal-process", "ESRCH"},           // its pid namespace holds nobody else
    {"signal-everybody", "ESRCH"},
    {"ptrace", "ESRCH"},
    {"read-memory", "ESRCH"},
    {"take-descriptor", "ESRCH"},
    {"mount", "EPERM"},
    {"unmount", "EPERM"},
    {"chroot", "EPERM"},
    {"set-uid", "EPERM"},
    {"set-gid", "EPERM"},
    {"set-hostname", "EPERM"},
    {"unshare-net", "EPERM"},
    {"unshare-user", "done"},
    {"add-key", "done"},
    {"execute-memory", "done"},
    {"make-executable", "done"},
    {"fork", "EAGAIN"},      // RLIMIT_NPROC
    {"open-fds", "EMFILE"},  // RLIMIT_NOFILE
};

class JailTest : public SpawnerTest {
 protected:
  void start_probes() { start(GRANARY_JAIL_PROBE); }
  // The probe's answer; empty if it ended without one.
  std::string attempt(const Vm& vm, const std::string& with, const std::string& what, int number) {
    const std::string order = with + " " + what + " " + std::to_string(number);
    EXPECT_TRUE(send_message(vm.control.get(), std::as_bytes(std::span(order))));
    const Result<RawMessage> answer = receive_message(vm.control.get(), kPatienceMs);
    if (!answer) return "";
    return {reinterpret_cast<const char*>(answer->bytes.data()), answer->bytes.size()};
  }
  control::VmRecord next_exit() {
    if (!exits.empty()) {
      const control::VmRecord record = exits.back();
      exits.clear();
      return record;
    }
    const Result<control::Message> event = receive(client);
    EXPECT_TRUE(event);
    return *event->as<control::VmRecord>();
  }
  // A process and a port that an attempt may aim at.
  int target_of(const std::string& attempt) {
    if (attempt.starts_with("connect")) return port_;
    return spawner;
  }
  // Listens on a TCP port of the host's loopback and on the abstract unix name that goes with it.
  void listen() {
    tcp_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    ASSERT_EQ(::bind(tcp_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    ASSERT_EQ(::listen(tcp_.get(), 8), 0);
    ASSERT_EQ(::getsockname(tcp_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    unix_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    const std::string text = "granary-probe-" + std::to_string(port_);
    std::memcpy(name.sun_path + 1, text.data(), text.size());
    ASSERT_EQ(::bind(unix_.get(), reinterpret_cast<sockaddr*>(&name),
                     static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size())),
              0);
    ASSERT_EQ(::listen(unix_.get(), 8), 0);
  }
  pid_t pid_of(const Vm& vm) {
    const Result<control::Message> answer = ask(Type::kAdopt, control::VmRef{vm.id});
    return answer->as_answer<control::Spawned>(Type::kAdopt, 3)->pid;
  }

 private:
  Fd tcp_, unix_;
  int port_ = 0;
};

std::string field(pid_t pid, const std::string& name) {
  return proc_status_field("/proc/" + std::to_string(pid) + "/status", name);
}

std::string namespace_of(pid_t pid, const std::string& kind) {
  return fs::read_symlink("/proc/" + std::to_string(pid) + "/ns/" + kind).string();
}

TEST_F(JailTest, EveryAttemptFailsAsDocumented) {
  start_probes();
  listen();
  for (const Case& c : kCases) {
    const Vm vm = spawn();
    EXPECT_EQ(attempt(vm, "jail", c.attempt, target_of(c.attempt)), c.outcome) << c.attempt;
  }
}

TEST_F(JailTest, AnotherVmIsOutOfReach) {
  start_probes();
  const Vm other = spawn();
  const pid_t pid = pid_of(other);
  for (const char* what : {"signal-process", "ptrace", "read-memory", "take-descriptor"}) {
    EXPECT_EQ(attempt(spawn(), "jail", what, pid), "ESRCH") << what;
  }
  EXPECT_EQ(attempt(other, "jail", "open-host-file", 0), "ENOENT") << "it lives";
}

TEST_F(JailTest, EveryAttemptIsASeccompViolationInEveryFilter) {
  start_probes();
  listen();
  for (const char* filter : {"setup", "loop", "vcpu", "worker"}) {
    for (const Case& c : kCases) {
      const Vm vm = spawn();
      EXPECT_EQ(attempt(vm, filter, c.attempt, target_of(c.attempt)), "") << filter << ' ' << c.attempt;
      const control::VmRecord record = next_exit();
      EXPECT_EQ(record.vm_id, vm.id);
      EXPECT_TRUE(WIFSIGNALED(record.wait_status) && WTERMSIG(record.wait_status) == SIGSYS)
          << filter << ' ' << c.attempt << ": wait status " << record.wait_status;
      EXPECT_EQ(record.end_state, static_cast<uint32_t>(EndState::kSeccompViolation));
      EXPECT_EQ(StatusFile::map(vm.status.get(), false)->end_state(), EndState::kSeccompViolation);
    }
    for (const char* what : {"perf", "type"}) {
      EXPECT_EQ(attempt(spawn(), filter, what, 0), "") << filter << ' ' << what;
      EXPECT_EQ(next_exit().end_state, static_cast<uint32_t>(EndState::kSeccompViolation)) << what;
    }
  }
}

TEST_F(JailTest, CrashLeavesNoCore) {
  start_probes();
  const Vm vm = spawn();
  EXPECT_EQ(attempt(vm, "jail", "crash", 0), "");
  const control::VmRecord record = next_exit();
  EXPECT_TRUE(WIFSIGNALED(record.wait_status));
  EXPECT_EQ(WTERMSIG(record.wait_status), SIGILL);
  EXPECT_FALSE(WCOREDUMP(record.wait_status));
}

TEST_F(JailTest, EachHasItsOwnUidAndPidNamespaceAndNothingElse) {
  start_probes();
  const Vm vms[] = {spawn(), spawn()};
  const pid_t pids[] = {pid_of(vms[0]), pid_of(vms[1])};
  EXPECT_NE(field(pids[0], "Uid"), field(pids[1], "Uid"));
  for (size_t i = 0; i < 2; ++i) {
    const std::string uid = field(pids[i], "Uid").substr(0, 10);
    EXPECT_LT(std::stoul(uid) - UidRange::kDefaultBase, UidRange::kDefaultCount);
    EXPECT_EQ(field(pids[i], "Uid"), uid + " " + uid + " " + uid + " " + uid);
    EXPECT_EQ(field(pids[i], "Gid"), uid + " " + uid + " " + uid + " " + uid);
    EXPECT_EQ(field(pids[i], "Groups"), "");
    EXPECT_EQ(field(pids[i], "Umask"), "0077");
    EXPECT_EQ(field(pids[i], "NoNewPrivs"), "1");
    EXPECT_TRUE(field(pids[i], "NSpid").ends_with(" 1")) << field(pids[i], "NSpid");
    for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
      EXPECT_EQ(field(pids[i], set), "0000000000000000") << set;
    }
    const fs::path process = "/proc/" + std::to_string(pids[i]);
    EXPECT_TRUE(fs::is_empty(process / "root"));
    EXPECT_EQ(fs::read_symlink(process / "cwd"), "/");
    for (const char* kind : {"mnt", "net", "ipc", "uts"}) {
      EXPECT_EQ(namespace_of(pids[i], kind), namespace_of(pids[0], kind)) << kind << " is shared by VMMs";
      EXPECT_NE(namespace_of(pids[i], kind), namespace_of(::getpid(), kind)) << kind << " is not the host's";
    }
  }
  EXPECT_NE(namespace_of(pids[0], "pid"), namespace_of(pids[1], "pid"));
  EXPECT_EQ(field(spawner, "NoNewPrivs"), "0") << "the spawner itself stays what it was";
  EXPECT_EQ(namespace_of(spawner, "mnt"), namespace_of(::getpid(), "mnt"));
  EXPECT_EQ(fs::read_symlink("/proc/" + std::to_string(spawner) + "/root"), "/");
}

TEST_F(JailTest, UidsAreFreeAgainWhenTheirProcessIsReaped) {
  const std::string base = std::to_string(1'900'000'000 + ::getpid() * 2);
  start(GRANARY_JAIL_PROBE, {"--uid-base", base, "--uid-count", "2"});
  const Vm first = spawn();
  const Vm second = spawn();
  const Error error = error_of(ask(Type::kSpawn, control::Spawn{}));
  EXPECT_TRUE(error.is_errno(EUSERS)) << error.message();
  EXPECT_NE(error.message().find("--uid-count"), std::string::npos) << error.message();
  const std::string freed = field(pid_of(first), "Uid");
  EXPECT_NE(freed, field(pid_of(second), "Uid"));
  EXPECT_EQ(ask(Type::kKill, control::VmRef{first.id})->type, Type::kDone);
  EXPECT_EQ(field(pid_of(spawn()), "Uid"), freed);
}

// Changes credentials of the calling thread only, unlike the C library's functions.
void become_nobody() { ASSERT_EQ(::syscall(SYS_setresuid, 65'534, 65'534, 65'534), 0); }

TEST_F(JailTest, NoSpawnerWithoutAJail) {
  std::thread([] {
    become_nobody();
    const Result<JailNamespaces> jail = JailNamespaces::create();
    ASSERT_FALSE(jail);
    EXPECT_TRUE(jail.error().is_errno(EPERM)) << jail.error().message();
    EXPECT_NE(jail.error().message().find("unshare"), std::string::npos) << jail.error().message();
    EXPECT_NE(jail.error().message().find("CAP_SYS_ADMIN"), std::string::npos) << jail.error().message();
  }).join();
}

TEST_F(JailTest, NoVmmOutsideAJail) {
  // What posix_spawn(3) starts from this thread can never have the capability.
  std::thread([this] {
    ASSERT_EQ(::prctl(PR_CAPBSET_DROP, CAP_SETUID), 0);
    start_probes();
  }).join();
  const Error error = error_of(ask(Type::kSpawn, control::Spawn{}));
  EXPECT_TRUE(error.is_errno(EPERM)) << error.message();
  EXPECT_NE(error.message().find("set the VMM's uid"), std::string::npos) << error.message();
  EXPECT_NE(error.message().find("CAP_SETUID"), std::string::npos) << error.message();
  EXPECT_EQ(ask(Type::kListVms, control::Empty{})->as_answer<control::VmList>(Type::kListVms)->count, 0U);
  EXPECT_TRUE(fs::is_empty(folder / "run"));
}

TEST_F(JailTest, BadUidRangesAreRefusedAtStart) {
  const auto refused = [&](const std::string& base, const std::string& count) {
    const std::string program = GRANARY_SPAWN;
    std::vector<std::string> words = {program,
                                      "--control-socket",
                                      (folder / "s").string(),
                                      "--run-dir",
                                      (folder / "run").string(),
                                      "--vmm",
                                      GRANARY_JAIL_PROBE,
                                      "--kvm",
                                      "/dev/null",
                                      "--uid-base",
                                      base,
                                      "--uid-count",
                                      count};
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    EXPECT_EQ(::posix_spawn(&spawner, program.c_str(), nullptr, nullptr, arguments.data(), environ), 0);
    return await_end();
  };
  EXPECT_EQ(refused("0", "10"), 1);
  EXPECT_EQ(refused("1900000000", "0"), 1);
  EXPECT_EQ(refused("2147483647", "2"), 1);
  EXPECT_EQ(refused("-5", "2"), 2);
  EXPECT_EQ(refused("1900000000", "many"), 2);
}

}  // namespace
}  // namespace granary::spawn
