// SPDX-License-Identifier: Apache-2.0
#include <linux/prctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <optional>

#include "vmpool/spawn/spawner_fixture.h"

namespace granary::spawn {
namespace {

TEST_F(SpawnerTest, ChildIsBornWithNothingElse) {
  start();
  const Vm vm = spawn();
  EXPECT_EQ(vm.report,
            "fds=0,1,2,3,4,5,6, session=own core=0 blocked=no argc=1 name=granary-vmm vm=1 environment=empty "
            "kvm=device");
  struct stat socket {};
  ASSERT_EQ(::stat((folder / "run" / vm.socket_name).c_str(), &socket), 0);
  EXPECT_EQ(socket.st_mode & 0777, 0600U);
  ASSERT_EQ(::stat((folder / "s").c_str(), &socket), 0);
  EXPECT_EQ(socket.st_mode & 0777, 0600U);
}

TEST_F(SpawnerTest, EndIsRecordedAndToldToEveryClient) {
  start();
  const Fd other = connect();
  const Vm vm = spawn();
  ASSERT_TRUE(send_message(vm.control.get(), std::as_bytes(std::span("exit 5", 6))));
  for (const Fd* each : std::initializer_list<const Fd*>{&client, &other}) {
    const Result<control::Message> event = receive(*each);
    ASSERT_TRUE(event);
    const Result<control::VmRecord> record = event->as<control::VmRecord>();
    ASSERT_TRUE(record);
    EXPECT_EQ(record->vm_id, vm.id);
    EXPECT_EQ(WEXITSTATUS(record->wait_status), 5);
    EXPECT_EQ(record->end_state, static_cast<uint32_t>(EndState::kShutdown));
  }
  EXPECT_TRUE(fs::is_empty(folder / "run"));
  EXPECT_TRUE(error_of(ask(Type::kAdopt, control::VmRef{vm.id})).is(Errc::kCloneGone));
  EXPECT_EQ(ask(Type::kForget, control::VmRef{vm.id})->type, Type::kDone);
  EXPECT_EQ(ask(Type::kForget, control::VmRef{vm.id})->type, Type::kDone);
}

TEST_F(SpawnerTest, KillAnswersAfterTheEnd) {
  start();
  const Vm vm = spawn();
  EXPECT_TRUE(error_of(ask(Type::kForget, control::VmRef{vm.id})).is(Errc::kInvalidArgument)) << "it is alive";
  EXPECT_EQ(ask(Type::kKill, control::VmRef{vm.id})->type, Type::kDone);
  pollfd ended{.fd = vm.pidfd.get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&ended, 1, 0), 1);
  EXPECT_TRUE(fs::is_empty(folder / "run"));
  ASSERT_EQ(exits.size(), 1U);
  EXPECT_EQ(exits[0].wait_status, SIGKILL);
  EXPECT_EQ(exits[0].end_state, static_cast<uint32_t>(EndState::kLost));
  EXPECT_EQ(ask(Type::kKill, control::VmRef{vm.id})->type, Type::kDone);
  EXPECT_TRUE(error_of(ask(Type::kKill, control::VmRef{0})).is(Errc::kCloneUnknown));
  EXPECT_TRUE(error_of(ask(Type::kKill, control::VmRef{77})).is(Errc::kCloneUnknown));
}

TEST_F(SpawnerTest, KillerThatLeavesHarmsNobody) {
  start();
  const Vm vm = spawn();
  {
    const Fd other = connect();
    ASSERT_TRUE(control::send(other.get(), Type::kKill, 1, control::VmRef{vm.id}));
  }
  const Result<control::Message> event = receive(client);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->type, Type::kExited);
}

TEST_F(SpawnerTest, AdoptAfterTheFirstClientHasGone) {
  start();
  const uint64_t id = spawn().id;
  client = connect();
  ASSERT_TRUE(client.valid());
  const Result<control::Message> adopted = ask(Type::kAdopt, control::VmRef{id});
  ASSERT_TRUE(adopted);
  ASSERT_TRUE(adopted->as_answer<control::Spawned>(Type::kAdopt, 3));
  ASSERT_TRUE(send_message(adopted->fds[0].get(), std::as_bytes(std::span("exit 0", 6)))) << "its control socket works";
  EXPECT_EQ(receive(client)->type, Type::kExited);
}

