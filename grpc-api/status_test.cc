// SPDX-License-Identifier: Apache-2.0
#include "grpc-api/status.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "granary/v1/pool.pb.h"

namespace granary::api {
namespace {

struct Mapping {
  Errc errc;
  grpc::StatusCode code;
};

class StatusMapping : public testing::TestWithParam<Mapping> {};

TEST_P(StatusMapping, KeepsCodeAndContextBothWays) {
  const Error error(GetParam().errc, "clone 42");
  const grpc::Status status = to_grpc(error);
  EXPECT_EQ(status.error_code(), GetParam().code);
  EXPECT_EQ(status.error_message(), error.message());
  const Error back = from_grpc(status);
  EXPECT_TRUE(back.is(GetParam().errc));
  EXPECT_EQ(back.message(), error.message());
}

INSTANTIATE_TEST_SUITE_P(All, StatusMapping,
                         testing::Values(Mapping{Errc::kPoolUnknown, grpc::StatusCode::NOT_FOUND},
                                         Mapping{Errc::kCloneUnknown, grpc::StatusCode::NOT_FOUND},
                                         Mapping{Errc::kPoolEmpty, grpc::StatusCode::RESOURCE_EXHAUSTED},
                                         Mapping{Errc::kSlotsTaken, grpc::StatusCode::RESOURCE_EXHAUSTED},
                                         Mapping{Errc::kAddressesExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED},
                                         Mapping{Errc::kShuttingDown, grpc::StatusCode::UNAVAILABLE},
                                         Mapping{Errc::kCloneGone, grpc::StatusCode::FAILED_PRECONDITION},
                                         Mapping{Errc::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT},
                                         Mapping{Errc::kDeadlineExceeded, grpc::StatusCode::DEADLINE_EXCEEDED},
                                         Mapping{Errc::kNotSupported, grpc::StatusCode::UNIMPLEMENTED},
                                         Mapping{Errc::kKvmUnavailable, grpc::StatusCode::FAILED_PRECONDITION},
                                         Mapping{Errc::kHostCannotRunLinux, grpc::StatusCode::FAILED_PRECONDITION},
                                         Mapping{Errc::kKernelMissing, grpc::StatusCode::FAILED_PRECONDITION},
                                         Mapping{Errc::kAlreadyRunning, grpc::StatusCode::FAILED_PRECONDITION},
                                         Mapping{Errc::kSnapshotCorrupt, grpc::StatusCode::INTERNAL},
                                         Mapping{Errc::kGuestProtocol, grpc::StatusCode::INTERNAL}));

TEST(StatusTest, WhatTheCallerCanSetRightIsAPrecondition) {
  for (const int number : {EBUSY, ENOENT, ENODEV, ENOTDIR, EACCES, EPERM, EROFS}) {
    EXPECT_EQ(to_grpc(Error::from_errno(number, "disk")).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  }
  EXPECT_EQ(to_grpc(Error::from_errno(EIO, "disk")).error_code(), grpc::StatusCode::INTERNAL);
}

TEST(StatusTest, KeepsErrno) {
  const Error back = from_grpc(to_grpc(Error::from_errno(ENOSPC, "write template")));
  EXPECT_TRUE(back.is_errno(ENOSPC));
  EXPECT_EQ(back.context(), "write template");
}

TEST(StatusTest, OkStaysOk) {
  EXPECT_TRUE(to_grpc(ok()).ok());
  EXPECT_TRUE(to_grpc(Result<int>(3)).ok());
  EXPECT_FALSE(to_grpc(Result<int>(Error(Errc::kPoolEmpty, "p"))).ok());
}

// A server's details are as untrusted as anything else that is read from a socket.
TEST(StatusTest, HostileDetailsFallBackToTheGrpcCode) {
  v1::ErrorDetail detail;
  detail.set_category("other");
  detail.set_code(3);
  v1::StatusDetails other_category;
  other_category.add_details()->PackFrom(detail);
  detail.set_category("granary");
  detail.set_code(-3);
  v1::StatusDetails negative;
  negative.add_details()->PackFrom(detail);
  for (const std::string& bytes : {std::string("\xff\xff garbage"), std::string(), other_category.SerializeAsString(),
                                   negative.SerializeAsString()}) {
    const Error error = from_grpc({grpc::StatusCode::NOT_FOUND, "text", bytes});
    EXPECT_TRUE(error.is(Errc::kCloneUnknown));
    EXPECT_EQ(error.context(), "text");
  }
  EXPECT_TRUE(from_grpc({grpc::StatusCode::UNAVAILABLE, "connect failed"}).is(Errc::kPeerGone));
}

}  // namespace
}  // namespace granary::api
