// SPDX-License-Identifier: Apache-2.0
// Rows about a guest's files, by virtio-fs and by virtio-blk, against the file system of this host.
#include <fcntl.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tests/bench/guest_shell.h"
#include "tests/bench/rows.h"
#include "vmpool/fs/export_client.h"
#include "vmpool/pool/clone.h"

namespace granary::bench {
namespace {

using std::chrono::minutes;

constexpr size_t kFileBytes = size_t{64} << 20;
constexpr int kSmallFiles = 2000;
constexpr unsigned kRounds = 5;

// A folder with one big file and a folder of small ones; and the same as an ext4 image.
struct Content {
  std::string folder;
  std::string image;
};

Result<Content> make_content(const std::string& folder) {
  const Content content{folder + "/files", folder + "/files.ext4"};
  std::error_code code;
  std::filesystem::create_directories(content.folder + "/small", code);
  std::ofstream big(content.folder + "/big");
  std::string block(1 << 20, '\0');
  for (size_t at = 0; at < kFileBytes; at += block.size()) {
    for (size_t i = 0; i < block.size(); i += 64) block[i] = static_cast<char>(at >> 20);
    big << block;
  }
  for (int n = 0; n < kSmallFiles; ++n) {
    std::ofstream(content.folder + "/small/" + std::to_string(n)) << "a small file, as of a program's modules\n";
  }
  if (!big.flush()) return Error(Errc::kNotSupported, "write to " + content.folder);
  const std::string said =
      GRANARY_TRY(shell("exec 2>&1; truncate -s 128M " + content.image + " && mkfs.ext4 -q -F -d " + content.folder +
                        " " + content.image + " && echo made"));
  if (said != "made\n") return Error(Errc::kNotSupported, "mkfs.ext4 (e2fsprogs): " + said);
  return content;
}

// A clone that has the content on /files (virtio-fs) and on /disk (virtio-blk). Destroyed with its owner.
class FilesClone {
 public:
  explicit FilesClone(Lab& lab) : lab_(lab) {}
  ~FilesClone() {
    if (clone_) clone_->destroy();
  }
  Status start(const Guest& guest, const std::string& programs, const Content& content) {
    const pool::Template* const snapshot = GRANARY_TRY(lab_.template_of(guest));
    pool::Attachments attachments;
    attachments.shares = true;
    attachments.disks.push_back({GRANARY_TRY(open_file(content.image, O_RDONLY)), true});
    clone_ = GRANARY_TRY(pool::Clone::create({lab_.spawner(), groups_, journal_}, "bench"));
    GRANARY_TRY(clone_->make_shell(shape()));
    GRANARY_TRY(clone_->restore(*snapshot));
    GRANARY_TRY(clone_->probe(minutes(2)));
    GRANARY_TRY(clone_->park());
    GRANARY_TRY(clone_->attach(attachments));
    (void)GRANARY_TRY(clone_->hand_over("bench", nullptr, minutes(2)));
    auto exports = GRANARY_TRY(fs::ExportClient::connect(fs::export_socket_beside(clone_->socket_path())));
    const Fd folder = GRANARY_TRY(open_file(content.folder, O_PATH));
    GRANARY_TRY(exports.add("files", folder.get(), true));
    const std::string program = GRANARY_TRY(read_file(programs + "/fs-speed"));
    const std::string said = GRANARY_TRY(
        shell_in_guest(clone_->socket_path(),
                       "exec 2>&1; cat >/tmp/fs-speed && chmod 755 /tmp/fs-speed && mkdir -p /share /disk && "
                       "mount -t virtiofs granary /share && mount -t ext4 -o ro /dev/vda /disk && echo mounted",
                       program));
    return said == "mounted\n" ? ok() : Status(Error(Errc::kNotSupported, "mounts of the guest: " + said));
  }
  // With nothing in the guest's caches.
  Result<double> measure(const std::string& arguments) {
    return figure(GRANARY_TRY(shell_in_guest(
        clone_->socket_path(), "echo 3 >/proc/sys/vm/drop_caches; /tmp/fs-speed " + arguments + " 2>&1")));
  }

 private:
  Lab& lab_;
  pool::CloneGroups groups_{.create = [](const std::string&) { return Result<Fd>(Fd()); },
                            .add = [](const std::string&, int32_t) { return ok(); },
                            .remove = [](const std::string&) { return ok(); }};
  pool::CloneJournal journal_;
  std::shared_ptr<pool::Clone> clone_;
};

struct Question {
  const char* kind;
  const char* path;
  const char* what;
};
constexpr Question kQuestions[] = {{"read", "big", "bytes/s of a file of 64 MiB, read once from end to end"},
                                   {"stat", "small", "files/s, lstat of 2000 in one folder"},
                                   {"open", "small", "files/s, open, read and close of 2000 small ones"}};

Result<std::vector<Row>> measure(Lab& lab, const Guest& guest, const std::string& programs) {
  const Content content = GRANARY_TRY(make_content(lab.folder()));
  FilesClone clone(lab);
  GRANARY_TRY(clone.start(guest, programs, content));
  std::vector<Row> rows;
  for (const Question& question : kQuestions) {
    for (const auto& [device, mount] : {std::pair("virtiofs", "/share/files/"), std::pair("virtioblk", "/disk/")}) {
      Row row{.name = std::string(device) + "_" + question.kind + "_ratio",
              .guest = guest.name,
              .unit = "ratio",
              .clock = std::string(question.what) +
                       ": in the guest, its caches empty / on this host, which has it all in its page cache",
              .samples = {},
              .skipped = ""};
      for (unsigned i = 0; i < kRounds; ++i) {
        const double here = GRANARY_TRY(figure(GRANARY_TRY(
            shell(programs + "/fs-speed " + question.kind + " " + content.folder + "/" + question.path + " 2>&1"))));
        const double there = GRANARY_TRY(clone.measure(std::string(question.kind) + " " + mount + question.path));
        std::fprintf(stderr, "granary-bench: %s %s: %.0f/s, host %.0f/s\n", device, question.kind, there, here);
        row.samples.push_back(there / here);
      }
      rows.push_back(row);
    }
  }
  return rows;
}

}  // namespace

std::vector<RowSpec> fs_rows(Lab* lab, const Settings& settings) {
  std::vector<RowSpec> rows;
  for (const Guest& guest : settings.linux_guests) {
    rows.push_back({"virtiofs_read_ratio", guest.name, [=] { return measure(*lab, guest, settings.programs); }});
  }
  return rows;
}

}  // namespace granary::bench
