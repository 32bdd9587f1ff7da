// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/fuse_client.h"

namespace granary::fs {
namespace {

TEST_F(FuseTest, NamesThatLeadAwayAreRefused) {
  put(top / "secret", "outside");
  EXPECT_EQ(ask(FUSE_LOOKUP, rw, name_of("..")).error, EPERM);
  EXPECT_EQ(ask(FUSE_LOOKUP, rw, name_of(".")).error, EPERM);
  EXPECT_EQ(ask(FUSE_LOOKUP, rw, name_of("../secret")).error, EPROTO);
  EXPECT_EQ(ask(FUSE_LOOKUP, rw, name_of("/etc")).error, EPROTO);
  EXPECT_EQ(ask(FUSE_LOOKUP, rw, name_of("")).error, EPROTO);
  EXPECT_EQ(ask(FUSE_LOOKUP, rw, "no end").error, EPROTO);
  EXPECT_EQ(ask(FUSE_LOOKUP, rw, std::string("a\0b\0", 4)).error, EPROTO);
  EXPECT_EQ(ask(FUSE_LOOKUP, rw, name_of(std::string(256, 'x'))).error, ENAMETOOLONG);
  EXPECT_EQ(ask(FUSE_LOOKUP, rw, name_of(std::string(100'000, 'x'))).error, ENAMETOOLONG);
  EXPECT_EQ(ask(FUSE_UNLINK, rw, name_of("../secret")).error, EPROTO);
  EXPECT_EQ(rename(rw, "..", rw, "x"), EPERM);
  EXPECT_EQ(rename(rw, "x", rw, "../x"), EPROTO);
  create(rw, "../made");
  EXPECT_EQ(failed, EPROTO);
  EXPECT_TRUE(stdfs::exists(top / "secret"));
}

TEST_F(FuseTest, SymbolicLinksAreNeverFollowed) {
  put(top / "secret", "outside");
  stdfs::create_symlink(top / "secret", top / "rw" / "link");
  stdfs::create_directory_symlink(top, top / "rw" / "up");
  const uint64_t link = look("link", rw);
  EXPECT_EQ(entry.attr.mode & S_IFMT, static_cast<uint32_t>(S_IFLNK));
  EXPECT_EQ(open(link, O_RDONLY), 0U);
  EXPECT_EQ(failed, ENXIO);
  look("secret", look("up", rw));
  EXPECT_EQ(failed, ENOTDIR);
  create(look("up", rw), "made");
  EXPECT_EQ(failed, ENOTDIR);
  create(rw, "link", O_RDWR | O_TRUNC);
  EXPECT_EQ(failed, ENXIO) << "the link is there, and no file";
  fuse_setattr_in in{};
  in.valid = FATTR_SIZE;
  EXPECT_EQ(set_attributes(link, in), EINVAL);
  EXPECT_EQ(get(top / "secret"), "outside");
  in.valid = FATTR_UID;
  in.uid = 99;
  EXPECT_EQ(set_attributes(link, in), 0);
  struct stat st {};
  ASSERT_EQ(::stat((top / "secret").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 0U);
}

// A directory that the host swaps for a link between two requests: the node is the inode, not the path.
TEST_F(FuseTest, ADirectorySwappedForALinkLeadsNowhere) {
  stdfs::create_directories(top / "outside");
  put(top / "outside" / "file", "outside");
  stdfs::create_directories(top / "rw" / "dir");
  put(top / "rw" / "dir" / "file", "inside");
  const uint64_t directory = look("dir", rw);
  stdfs::rename(top / "rw" / "dir", top / "rw" / "old");
  stdfs::create_directory_symlink(top / "outside", top / "rw" / "dir");
  EXPECT_EQ(read(open(look("file", directory), O_RDONLY)), "inside");
  look("file", look("dir", rw));
  EXPECT_EQ(failed, ENOTDIR);
}

TEST_F(FuseTest, ForgedIdsAreNobodys) {
  const uint64_t file = create(rw, "f");
  const uint64_t handle = made.fh;
  for (const uint64_t forged : std::vector<uint64_t>{0, uint64_t{2}, uint64_t{3}, file + 1, file + (1ULL << 32),
                                                     ~uint64_t{0}, rw ^ (1ULL << 63)}) {
    attributes(forged);
    EXPECT_EQ(failed, ESTALE) << forged;
    look("f", forged);
    EXPECT_EQ(failed, ESTALE) << forged;
    EXPECT_EQ(open(forged, O_RDONLY), 0U);
    EXPECT_EQ(rename(rw, "f", forged, "g"), ESTALE);
    EXPECT_EQ(ask(FUSE_LINK, rw, bytes_of(fuse_link_in{forged}) + name_of("g")).error, ESTALE);
    forget(forged, 1000);
  }
  for (uint64_t forged = 0; forged < 64; ++forged) {
    if (forged == handle) continue;
    read(forged);  // descriptors of this process have small numbers
    EXPECT_EQ(failed, EBADF) << forged;
    write(forged, "x");
    EXPECT_EQ(failed, EBADF) << forged;
    release(file, forged);
  }
  EXPECT_EQ(write(handle, "fine"), 4U);
  const Answer listed =
      ask(FUSE_READDIR, rw,
          bytes_of(fuse_read_in{
              .fh = handle, .offset = 0, .size = 4096, .read_flags = 0, .lock_owner = 0, .flags = 0, .padding = 0}));
  EXPECT_EQ(listed.error, EBADF) << "a file is no directory";
}

TEST_F(FuseTest, AnOldIdIsNotTheNextOnes) {
  put(top / "rw" / "a", "a");
  put(top / "rw" / "b", "b");
  const uint64_t a = look("a", rw);
  forget(a);
  const uint64_t b = look("b", rw);
  EXPECT_EQ(static_cast<uint32_t>(a), static_cast<uint32_t>(b)) << "the same place";
  attributes(a);
  EXPECT_EQ(failed, ESTALE);
  const uint64_t first = open(b, O_RDONLY);
  release(b, first);
  open(b, O_RDONLY);
  read(first);
  EXPECT_EQ(failed, EBADF);
}

TEST_F(FuseTest, ForgettingMoreThanWasLookedUpForgetsOnce) {
  const uint64_t file = create(rw, "f");
  const size_t before = server->nodes();
  forget(file, ~uint64_t{0});
  EXPECT_EQ(server->nodes(), before - 1);
  forget(file, 1);
  EXPECT_EQ(server->nodes(), before - 1);
  EXPECT_EQ(read(made.fh), "") << "what is open stays open";
  EXPECT_EQ(failed, 0);
}

TEST_F(FuseTest, NothingIsWrittenThroughAReadOnlyExport) {
  put(top / "ro" / "f", "as it was");
  stdfs::create_directories(top / "ro" / "d");
  const uint64_t file = look("f", ro);
  for (const int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_APPEND, O_ACCMODE}) {
    open(file, flags);
    EXPECT_EQ(failed, EROFS) << flags;
  }
  create(ro, "g");
  EXPECT_EQ(failed, EROFS);
  create(ro, "f", O_RDWR | O_TRUNC);
  EXPECT_EQ(failed, EROFS);
  const uint64_t handle = open(file, O_RDONLY);
  write(handle, "x");
  EXPECT_EQ(failed, EBADF);
  fuse_fallocate_in allocate{};
  allocate.fh = handle;
  allocate.length = 100;
  EXPECT_EQ(ask(FUSE_FALLOCATE, file, bytes_of(allocate)).error, EBADF);
  fuse_setattr_in in{};
  for (const uint32_t valid : {FATTR_SIZE, FATTR_MODE, FATTR_UID, FATTR_MTIME, FATTR_SIZE | FATTR_FH}) {
    in.valid = valid;
    in.fh = handle;
    EXPECT_EQ(set_attributes(file, in), EROFS) << valid;
  }
  EXPECT_EQ(set_xattr(file, "user.x", "y"), EROFS);
  EXPECT_EQ(ask(FUSE_REMOVEXATTR, file, name_of("user.x")).error, EROFS);
  EXPECT_EQ(ask(FUSE_UNLINK, ro, name_of("f")).error, EROFS);
  EXPECT_EQ(ask(FUSE_RMDIR, ro, name_of("d")).error, EROFS);
  EXPECT_EQ(ask(FUSE_MKDIR, ro, bytes_of(fuse_mkdir_in{}) + name_of("e")).error, EROFS);
  EXPECT_EQ(ask(FUSE_MKNOD, ro, bytes_of(fuse_mknod_in{S_IFREG | 0600, 0, 0, 0}) + name_of("e")).error, EROFS);
  EXPECT_EQ(ask(FUSE_SYMLINK, ro, name_of("e") + name_of("f")).error, EROFS);
  EXPECT_EQ(ask(FUSE_LINK, ro, bytes_of(fuse_link_in{file}) + name_of("e")).error, EROFS);
  EXPECT_EQ(ask(FUSE_LINK, rw, bytes_of(fuse_link_in{file}) + name_of("e")).error, EROFS);
  EXPECT_EQ(rename(ro, "f", ro, "e"), EROFS);
  EXPECT_EQ(rename(ro, "f", rw, "e"), EROFS);
  EXPECT_EQ(get(top / "ro" / "f"), "as it was");
  EXPECT_EQ(std::distance(stdfs::directory_iterator(top / "ro"), {}), 2);
}

// Seen through both, it is two nodes: the right to write does not leak from one to the other.
TEST_F(FuseTest, TheSameFileThroughTwoExports) {
  export_path("alias", top / "rw", true);
  create(rw, "f");
  const uint64_t alias = look("f", look("alias"));
  open(alias, O_WRONLY);
  EXPECT_EQ(failed, EROFS);
  EXPECT_EQ(rename(rw, "f", look("alias"), "g"), EROFS);
  export_path("other", top / "ro", false);
  EXPECT_EQ(rename(rw, "f", look("other"), "g"), EXDEV);
}

TEST_F(FuseTest, TheRootCannotBeChanged) {
  create(FUSE_ROOT_ID, "f");
  EXPECT_EQ(failed, EROFS);
  EXPECT_EQ(ask(FUSE_UNLINK, FUSE_ROOT_ID, name_of("rw")).error, EROFS);
  EXPECT_EQ(rename(FUSE_ROOT_ID, "rw", FUSE_ROOT_ID, "x"), EROFS);
  EXPECT_EQ(set_attributes(FUSE_ROOT_ID, {}), EROFS);
  forget(FUSE_ROOT_ID, 100);
  EXPECT_NE(look("rw"), 0U);
}

TEST_F(FuseTest, DevicesAreNeitherMadeNorOpened) {
  const auto make = [&](uint32_t mode, uint32_t device, const std::string& name) {
    return ask(FUSE_MKNOD, rw, bytes_of(fuse_mknod_in{mode, device, 0, 0}) + name_of(name)).error;
  };
  EXPECT_EQ(make(S_IFBLK | 0600, 0x700, "disk"), EPERM);
  EXPECT_EQ(make(S_IFCHR | 0600, 0x103, "null"), EPERM);
  EXPECT_EQ(make(S_IFDIR | 0600, 0, "dir"), EPERM);
  EXPECT_EQ(make(S_IFIFO | 0600, 0, "fifo"), 0);
  EXPECT_EQ(make(S_IFSOCK | 0600, 0, "socket"), 0);
  EXPECT_EQ(make(S_IFCHR, 0, "whiteout"), 0);
  for (const char* name : {"fifo", "socket", "whiteout"}) {
    EXPECT_EQ(open(look(name, rw), O_RDWR), 0U);
    EXPECT_EQ(failed, ENXIO) << name;
    create(rw, name);
    EXPECT_EQ(failed, ENXIO) << "nor opened because it lies where a new file goes: " << name;
  }
}

TEST_F(FuseTest, InodesAndFilesAreBounded) {
  for (int i = 0; i < 100; ++i) put(top / "rw" / std::to_string(i), "");
  int found = 0;
  while (found < 100 && look(std::to_string(found), rw) != 0) ++found;
  EXPECT_EQ(failed, ENFILE);
  EXPECT_EQ(server->nodes(), kLimits.nodes);
  const uint64_t first = look("0", rw);
  ASSERT_NE(first, 0U) << "what is known needs no more room";
  create(rw, "more");
  EXPECT_EQ(failed, ENFILE);
  uint64_t handle = 0;
  for (int i = 0; i < 100; ++i) {
    const uint64_t next = open(first, O_RDONLY);
    if (next == 0) break;
    handle = next;
  }
  EXPECT_EQ(failed, ENFILE);
  EXPECT_EQ(ask(FUSE_OPENDIR, rw, bytes_of(fuse_open_in{})).error, ENFILE);
  release(first, handle);
  EXPECT_NE(open(first, O_RDONLY), 0U);
  forget(first, 100);
  EXPECT_NE(look("99", rw), 0U);
}

TEST_F(FuseTest, OperationsThatAreNotServed) {
  EXPECT_EQ(ask(FUSE_IOCTL, rw, bytes_of(fuse_ioctl_in{})).error, ENOSYS);
  EXPECT_EQ(ask(FUSE_SETUPMAPPING, rw, std::string(40, '\0')).error, ENOSYS);
  EXPECT_EQ(ask(4096 /* CUSE_INIT */, rw).error, ENOSYS);
  EXPECT_EQ(ask(~0U, rw).error, ENOSYS);
  EXPECT_EQ(ask(FUSE_INIT, 0, bytes_of(fuse_init_in{7, 36, 0, 0, 0, {}})).error, EIO) << "it has one mount";
  tell(FUSE_INTERRUPT, rw, bytes_of(fuse_interrupt_in{4711}));
  tell(FUSE_FORGET, rw, "too short");
  tell(FUSE_BATCH_FORGET, 0, bytes_of(fuse_batch_forget_in{~0U, 0}));
  settle();
  EXPECT_TRUE(answers.empty()) << "nothing of these has an answer";
}

TEST_F(FuseTest, OffsetsAndSizesFromNowhere) {
  const uint64_t file = create(rw, "f");
  const uint64_t handle = made.fh;
  read(handle, ~0U, 0);
  EXPECT_EQ(failed, 0);
  read(handle, 1, ~uint64_t{0});
  EXPECT_EQ(failed, EINVAL);
  write(handle, "x", ~uint64_t{0});
  EXPECT_EQ(failed, EINVAL);
  fuse_write_in in{};
  in.fh = handle;
  in.size = 100;
  EXPECT_EQ(ask(FUSE_WRITE, file, bytes_of(in) + "short").error, EPROTO);
  const uint32_t value_bytes[2] = {~0U, 0};
  EXPECT_EQ(ask(FUSE_SETXATTR, file, bytes_of(value_bytes) + name_of("user.x") + "y").error, EPROTO);
  const Answer opened = ask(FUSE_OPENDIR, rw, bytes_of(fuse_open_in{}));
  for (const uint64_t offset : {~uint64_t{0}, uint64_t{1} << 62, uint64_t{12345}}) {
    fuse_read_in list_in{};
    list_in.fh = opened.as<fuse_open_out>().fh;
    list_in.offset = offset;
    list_in.size = ~0U;
    (void)ask(FUSE_READDIRPLUS, rw, bytes_of(list_in));
  }
  EXPECT_NE(look("f", rw), 0U);
}

TEST_F(FuseTest, AStreamOutOfStepEndsTheServer) {
  for (const int offset : {-40, 2 << 20}) {
    send(message(FUSE_STATFS, FUSE_ROOT_ID, {}, offset));
    while (!is_gone) ASSERT_TRUE(loop->run_once(1000));
    server.reset();
    is_gone = false;
    start(kLimits);
  }
  guest.reset();
  while (!is_gone) ASSERT_TRUE(loop->run_once(1000));
}

TEST_F(FuseTest, APeerThatTakesNoRepliesStopsOnlyItself) {
  put(top / "rw" / "big", std::string(200'000, 'x'));
  const uint64_t handle = open(look("big", rw), O_RDONLY);
  fuse_read_in in{};
  in.fh = handle;
  in.size = 200'000;
  std::vector<uint64_t> asked;
  for (int i = 0; i < 20; ++i) asked.push_back(tell(FUSE_READ, rw, bytes_of(in)));
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(loop->run_once(0));
  EXPECT_TRUE(server->remove_export("ro")) << "exports are changed meanwhile";
  for (const uint64_t unique : asked) EXPECT_EQ(await(unique).body.size(), 200'000U);
}

}  // namespace
}  // namespace granary::fs
