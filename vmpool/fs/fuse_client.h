// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>

#include "vmpool/fs/file_server.h"

namespace granary::fs {

namespace stdfs = std::filesystem;

// For tests: a guest's kernel that can say anything, and the server it talks to, in one thread.
struct Answer {
  uint64_t unique = 0;
  int error = 0;  // positive
  std::string body;
  template <class T>
  [[nodiscard]] T as() const {
    T value{};
    std::memcpy(&value, body.data(), std::min(sizeof(T), body.size()));
    return value;
  }
};

template <class T>
std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}
inline std::string name_of(std::string_view name) { return std::string(name) + '\0'; }

class FuseTest : public testing::Test {
 protected:
  static constexpr Limits kLimits{.nodes = 64, .handles = 32};

  FuseTest() : loop(*EventLoop::create()) {
    if (::chdir("/proc/self/fd") != 0) std::abort();
    std::string name = "/var/tmp/granary-fs-XXXXXX";  // on a disk, also where /tmp is a tmpfs
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    top = name;
    stdfs::create_directories(top / "rw");
    stdfs::create_directories(top / "ro");
    stdfs::permissions(top / "rw", stdfs::perms(0777));
    ::umask(0);
    start(kLimits);
  }
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: files of several users";
  }
  ~FuseTest() override {
    server.reset();
    stdfs::remove_all(top);
  }
  void start(const Limits& limits) {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) std::abort();
    guest = Fd(fds[0]);
    server = std::move(*FileServer::create(*loop, Fd(fds[1]), limits, [this] { is_gone = true; }));
    export_path("rw", top / "rw", false);
    export_path("ro", top / "ro", true);
    fuse_init_in init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = 36;
    init.flags = 0x3fffffff;
    init_answer = ask(FUSE_INIT, 0, bytes_of(init));
    rw = look("rw");
    ro = look("ro");
  }
  void export_path(const std::string& name, const stdfs::path& path, bool read_only) {
    const Status done = server->add_export(name, *open_file(path.string(), O_PATH | O_NOFOLLOW), read_only);
    if (!done) std::abort();
  }

  void send(std::string_view bytes) {
    ASSERT_EQ(::send(guest.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  // `len_offset`: how far the header's length is off.
  std::string message(uint32_t opcode, uint64_t node, std::string_view body, int len_offset = 0) {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(static_cast<int>(sizeof(header) + body.size()) + len_offset);
    header.opcode = opcode;
    header.unique = next_unique += 2;
    header.nodeid = node;
    header.uid = uid;
    header.gid = gid;
    return bytes_of(header) + std::string(body);
  }
  uint64_t tell(uint32_t opcode, uint64_t node, std::string_view body = {}) {
    send(message(opcode, node, body));
    return next_unique;
  }
  // The answer to a message, whatever is answered before it.
  Answer await(uint64_t unique) {
    for (;;) {
      for (auto each = answers.begin(); each != answers.end(); ++each) {
        if (each->unique != unique) continue;
        Answer found = std::move(*each);
        answers.erase(each);
        return found;
      }
      if (is_gone) return {.unique = 0, .error = ENOTCONN, .body = {}};
      EXPECT_TRUE(loop->run_once(1000));
      receive();
    }
  }
  Answer ask(uint32_t opcode, uint64_t node, std::string_view body = {}) { return await(tell(opcode, node, body)); }
  // Until the server has dealt with all it was sent.
  void settle() { (void)ask(FUSE_STATFS, FUSE_ROOT_ID); }
  void receive() {
    std::string part(1 << 20, '\0');
    for (ssize_t n; (n = ::recv(guest.get(), part.data(), part.size(), MSG_DONTWAIT)) > 0;) {
      pending.append(part, 0, static_cast<size_t>(n));
    }
    fuse_out_header header{};
    while (pending.size() >= sizeof(header)) {
      std::memcpy(&header, pending.data(), sizeof(header));
      if (pending.size() < header.len) return;
      answers.push_back({header.unique, -header.error, pending.substr(sizeof(header), header.len - sizeof(header))});
      pending.erase(0, header.len);
    }
  }

  // Usual requests. A node of 0 and a handle of 0 stand for an error, which is in `failed`.
  uint64_t note(const Answer& answer, uint64_t value) {
    failed = answer.error;
    return failed == 0 ? value : 0;
  }
  uint64_t look(std::string_view name, uint64_t parent = FUSE_ROOT_ID) {
    const Answer answer = ask(FUSE_LOOKUP, parent, name_of(name));
    entry = answer.as<fuse_entry_out>();
    return note(answer, entry.nodeid);
  }
  uint64_t open(uint64_t node, int flags) {
    const Answer answer =
        ask(FUSE_OPEN, node, bytes_of(fuse_open_in{.flags = static_cast<uint32_t>(flags), .open_flags = 0}));
    return note(answer, answer.as<fuse_open_out>().fh);
  }
  // A new file: its node; the handle is in `made`.
  uint64_t create(uint64_t parent, std::string_view name, int flags = O_RDWR, uint32_t mode = 0644,
                  uint32_t umask = 0) {
    const fuse_create_in in{static_cast<uint32_t>(flags | O_CREAT), mode, umask, 0};
    const Answer answer = ask(FUSE_CREATE, parent, bytes_of(in) + name_of(name));
    entry = answer.as<fuse_entry_out>();
    if (answer.body.size() >= sizeof(entry) + sizeof(fuse_open_out)) {
      std::memcpy(&made, answer.body.data() + sizeof(entry), sizeof(made));
    }
    return note(answer, entry.nodeid);
  }
  size_t write(uint64_t handle, std::string_view bytes, uint64_t offset = 0, uint32_t flags = 0,
               int open_flags = O_WRONLY) {
    fuse_write_in in{};
    in.flags = static_cast<uint32_t>(open_flags);
    in.fh = handle;
    in.offset = offset;
    in.size = static_cast<uint32_t>(bytes.size());
    in.write_flags = flags;
    const Answer answer = ask(FUSE_WRITE, rw, bytes_of(in) + std::string(bytes));
    return note(answer, answer.as<fuse_write_out>().size);
  }
  std::string read(uint64_t handle, uint32_t size = 4096, uint64_t offset = 0) {
    fuse_read_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = size;
    const Answer answer = ask(FUSE_READ, rw, bytes_of(in));
    failed = answer.error;
    return answer.body;
  }
  void release(uint64_t node, uint64_t handle, uint32_t opcode = FUSE_RELEASE) {
    fuse_release_in in{};
    in.fh = handle;
    failed = ask(opcode, node, bytes_of(in)).error;
  }
  void forget(uint64_t node, uint64_t count = 1) {
    tell(FUSE_FORGET, node, bytes_of(fuse_forget_in{.nlookup = count}));
    settle();
  }
  fuse_attr attributes(uint64_t node) {
    const Answer answer = ask(FUSE_GETATTR, node, bytes_of(fuse_getattr_in{}));
    failed = answer.error;
    return answer.as<fuse_attr_out>().attr;
  }
  int set_attributes(uint64_t node, const fuse_setattr_in& in) {
    return failed = ask(FUSE_SETATTR, node, bytes_of(in)).error;
  }
  int rename(uint64_t from, std::string_view name, uint64_t to, std::string_view new_name, uint32_t flags = 0) {
    return failed = ask(FUSE_RENAME2, from, bytes_of(fuse_rename2_in{to, flags, 0}) + name_of(name) + name_of(new_name))
                        .error;
  }
  int set_xattr(uint64_t node, std::string_view name, std::string_view value) {
    const uint32_t head[2] = {static_cast<uint32_t>(value.size()), 0};
    return failed = ask(FUSE_SETXATTR, node, bytes_of(head) + name_of(name) + std::string(value)).error;
  }
  // Entries of a directory: names, in the order of the answer.
  std::vector<std::string> list(uint64_t node, bool plus = false, uint32_t page = 4096) {
    std::vector<std::string> names;
    const Answer opened = ask(FUSE_OPENDIR, node, bytes_of(fuse_open_in{}));
    const uint64_t handle = note(opened, opened.as<fuse_open_out>().fh);
    fuse_read_in in{};
    in.fh = handle;
    in.size = page;
    for (;;) {
      const Answer answer = ask(plus ? FUSE_READDIRPLUS : FUSE_READDIR, node, bytes_of(in));
      failed = answer.error;
      if (answer.error != 0 || answer.body.empty()) break;
      for (size_t at = 0; at < answer.body.size();) {
        const size_t skip = plus ? sizeof(fuse_entry_out) : 0;
        fuse_dirent found{};
        std::memcpy(&found, answer.body.data() + at + skip, FUSE_NAME_OFFSET);
        names.emplace_back(answer.body, at + skip + FUSE_NAME_OFFSET, found.namelen);
        in.offset = found.off;
        at += FUSE_DIRENT_ALIGN(skip + FUSE_NAME_OFFSET + found.namelen);
      }
    }
    release(node, handle, FUSE_RELEASEDIR);
    return names;
  }
  static void put(const stdfs::path& path, std::string_view text) { std::ofstream(path) << text; }
  static std::string get(const stdfs::path& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::unique_ptr<EventLoop> loop;
  stdfs::path top;
  std::unique_ptr<FileServer> server;
  Fd guest;
  bool is_gone = false;
  Answer init_answer;
  uint64_t rw = 0;
  uint64_t ro = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint64_t next_unique = 0;
  std::string pending;
  std::deque<Answer> answers;
  int failed = 0;
  fuse_entry_out entry{};
  fuse_open_out made{};
};

}  // namespace granary::fs
