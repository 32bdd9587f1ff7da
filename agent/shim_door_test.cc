// SPDX-License-Identifier: Apache-2.0
#include "agent/shim_door.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "agent/shim/loop_fixture.h"
#include "agent/shim/ttrpc_client.h"
#include "granary/v1/acquire.pb.h"
#include "granary/v1/attach.pb.h"

namespace granary::agent {
namespace {

class ShimDoorTest : public shim::LoopTest {
 protected:
  ShimDoorTest() {
    door_ = *ShimDoor::open(directory_ + "/door",
                            {.attach = [this](const std::string& clone, const pool::Disk& disk) -> Result<uint32_t> {
                               struct stat info {};
                               ::fstat(disk.file.get(), &info);
                               attached_ =
                                   clone + " " + std::to_string(info.st_size) + (disk.read_only ? " ro" : " rw");
                               if (clone == "gone") return Error(Errc::kCloneGone, "clone gone");
                               return 5U;
                             },
                             .detach =
                                 [this](const std::string& clone, uint32_t disk) {
                                   detached_ = clone + " " + std::to_string(disk);
                                   return ok();
                                 },
                             .acquire = [this](const PoolSet::Wish& wish) -> Result<Lease> {
                               wishes_.push_back(wish);
                               if (wish.pool == "empty") return Error(Errc::kPoolEmpty, "pool empty: no clone");
                               Lease lease{.owner_id = wish.owner_id, .pool = "default", .clone = {}};
                               lease.clone.id = "clone";
                               lease.clone.socket_path = "/run/7.sock";
                               return lease;
                             },
                             .release = [this](const std::string& owner) -> Result<bool> {
                               released_ = owner;
                               return owner == "shim/s1";
                             },
                             .has_unlimited_memory = [](const std::string& parent) { return parent == "/pods/p1"; }});
    client_ = std::make_unique<ttrpc::Client>(*loop_, directory_ + "/door");
    file_ = *create_memfd("disk", 4096);
  }
  Result<std::string> call(const std::string& method, const std::string& payload, int fd = -1,
                           const std::string& service = "granary.v1.Pool") {
    std::optional<Result<std::string>> result;
    client_->call(
        service, method, payload, std::chrono::seconds(20), [&](Result<std::string> r) { result = std::move(r); }, fd);
    EXPECT_TRUE(run_until([&] { return result.has_value(); }));
    return *result;
  }

  std::unique_ptr<ShimDoor> door_;
  std::unique_ptr<ttrpc::Client> client_;
  Fd file_;
  std::string attached_;
  std::string detached_;
  std::vector<PoolSet::Wish> wishes_;
  std::string released_;
};

TEST_F(ShimDoorTest, ADiskComesWithTheCall) {
  v1::AttachRequest request;
  request.set_clone_id("clone");
  request.set_read_only(true);
  const auto answer = call("Attach", request.SerializeAsString(), file_.get());
  ASSERT_TRUE(answer) << answer.error().message();
  v1::AttachResponse response;
  ASSERT_TRUE(response.ParseFromString(*answer));
  EXPECT_EQ(response.disk(), 5U);
  EXPECT_EQ(attached_, "clone 4096 ro");
  v1::DetachRequest detach;
  detach.set_clone_id("clone");
  detach.set_disk(5);
  ASSERT_TRUE(call("Detach", detach.SerializeAsString()));
  EXPECT_EQ(detached_, "clone 5");
}

TEST_F(ShimDoorTest, WrongCallsHaveTheirCodes) {
  v1::AttachRequest request;
  request.set_clone_id("gone");
  const auto code = [](const Result<std::string>& result) { return shim::to_rpc(result.error()).code; };
  EXPECT_EQ(code(call("Attach", request.SerializeAsString())), shim::Rpc::kInvalidArgument);
  EXPECT_EQ(code(call("Attach", "\xff", file_.get())), shim::Rpc::kInvalidArgument);
  EXPECT_EQ(code(call("Attach", request.SerializeAsString(), file_.get())), shim::Rpc::kFailedPrecondition);
  EXPECT_EQ(code(call("Status", "")), shim::Rpc::kUnimplemented);
  EXPECT_EQ(code(call("Attach", "", -1, "other")), shim::Rpc::kUnimplemented);
}

TEST_F(ShimDoorTest, AShimTakesAndGivesBackAClone) {
  v1::AcquireRequest request;
  request.set_owner_id("shim/s1");
  request.set_hostname("web");
  request.set_netns("/run/netns/n1");
  request.set_cgroup_parent("/pods/p1");
  request.set_shares(true);
  request.mutable_limits()->set_memory_bytes(1 << 20);
  request.mutable_limits()->set_cpu_quota_us(150'000);
  request.set_wait_ms(INT64_MAX);  // at most as long as the door waits
  const auto answer = call("Acquire", request.SerializeAsString());
  ASSERT_TRUE(answer) << answer.error().message();
  v1::AcquireResponse response;
  ASSERT_TRUE(response.ParseFromString(*answer));
  EXPECT_EQ(response.clone().id(), "clone");
  EXPECT_EQ(response.clone().socket_path(), "/run/7.sock");
  ASSERT_EQ(wishes_.size(), 1U);
  EXPECT_EQ(wishes_[0].netns, "/run/netns/n1");
  EXPECT_EQ(wishes_[0].cgroup_parent, "/pods/p1");
  EXPECT_TRUE(wishes_[0].shares);
  EXPECT_TRUE(wishes_[0].forward_loopback);
  EXPECT_EQ(wishes_[0].needs.memory_bytes, 1U << 20);
  EXPECT_EQ(wishes_[0].needs.vcpus, 2U);
  EXPECT_TRUE(response.memory_unlimited());
  EXPECT_LT(wishes_[0].deadline, std::chrono::steady_clock::now() + std::chrono::minutes(1));
  v1::ReleaseRequest release;
  release.set_owner_id("shim/s1");
  v1::ReleaseResponse released;
  ASSERT_TRUE(released.ParseFromString(*call("Release", release.SerializeAsString())));
  EXPECT_TRUE(released.was_present());
  EXPECT_EQ(released_, "shim/s1");
}

TEST_F(ShimDoorTest, OtherOwnersAndAnEmptyPoolHaveTheirCodes) {
  const auto code = [](const Result<std::string>& result) { return shim::to_rpc(result.error()).code; };
  v1::AcquireRequest request;
  for (const char* owner : {"", "cri/s1", "shim/", "me"}) {
    request.set_owner_id(owner);
    EXPECT_EQ(code(call("Acquire", request.SerializeAsString())), shim::Rpc::kInvalidArgument) << owner;
    v1::ReleaseRequest release;
    release.set_owner_id(owner);
    EXPECT_EQ(code(call("Release", release.SerializeAsString())), shim::Rpc::kInvalidArgument) << owner;
  }
  request.set_owner_id("shim/s1");
  request.add_disks()->set_path("/dev/sda");
  EXPECT_EQ(code(call("Acquire", request.SerializeAsString())), shim::Rpc::kInvalidArgument);
  EXPECT_TRUE(wishes_.empty());
  request.clear_disks();
  request.set_pool("empty");
  EXPECT_EQ(code(call("Acquire", request.SerializeAsString())), shim::Rpc::kResourceExhausted);
  EXPECT_EQ(code(call("Acquire", "\xff")), shim::Rpc::kInvalidArgument);
  EXPECT_EQ(code(call("Release", "\xff")), shim::Rpc::kInvalidArgument);
}

}  // namespace
}  // namespace granary::agent
