// SPDX-License-Identifier: Apache-2.0
// Any bytes, with up to three descriptors, on a file server's export control socket; once as they are, once behind a
// valid header of a type for it.
#include <fcntl.h>
#include <sys/socket.h>

#include <cstdlib>
#include <cstring>

#include "vmpool/base/log.h"
#include "vmpool/fs/export_client.h"
#include "vmpool/fs/export_server.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace granary;
  set_log_level(LogLevel::kError);
  if (size < 2 || size > kMaxMessageBytes / 2) return 0;
  static const std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  fs::ExportServer server(
      *loop, {.add = [](const std::string& name, Fd fd, bool) -> Status {
                if (!fd.valid() || name.size() > sizeof(control::AddExport::name)) std::abort();
                if (!fs::is_export_name(name)) return Error(Errc::kInvalidArgument, name);
                return ok();
              },
              .remove = [](const std::string& name) -> Status { return Error::from_errno(ENOENT, name); }});
  SocketPair pair = std::move(*create_message_socket_pair());
  if (!server.serve(std::move(pair.second))) std::abort();
  const Fd here(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const std::vector<int> fds(data[0] % 4, here.get());
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data + 2, size - 2));
  (void)send_message(pair.first.get(), bytes, fds);
  if (!loop->run_once(0)) std::abort();
  const auto type = (data[1] & 1) != 0 ? control::Type::kAddExport : control::Type::kRemoveExport;
  (void)control::send_bytes(pair.first.get(), type, 1, bytes, fds);
  if (!loop->run_once(0)) std::abort();
  return 0;
}