TEST_F(SpawnerTest, ExecFailureIsExactAndLeavesNothing) {
  std::string program = *read_file("/bin/true", 8 << 20);
  program[18] = static_cast<char>(program[18] ^ 1);  // e_machine: another processor's
  std::ofstream(folder / "vmm", std::ios::binary) << program;
  fs::permissions(folder / "vmm", fs::perms::owner_all);
  start((folder / "vmm").string());
  ASSERT_TRUE(ask(Type::kListVms, control::Empty{})) << "from here on the client is accepted";
  const size_t before = descriptors_of_spawner();
  Error error = error_of(ask(Type::kSpawn, control::Spawn{}));
  EXPECT_TRUE(error.is_errno(EACCES)) << "for root only: " << error.message();
  fs::permissions(folder / "vmm", fs::perms(0755));
  error = error_of(ask(Type::kSpawn, control::Spawn{}));
  EXPECT_TRUE(error.is_errno(ENOEXEC)) << error.message();
  EXPECT_NE(error.message().find("execute the program"), std::string::npos) << error.message();
  EXPECT_TRUE(fs::is_empty(folder / "run"));
  EXPECT_EQ(descriptors_of_spawner(), before);
  EXPECT_EQ(ask(Type::kListVms, control::Empty{})->as_answer<control::VmList>(Type::kListVms)->count, 0U);
}

TEST_F(SpawnerTest, AVmmWithoutABuildIdIsRefusedAtStart) {
  std::ofstream(folder / "vmm") << "not a program";
  const auto loop = *EventLoop::create();
  SpawnerOptions options;
  options.control_socket = (folder / "s").string();
  options.run_directory = (folder / "run").string();
  options.vmm = (folder / "vmm").string();
  const auto refused = Spawner::create(*loop, options);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().is_errno(ENOEXEC));
  EXPECT_NE(refused.error().message().find(options.vmm), std::string::npos) << refused.error().message();
}

// Started by an agent, it ends with the last of its clients and VMs.
TEST_F(SpawnerTest, ATransientSpawnerEndsWhenNobodyNeedsIt) {
  start(GRANARY_REPORT_VMM, {"--transient"});
  EXPECT_TRUE(connect().valid());  // one that only looks changes nothing
  ASSERT_TRUE(ask(Type::kHello, control::Hello{.peer_version = control::kVersion}));
  const Vm vm = spawn();
  client.reset();
  client = connect();  // its VM kept it alive
  ASSERT_TRUE(client.valid());
  ASSERT_TRUE(ask(Type::kKill, control::VmRef{vm.id}));
  EXPECT_TRUE(ask(Type::kListVms, control::Empty{}));  // and so does this client
  client.reset();
  EXPECT_EQ(await_end(), 0);
}

TEST_F(SpawnerTest, CgroupMustBeOne) {
  start();
  const Fd folder_fd = *open_file(folder.string(), O_RDONLY | O_DIRECTORY);
  const int fds[] = {folder_fd.get()};
  const Error error = error_of(ask(Type::kSpawn, control::Spawn{}, fds));
  EXPECT_TRUE(error.is_errno(EBADF) || error.is_errno(EINVAL)) << error.message();
  EXPECT_TRUE(fs::is_empty(folder / "run"));
}

