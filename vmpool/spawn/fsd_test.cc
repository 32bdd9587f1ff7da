// SPDX-License-Identifier: Apache-2.0
#include <linux/fuse.h>

#include "vmpool/base/fsd_capabilities.h"
#include "vmpool/fs/export_client.h"
#include "vmpool/spawn/proc_status.h"
#include "vmpool/spawn/spawner_fixture.h"

// A real granary-fsd under a real granary-spawn, its jail around it.
namespace granary::spawn {
namespace {

template <class T>
std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

class FsdTest : public SpawnerTest {
 protected:
  struct Fsd {
    int32_t pid = 0;
    std::string socket_name;
    Fd fuse, control, pidfd;
  };
  void start_both() {
    start(GRANARY_REPORT_VMM, {"--fsd", GRANARY_FSD});
    vm = spawn();
  }
  Fsd spawn_fsd() {
    Result<control::Message> answer = ask(Type::kSpawnFsd, control::VmRef{vm.id});
    EXPECT_TRUE(answer);
    const Result<control::FsdSpawned> body = answer->as_answer<control::FsdSpawned>(Type::kSpawnFsd, 3);
    EXPECT_TRUE(body) << body.error().message();
    if (!body) return {};
    return {body->pid, control::text_of(body->socket_name), std::move(answer->fds[0]), std::move(answer->fds[1]),
            std::move(answer->fds[2])};
  }
  // The errno of the answer to one FUSE request, positive; its body is in `reply`.
  int request(const Fsd& fsd, uint32_t opcode, uint64_t node, const std::string& body, uint32_t uid = 0) {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof(header) + body.size());
    header.opcode = opcode;
    header.unique = 2;
    header.nodeid = node;
    header.uid = header.gid = uid;
    const std::string bytes = bytes_of(header) + body;
    if (::send(fsd.fuse.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) return errno;
    fuse_out_header out{};
    if (::recv(fsd.fuse.get(), &out, sizeof(out), MSG_WAITALL) != sizeof(out)) return ENOTCONN;
    reply.resize(out.len - sizeof(out));
    if (!reply.empty() && ::recv(fsd.fuse.get(), reply.data(), reply.size(), MSG_WAITALL) < 0) return errno;
    return -out.error;
  }
  uint64_t look_up(const Fsd& fsd, uint64_t parent, const std::string& name) {
    if (request(fsd, FUSE_LOOKUP, parent, name + '\0') != 0) return 0;
    fuse_entry_out entry{};
    std::memcpy(&entry, reply.data(), sizeof(entry));
    return entry.nodeid;
  }
  int initialise(const Fsd& fsd) {
    fuse_init_in init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = 36;
    return request(fsd, FUSE_INIT, 0, bytes_of(init));
  }
  static bool wait_end(const Fd& pidfd) {
    pollfd ended{.fd = pidfd.get(), .events = POLLIN, .revents = 0};
    return ::poll(&ended, 1, kPatienceMs) == 1;
  }
  static bool has_ended(const Fd& pidfd) {
    pollfd ended{.fd = pidfd.get(), .events = POLLIN, .revents = 0};
    return ::poll(&ended, 1, 0) == 1;
  }
  std::string run_path(const std::string& name) const { return (folder / "run" / name).string(); }

