// SPDX-License-Identifier: Apache-2.0
#include "agent/shim_watch.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <filesystem>
#include <future>

#include "agent/shim/own_names.h"
#include "agent/shim/ttrpc_server.h"

namespace granary::agent {
namespace {

constexpr std::chrono::seconds kLimit{20};

class ShimWatchTest : public ::testing::Test {
 protected:
  ShimWatchTest() {
    std::string pattern = "/tmp/granary-watch-XXXXXX";
    run_dir_ = ::mkdtemp(pattern.data());
    std::filesystem::create_directory(shim::own_shims_folder(run_dir_));
    watch_ = *ShimWatch::start(run_dir_, [this](const std::string& sandbox) { ended_.set_value(sandbox); });
  }
  ~ShimWatchTest() override {
    watch_.reset();
    std::filesystem::remove_all(run_dir_);
  }
  std::string ended() {
    auto result = ended_.get_future();
    return result.wait_for(kLimit) == std::future_status::ready ? result.get() : "nobody";
  }

  std::string run_dir_;
  std::promise<std::string> ended_;
  std::unique_ptr<ShimWatch> watch_;
};

TEST_F(ShimWatchTest, AShimThatEndsIsNoticed) {
  Fd listener = *ttrpc::listen_unix(shim::own_shim_socket(run_dir_, "s1"));
  watch_->watch("s1");
  watch_->watch("s1");
  pollfd waiting{.fd = listener.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&waiting, 1, 20'000), 1);
  Fd connection(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(connection.valid());
  listener.reset();
  connection.reset();  // as the end of its process does
  EXPECT_EQ(ended(), "s1");
}

TEST_F(ShimWatchTest, OneThatIsNotThereHasEnded) {
  watch_->watch("s2");
  EXPECT_EQ(ended(), "s2");
}

TEST_F(ShimWatchTest, OneThatLeftItsSocketHasEnded) {
  { const Fd stale = *ttrpc::listen_unix(shim::own_shim_socket(run_dir_, "s3")); }
  watch_->watch("s3");
  EXPECT_EQ(ended(), "s3");
}

TEST_F(ShimWatchTest, OneThatTurnsItsClientAwayHasNotEnded) {
  Fd listener = *ttrpc::listen_unix(shim::own_shim_socket(run_dir_, "s4"));
  watch_->watch("s4");
  pollfd waiting{.fd = listener.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&waiting, 1, 20'000), 1);
  Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)).reset();
  // It comes again; nobody was told of an end.
  while (::poll(&waiting, 1, 20'000) == 1) {
    Fd again(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    pollfd stays{.fd = again.get(), .events = POLLIN | POLLRDHUP, .revents = 0};
    if (::poll(&stays, 1, 100) == 1) continue;  // the look whether it listens
    auto result = ended_.get_future();
    EXPECT_EQ(result.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
    listener.reset();
    again.reset();
    EXPECT_EQ(result.wait_for(kLimit), std::future_status::ready);
    return;
  }
  FAIL() << "it was not watched again";
}

TEST_F(ShimWatchTest, TheAuditSeesLostShimsAndTheirSockets) {
  Lease lease{.owner_id = "shim/s5", .pool = "p", .clone = {}};
  EXPECT_EQ(own_shim_differences(run_dir_, {lease}).size(), 1U);
  {
    const Fd listener = *ttrpc::listen_unix(shim::own_shim_socket(run_dir_, "s5"));
    EXPECT_TRUE(own_shim_differences(run_dir_, {lease}).empty());
  }
  EXPECT_EQ(own_shim_differences(run_dir_, {lease}).size(), 2U);
  EXPECT_EQ(own_shim_differences(run_dir_, {}).size(), 1U);
  watch_->watch("s5");
  EXPECT_EQ(ended(), "s5");
  EXPECT_TRUE(own_shim_differences(run_dir_, {}).empty());
}

}  // namespace
}  // namespace granary::agent
