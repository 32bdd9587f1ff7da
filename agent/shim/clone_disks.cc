// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/clone_disks.h"

#include "granary/v1/attach.pb.h"
#include "vmpool/base/log.h"

namespace granary::shim {
namespace {

constexpr const char* kService = "granary.v1.Pool";
constexpr std::chrono::seconds kLimit{30};

}  // namespace

void CloneDisks::attach(int file, bool read_only, std::function<void(Result<uint32_t>)> done) {
  v1::AttachRequest request;
  request.set_clone_id(clone_id_);
  request.set_read_only(read_only);
  client_.call(
      kService, "Attach", request.SerializeAsString(), kLimit,
      [done = std::move(done)](const Result<std::string>& result) {
        if (!result) return done(result.error());
        v1::AttachResponse response;
        if (!response.ParseFromString(*result)) return done(Error(Errc::kProtocolMalformed, "the agent's answer"));
        done(response.disk());
      },
      file);
}

void CloneDisks::detach(uint32_t disk) {
  v1::DetachRequest request;
  request.set_clone_id(clone_id_);
  request.set_disk(disk);
  client_.call(kService, "Detach", request.SerializeAsString(), kLimit, [disk](const Result<std::string>& result) {
    if (!result) log_line(LogLevel::kWarn, "detach disk %u: %s", disk, result.error().message().c_str());
  });
}

}  // namespace granary::shim
