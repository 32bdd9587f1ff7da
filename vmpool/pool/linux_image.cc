// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/linux_image.h"

#include <unistd.h>

#include "vmpool/kvm/preflight.h"

namespace granary::pool {

TemplateSource linux_image(const std::string& name) {
  static const std::string kExtra = kvm::extra_command_line(kvm::run_preflight());
  const std::string folder = std::string(GRANARY_GUEST_DIR) + "/" + name;
  return {.kernel_path = folder + "/vmlinuz",
          .initramfs_path = folder + "/initramfs.cpio",
          .command_line = "console=ttyS0 reboot=k panic=-1 clocksource=kvm-clock" + kExtra};
}

std::string missing_image(const TemplateSource& image) {
  for (const std::string& file : {image.kernel_path, image.initramfs_path}) {
    if (::access(file.c_str(), R_OK) != 0) return "guest image is missing: " + file + "; make guest-kernel makes it";
  }
  return "";
}

}  // namespace granary::pool
