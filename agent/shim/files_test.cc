// SPDX-License-Identifier: Apache-2.0
// What a container has of the host's files: its mounted root and its volumes, as exports of a stand-in for granary-fsd.
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <set>
#include <thread>

#include "agent/shim/task_fixture.h"
#include "vmpool/base/control_protocol.h"
#include "vmpool/fs/export_client.h"

namespace granary::shim {
namespace {

namespace task = containerd::task::v3;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Knows the names of what is exported, and what could be written through them.
class FakeFsd {
 public:
  explicit FakeFsd(const std::string& path) : listener_(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(listener_.get(), 8), 0);
    server_ = std::thread([this] { serve(); });
  }
  ~FakeFsd() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    ::shutdown(peer_, SHUT_RDWR);
    server_.join();
  }
  std::set<std::string> exports() {
    const std::lock_guard lock(mutex_);
    return exports_;
  }

 private:
  void serve() {
    const Fd peer(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!peer.valid()) return;
    peer_ = peer.get();
    for (;;) {
      const Result<control::Message> message = control::receive(peer.get());
      if (!message) return;
      {
        const std::lock_guard lock(mutex_);
        if (message->type == control::Type::kAddExport) {
          const auto body = *message->as<control::AddExport>(1);
          exports_.insert(control::text_of(body.name) + (body.read_only != 0 ? " ro" : " rw"));
        } else {
          const std::string name = control::text_of(message->as<control::ExportRef>()->name);
          std::erase_if(exports_, [&](const std::string& one) { return one.starts_with(name + " "); });
        }
      }
      if (!control::send_done(peer.get(), message->request)) return;
    }
  }

  Fd listener_;
  std::atomic<int> peer_ = -1;
  std::mutex mutex_;
  std::set<std::string> exports_;
  std::thread server_;
};

class FilesTest : public TaskTest {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "mounting needs root";
    for (const char* name : {"/layer", "/volume"}) std::filesystem::create_directory(directory_ + name);
    std::ofstream(directory_ + "/layer/in-the-root") << "x";
  }
  task::CreateTaskRequest directory_request(const std::string& id) {
    task::CreateTaskRequest request = create_request(id);
    request.clear_rootfs();
    auto& root = *request.add_rootfs();
    root.set_type("bind");
    root.set_source(directory_ + "/layer");
    root.add_options("rbind");
    root.add_options("rw");
    return request;
  }
  bool is_mounted(const task::CreateTaskRequest& request) {
    return std::filesystem::exists(request.bundle() + "/rootfs/in-the-root");
  }
  void write_spec(const task::CreateTaskRequest& request, const std::string& mounts) {
    std::ofstream(request.bundle() + "/config.json")
        << R"({"ociVersion":"1.2.0","process":{"args":["sh"],"cwd":"/"},"linux":{},"mounts":[)" << mounts << "]}";
  }
  guest::v1::ContainerCreate created() {
    for (const auto& request : guest_->requests) {
      if (request.has_container_create()) return request.container_create();
    }
    return {};
  }
  FakeFsd fsd_{fs::export_socket_beside(directory_ + "/guest.sock")};
};

TEST_F(FilesTest, ADirectoryRootAndAVolumeAreSharedUntilTheContainerIsDeleted) {
  const auto request = directory_request("c1");
  write_spec(request, R"({"destination":"/data","type":"bind","source":")" + directory_ +
                          R"(/volume","options":["rbind","ro"]})");
  const auto answer = call("Create", request);
  ASSERT_TRUE(answer) << answer.error().message();
  EXPECT_TRUE(is_mounted(request));
  EXPECT_THAT(fsd_.exports(), ::testing::ElementsAre("s1 ro", "s2 rw"));
  EXPECT_EQ(created().rootfs().directory(), "/run/granary/shares/s2");
  EXPECT_THAT(created().spec(), HasSubstr("/run/granary/shares/s1"));
  ASSERT_TRUE(ask<task::DeleteRequest>("Delete", "c1"));
  EXPECT_THAT(fsd_.exports(), IsEmpty());
  EXPECT_FALSE(is_mounted(request));
}

TEST_F(FilesTest, ADiskRootIsSharedWhenTheCloneHasNoFreeDisk) {
  const std::string image = directory_ + "/root.ext4";
  const std::string make = "truncate -s 4M " + image + " && mkfs.ext4 -q -F -d " + directory_ + "/layer " + image;
  ASSERT_EQ(std::system(make.c_str()), 0) << "e2fsprogs";
  if (!std::filesystem::exists("/dev/loop-control")) GTEST_SKIP() << "no loop devices here";
  auto request = directory_request("c1");
  request.mutable_rootfs(0)->set_type("ext4");
  request.mutable_rootfs(0)->set_source(image);
  request.mutable_rootfs(0)->clear_options();
  request.mutable_rootfs(0)->add_options("loop");
  write_spec(request, "");
  attach_fails_ = rpc_error(Rpc::kResourceExhausted, "all disk slots are taken");
  const auto answer = call("Create", request);
  ASSERT_TRUE(answer) << answer.error().message();
  EXPECT_TRUE(is_mounted(request));
  EXPECT_THAT(fsd_.exports(), ::testing::ElementsAre("s1 rw"));
  EXPECT_EQ(created().rootfs().directory(), "/run/granary/shares/s1");
  ASSERT_TRUE(ask<task::DeleteRequest>("Delete", "c1"));
  EXPECT_FALSE(is_mounted(request));
  EXPECT_THAT(detached_, IsEmpty());
  // For any other reason there is no container: another clone may have the disk.
  attach_fails_ = rpc_error(Rpc::kFailedPrecondition, "in use");
  auto other = directory_request("c2");
  *other.mutable_rootfs(0) = request.rootfs(0);
  write_spec(other, "");
  EXPECT_EQ(code_of(call("Create", other)), Rpc::kFailedPrecondition);
  EXPECT_FALSE(is_mounted(other));
}

TEST_F(FilesTest, WhatFailsLeavesNeitherMountNorExport) {
  auto request = directory_request("c1");
  const auto check = [&](const char* text) {
    const auto answer = call("Create", request);
    ASSERT_FALSE(answer);
    EXPECT_THAT(answer.error().message(), HasSubstr(text));
    settle();
    EXPECT_FALSE(is_mounted(request));
    EXPECT_THAT(fsd_.exports(), IsEmpty());
  };
  write_spec(request, R"({"destination":"/data","type":"bind","source":"/no/such/volume","options":["rbind"]})");
  check("/no/such/volume");
  write_spec(request, "");
  guest_->on_request = [](FakeGuest::Peer& peer, const guest::v1::Request& asked) {
    if (asked.has_container_create()) FakeGuest::fail(peer, guest::v1::Failure::CONTAINER, "crun says no");
    return asked.has_container_create();
  };
  check("crun says no");
  request.mutable_rootfs(0)->set_type("overlay");
  request.mutable_rootfs(0)->clear_options();
  request.mutable_rootfs(0)->add_options("lowerdir=/no/such/layer");
  check("mount overlay");
  request.mutable_rootfs(0)->set_options(0, "lowerdir=/" + std::string(4095, 'x'));
  check("fewer layers");
  *request.add_rootfs() = request.rootfs(0);
  check("2 mounts");
}

}  // namespace
}  // namespace granary::shim
