// SPDX-License-Identifier: Apache-2.0
// A hostile guest: messages of any shape to a real server with a directory to write to and one to read, in a folder of
// their own. A message is (opcode u8, node u8, length u8, body): nodes below 8 are ids that the server gave, others are
// taken from the body. Whatever is outside of the two directories must stay as it is.
#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "vmpool/base/log.h"
#include "vmpool/fs/file_server.h"

namespace {

using namespace granary;
using namespace granary::fs;

class Guest {
 public:
  Guest() : loop_(*EventLoop::create()) {
    std::string name = (std::filesystem::temp_directory_path() / "granary-fuzz-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr || ::chdir("/proc/self/fd") != 0) std::abort();
    top_ = name;
    for (const char* folder : {"rw", "ro"}) std::filesystem::create_directory(top_ / folder);
    std::ofstream(top_ / "ro" / "file") << "as it was";
    std::ofstream(top_ / "secret") << "outside";
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) std::abort();
    socket_ = Fd(fds[0]);
    server_ = std::move(*FileServer::create(*loop_, Fd(fds[1]), {.nodes = 32, .handles = 16}, [] {}));
    for (const char* folder : {"rw", "ro"}) {
      if (!server_->add_export(folder, *open_file((top_ / folder).string(), O_PATH),
                               *folder == 'r' && folder[1] == 'o')) {
        std::abort();
      }
    }
    fuse_init_in init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = 36;
    tell(FUSE_INIT, 0, {reinterpret_cast<const char*>(&init), sizeof(init)});
    for (const char* name_of : {"rw", "ro"}) tell(FUSE_LOOKUP, FUSE_ROOT_ID, std::string(name_of) + '\0');
  }
  ~Guest() {
    server_.reset();
    std::ifstream secret(top_ / "secret");
    std::ifstream file(top_ / "ro" / "file");
    std::string text[2];
    std::getline(secret, text[0]);
    std::getline(file, text[1]);
    if (text[0] != "outside" || text[1] != "as it was") std::abort();
    std::filesystem::remove_all(top_);
  }
  void tell(uint32_t opcode, uint64_t node, std::string body) {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof(header) + body.size());
    header.opcode = opcode;
    header.unique = 2;
    header.nodeid = node < 8 && node < ids_.size() ? ids_[node] : node;
    const std::string bytes = std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + body;
    (void)::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)loop_->run_once(0);
    char answer[8192];
    const ssize_t n = ::recv(socket_.get(), answer, sizeof(answer), MSG_DONTWAIT);
    fuse_out_header out{};
    if (n < static_cast<ssize_t>(sizeof(out) + sizeof(uint64_t))) return;
    std::memcpy(&out, answer, sizeof(out));
    uint64_t id = 0;
    std::memcpy(&id, answer + sizeof(out), sizeof(id));
    if (out.error == 0 && ids_.size() < 8) ids_.push_back(id);
  }

 private:
  std::unique_ptr<EventLoop> loop_;
  std::filesystem::path top_;
  std::unique_ptr<FileServer> server_;
  Fd socket_;
  std::vector<uint64_t> ids_ = {0, FUSE_ROOT_ID};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  set_log_level(LogLevel::kError);
  Guest guest;
  for (size_t at = 0; at + 3 <= size;) {
    const size_t length = std::min<size_t>(data[at + 2], size - at - 3);
    const std::string body(reinterpret_cast<const char*>(data) + at + 3, length);
    // Blocking on the disk makes no finding.
    const uint8_t opcode = data[at] % 52;
    if (opcode != FUSE_FSYNC && opcode != FUSE_FSYNCDIR) guest.tell(opcode, data[at + 1], body);
    at += 3 + length;
  }
  return 0;
}
