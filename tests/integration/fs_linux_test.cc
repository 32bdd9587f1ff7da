// SPDX-License-Identifier: Apache-2.0
// virtio-fs under Linux's own driver: a real guest, VMM and granary-fsd on directories of this host. The probe that
// runs in the guest is executed from the share.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/integration/linux_clones.h"
#include "vmpool/fs/export_client.h"
#include "vmpool/pool/sha256.h"

namespace granary::integration {
namespace {

namespace stdfs = std::filesystem;
using testing::HasSubstr;

LinuxClones* const clones =
    dynamic_cast<LinuxClones*>(testing::AddGlobalTestEnvironment(new LinuxClones));  // gtest owns it

constexpr char kMount[] = "mkdir -p /run/share && mount -t virtiofs granary /run/share || exit 90\n";

class FsLinuxTest : public testing::Test {
 protected:
  void SetUp() override {
    top = stdfs::path(clones->bench().path("shares"));
    stdfs::create_directories(top / "rw");
    stdfs::create_directories(top / "ro");
    stdfs::copy_file(GRANARY_FS_PROBE, top / "ro" / "fs-probe");
    pool::Attachments attachments;
    attachments.shares = true;
    const Result<pool::CloneInfo> clone = clones->pool().acquire({}, in_time(), attachments);
    ASSERT_TRUE(clone) << clone.error().message();
    id = clone->id;
    socket = clone->socket_path;
    Result<fs::ExportClient> client = fs::ExportClient::connect(fs::export_socket_beside(socket));
    ASSERT_TRUE(client) << client.error().message();
    exports.emplace(std::move(*client));
    add("rw", top / "rw", false);
    add("ro", top / "ro", true);
  }
  void TearDown() override {
    exports.reset();
    if (!id.empty()) {
      const Result<bool> released = clones->pool().release(id);
      EXPECT_TRUE(released && *released);
    }
    stdfs::remove_all(top);
  }
  void add(const std::string& name, const stdfs::path& path, bool read_only) {
    const Status added = exports->add(name, open_file(path.string(), O_PATH)->get(), read_only);
    ASSERT_TRUE(added) << added.error().message();
  }
  CommandEnd run(const std::string& script) const { return run_script(socket, script); }
  CommandEnd run_mounted(const std::string& script) const { return run(kMount + script); }
  static void put(const stdfs::path& path, const std::string& text) { std::ofstream(path) << text; }

  stdfs::path top;
  std::string id;
  std::string socket;
  std::optional<fs::ExportClient> exports;
};

TEST_F(FsLinuxTest, KeepsWhatPosixPromises) {
  const CommandEnd end = run_mounted("/run/share/ro/fs-probe basics /run/share/rw");
  EXPECT_EQ(end.status, 0) << end.output;
  EXPECT_THAT(end.output, HasSubstr("directories"));
  EXPECT_TRUE(stdfs::is_empty(top / "rw"));
}

TEST_F(FsLinuxTest, RandomOperationsEndAsInMemory) {
  const CommandEnd end =
      run_mounted("/run/share/ro/fs-probe random /run/share/rw/file 1 500 && sha256sum </run/share/rw/file");
  EXPECT_EQ(end.status, 0) << end.output;
  EXPECT_THAT(end.output, HasSubstr(*pool::sha256_of_file((top / "rw" / "file").string())));
}

TEST_F(FsLinuxTest, AReadOnlyExportIsReadOnly) {
  put(top / "ro" / "file", "as it was");
  const CommandEnd end = run_mounted(
      "cat /run/share/ro/file; cd /run/share/ro; echo x >file; rm file; touch new; mkdir d; chmod 777 file; mv file g; "
      "echo x >>file; ln file g; ls");
  EXPECT_THAT(end.output, testing::EndsWith("file\nfs-probe\n")) << "and can be listed";
  EXPECT_THAT(end.output, HasSubstr("as it was"));
  EXPECT_THAT(end.output, HasSubstr("Read-only file system"));
  EXPECT_EQ(std::distance(stdfs::directory_iterator(top / "ro"), {}), 2) << end.output;
}

TEST_F(FsLinuxTest, TheHostsUpdateIsSeenWithinASecond) {
  for (const char* version : {"v1", "v2"}) {
    stdfs::create_directories(top / "ro" / version);
    put(top / "ro" / version / "key", version);
  }
  stdfs::create_symlink("v1", top / "ro" / "..data");
  stdfs::create_symlink("..data/key", top / "ro" / "key");
  EXPECT_EQ(run_mounted("cat /run/share/ro/key").output, "v1");
  stdfs::create_symlink("v2", top / "ro" / "..data_tmp");
  stdfs::rename(top / "ro" / "..data_tmp", top / "ro" / "..data");
  EXPECT_EQ(run("sleep 1; cat /run/share/ro/key").output, "v2") << "a guest's second";
}

TEST_F(FsLinuxTest, ExportsComeAndGoWhileItIsMounted) {
  put(top / "single", "one file");
  EXPECT_EQ(run_mounted("ls /run/share").output, "ro\nrw\n");
  add("file", top / "single", true);
  EXPECT_EQ(run("cat /run/share/file").output, "one file");
  EXPECT_TRUE(*exports->remove("file"));
  EXPECT_NE(run("cat /run/share/file").status, 0);
  EXPECT_TRUE(*exports->remove("rw"));
  const CommandEnd gone = run("ls /run/share/rw; ls /run/share");
  EXPECT_THAT(gone.output, HasSubstr("ro\n"));
}

TEST_F(FsLinuxTest, AFileServerThatIsKilledFailsRequestsAndNotTheGuest) {
  EXPECT_EQ(run_mounted("echo text >/run/share/rw/file").status, 0);
  const std::string found = [] {
    for (const auto& each : stdfs::directory_iterator("/proc")) {
      const Result<std::string> line = read_file(each.path().string() + "/cmdline");
      if (line && line->starts_with("granary-fsd ")) return each.path().filename().string();
    }
    return std::string();
  }();
  ASSERT_FALSE(found.empty());
  ASSERT_EQ(::kill(std::stoi(found), SIGKILL), 0);
  const CommandEnd end = run("cat /run/share/rw/file; echo status $?");
  EXPECT_THAT(end.output, HasSubstr("Transport endpoint is not connected"));
  EXPECT_THAT(end.output, HasSubstr("status 1"));
}

TEST_F(FsLinuxTest, WithoutAFileServerAMountFailsAtOnce) {
  const auto clone = clones->bare_clone();
  ASSERT_TRUE(clone) << clone.error().message();
  const CommandEnd end =
      run_script((*clone)->socket_path(), "mkdir /m; mount -t virtiofs granary /m && ls /m; echo status $?");
  EXPECT_THAT(end.output, testing::Not(HasSubstr("status 0"))) << end.output;
  EXPECT_THAT((*clone)->destroy(), testing::IsEmpty());
}

}  // namespace
}  // namespace granary::integration
