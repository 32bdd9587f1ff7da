// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/export_client.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

namespace granary::fs {
namespace {

using control::Type;

TEST(ExportClient, FindsTheSocketBesideTheClones) {
  EXPECT_EQ(export_socket_beside("/run/granary/spawn/7.sock"), "/run/granary/spawn/7.fsd");
  EXPECT_EQ(export_socket_beside("7"), "7.fsd");
}

TEST(ExportClient, NamesAreSmall) {
  EXPECT_TRUE(is_export_name("a-0"));
  EXPECT_TRUE(is_export_name(std::string(64, 'x')));
  for (const std::string& bad : {std::string(), std::string(65, 'x'), std::string("."), std::string(".."),
                                 std::string("a/b"), std::string("A"), std::string("a\0b", 3), std::string("a_b")}) {
    EXPECT_FALSE(is_export_name(bad)) << bad;
  }
}

TEST(ExportClient, ConnectTellsWhatIsMissing) {
  EXPECT_TRUE(ExportClient::connect("/no/such/socket").error().is_errno(ENOENT));
  EXPECT_TRUE(ExportClient::connect(std::string(200, 'x')).error().is(Errc::kInvalidArgument));
}

class Asked : public testing::Test {
 protected:
  Asked() : sockets(*create_message_socket_pair()), client(std::move(sockets.first)) {}
  // Answers one request: with `error`, or kDone.
  std::thread answer(int error) {
    return std::thread([this, error] {
      asked = *control::receive(sockets.second.get());
      if (error == 0) {
        (void)control::send_done(sockets.second.get(), asked.request);
      } else {
        (void)control::send_error(sockets.second.get(), asked.request, Error::from_errno(error, "export"));
      }
    });
  }
  SocketPair sockets;
  ExportClient client;
  control::Message asked;
};

TEST_F(Asked, AddSendsNameFlagAndDescriptor) {
  const Fd folder = *open_file("/", O_PATH);
  std::thread server = answer(0);
  EXPECT_TRUE(client.add("root", folder.get(), true));
  server.join();
  EXPECT_EQ(asked.type, Type::kAddExport);
  const Result<control::AddExport> body = asked.as<control::AddExport>(1);
  ASSERT_TRUE(body);
  EXPECT_EQ(control::text_of(body->name), "root");
  EXPECT_EQ(body->read_only, 1U);
  struct stat here {
  }, there{};
  ASSERT_EQ(::fstat(folder.get(), &here), 0);
  ASSERT_EQ(::fstat(asked.fds[0].get(), &there), 0);
  EXPECT_EQ(here.st_ino, there.st_ino);
}

TEST(ConfinedMount, HasNoWayUpAndIsAsReadOnlyAsAsked) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: it clones a mount";
  std::string name = (std::filesystem::temp_directory_path() / "granary-export-XXXXXX").string();
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  const Fd folder = *open_file(name, O_PATH);
  for (const bool read_only : {false, true}) {
    const Result<Fd> mount = confined_mount(folder.get(), read_only);
    ASSERT_TRUE(mount) << mount.error().message();
    const Fd up(::openat(mount->get(), "../..", O_PATH | O_CLOEXEC));
    struct stat own {
    }, above{};
    ASSERT_EQ(::fstat(folder.get(), &own), 0);
    ASSERT_EQ(::fstat(up.get(), &above), 0);
    EXPECT_EQ(own.st_ino, above.st_ino);
    const Fd made(::openat(mount->get(), "file", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(made.valid() ? 0 : errno, read_only ? EROFS : 0);
  }
  std::filesystem::remove_all(name);
  EXPECT_FALSE(confined_mount(-1, false));
}

TEST_F(Asked, ErrorsOfTheServerArePassedOn) {
  const Fd folder = *open_file("/", O_PATH);
  std::thread server = answer(EEXIST);
  EXPECT_TRUE(client.add("root", folder.get(), false).error().is_errno(EEXIST));
  server.join();
}

TEST_F(Asked, RemoveTellsWhetherThereWasOne) {
  std::thread server = answer(0);
  EXPECT_TRUE(*client.remove("root"));
  server.join();
  server = answer(ENOENT);
  EXPECT_FALSE(*client.remove("root"));
  server.join();
}

TEST_F(Asked, AServerThatEndedIsPeerGone) {
  sockets.second.reset();
  EXPECT_TRUE(client.remove("root").error().is(Errc::kPeerGone));
  EXPECT_TRUE(client.add("/", 0, false).error().is(Errc::kInvalidArgument)) << "refused before it is sent";
}

}  // namespace
}  // namespace granary::fs
