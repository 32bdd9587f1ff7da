// SPDX-License-Identifier: Apache-2.0
// Containers in a Linux guest: crun, cgroups and file systems as they are there.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>

#include "tests/integration/linux_clones.h"
#include "vmpool/guest/guest.pb.h"
#include "vmpool/pool/container_session.h"
#include "vmpool/pool/exec_session.h"

namespace granary::integration {
namespace {

using testing::HasSubstr;
namespace wire = guest::v1;

LinuxClones* const clones =
    dynamic_cast<LinuxClones*>(testing::AddGlobalTestEnvironment(new LinuxClones));  // gtest owns it

struct End {
  std::string out;
  std::string err;
  bool out_of_memory = false;
  int status = -1;
  int signal = -1;
};

// Takes the session's events to the last one.
End finish(pool::ProcessSession& session) {
  End end;
  for (;;) {
    const Result<std::optional<pool::ExecEvent>> event = session.next(in_time());
    if (!event || !*event) {
      ADD_FAILURE() << (event ? "timeout" : event.error().message()) << "; " << end.out << end.err;
      return end;
    }
    switch ((*event)->kind) {
      case pool::ExecEvent::Kind::kStdout:
        end.out += (*event)->data;
        break;
      case pool::ExecEvent::Kind::kStderr:
        end.err += (*event)->data;
        break;
      case pool::ExecEvent::Kind::kOutOfMemory:
        end.out_of_memory = true;
        break;
      case pool::ExecEvent::Kind::kExited:
        end.status = (*event)->exit_status;
        end.signal = (*event)->signal;
        return end;
    }
  }
}

struct Wish {
  std::string script;
  bool terminal = false;
  std::string memory_bytes = "67108864";
};

// As containerd would have it for an unprivileged container.
std::string spec(const Wish& wish) {
  return R"({"ociVersion":"1.0.2","root":{"readonly":true},"hostname":"inside","process":{"terminal":)" +
         std::string(wish.terminal ? "true" : "false") +
         R"(,"user":{"uid":0,"gid":0},"cwd":"/","env":["PATH=/bin"],"noNewPrivileges":true,
  "capabilities":{"bounding":["CAP_KILL"],"effective":["CAP_KILL"],"permitted":["CAP_KILL"]},"args":["/bin/sh","-c",")" +
         wish.script + R"("]},
  "mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"]},
    {"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]},
    {"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"]},
    {"destination":"/dev/mqueue","type":"mqueue","source":"mqueue","options":["nosuid","noexec","nodev"]},
    {"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev","ro"]},
    {"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["nosuid","noexec","nodev","relatime","ro"]},
    {"destination":"/dev/shm","type":"bind","source":"/run/granary/pod/shm","options":["rbind","rw"]},
    {"destination":"/etc/hosts","type":"bind","source":"/run/granary/pod/hosts","options":["rbind","rprivate","ro"]}],
  "linux":{"cgroupsPath":"/k8s.io/of-the-host","resources":{"memory":{"limit":)" +
         wish.memory_bytes + R"(},"cpu":{"shares":512,"quota":100000,"period":100000},
      "devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}]},
    "seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO"}]},
    "maskedPaths":["/proc/kcore"],"readonlyPaths":["/proc/sys"],
    "namespaces":[{"type":"pid"},{"type":"mount"},{"type":"uts"},{"type":"ipc"},{"type":"cgroup"}]}})";
}

