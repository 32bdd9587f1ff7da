// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/shares.h"

#include <fcntl.h>

#include "vmpool/base/fd.h"

namespace granary::shim {

Result<fs::ExportClient*> Shares::connected() {
  if (!client_) client_ = GRANARY_TRY(fs::ExportClient::connect(socket_));
  return &*client_;
}

void Shares::drop_if_out_of_step(const Error& error) {
  if (error.is(Errc::kDeadlineExceeded) || error.is(Errc::kProtocolMalformed) || error.is(Errc::kPeerGone)) {
    client_.reset();
  }
}

Result<std::string> Shares::add(const std::string& host_path, bool read_only) {
  const Fd file = GRANARY_TRY(open_file(host_path, O_PATH));
  const auto client = connected();
  if (!client && client.error().is_errno(ENOENT)) {
    return Error(Errc::kNotSupported, host_path + ": the pod's microVM has no file server; its pool needs devices.fs: true");
  }
  if (!client) return client.error();
  const std::string name = "s" + std::to_string(next_++);
  const Status added = (*client)->add(name, file.get(), read_only);
  if (added) return name;
  drop_if_out_of_step(added.error());
  return Error(added.error().code(), "share " + host_path + ": " + added.error().context());
}

Status Shares::remove(const std::string& name) {
  const auto client = connected();
  if (!client && (client.error().is_errno(ENOENT) || client.error().is_errno(ECONNREFUSED))) return ok();
  if (!client) return client.error();
  const Result<bool> removed = (*client)->remove(name);
  if (removed) return ok();
  const Error why = removed.error();
  drop_if_out_of_step(why);
  return why.is(Errc::kPeerGone) ? ok() : Status(why);
}

}  // namespace granary::shim