TEST_F(SpawnerTest, GarbageIsAnsweredAndHarmsNothing) {
  start();
  const Vm vm = spawn();
  const auto send_raw = [&](const std::string& bytes) {
    ASSERT_TRUE(send_message(client.get(), std::as_bytes(std::span(bytes))));
    const Result<control::Message> answer = receive(client);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->type, Type::kError);
  };
  send_raw("x");
  send_raw(std::string(60'000, '\xff'));
  std::string header(sizeof(control::Header), '\0');
  control::Header h{control::kMagic, control::kVersion, 20, 9, 77};
  std::memcpy(header.data(), &h, sizeof(h));
  send_raw(header);  // its length lies
  h = {control::kMagic, control::kVersion + 1, 16, 9, 0};
  std::memcpy(header.data(), &h, sizeof(h));
  send_raw(header);  // another version
  for (const int type : {0, 1, 2, 32, 64, 73, 96, 65535}) {
    EXPECT_EQ(ask(static_cast<Type>(type), control::Empty{})->type, Type::kError) << type;
  }
  EXPECT_EQ(ask(Type::kHello, control::VmRef{})->type, Type::kError) << "wrong size";
  EXPECT_EQ(ask(Type::kHello, control::Hello{.peer_version = 9})->type, Type::kError);
  EXPECT_EQ(ask(Type::kSpawn, control::Spawn{.flags = 1, .reserved = 0})->type, Type::kError);
  const size_t before = descriptors_of_spawner();
  const int nine[] = {1, 1, 1, 1, 1, 1, 1, 1};
  EXPECT_EQ(ask(Type::kKill, control::VmRef{vm.id}, nine)->type, Type::kError) << "descriptors that nobody asked for";
  EXPECT_EQ(ask(Type::kKill, control::VmRef{vm.id + 1})->type, Type::kError) << "the message before is done with";
  EXPECT_EQ(descriptors_of_spawner(), before);
  EXPECT_EQ(ask(Type::kKill, control::VmRef{vm.id})->type, Type::kDone) << "and it still works";
}

TEST_F(SpawnerTest, OutOfDescriptorsFailsTheRequestOnly) {
  start();
  const Vm first = spawn();
  const size_t before = descriptors_of_spawner();
  rlimit loose{};
  ASSERT_EQ(::prlimit(spawner, RLIMIT_NOFILE, nullptr, &loose), 0);
  const rlimit soft{.rlim_cur = before + 2, .rlim_max = loose.rlim_max};
  ASSERT_EQ(::prlimit(spawner, RLIMIT_NOFILE, &soft, nullptr), 0);
  const Error error = error_of(ask(Type::kSpawn, control::Spawn{}));
  EXPECT_TRUE(error.is_errno(EMFILE)) << error.message();
  EXPECT_EQ(descriptors_of_spawner(), before);
  // More clients than there is room for are turned away, not left hanging.
  std::vector<Fd> clients;
  for (int i = 0; i < 6; ++i) clients.push_back(connect());
  pollfd closed{.fd = clients.back().get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&closed, 1, kPatienceMs), 1);
  EXPECT_NE(closed.revents & POLLHUP, 0);
  clients.clear();
  ASSERT_EQ(::prlimit(spawner, RLIMIT_NOFILE, &loose, nullptr), 0);
  EXPECT_NE(spawn().id, 0U);
  EXPECT_EQ(ask(Type::kKill, control::VmRef{first.id})->type, Type::kDone);
}

TEST_F(SpawnerTest, ClientThatNeverReadsIsCutOff) {
  start();
  const Fd deaf = connect();
  for (size_t i = 0; i < 2 * Peer::kQueueLimit; ++i) {
    if (!control::send(deaf.get(), Type::kHello, 1, control::Hello{.peer_version = control::kVersion})) break;
  }
  // It is gone when the kernel refuses the next message; others go on.
  Status sent = ok();
  while (sent) sent = control::send(deaf.get(), Type::kHello, 1, control::Hello{.peer_version = control::kVersion});
  EXPECT_TRUE(sent.error().is(Errc::kPeerGone)) << sent.error().message();
  EXPECT_NE(spawn().id, 0U);
}

TEST_F(SpawnerTest, TemplatesAreKeptOnlySealed) {
  start();
  control::TemplateRef ref{};
  control::set_text(ref.key, std::string(64, 'a'));
  const Fd open = *create_memfd("open", 10);
  const Fd sealed = *create_memfd("sealed", 10);
  ASSERT_TRUE(seal_memfd(sealed.get()));
  const int mixed[] = {sealed.get(), open.get()};
  EXPECT_TRUE(error_of(ask(Type::kPutTemplate, ref, mixed)).is(Errc::kInvalidArgument));
  const int good[] = {sealed.get(), sealed.get()};
  EXPECT_EQ(ask(Type::kPutTemplate, ref, good)->type, Type::kDone);
  EXPECT_TRUE(ask(Type::kGetTemplate, ref)->as_answer<control::Empty>(Type::kDone, 2));
  EXPECT_EQ(ask(Type::kDropTemplate, ref)->type, Type::kDone);
  EXPECT_TRUE(error_of(ask(Type::kGetTemplate, ref)).is_errno(ENOENT));
  control::TemplateRef bad{};
  control::set_text(bad.key, "../../etc");
  EXPECT_TRUE(error_of(ask(Type::kPutTemplate, bad, good)).is(Errc::kInvalidArgument));
  for (size_t i = 0; i <= TemplateShelf::kLimit; ++i) {
    char key[65];
    std::snprintf(key, sizeof(key), "%064zx", i);
    control::set_text(ref.key, key);
    const Result<control::Message> answer = ask(Type::kPutTemplate, ref, good);
    if (i < TemplateShelf::kLimit) {
      EXPECT_EQ(answer->type, Type::kDone);
    } else {
      EXPECT_TRUE(error_of(answer).is_errno(ENOSPC));
    }
  }
}

