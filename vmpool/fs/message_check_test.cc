// SPDX-License-Identifier: Apache-2.0
#include "vmpool/fs/message_check.h"

#include <gtest/gtest.h>

#include <string>

namespace granary::fs {
namespace {

template <class T>
std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}
int check(uint32_t opcode, const std::string& body) {
  fuse_in_header header{};
  header.len = static_cast<uint32_t>(sizeof(header) + body.size());
  header.opcode = opcode;
  const std::string message = bytes_of(header) + body;
  return check_message(std::as_bytes(std::span(message)));
}
std::string zeros(size_t count) { return std::string(count, '\0'); }

TEST(CheckMessage, FixedPartsAreWhole) {
  struct Case {
    uint32_t opcode;
    size_t bytes;
  };
  for (const Case& c : {Case{FUSE_FORGET, 8},       Case{FUSE_GETATTR, 16},    Case{FUSE_SETATTR, 88},
                        Case{FUSE_READLINK, 0},     Case{FUSE_OPEN, 8},        Case{FUSE_READ, 40},
                        Case{FUSE_STATFS, 0},       Case{FUSE_RELEASE, 24},    Case{FUSE_FSYNC, 16},
                        Case{FUSE_LISTXATTR, 8},    Case{FUSE_FLUSH, 24},      Case{FUSE_OPENDIR, 8},
                        Case{FUSE_READDIR, 40},     Case{FUSE_RELEASEDIR, 24}, Case{FUSE_FSYNCDIR, 16},
                        Case{FUSE_GETLK, 48},       Case{FUSE_SETLK, 48},      Case{FUSE_SETLKW, 48},
                        Case{FUSE_INTERRUPT, 8},    Case{FUSE_DESTROY, 0},     Case{FUSE_FALLOCATE, 32},
                        Case{FUSE_READDIRPLUS, 40}, Case{FUSE_LSEEK, 24},      Case{FUSE_COPY_FILE_RANGE, 56}}) {
    EXPECT_EQ(check(c.opcode, zeros(c.bytes)), 0) << c.opcode;
    if (c.bytes > 0) {
      EXPECT_EQ(check(c.opcode, zeros(c.bytes - 1)), EPROTO) << c.opcode;
    }
    EXPECT_EQ(check(c.opcode, zeros(c.bytes + 1)), EPROTO) << c.opcode;
  }
}

TEST(CheckMessage, NamesEndInsideIt) {
  struct Case {
    uint32_t opcode;
    size_t fixed;
    int names;
  };
  for (const Case& c :
       {Case{FUSE_LOOKUP, 0, 1}, Case{FUSE_MKNOD, 16, 1}, Case{FUSE_MKDIR, 8, 1}, Case{FUSE_UNLINK, 0, 1},
        Case{FUSE_RMDIR, 0, 1}, Case{FUSE_RENAME, 8, 2}, Case{FUSE_LINK, 8, 1}, Case{FUSE_CREATE, 16, 1},
        Case{FUSE_RENAME2, 16, 2}, Case{FUSE_SYMLINK, 0, 2}, Case{FUSE_REMOVEXATTR, 0, 1}, Case{FUSE_GETXATTR, 8, 1}}) {
    std::string good = zeros(c.fixed);
    for (int i = 0; i < c.names; ++i) good += std::string("name") + '\0';
    EXPECT_EQ(check(c.opcode, good), 0) << c.opcode;
    EXPECT_EQ(check(c.opcode, good.substr(0, good.size() - 1)), EPROTO) << c.opcode;
    EXPECT_EQ(check(c.opcode, good + "x"), EPROTO) << c.opcode;
    EXPECT_EQ(check(c.opcode, good + '\0'), EPROTO) << c.opcode;
    EXPECT_EQ(check(c.opcode, zeros(c.fixed)), EPROTO) << c.opcode;
    if (c.fixed > 0) {
      EXPECT_EQ(check(c.opcode, zeros(c.fixed - 1)), EPROTO) << c.opcode;
    }
  }
}

TEST(CheckMessage, NamesAreSingleNames) {
  const auto look_up = [](const std::string& name) { return check(FUSE_LOOKUP, name + '\0'); };
  EXPECT_EQ(look_up("..."), 0);
  EXPECT_EQ(look_up("."), EPERM);
  EXPECT_EQ(look_up(".."), EPERM);
  EXPECT_EQ(look_up("a/b"), EPROTO);
  EXPECT_EQ(look_up(std::string(255, 'x')), 0);
  EXPECT_EQ(look_up(std::string(256, 'x')), ENAMETOOLONG);
  EXPECT_EQ(check(FUSE_RENAME, zeros(8) + "a" + '\0' + ".." + '\0'), EPERM);
  EXPECT_EQ(check(FUSE_SYMLINK, std::string("..") + '\0' + "target" + '\0'), EPERM);
  EXPECT_EQ(check(FUSE_SYMLINK, std::string("name") + '\0' + "../../etc" + '\0'), 0) << "a target is text";
  EXPECT_EQ(check(FUSE_SYMLINK, std::string("name") + '\0' + std::string(4096, 't') + '\0'), ENAMETOOLONG);
}

TEST(CheckMessage, CountsAreThoseOfWhatFollows) {
  fuse_write_in write{};
  write.size = 5;
  EXPECT_EQ(check(FUSE_WRITE, bytes_of(write) + "12345"), 0);
  EXPECT_EQ(check(FUSE_WRITE, bytes_of(write) + "1234"), EPROTO);
  EXPECT_EQ(check(FUSE_WRITE, bytes_of(write) + "123456"), EPROTO);
  EXPECT_EQ(check(FUSE_BATCH_FORGET, bytes_of(fuse_batch_forget_in{2, 0}) + zeros(32)), 0);
  EXPECT_EQ(check(FUSE_BATCH_FORGET, bytes_of(fuse_batch_forget_in{3, 0}) + zeros(32)), EPROTO);
  EXPECT_EQ(check(FUSE_BATCH_FORGET, bytes_of(fuse_batch_forget_in{0x10000002, 0}) + zeros(32)), EPROTO);
  const auto attribute = [](uint32_t size, const std::string& rest) {
    const uint32_t head[2] = {size, 0};
    return check(FUSE_SETXATTR, bytes_of(head) + rest);
  };
  EXPECT_EQ(attribute(3, std::string("user.x") + '\0' + "abc"), 0);
  EXPECT_EQ(attribute(4, std::string("user.x") + '\0' + "abc"), EPROTO);
  EXPECT_EQ(attribute(~0U, std::string("user.x") + '\0' + "abc"), EPROTO);
  EXPECT_EQ(attribute(0, "user.x"), EPROTO);
  EXPECT_EQ(attribute(0, std::string(256, 'x') + '\0'), ERANGE);
}

TEST(CheckMessage, InitSpeaksOfAKnownProtocol) {
  fuse_init_in init{};
  init.major = 7;
  init.minor = 27;
  EXPECT_EQ(check(FUSE_INIT, bytes_of(init).substr(0, 16)), 0);
  init.flags = FUSE_INIT_EXT;
  EXPECT_EQ(check(FUSE_INIT, bytes_of(init)), 0);
  EXPECT_EQ(check(FUSE_INIT, bytes_of(init).substr(0, 16)), EPROTO) << "flags2 would lie behind it";
  init.minor = 26;
  EXPECT_EQ(check(FUSE_INIT, bytes_of(init)), EPROTO);
  init.minor = 38;
  init.major = 8;
  EXPECT_EQ(check(FUSE_INIT, bytes_of(init)), EPROTO);
}

TEST(CheckMessage, WhatIsNotServed) {
  for (const uint32_t opcode :
       {0U, 7U, uint32_t{FUSE_ACCESS}, uint32_t{FUSE_BMAP}, uint32_t{FUSE_IOCTL}, uint32_t{FUSE_POLL},
        uint32_t{FUSE_NOTIFY_REPLY}, uint32_t{FUSE_SETUPMAPPING}, uint32_t{FUSE_SYNCFS}, 4096U, ~0U}) {
    EXPECT_EQ(check(opcode, zeros(100)), ENOSYS) << opcode;
  }
}

TEST(CheckMessage, ItsLengthIsTheHeaders) {
  fuse_in_header header{};
  header.opcode = FUSE_STATFS;
  header.len = sizeof(header) + 1;
  const std::string message = bytes_of(header);
  EXPECT_EQ(check_message(std::as_bytes(std::span(message))), EPROTO);
  EXPECT_EQ(check_message(std::as_bytes(std::span(message)).first(39)), EPROTO);
  EXPECT_EQ(check_message({}), EPROTO);
}

}  // namespace
}  // namespace granary::fs
