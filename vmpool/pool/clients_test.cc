// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <set>
#include <thread>

#include "vmpool/guest/guest.pb.h"
#include "vmpool/pool/exec_session.h"
#include "vmpool/pool/guest_client.h"
#include "vmpool/pool/test_bench.h"
#include "vmpool/pool/vmm_client.h"

namespace granary::pool {
namespace {

SteadyTime soon() { return SteadyClock::now() + std::chrono::seconds(60); }
SteadyTime shortly() { return SteadyClock::now() + std::chrono::milliseconds(20); }

// SpawnerClient, VmmClient, GuestClient and ExecSession against a real spawner and the fake VMM.
class ClientsTest : public testing::Test {
 protected:
  SpawnedVm spawn() {
    Result<SpawnedVm> vm = bench.spawner().spawn();
    EXPECT_TRUE(vm) << vm.error().message();
    return std::move(*vm);
  }
  Result<std::unique_ptr<ExecSession>> exec(const SpawnedVm& vm, std::vector<std::string> argv) {
    guest::v1::Exec request;
    for (std::string& word : argv) request.add_argv(std::move(word));
    return ExecSession::start(vm.socket_path, request, soon());
  }
  TestBench bench;
};

TEST_F(ClientsTest, SpawnListKillForget) {
  const SpawnedVm vm = spawn();
  EXPECT_EQ(bench.spawner().hello().version, control::kVersion);
  Result<std::vector<control::VmRecord>> list = bench.spawner().list();
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 1U);
  EXPECT_EQ(list->front().alive, 1U);
  ASSERT_TRUE(bench.spawner().kill(vm.vm));
  ASSERT_TRUE(bench.spawner().kill(vm.vm)) << "idempotent";
  EXPECT_TRUE(bench.sockets().empty());
  EXPECT_TRUE(bench.spawner().kill(VmId{99}).error().is(Errc::kCloneUnknown));
  list = bench.spawner().list();
  ASSERT_EQ(list->size(), 1U);
  EXPECT_EQ(list->front().alive, 0U);
  EXPECT_EQ(list->front().wait_status, SIGKILL);
  EXPECT_EQ(list->front().end_state, static_cast<uint32_t>(EndState::kLost));
  ASSERT_TRUE(bench.spawner().forget(vm.vm));
  EXPECT_TRUE(bench.spawner().list()->empty());
}

TEST_F(ClientsTest, ExitHandlersHearOfEveryEnd) {
  std::atomic<uint64_t> ended = 0;
  const uint64_t handler =
      bench.spawner().add_exit_handler([&](const control::VmRecord& record) { ended = record.vm_id; });
  SpawnedVm vm = spawn();
  VmmClient vmm(std::move(vm.control));
  ASSERT_TRUE(vmm.terminate());
  ASSERT_TRUE(bench.wait_until([&] { return ended == vm.vm.value; }));
  EXPECT_EQ(bench.spawner().list()->front().end_state, static_cast<uint32_t>(EndState::kTerminated));
  bench.spawner().remove_exit_handler(handler);
}

TEST_F(ClientsTest, AnotherClientAdopts) {
  SpawnedVm vm = spawn();
  const auto second = SpawnerClient::connect(bench.path("spawn.sock"), bench.path("run"));
  ASSERT_TRUE(second);
  vm.control.reset();
  Result<SpawnedVm> adopted = (*second)->adopt(vm.vm);
  ASSERT_TRUE(adopted) << adopted.error().message();
  EXPECT_EQ(adopted->pid, vm.pid);
  EXPECT_EQ(adopted->socket_path, vm.socket_path);
  VmmClient vmm(std::move(adopted->control));
  EXPECT_TRUE(vmm.stats());
  ASSERT_TRUE(bench.spawner().kill(vm.vm));
  EXPECT_TRUE((*second)->adopt(vm.vm).error().is(Errc::kCloneGone));
}

TEST_F(ClientsTest, MoreVmsThanFitIntoOneMessageAreAllListed) {
  const size_t more_than_fit = control::VmList{}.vms.size() + 2;
  for (size_t i = 0; i < more_than_fit; ++i) {
    const Result<SpawnedVm> vm = bench.spawner().spawn();
    ASSERT_TRUE(vm) << vm.error().message();
    ASSERT_TRUE(bench.spawner().kill(vm->vm));
  }
  const Result<SpawnedVm> live = bench.spawner().spawn();
  ASSERT_TRUE(live) << live.error().message();
  const Result<std::vector<control::VmRecord>> all = bench.spawner().list();
  ASSERT_TRUE(all) << all.error().message();
  EXPECT_EQ(all->size(), more_than_fit + 1);
  EXPECT_EQ(std::ranges::count(*all, 1U, &control::VmRecord::alive), 1);
  EXPECT_EQ(all->back().vm_id, live->vm.value);
  EXPECT_TRUE(bench.spawner().kill(live->vm));
}

TEST_F(ClientsTest, MoreShimsThanFitIntoOneMessageAreAllListed) {
  const pid_t process = ::fork();
  if (process == 0) {
    ::pause();
    ::_exit(0);
  }
  const size_t more_than_fit = control::ShimList{}.shims.size() + 2;
  for (size_t i = 0; i < more_than_fit; ++i) {
    Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
    const Status taken = bench.spawner().take_shim({"s" + std::to_string(i), process, std::move(pidfd)});
    ASSERT_TRUE(taken) << taken.error().message();
  }
  const auto all = bench.spawner().list_shims();
  ASSERT_TRUE(all) << all.error().message();
  std::set<std::string> ids;
  for (const control::ShimRecord& record : *all) ids.insert(control::text_of(record.shim.sandbox_id));
  EXPECT_EQ(all->size(), more_than_fit);
  EXPECT_EQ(ids.size(), more_than_fit);
  EXPECT_TRUE(bench.spawner().stop_shim("s0"));
  ::waitpid(process, nullptr, 0);
}

TEST_F(ClientsTest, RequestsFailOnceTheSpawnerHasGone) {
  const SpawnedVm vm = spawn();
  bench.kill_spawner();
  EXPECT_TRUE(bench.spawner().spawn().error().is(Errc::kPeerGone));
  EXPECT_TRUE(bench.spawner().list().error().is(Errc::kPeerGone));
  EXPECT_FALSE(bench.spawner().connected());
  EXPECT_EQ(::kill(vm.pid, 0), 0) << "a VMM outlives its spawner";
  // The next spawner leaves its socket alone and uses other numbers.
  bench.start_spawner();
  EXPECT_TRUE(bench.sockets().contains("1.sock"));
  EXPECT_GT(spawn().vm, vm.vm);
  ASSERT_EQ(::kill(vm.pid, SIGKILL), 0);
  pollfd gone{.fd = vm.pidfd.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&gone, 1, 60'000), 1);
  std::filesystem::remove(vm.socket_path);
}

TEST_F(ClientsTest, VmmErrorsKeepTheirCodeAndEndsAreNamed) {
  SpawnedVm vm = spawn();
  VmmClient vmm(std::move(vm.control));
  EXPECT_TRUE(vmm.boot(0, -1, std::string(3000, 'x')).error().is(Errc::kCommandLineTooLong));
  bench.set_behaviour("error-at-park\nerror-at-attach");
  EXPECT_TRUE(vmm.park().error().is(Errc::kSnapshotRestoreFailed));
  EXPECT_TRUE(vmm.attach_net(0, 0).error().is(Errc::kSnapshotRestoreFailed));
  bench.set_behaviour("die-at-unpark");
  EXPECT_TRUE(vmm.unpark().error().is(Errc::kVmmFailed));
  EXPECT_TRUE(vmm.wait_doorbell(machine::Doorbell::kReady, soon()).error().is(Errc::kVmmFailed));
}

TEST_F(ClientsTest, DoorbellIsKeptUntilAskedFor) {
  SpawnedVm vm = spawn();
  VmmClient vmm(std::move(vm.control));
  const Result<bool> early = vmm.wait_doorbell(machine::Doorbell::kReady, shortly());
  ASSERT_TRUE(early);
  EXPECT_FALSE(*early);
  const Fd null = *open_file("/dev/null", O_RDONLY);
  ASSERT_TRUE(vmm.boot(null.get(), -1, ""));
  ASSERT_TRUE(vmm.stats()) << "takes the event out of the way";
  const Result<bool> rung = vmm.wait_doorbell(machine::Doorbell::kReady, soon());
  ASSERT_TRUE(rung);
  EXPECT_TRUE(*rung);
}

TEST_F(ClientsTest, IdentityOnTheProbesConnection) {
  const SpawnedVm vm = spawn();
  Result<GuestClient> guest = GuestClient::connect(vm.socket_path, soon());
  ASSERT_TRUE(guest) << guest.error().message();
  ASSERT_TRUE(guest->probe(soon()));
  const Uuid uuid = *random_uuid();
  EXPECT_EQ(to_text(uuid).size(), 36U);
  ASSERT_TRUE(guest->send_identity(uuid, "host", nullptr, soon()));
  const Result<AppliedIdentity> applied = guest->identity_applied(uuid, soon());
  ASSERT_TRUE(applied) << applied.error().message();
  EXPECT_EQ(applied->boot_id, "fake-boot-id");
  bench.set_behaviour("fail-identity");
  ASSERT_TRUE(guest->send_identity(uuid, "host", nullptr, soon()));
  EXPECT_TRUE(guest->identity_applied(uuid, soon()).error().is(Errc::kIdentityFailed));
  bench.set_behaviour("silent-probe");
  EXPECT_TRUE(guest->probe(shortly()).error().is(Errc::kGuestUnresponsive));
}

TEST_F(ClientsTest, HostileGuests) {
  const SpawnedVm vm = spawn();
  EXPECT_TRUE(GuestConnection::connect(vm.socket_path, 7, soon()).error().is(Errc::kPeerGone))
      << "a port nobody listens on";
  Result<GuestClient> guest = GuestClient::connect(vm.socket_path, soon());
  ASSERT_TRUE(guest);
  bench.set_behaviour("wrong-nonce");
  EXPECT_TRUE(guest->probe(soon()).error().is(Errc::kGuestProtocol));
  bench.set_behaviour("garbage-probe");
  EXPECT_TRUE(guest->probe(soon()).error().is(Errc::kGuestProtocol));
  ASSERT_TRUE(bench.spawner().kill(vm.vm));
  EXPECT_TRUE(guest->probe(soon()).error().is(Errc::kPeerGone) ||
              guest->probe(soon()).error().is(Errc::kGuestProtocol));
  EXPECT_FALSE(GuestClient::connect(vm.socket_path, soon()));
}

TEST_F(ClientsTest, ExecStreamsBothWays) {
  const SpawnedVm vm = spawn();
  const auto session = exec(vm, {"echo"});
  ASSERT_TRUE(session) << session.error().message();
  ExecSession& command = **session;
  EXPECT_EQ(command.guest_pid(), 42);
  const auto next = [&] {
    Result<std::optional<ExecEvent>> event = command.next(soon());
    EXPECT_TRUE(event && *event);
    return event && *event ? **event : ExecEvent{};
  };
  EXPECT_EQ(next().data, "started");
  const Result<std::optional<ExecEvent>> nothing = command.next(SteadyTime{});
  ASSERT_TRUE(nothing);
  EXPECT_FALSE(*nothing);

  // More than one chunk, read back while it is written.
  const std::string sent(300'000, 'q');
  std::thread writer([&] { EXPECT_TRUE(command.write_stdin(sent, soon())); });
  std::string received;
  while (received.size() < sent.size()) {
    const ExecEvent event = next();
    ASSERT_EQ(event.kind, ExecEvent::Kind::kStdout);
    received += event.data;
  }
  writer.join();
  EXPECT_EQ(received, sent);
  ASSERT_TRUE(command.resize(24, 80));
  EXPECT_EQ(next().data, "resized to 24x80");
  ASSERT_TRUE(command.signal(SIGINT));
  EXPECT_EQ(next().data, "signal 2");
  ASSERT_TRUE(command.close_stdin());
  const ExecEvent last = next();
  EXPECT_EQ(last.kind, ExecEvent::Kind::kExited);
  EXPECT_EQ(last.exit_status, 7);
}

TEST_F(ClientsTest, ExecFailuresHaveTheirCodes) {
  const SpawnedVm vm = spawn();
  EXPECT_TRUE(exec(vm, {"missing"}).error().is_errno(ENOENT));
  EXPECT_TRUE(exec(vm, {"noexec"}).error().is_errno(EACCES));
  EXPECT_TRUE(exec(vm, {"echo", std::string(10 << 20, 'x')}).error().is(Errc::kInvalidArgument));
  const auto session = exec(vm, {"echo"});
  ASSERT_TRUE(session);
  ASSERT_TRUE(bench.spawner().kill(vm.vm));
  Result<std::optional<ExecEvent>> event = (*session)->next(soon());
  while (event) event = (*session)->next(soon());
  EXPECT_TRUE(event.error().is(Errc::kPeerGone));
  EXPECT_TRUE((*session)->write_stdin("x", soon()).error().is(Errc::kPeerGone));
}

}  // namespace
}  // namespace granary::pool