// One clone with a disk that holds a root file system, and the same as a directory of the guest.
class ContainerLinuxTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(std::system("command -v mkfs.ext4 busybox >/dev/null"), 0) << "e2fsprogs, busybox";
    const std::string folder = clones->bench().path("rootfs.d");
    const std::string image = clones->bench().path("rootfs.img");
    std::filesystem::remove_all(folder);
    std::filesystem::remove(image);
    const std::string make = "set -e; mkdir -p " + folder + "; cd " + folder +
                             "; mkdir bin dev proc sys etc tmp; cp $(command -v busybox) bin/busybox; touch etc/hosts;"
                             " for n in $(bin/busybox --list); do ln -s busybox bin/$n 2>/dev/null || true; done;"
                             " mkfs.ext4 -q -d . " +
                             image + " 32M";
    ASSERT_EQ(std::system(make.c_str()), 0);
    pool::Attachments attachments;
    Result<Fd> file = open_file(image, O_RDWR);
    ASSERT_TRUE(file);
    attachments.disks.push_back({.file = std::move(*file)});
    const Result<pool::CloneInfo> clone = clones->pool().acquire({}, in_time(), attachments);
    ASSERT_TRUE(clone) << clone.error().message();
    id_ = clone->id;
    socket_ = clone->socket_path;
    wire::Pod pod;
    pod.set_hosts("10.1.2.3 known\n");
    pod.set_hostname("pod-name\n");
    pod.mutable_limits()->set_memory_bytes(160 * kMiB);
    pod.add_sysctls()->set_name("net.ipv4.ip_unprivileged_port_start");
    pod.mutable_sysctls(0)->set_value("0");
    const Status set = pool::set_pod(socket_, pod, in_time());
    ASSERT_TRUE(set) << set.error().message();
  }
  void TearDown() override {
    if (id_.empty()) return;
    EXPECT_TRUE(*clones->pool().release(id_));
  }

  std::unique_ptr<pool::ContainerSession> start(const std::string& name, const Wish& wish, bool on_disk = true) {
    wire::ContainerCreate create;
    create.set_container_id(name);
    create.set_spec(spec(wish));
    create.mutable_window_size()->set_rows(33);
    create.mutable_window_size()->set_columns(77);
    if (on_disk) {
      create.mutable_rootfs()->mutable_block()->set_type("ext4");
    } else {
      create.mutable_rootfs()->set_directory("/run/root");
    }
    auto session = pool::ContainerSession::create(socket_, create, in_time());
    EXPECT_TRUE(session) << session.error().message() << run_script(socket_, "dmesg | tail -n 20").output;
    if (!session) return nullptr;
    const Status started = (*session)->start(in_time());
    EXPECT_TRUE(started) << started.error().message();
    return std::move(*session);
  }
  End run(const std::string& name, const Wish& wish, bool on_disk = true) {
    const auto session = start(name, wish, on_disk);
    return session ? finish(*session) : End{};
  }
  void make_directory() {
    const CommandEnd made = run_script(socket_, R"(set -e; mkdir -p /run/root; cd /run/root; mkdir bin dev proc sys etc
cp /bin/busybox bin; touch etc/hosts; for n in sh echo sleep cat tail seq; do ln -s busybox bin/$n; done)");
    ASSERT_EQ(made.status, 0) << made.output;
  }
  void remove(const std::string& name) {
    wire::ContainerDelete request;
    request.set_container_id(name);
    const Status removed = pool::delete_container(socket_, request, in_time());
    EXPECT_TRUE(removed) << removed.error().message();
  }
  End exec(const std::string& name, const std::string& script) {
    wire::Exec request;
    request.set_container_id(name);
    request.set_process(R"({"args":["/bin/sh","-c",")" + script + R"("],"cwd":"/","env":["PATH=/bin"]})");
    const auto session = pool::ExecSession::start(socket_, request, in_time());
    EXPECT_TRUE(session) << session.error().message();
    return session ? finish(**session) : End{};
  }
  wire::ContainerState query(const std::string& name) {
    wire::ContainerQuery request;
    request.set_container_id(name);
    const auto state = pool::query_container(socket_, request, in_time());
    EXPECT_TRUE(state) << state.error().message();
    return state ? *state : wire::ContainerState{};
  }

  std::string id_;
  std::string socket_;
};

TEST_F(ContainerLinuxTest, RunsFromADiskInItsOwnSurroundings) {
  const End end =
      run("disk", {.script = "hostname; cat /etc/hosts; echo $$; (echo x >/tmp/f) 2>&1; mount -t tmpfs x /tmp 2>&1;"
                             " ls /dev/shm /proc/sys/net/ipv4 | grep -c unpriv; exit 7"});
  EXPECT_THAT(end.out, testing::StartsWith("inside\n10.1.2.3 known\n1\n")) << end.err;
  EXPECT_THAT(end.out, HasSubstr("Read-only file system"));
  EXPECT_THAT(end.out, HasSubstr("mount: ")) << "forbidden by capabilities and seccomp";
  EXPECT_EQ(end.status, 7);
  EXPECT_EQ(end.signal, 0);
  remove("disk");
  EXPECT_EQ(run_script(socket_,
                       "grep -c ext4 /proc/mounts; ls /run/granary/containers /run/granary/crun;"
                       " cat /proc/sys/net/ipv4/ip_unprivileged_port_start; hostname")
                .output,
            "0\n/run/granary/containers:\n\n/run/granary/crun:\n0\npod-name\n");
  EXPECT_EQ(run("disk", {.script = "kill -9 $$; true"}).status, 0) << "a first process cannot kill itself";
  remove("disk");
}

