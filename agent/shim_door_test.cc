// SPDX-License-Identifier: Apache-2.0
#include "agent/shim_door.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "agent/shim/loop_fixture.h"
#include "agent/shim/ttrpc_client.h"
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
                                 }});
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
  EXPECT_EQ(code(call("Release", "")), shim::Rpc::kUnimplemented);
  EXPECT_EQ(code(call("Attach", "", -1, "other")), shim::Rpc::kUnimplemented);
}

}  // namespace
}  // namespace granary::agent