// Whether a process has a cookie that keeps others off its core's second hardware thread; nothing where the kernel cannot tell.
std::optional<unsigned long> core_cookie_of(int32_t pid) {
  unsigned long cookie = 0;
  if (::prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, pid, PR_SCHED_CORE_SCOPE_THREAD, &cookie) != 0) return std::nullopt;
  return cookie;
}

TEST_F(SpawnerTest, CoreSchedulingGivesAVmmACookieOrSaysWhatTheHostLacks) {
  start();
  const Result<control::Message> answer =
      ask(Type::kSpawn, control::Spawn{.flags = control::kSpawnCoreScheduling, .reserved = 0});
  ASSERT_TRUE(answer);
  const Result<control::Spawned> first = answer->as_answer<control::Spawned>(Type::kSpawn, 3);
  if (first) {
    const auto cookie = core_cookie_of(first->pid);
    EXPECT_TRUE(cookie ? *cookie != 0 : errno == ENODEV) << "a cookie, or a host without such threads";
  } else {
    EXPECT_EQ(first.error().code().value(), EINVAL);
    EXPECT_NE(first.error().message().find("core_scheduling: false"), std::string::npos) << first.error().message();
  }
  const Result<control::Message> undefined = ask(Type::kSpawn, control::Spawn{.flags = 1U << 1, .reserved = 0});
  EXPECT_TRUE(error_of(undefined).is(Errc::kProtocolMalformed));
}

TEST_F(SpawnerTest, TermEndsEveryVmAndRemovesTheSockets) {
  start();
  const Vm first = spawn();
  const Vm second = spawn();
  EXPECT_EQ(stop(SIGTERM), 0);
  for (const Vm* vm : std::initializer_list<const Vm*>{&first, &second}) {
    pollfd ended{.fd = vm->pidfd.get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&ended, 1, 0), 1);
  }
  EXPECT_TRUE(fs::is_empty(folder / "run"));
  EXPECT_FALSE(fs::exists(folder / "s"));
}

TEST_F(SpawnerTest, StaleSocketsGoAtStart) {
  {
    const Result<RunDirectory> run = RunDirectory::open((folder / "run").string());
    ASSERT_TRUE(run);
    ASSERT_TRUE(run->listen(VmId{41}));  // closed at once: nobody listens
    EXPECT_TRUE(RunDirectory::open((folder / "run").string()).error().is(Errc::kAlreadyRunning));
  }
  std::ofstream(folder / "run" / "notes.txt") << "not ours";
  start();
  const Vm vm = spawn();
  EXPECT_EQ(vm.id, 42U) << "no number is used twice";
  EXPECT_FALSE(fs::exists(folder / "run" / "41.sock"));
  EXPECT_TRUE(fs::exists(folder / "run" / "notes.txt"));
}

TEST_F(SpawnerTest, MissingVmmIsNamedAtStart) {
  const std::string program = GRANARY_SPAWN;
  const auto run = [&](std::vector<std::string> words) {
    words.insert(words.begin(), program);
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    EXPECT_EQ(::posix_spawn(&spawner, program.c_str(), nullptr, nullptr, arguments.data(), environ), 0);
    return await_end();
  };
  const std::string socket = (folder / "s").string();
  EXPECT_EQ(run({}), 2);
  EXPECT_EQ(run({"--control-socket", socket, "--run-dir", (folder / "run").string(), "--vmm", "/nowhere"}), 1);
  EXPECT_EQ(run({"--control-socket", socket, "--run-dir", "/nowhere", "--vmm", program, "--kvm", "/dev/null"}), 1);
  EXPECT_FALSE(fs::exists(socket));
}

}  // namespace
}  // namespace granary::spawn