  Vm vm;
  std::string reply;
};

TEST_F(FsdTest, ServesAndExportsInItsJail) {
  start_both();
  const Fsd fsd = spawn_fsd();
  ASSERT_EQ(initialise(fsd), 0);
  fs::create_directory(folder / "share");
  Result<granary::fs::ExportClient> exports =
      granary::fs::ExportClient::connect(granary::fs::export_socket_beside(run_path(vm.socket_name)));
  ASSERT_TRUE(exports) << exports.error().message();
  const Fd share = *open_file((folder / "share").string(), O_PATH);
  const Status added = exports->add("share", share.get(), false);
  ASSERT_TRUE(added) << added.error().message();
  EXPECT_TRUE(exports->add("share", share.get(), false).error().is_errno(EEXIST));
  granary::fs::ExportClient pair(*fsd.control.duplicate());
  EXPECT_TRUE(pair.add("again", share.get(), true));
  const uint64_t node = look_up(fsd, FUSE_ROOT_ID, "share");
  ASSERT_NE(node, 0U);
  const fuse_create_in in{O_RDWR | O_CREAT, 0640, 022, 0};
  ASSERT_EQ(request(fsd, FUSE_CREATE, node, bytes_of(in) + std::string("f") + '\0', 4711), 0);
  struct stat st {};
  ASSERT_EQ(::stat((folder / "share" / "f").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 4711U);
  EXPECT_EQ(st.st_mode & 07777, 0640U);
  ASSERT_EQ(request(fsd, FUSE_OPENDIR, node, bytes_of(fuse_open_in{})), 0);
  fuse_read_in list{};
  std::memcpy(&list.fh, reply.data(), sizeof(list.fh));
  list.size = 4096;
  EXPECT_EQ(request(fsd, FUSE_READDIRPLUS, node, bytes_of(list)), 0);
  EXPECT_NE(reply.find("f"), std::string::npos);
  fuse_setattr_in owner{};
  owner.valid = FATTR_UID | FATTR_MODE | FATTR_SIZE | FATTR_MTIME_NOW;
  owner.uid = 42;
  owner.mode = 0600;
  owner.size = 5;
  EXPECT_EQ(request(fsd, FUSE_RENAME, node, bytes_of(fuse_rename_in{node}) + std::string("f") + '\0' + "g" + '\0'), 0);
  EXPECT_EQ(request(fsd, FUSE_RENAME, node, bytes_of(fuse_rename_in{node}) + std::string("g") + '\0' + "f" + '\0'), 0)
      << "a plain rename is a system call of its own";
  EXPECT_EQ(request(fsd, FUSE_SETATTR, look_up(fsd, node, "f"), bytes_of(owner)), 0) << "and reaches inodes by /proc";
  EXPECT_TRUE(*exports->remove("share"));
  EXPECT_FALSE(*exports->remove("share"));
  EXPECT_EQ(look_up(fsd, FUSE_ROOT_ID, "share"), 0U);
}

TEST_F(FsdTest, ItsJailIsTight) {
  start_both();
  const Fsd fsd = spawn_fsd();
  ASSERT_EQ(initialise(fsd), 0) << "so its filter is on";
  const std::string process = "/proc/" + std::to_string(fsd.pid);
  char kept[32];
  std::snprintf(kept, sizeof(kept), "%016llx", static_cast<unsigned long long>(granary::fs::kept_capability_bits()));
  for (const char* set : {"CapPrm", "CapEff", "CapBnd"}) EXPECT_EQ(proc_status_field(process + "/status", set), kept);
  EXPECT_EQ(proc_status_field(process + "/status", "CapAmb"), "0000000000000000");
  EXPECT_EQ(proc_status_field(process + "/status", "NoNewPrivs"), "1");
  EXPECT_EQ(proc_status_field(process + "/status", "Seccomp"), "2");
  EXPECT_EQ(proc_status_field(process + "/status", "NSpid"), std::to_string(fsd.pid) + " 1");
  EXPECT_TRUE(fs::is_empty(process + "/root"));
  // Its working directory is that of its own descriptors, above which there is nothing.
  struct stat here {};
  struct stat above {};
  ASSERT_EQ(::stat((process + "/cwd").c_str(), &here), 0);
  ASSERT_EQ(::stat((process + "/cwd/../../..").c_str(), &above), 0);
  EXPECT_TRUE(here.st_dev == above.st_dev && here.st_ino == above.st_ino);
  EXPECT_FALSE(fs::exists(process + "/cwd/../../../proc"));
  for (const char* space : {"mnt", "net", "ipc", "uts", "pid"}) {
    EXPECT_NE(fs::read_symlink(process + "/ns/" + space), fs::read_symlink(std::string("/proc/self/ns/") + space))
        << space;
  }
  EXPECT_EQ(*read_file(process + "/cmdline"), std::string("granary-fsd vm=1") + '\0');
  EXPECT_EQ(*read_file(process + "/environ"), "");
}

TEST_F(FsdTest, ItsSocketIsRoots) {
  start_both();
  const Fsd fsd = spawn_fsd();
  EXPECT_EQ(fsd.socket_name, "1.fsd");
  struct stat st {};
  ASSERT_EQ(::stat(run_path(fsd.socket_name).c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600U);
}

TEST_F(FsdTest, ItEndsWithItsVm) {
  start_both();
  const Fsd fsd = spawn_fsd();
  EXPECT_FALSE(has_ended(fsd.pidfd));
  EXPECT_EQ(ask(Type::kKill, control::VmRef{vm.id})->type, Type::kDone);
  EXPECT_TRUE(has_ended(fsd.pidfd)) << "the answer to a kill proves it";
  EXPECT_TRUE(fs::is_empty(folder / "run"));
  EXPECT_TRUE(error_of(ask(Type::kSpawnFsd, control::VmRef{vm.id})).is(Errc::kCloneGone));
}

TEST_F(FsdTest, ItEndsWithAVmThatEndsByItself) {
  start_both();
  const Fsd fsd = spawn_fsd();
  ASSERT_TRUE(send_message(vm.control.get(), std::as_bytes(std::span("exit 5", 6))));
  EXPECT_EQ(receive(client)->type, Type::kExited);
  EXPECT_TRUE(has_ended(fsd.pidfd));
  EXPECT_TRUE(fs::is_empty(folder / "run"));
}

TEST_F(FsdTest, ItEndsWhenItsVmmClosesTheSocket) {
  start_both();
  Fsd fsd = spawn_fsd();
  fsd.fuse.reset();
  EXPECT_TRUE(wait_end(fsd.pidfd));
  while (fs::exists(run_path("1.fsd"))) ASSERT_TRUE(ask(Type::kListVms, control::Empty{}));
  EXPECT_FALSE(has_ended(vm.pidfd));
  const Fsd second = spawn_fsd();
  EXPECT_EQ(initialise(second), 0) << "a VM can have another one after that";
}

TEST_F(FsdTest, OneForEachVm) {
  start_both();
  const Fsd fsd = spawn_fsd();
  EXPECT_TRUE(error_of(ask(Type::kSpawnFsd, control::VmRef{vm.id})).is(Errc::kAlreadyRunning));
  EXPECT_TRUE(error_of(ask(Type::kSpawnFsd, control::VmRef{77})).is(Errc::kCloneUnknown));
  EXPECT_TRUE(error_of(ask(Type::kSpawnFsd, control::Empty{})).is(Errc::kProtocolMalformed));
}

TEST_F(FsdTest, WithoutTheProgramThereIsNone) {
  start();
  vm = spawn();
  const Error refused = error_of(ask(Type::kSpawnFsd, control::VmRef{vm.id}));
  EXPECT_TRUE(refused.is(Errc::kNotSupported));
  EXPECT_NE(refused.message().find("--fsd"), std::string::npos) << refused.message();
  EXPECT_FALSE(fs::exists(run_path("1.fsd")));
}

// It outlives the spawner as its VM does; the next spawner does not take its name away while it listens.
TEST_F(FsdTest, ItOutlivesItsSpawner) {
  start_both();
  const Fsd fsd = spawn_fsd();
  ASSERT_EQ(initialise(fsd), 0);
  EXPECT_EQ(stop(SIGKILL), -1);
  ASSERT_EQ(request(fsd, FUSE_STATFS, FUSE_ROOT_ID, {}), 0);
  start(GRANARY_REPORT_VMM, {"--fsd", GRANARY_FSD});
  EXPECT_TRUE(granary::fs::ExportClient::connect(run_path("1.fsd")));
  ::kill(fsd.pid, SIGKILL);
  EXPECT_TRUE(wait_end(fsd.pidfd));
  vm.control.reset();  // what is left of the VM ends, too
  EXPECT_TRUE(wait_end(vm.pidfd));
}

}  // namespace
}  // namespace granary::spawn
