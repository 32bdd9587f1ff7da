// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/shares.h"

#include <fcntl.h>

#include "vmpool/base/fd.h"

namespace granary::shim {

Result<std::string> Shares::add(const std::string& host_path, bool read_only) {
  const Fd file = GRANARY_TRY(open_file(host_path, O_PATH));
  if (!client_) {
    auto client = fs::ExportClient::connect(socket_);
    if (!client && client.error().is_errno(ENOENT)) {
      return Error(Errc::kNotSupported, host_path + ": the pod's microVM has no file server; its pool needs devices.fs: true");
    }
    if (!client) return std::move(client).error();
    client_ = *std::move(client);
  }
  const std::string name = "s" + std::to_string(next_++);
  const Status added = client_->add(name, file.get(), read_only);
  if (!added) return Error(added.error().code(), "share " + host_path + ": " + added.error().context());
  return name;
}

Status Shares::remove(const std::string& name) {
  if (!client_) return ok();
  const Result<bool> removed = client_->remove(name);
  if (removed || removed.error().is(Errc::kPeerGone)) return ok();
  return removed.error();
}

}  // namespace granary::shim
