// SPDX-License-Identifier: Apache-2.0
#include <sys/xattr.h>

#include <algorithm>

#include "vmpool/fs/fuse_client.h"

namespace granary::fs {
namespace {

TEST_F(FuseTest, TheRootShowsExports) {
  EXPECT_EQ(list(FUSE_ROOT_ID), (std::vector<std::string>{".", "..", "ro", "rw"}));
  EXPECT_EQ(list(FUSE_ROOT_ID, true), (std::vector<std::string>{".", "..", "ro", "rw"}));
  EXPECT_EQ(attributes(FUSE_ROOT_ID).mode, static_cast<uint32_t>(S_IFDIR | 0555));
  put(top / "single", "one file");
  export_path("file", top / "single", true);
  const uint64_t file = look("file");
  EXPECT_EQ(entry.entry_valid + entry.entry_valid_nsec, 0U) << "another export of that name is seen at once";
  EXPECT_EQ(read(open(file, O_RDONLY)), "one file");
}

TEST_F(FuseTest, ReadWriteAndCreate) {
  const uint64_t file = create(rw, "f");
  ASSERT_EQ(failed, 0);
  EXPECT_EQ(write(made.fh, "hello"), 5U);
  EXPECT_EQ(write(made.fh, "J"), 1U);
  EXPECT_EQ(read(made.fh), "Jello");
  EXPECT_EQ(get(top / "rw" / "f"), "Jello");
  EXPECT_EQ(attributes(file).size, 5U);
  EXPECT_EQ(look("f", rw), file) << "an inode has one node";
  release(file, made.fh);
  create(rw, "f", O_RDWR | O_EXCL);
  EXPECT_EQ(failed, EEXIST);
  EXPECT_EQ(create(rw, "f"), file) << "one that is there already is opened";
}

TEST_F(FuseTest, WhatIsMadeBelongsToTheCaller) {
  uid = 1234;
  gid = 5678;
  stdfs::permissions(top / "rw", stdfs::perms(0700));  // the guest's kernel has checked that, with groups unknown here
  create(rw, "f", O_RDWR, 0666, 022);
  EXPECT_EQ(entry.attr.uid, 1234U);
  EXPECT_EQ(entry.attr.gid, 5678U);
  EXPECT_EQ(entry.attr.mode, static_cast<uint32_t>(S_IFREG | 0644));
  const Answer directory = ask(FUSE_MKDIR, rw, bytes_of(fuse_mkdir_in{0777, 027}) + name_of("d"));
  EXPECT_EQ(directory.as<fuse_entry_out>().attr.mode, static_cast<uint32_t>(S_IFDIR | 0750));
  EXPECT_EQ(directory.as<fuse_entry_out>().attr.uid, 1234U);
  const Answer link = ask(FUSE_SYMLINK, rw, name_of("l") + name_of("/etc/passwd"));
  EXPECT_EQ(link.as<fuse_entry_out>().attr.gid, 5678U);
  uid = gid = 0;
  create(rw, "root's");
  EXPECT_EQ(entry.attr.uid, 0U) << "and root is root again";
}

TEST_F(FuseTest, ASetGidDirectoryGivesItsGroup) {
  ASSERT_EQ(::chown((top / "rw").c_str(), 0, 77), 0);
  ASSERT_EQ(::chmod((top / "rw").c_str(), 02777), 0);
  uid = gid = 1000;
  create(rw, "f");
  EXPECT_EQ(entry.attr.gid, 77U);
}

TEST_F(FuseTest, OwnerModeSizeAndTimes) {
  const uint64_t file = create(rw, "f");
  fuse_setattr_in in{};
  in.valid = FATTR_UID | FATTR_GID | FATTR_MODE;
  in.uid = 7;
  in.gid = 8;
  in.mode = 04711;
  EXPECT_EQ(set_attributes(file, in), 0);
  EXPECT_EQ(attributes(file).uid, 7U);
  EXPECT_EQ(attributes(file).mode, static_cast<uint32_t>(S_IFREG | 04711)) << "set after the owner";
  in = {};
  in.valid = FATTR_SIZE | FATTR_MTIME;
  in.size = 10;
  in.mtime = 1'000'000;
  in.mtimensec = 5;
  EXPECT_EQ(set_attributes(file, in), 0);
  const fuse_attr now = attributes(file);
  EXPECT_EQ(now.size, 10U);
  EXPECT_EQ(now.mtime, 1'000'000U);
  EXPECT_EQ(now.mtimensec, 5U);
  const Answer link = ask(FUSE_SYMLINK, rw, name_of("l") + name_of("f"));
  in.valid = FATTR_MTIME | FATTR_UID;
  EXPECT_EQ(set_attributes(link.as<fuse_entry_out>().nodeid, in), 0);
  EXPECT_EQ(attributes(link.as<fuse_entry_out>().nodeid).mtime, 1'000'000U) << "the link's own, not its target's";
  in.valid = FATTR_MODE;
  EXPECT_EQ(set_attributes(link.as<fuse_entry_out>().nodeid, in), EOPNOTSUPP);
}

TEST_F(FuseTest, LinksRenamesAndRemovals) {
  const uint64_t file = create(rw, "a");
  EXPECT_EQ(ask(FUSE_LINK, rw, bytes_of(fuse_link_in{file}) + name_of("b")).error, 0);
  EXPECT_EQ(look("b", rw), file) << "the same inode";
  EXPECT_EQ(entry.attr.nlink, 2U);
  create(rw, "c");
  EXPECT_EQ(rename(rw, "a", rw, "c", 1 /* NOREPLACE */), EEXIST);
  EXPECT_EQ(rename(rw, "a", rw, "c", 2 /* EXCHANGE */), 0);
  EXPECT_EQ(look("c", rw), file);
  EXPECT_EQ(rename(rw, "c", rw, "d"), 0);
  EXPECT_EQ(look("d", rw), file);
  EXPECT_EQ(rename(rw, "d", rw, "e", 0x80), EINVAL);
  EXPECT_EQ(ask(FUSE_UNLINK, rw, name_of("d")).error, 0);
  EXPECT_EQ(ask(FUSE_RMDIR, rw, name_of("b")).error, ENOTDIR);
  ask(FUSE_MKDIR, rw, bytes_of(fuse_mkdir_in{0755, 0}) + name_of("dir"));
  EXPECT_EQ(ask(FUSE_UNLINK, rw, name_of("dir")).error, EISDIR);
  EXPECT_EQ(ask(FUSE_RMDIR, rw, name_of("dir")).error, 0);
}

TEST_F(FuseTest, ADeletedFileStaysUsable) {
  const uint64_t file = create(rw, "f");
  write(made.fh, "still here");
  ask(FUSE_UNLINK, rw, name_of("f"));
  EXPECT_EQ(read(made.fh), "still here");
  EXPECT_EQ(attributes(file).nlink, 0U);
  const uint64_t again = open(file, O_RDONLY);
  EXPECT_EQ(read(again), "still here");
}

TEST_F(FuseTest, AppendingGoesToTheEndButWhatAMappingWritesToItsPlace) {
  put(top / "rw" / "f", "0123456789");
  const uint64_t handle = open(look("f", rw), O_WRONLY | O_APPEND);
  write(handle, "end", 0, 0, O_WRONLY | O_APPEND);
  write(handle, "ab", 2, FUSE_WRITE_CACHE, O_WRONLY | O_APPEND);
  EXPECT_EQ(get(top / "rw" / "f"), "01ab456789end");
  write(handle, "cd", 4);
  EXPECT_EQ(get(top / "rw" / "f"), "01abcd6789end") << "it appends no longer (F_SETFL)";
}

TEST_F(FuseTest, ExtendedAttributes) {
  const uint64_t file = create(rw, "f");
  ASSERT_EQ(set_xattr(file, "user.color", "red"), 0);
  char value[8] = {};
  ASSERT_EQ(::getxattr((top / "rw" / "f").c_str(), "user.color", value, sizeof(value)), 3);
  EXPECT_STREQ(value, "red");
  EXPECT_EQ(ask(FUSE_GETXATTR, file, bytes_of(fuse_getxattr_in{64, 0}) + name_of("user.color")).body, "red");
  EXPECT_EQ(
      ask(FUSE_GETXATTR, file, bytes_of(fuse_getxattr_in{0, 0}) + name_of("user.color")).as<fuse_getxattr_out>().size,
      3U);
  EXPECT_EQ(ask(FUSE_GETXATTR, file, bytes_of(fuse_getxattr_in{2, 0}) + name_of("user.color")).error, ERANGE);
  EXPECT_EQ(ask(FUSE_LISTXATTR, file, bytes_of(fuse_getxattr_in{64, 0})).body, name_of("user.color"));
  EXPECT_EQ(set_xattr(file, "trusted.overlay.opaque", "y"), EOPNOTSUPP);
  EXPECT_EQ(set_xattr(file, "security.selinux", "x"), EOPNOTSUPP);
  EXPECT_EQ(ask(FUSE_REMOVEXATTR, file, name_of("user.color")).error, 0);
  EXPECT_EQ(ask(FUSE_GETXATTR, file, bytes_of(fuse_getxattr_in{64, 0}) + name_of("user.color")).error, ENODATA);
}

TEST_F(FuseTest, SpaceHolesAndCopies) {
  const uint64_t file = create(rw, "f");
  const uint64_t handle = made.fh;
  fuse_fallocate_in allocate{};
  allocate.fh = handle;
  allocate.length = 1 << 20;
  EXPECT_EQ(ask(FUSE_FALLOCATE, file, bytes_of(allocate)).error, 0);
  EXPECT_EQ(attributes(file).size, 1U << 20);
  write(handle, "data", 0);
  create(rw, "g");
  fuse_copy_file_range_in copy{};
  copy.fh_in = handle;
  copy.fh_out = made.fh;
  copy.nodeid_out = entry.nodeid;
  copy.len = 4;
  EXPECT_EQ(ask(FUSE_COPY_FILE_RANGE, file, bytes_of(copy)).as<fuse_write_out>().size, 4U);
  EXPECT_EQ(get(top / "rw" / "g"), "data");
  fuse_lseek_in seek{};
  seek.fh = made.fh;
  seek.whence = SEEK_HOLE;
  EXPECT_EQ(ask(FUSE_LSEEK, file, bytes_of(seek)).as<fuse_lseek_out>().offset, 4U);
  seek.whence = SEEK_SET;
  EXPECT_EQ(ask(FUSE_LSEEK, file, bytes_of(seek)).error, EINVAL);
  EXPECT_EQ(ask(FUSE_FSYNC, file, bytes_of(fuse_fsync_in{handle, 1, 0})).error, 0);
  EXPECT_EQ(ask(FUSE_STATFS, file).error, 0);
}

TEST_F(FuseTest, LargeDirectoriesArePagedAndPinLittle) {
  std::vector<std::string> wanted = {".", ".."};
  for (int i = 0; i < 300; ++i) wanted.push_back("entry-" + std::to_string(i));
  for (size_t i = 2; i < wanted.size(); ++i) put(top / "rw" / wanted[i], "");
  std::sort(wanted.begin(), wanted.end());
  for (const bool plus : {false, true}) {
    std::vector<std::string> found = list(rw, plus, 1024);
    EXPECT_EQ(failed, 0);
    std::sort(found.begin(), found.end());
    EXPECT_EQ(found, wanted) << plus;
  }
  EXPECT_LT(server->nodes(), kLimits.nodes) << "a listing leaves room for what is opened";
}

TEST_F(FuseTest, TheHostsChangesAreSeen) {
  stdfs::create_directories(top / "ro" / "v1");
  stdfs::create_directories(top / "ro" / "v2");
  put(top / "ro" / "v1" / "key", "old");
  put(top / "ro" / "v2" / "key", "new");
  stdfs::create_symlink("v1", top / "ro" / "..data");
  uint64_t link = look("..data", ro);
  EXPECT_EQ(ask(FUSE_READLINK, link).body, "v1");
  EXPECT_LT(entry.entry_valid * 1'000'000'000 + entry.entry_valid_nsec, 1'000'000'000U);
  EXPECT_LT(entry.attr_valid * 1'000'000'000 + entry.attr_valid_nsec, 1'000'000'000U);
  stdfs::create_symlink("v2", top / "ro" / "tmp");
  stdfs::rename(top / "ro" / "tmp", top / "ro" / "..data");
  link = look("..data", ro);
  EXPECT_EQ(ask(FUSE_READLINK, link).body, "v2");
}

TEST_F(FuseTest, AnExportThatIsRemovedHoldsNothing) {
  const uint64_t file = create(rw, "f");
  const uint64_t handle = made.fh;
  const size_t before = server->handles();
  ASSERT_TRUE(server->remove_export("rw"));
  EXPECT_EQ(server->handles(), before) << "the guest's number of it stays, without a file";
  for (const auto& each : stdfs::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    EXPECT_NE(stdfs::read_symlink(each.path(), gone), top / "rw" / "f");
  }
  EXPECT_EQ(look("rw"), 0U);
  EXPECT_EQ(failed, ENOENT);
  attributes(file);
  EXPECT_EQ(failed, ESTALE);
  read(handle);
  EXPECT_EQ(failed, EBADF);
  release(file, handle);
  forget(file);
  forget(rw);
  EXPECT_TRUE(server->remove_export("rw").error().is_errno(ENOENT));
  export_path("rw", top / "ro", false);
  const uint64_t again = look("rw");
  EXPECT_NE(again, rw);
}

TEST_F(FuseTest, ExportsAreChecked) {
  const auto add = [&](const std::string& name, const stdfs::path& path) {
    return server->add_export(name, *open_file(path.string(), O_PATH | O_NOFOLLOW), false);
  };
  EXPECT_TRUE(add("rw", top).error().is_errno(EEXIST));
  EXPECT_TRUE(add("Rw", top).error().is(Errc::kInvalidArgument));
  EXPECT_TRUE(add("null", "/dev/null").error().is(Errc::kInvalidArgument));
  stdfs::create_symlink("/", top / "link");
  EXPECT_TRUE(add("link", top / "link").error().is(Errc::kInvalidArgument)) << "a link is not followed";
}

}  // namespace
}  // namespace granary::fs