TEST_F(ContainerLinuxTest, OutOfMemoryEndsOneAndNotItsNeighbour) {
  make_directory();
  const auto neighbour = start("neighbour", {.script = "echo ready; sleep 1000"}, false);
  ASSERT_TRUE(neighbour);
  const End end = run("hungry", {.script = "exec tail /dev/zero", .memory_bytes = "25165824"});
  EXPECT_TRUE(end.out_of_memory);
  EXPECT_EQ(end.signal, SIGKILL);
  EXPECT_EQ(end.status, 137);
  EXPECT_EQ(exec("neighbour", "echo alive; exit 5").status, 5);
  const wire::ContainerState state = query("neighbour");
  EXPECT_EQ(state.memory_limit_bytes(), 64 * kMiB);
  EXPECT_GT(state.memory_bytes(), 0U);
  EXPECT_GT(state.cpu_usage_us(), 0U);
  EXPECT_EQ(state.oom_kills(), 0U);
  EXPECT_EQ(state.pids_current(), 1U);
  EXPECT_EQ(query("").memory_limit_bytes(), 160 * kMiB);
  EXPECT_GE(query("").oom_kills(), 1U);
  // Without a limit of its own the pod's ends it.
  const End pods = run("unlimited", {.script = "exec tail /dev/zero", .memory_bytes = "1073741824"});
  EXPECT_TRUE(pods.out_of_memory);
  EXPECT_EQ(pods.status, 137);
  EXPECT_EQ(exec("neighbour", "echo alive").out, "alive\n");
  wire::ContainerUpdate update;
  update.set_container_id("neighbour");
  update.mutable_limits()->set_memory_bytes(48 * kMiB);
  update.mutable_limits()->set_pids(99);
  EXPECT_TRUE(pool::update_container(socket_, update, in_time()));
  EXPECT_EQ(query("neighbour").memory_limit_bytes(), 48 * kMiB);
  EXPECT_EQ(query("neighbour").pids_limit(), 99U);
  wire::ContainerKill kill;
  kill.set_container_id("neighbour");
  kill.set_signal(SIGKILL);
  kill.set_all(true);
  EXPECT_TRUE(pool::kill_container(socket_, kill, in_time()));
  EXPECT_EQ(finish(*neighbour).signal, SIGKILL);
}

TEST_F(ContainerLinuxTest, AFrozenOneUsesNothingAndItsNeighbourGoesOn) {
  make_directory();
  const auto busy = start("busy", {.script = "while :; do :; done"}, false);
  const auto neighbour = start("neighbour", {.script = "sleep 1000"}, false);
  ASSERT_TRUE(busy && neighbour);
  wire::ContainerFreeze freeze;
  freeze.set_container_id("busy");
  freeze.set_frozen(true);
  ASSERT_TRUE(pool::freeze_container(socket_, freeze, in_time()));
  const uint64_t used = query("busy").cpu_usage_us();
  EXPECT_GT(used, 0U);
  EXPECT_EQ(exec("neighbour", "i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done; echo $i").out, "10000\n");
  EXPECT_EQ(query("busy").cpu_usage_us(), used);
  freeze.set_frozen(false);
  ASSERT_TRUE(pool::freeze_container(socket_, freeze, in_time()));
  const auto limit = in_time();
  while (query("busy").cpu_usage_us() == used && !HasFailure()) ASSERT_LT(pool::SteadyClock::now(), limit);
  freeze.set_frozen(true);
  ASSERT_TRUE(pool::freeze_container(socket_, freeze, in_time()));
  for (const auto& [id, session] : {std::pair("busy", busy.get()), std::pair("neighbour", neighbour.get())}) {
    wire::ContainerKill kill;
    kill.set_container_id(id);
    kill.set_signal(SIGKILL);
    kill.set_all(true);
    EXPECT_TRUE(pool::kill_container(socket_, kill, in_time()));
    EXPECT_EQ(finish(*session).signal, SIGKILL) << id;
  }
}

TEST_F(ContainerLinuxTest, AThousandForks) {
  const End end =
      run("forks", {.script = "i=0; while [ $i -lt 1000 ]; do (exit 3) & i=$((i+1)); done; wait; echo $i; exit 9"});
  EXPECT_EQ(end.out, "1000\n") << end.err;
  EXPECT_EQ(end.status, 9);
  EXPECT_EQ(run_script(socket_, "ls /proc | grep -c '^[0-9]'; true").status, 0) << "init lives";
}

TEST_F(ContainerLinuxTest, ATerminal) {
  const auto session =
      start("tty", {.script = "test -t 0 && stty size; read x; echo got $x; exit 4", .terminal = true});
  ASSERT_TRUE(session);
  ASSERT_TRUE(session->write_stdin("word\n", in_time()));
  const End end = finish(*session);
  EXPECT_THAT(end.out, testing::AllOf(HasSubstr("33 77\r\n"), HasSubstr("got word\r\n")));
  EXPECT_EQ(end.status, 4);
}

}  // namespace
}  // namespace granary::integration
