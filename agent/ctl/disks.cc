// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/disks.h"

#include <CLI/CLI.hpp>
#include <filesystem>

namespace granary::ctl {

void define_disks(CLI::App& command, std::vector<std::string>& disks) {
  command
      .add_option("--disk", disks,
                  "PATH[:ro]: an image file or block device of the agent's host as the guest's next disk (/dev/vda, "
                  "/dev/vdb, …); may be repeated")
      ->allow_extra_args(false);
}

Status add_disks(v1::AcquireRequest& request, const std::vector<std::string>& disks) {
  static constexpr std::string_view kReadOnly = ":ro";
  for (std::string path : disks) {
    const bool read_only = path.ends_with(kReadOnly);
    if (read_only) path.resize(path.size() - kReadOnly.size());
    if (path.empty()) return Error(Errc::kInvalidArgument, "--disk: give PATH or PATH:ro");
    std::error_code failed;
    const std::filesystem::path absolute = std::filesystem::absolute(path, failed);
    if (failed) return Error(failed, "--disk " + path);
    v1::Disk* const disk = request.add_disks();
    disk->set_path(absolute.string());
    disk->set_read_only(read_only);
  }
  return ok();
}

}  // namespace granary::ctl
