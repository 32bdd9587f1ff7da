// SPDX-License-Identifier: Apache-2.0
// granary.v1 as other clients see it: status codes, streams, health and reflection.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include "granary/v1/pool.grpc.pb.h"
#include "grpc-api/status.h"
#include "tests/integration/agent_bench.h"

namespace granary::integration {
namespace {

using testing::HasSubstr;

class AgentGrpcTest : public testing::Test {
 protected:
  AgentGrpcTest() : agent_(bench_.start_agent()) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxSendMessageSize(-1);
    channel_ = grpc::CreateCustomChannel("unix:" + bench_.socket(), grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Pool::NewStub(channel_);
  }
  std::string acquire() {
    grpc::ClientContext context;
    v1::AcquireRequest request;
    request.set_owner_id("me");
    v1::AcquireResponse response;
    EXPECT_TRUE(stub_->Acquire(&context, request, &response).ok());
    return response.clone().id();
  }
  // Sends only a start, reads to the end.
  grpc::Status exec(const v1::ExecStart& start) {
    grpc::ClientContext context;
    const auto stream = stub_->Exec(&context);
    v1::ExecRequest request;
    *request.mutable_start() = start;
    stream->Write(request);
    v1::ExecResponse response;
    while (stream->Read(&response)) last_ = response;
    return stream->Finish();
  }

  AgentBench bench_;
  std::unique_ptr<Process> agent_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Pool::Stub> stub_;
  v1::ExecResponse last_;
};

TEST_F(AgentGrpcTest, ExecCarriesBothDirectionsAndEndsWithTheExit) {
  grpc::ClientContext context;
  const auto stream = stub_->Exec(&context);
  v1::ExecRequest request;
  request.mutable_start()->set_clone_id(acquire());
  request.mutable_start()->add_argv("echo");
  request.mutable_start()->set_has_stdin(true);
  ASSERT_TRUE(stream->Write(request));
  const std::string sent(300'000, 'x');
  request.set_stdin_data(sent);
  ASSERT_TRUE(stream->Write(request));
  request.set_signal(10);
  ASSERT_TRUE(stream->Write(request));
  request.set_close_stdin(true);
  ASSERT_TRUE(stream->Write(request));
  std::string output;
  std::string errors;
  int status = -1;
  // The caller's side stays open: the exit alone ends the call.
  for (v1::ExecResponse response; stream->Read(&response);) {
    output += response.stdout_data();
    errors += response.stderr_data();
    if (response.has_exit()) status = response.exit().status();
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(output, sent + "signal 10");
  EXPECT_EQ(errors, "started");
  EXPECT_EQ(status, 7);
}

TEST_F(AgentGrpcTest, ExecRefusals) {
  v1::ExecStart start;
  start.set_clone_id("nobody");
  start.add_argv("echo");
  EXPECT_EQ(exec(start).error_code(), grpc::StatusCode::NOT_FOUND);
  start.set_clone_id(acquire());
  start.set_argv(0, "missing");
  EXPECT_TRUE(exec(start).ok());
  EXPECT_EQ(last_.exit().status(), 127);
  start.add_argv(std::string(10 << 20, 'x'));
  const grpc::Status large = exec(start);
  EXPECT_EQ(large.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(large.error_message(), testing::AllOf(HasSubstr("10485775 bytes"), HasSubstr("the limit is")));
  EXPECT_TRUE(api::from_grpc(large).is(Errc::kInvalidArgument));
}

TEST_F(AgentGrpcTest, ACallerThatVanishesMidStreamEndsOnlyItsCommand) {
  const std::string id = acquire();
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    const auto stream = stub_->Exec(&context);
    v1::ExecRequest request;
    request.mutable_start()->set_clone_id(id);
    request.mutable_start()->add_argv("echo");
    request.mutable_start()->set_has_stdin(true);
    ASSERT_TRUE(stream->Write(request));
    v1::ExecResponse response;
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.started_pid(), 42);
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_EQ(bench_.ctl({"exec", "-i", id, "--", "echo"}, "x").output, "x");
}

TEST_F(AgentGrpcTest, ReleasingAHeldCloneEndsTheHold) {
  grpc::ClientContext context;
  const auto stream = stub_->Hold(&context, v1::AcquireRequest());
  v1::AcquireResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(bench_.ctl({"release", response.clone().id()}).status, 0);
  EXPECT_FALSE(stream->Read(&response));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_TRUE(api::from_grpc(status).is(Errc::kCloneGone));
}

TEST_F(AgentGrpcTest, AcquireRefusals) {
  const auto acquire_with = [&](const v1::AcquireRequest& request) {
    grpc::ClientContext context;
    v1::AcquireResponse response;
    return stub_->Acquire(&context, request, &response).error_code();
  };
  v1::AcquireRequest request;
  EXPECT_EQ(acquire_with(request), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_owner_id("me");
  request.set_pool("nowhere");
  EXPECT_EQ(acquire_with(request), grpc::StatusCode::NOT_FOUND);
  request.set_pool("");
  request.set_hostname("not a host name");
  EXPECT_EQ(acquire_with(request), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_hostname("");
  request.set_cgroup_parent("/kubepods/../..");
  EXPECT_EQ(acquire_with(request), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_cgroup_parent("/granary-test-no-pod");  // also on a host without cgroups
  EXPECT_THAT(acquire_with(request),
              testing::AnyOf(grpc::StatusCode::FAILED_PRECONDITION, grpc::StatusCode::UNIMPLEMENTED));
  request.set_cgroup_parent("");
  for (const char* pods_owner : {"cri/a-pod", "shim/k8s.io/a-pod"}) {
    request.set_owner_id(pods_owner);
    EXPECT_EQ(acquire_with(request), grpc::StatusCode::INVALID_ARGUMENT);
    grpc::ClientContext context;
    const auto stream = stub_->Hold(&context, request);
    v1::AcquireResponse none;
    EXPECT_FALSE(stream->Read(&none));
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  request.set_owner_id("me");
  request.add_disks()->set_path("relative.img");
  EXPECT_EQ(acquire_with(request), grpc::StatusCode::INVALID_ARGUMENT);
  request.mutable_disks(0)->set_path("/nonexistent.img");
  EXPECT_EQ(acquire_with(request), grpc::StatusCode::FAILED_PRECONDITION);
  for (int i = 0; i < 100'000; ++i) request.add_disks()->set_path("/x");
  EXPECT_EQ(acquire_with(request), grpc::StatusCode::INVALID_ARGUMENT);
}

// A unary call of a service whose generated code is not at hand.
grpc::Status call_raw(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                      const std::string& request, std::string& response) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const grpc::Slice slice(request);
  auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&slice, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer buffer;
  grpc::Status status;
  call->Finish(&buffer, &status, nullptr);
  void* tag = nullptr;
  bool done = false;
  queue.Next(&tag, &done);
  std::vector<grpc::Slice> slices;
  if (status.ok() && buffer.Dump(&slices).ok()) {
    for (const grpc::Slice& part : slices) response.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  return status;
}

TEST_F(AgentGrpcTest, HealthSaysServing) {
  std::string response;
  const grpc::Status status = call_raw(channel_, "/grpc.health.v1.Health/Check", "", response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response, std::string("\x08\x01"));  // HealthCheckResponse{status: SERVING}
}

}  // namespace
}  // namespace granary::integration
