// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/container_fixture.h"

#include <gmock/gmock.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "vmpool/guest/init/cgroup.h"

namespace granary::guest {
namespace {

namespace fs = std::filesystem;

// A cgroup namespace whose root is a new cgroup of this process, mounted where crun looks for cgroups.
void take_own_cgroups(const std::string& name) {
  ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  if (::mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, nullptr) != 0) ::_exit(98);
  const std::string group = "/sys/fs/cgroup/" + name;
  ::mkdir(group.c_str(), 0755);
  std::ofstream(group + "/cgroup.procs") << ::getpid() << std::flush;
  if (::unshare(CLONE_NEWCGROUP) != 0) ::_exit(98);
  ::umount2("/sys/fs/cgroup", MNT_DETACH);
  if (::mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, nullptr) != 0) ::_exit(98);
  // Only the true root may have processes and pass controllers on.
  ::mkdir("/sys/fs/cgroup/server", 0755);
  std::ofstream("/sys/fs/cgroup/server/cgroup.procs") << ::getpid() << std::flush;
}

// In a process of its own, which alone sees the mount. Ends what a server that was killed left running.
int remove_cgroups(const std::string& name, const std::string& mount_point) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (::unshare(CLONE_NEWNS) != 0) ::_exit(1);
    ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    ::mkdir(mount_point.c_str(), 0755);
    if (::mount("cgroup2", mount_point.c_str(), "cgroup2", 0, nullptr) != 0) ::_exit(1);
    ::_exit(cgroup::remove(mount_point + "/" + name) ? 0 : 1);
  }
  int status = -1;
  ::waitpid(pid, &status, 0);
  return status;
}

}  // namespace

v1::Request start_request() {
  v1::Request request;
  request.mutable_container_start();
  return request;
}

ContainerPaths ContainerServerTest::prepare_server() {
  if (::unshare(CLONE_NEWNS) != 0) ::_exit(98);
  take_own_cgroups(group_);
  ContainerPaths paths;
  paths.run = folder() + "/run";
  paths.crun = runtime();
  return paths;
}

void ContainerServerTest::SetUp() {
  if (::geteuid() != 0) GTEST_SKIP() << "containers need root";
  if (runtime().empty()) GTEST_SKIP() << "crun is not installed (deploy/packages.txt)";
  group_ = "granary-guest-test-" + std::to_string(::getpid());
  ServerTest::SetUp();
  const std::string bin = rootfs() + "/bin";
  fs::create_directories(bin);
  for (const char* name : {"dev", "proc", "sys", "tmp", "etc"}) fs::create_directories(rootfs() + "/" + name);
  fs::copy_file("/bin/busybox", bin + "/busybox");
  for (const char* name :
       {"sh", "cat", "echo", "sleep", "stty", "id", "ls", "hostname", "kill", "seq", "head", "wc", "true"}) {
    fs::create_symlink("busybox", bin + "/" + name);
  }
  identify();
}

void ContainerServerTest::TearDown() {
  end_server();
  if (!group_.empty()) {
    EXPECT_EQ(remove_cgroups(group_, folder() + "/cgroups"), 0);
  }
  ServerTest::TearDown();
}

nlohmann::json ContainerServerTest::spec(const std::string& script, bool terminal) const {
  return nlohmann::json::parse(
             R"({"ociVersion":"1.0.2","root":{"path":"of the host","readonly":true},"hostname":"inside",
    "process":{"terminal":)" +
             std::string(terminal ? "true" : "false") + R"(,"user":{"uid":0,"gid":0},"cwd":"/","env":["PATH=/bin"]},
    "mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"]},
              {"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]},
              {"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620","gid=5"]}],
    "linux":{"cgroupsPath":"/of/the/host","namespaces":[{"type":"pid"},{"type":"mount"},{"type":"uts"},{"type":"ipc"}]}})")
      .patch({{{"op", "add"}, {"path", "/process/args"}, {"value", {"/bin/sh", "-c", script}}}});
}

v1::Request ContainerServerTest::create_request(const std::string& id, const nlohmann::json& spec) const {
  v1::Request request;
  v1::ContainerCreate& create = *request.mutable_container_create();
  create.set_container_id(id);
  create.set_spec(spec.dump());
  create.mutable_rootfs()->set_directory(rootfs());
  return request;
}

v1::Request ContainerServerTest::exec_in(const std::string& id, const std::string& script, bool terminal) {
  v1::Request request;
  const nlohmann::json process = {{"args", {"/bin/sh", "-c", script}},
                                  {"cwd", "/"},
                                  {"env", {"PATH=/bin"}},
                                  {"user", {{"uid", 0}, {"gid", 0}}},
                                  {"terminal", terminal}};
  request.mutable_exec()->set_container_id(id);
  request.mutable_exec()->set_process(process.dump());
  return request;
}

Conversation ContainerServerTest::start(const v1::Request& create) {
  Conversation conversation = connect();
  const v1::Reply created = conversation.ask(create);
  EXPECT_TRUE(created.has_container_created()) << created.failure().message();
  EXPECT_GT(created.container_created().pid(), 1);
  const v1::Reply started = conversation.ask(start_request());
  EXPECT_TRUE(started.has_started()) << started.failure().message();
  EXPECT_EQ(started.started().pid(), created.container_created().pid());
  return conversation;
}

v1::Reply ContainerServerTest::remove(const std::string& id, bool force) {
  v1::Request request;
  request.mutable_container_delete()->set_container_id(id);
  request.mutable_container_delete()->set_force(force);
  return ask(request);
}

v1::Reply ContainerServerTest::kill(const std::string& id, int signal, bool all) {
  v1::Request request;
  request.mutable_container_kill()->set_container_id(id);
  request.mutable_container_kill()->set_signal(signal);
  request.mutable_container_kill()->set_all(all);
  return ask(request);
}

void ContainerServerTest::expect_failure(const v1::Reply& reply, v1::Failure::Kind kind, const std::string& text) {
  ASSERT_TRUE(reply.has_failure()) << reply.kind_case();
  EXPECT_EQ(reply.failure().kind(), kind) << reply.failure().message();
  EXPECT_THAT(reply.failure().message(), testing::HasSubstr(text));
}

std::vector<std::string> ContainerServerTest::traces() const {
  std::vector<std::string> found;
  std::error_code code;
  for (const char* part : {"containers", "calls", "crun"}) {
    for (const auto& entry : fs::directory_iterator(folder() + "/run/" + part, code)) found.push_back(entry.path());
  }
  return found;
}

}  // namespace granary::guest
