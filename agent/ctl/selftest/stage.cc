// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/stage.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "agent/exec_request.h"
#include "vmpool/pool/exec_session.h"

namespace granary::ctl::selftest {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr seconds kCallLimit{30};
constexpr seconds kExecLimit{60};
constexpr seconds kStartLimit{30};
constexpr seconds kEndLimit{60};
constexpr milliseconds kLook{100};
constexpr size_t kMaxOutput = 64 * 1024;
constexpr size_t kMaxWords = 500;
constexpr int kClockLooks = 3;

int64_t now_ns() { return std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count(); }

// JSON is YAML, and quotes any path.
std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Status write_config(const StageOptions& options, const std::string& folder) {
  const std::string path = folder + "/granary.yaml";
  std::ofstream(path)
      << "run_dir: " << quoted(folder + "/run") << "\nstate_dir: " << quoted(folder + "/state")
      << "\ncontainerd_events: " << quoted(folder + "/events.sock")
      << "\nshutdown_grace: 1s\nguest: {kernel: " << quoted(options.kernel)
      << ", initramfs: " << quoted(options.initramfs) << "}\npools:\n  - name: selftest\n    vcpus: 2\n"
      << "    memory: 256MiB\n    size: 2\n    max: " << options.max_clones + 4
      << "\n    refill_concurrency: 2\n    boot_timeout: 300s\n    probe_timeout: 60s\n    identity_timeout: 60s\n";
  if (!fs::exists(path)) return Error::from_errno(EIO, "write " + path);
  return ok();
}

Result<std::unique_ptr<pool::ExecSession>> start_script(const v1::Clone& clone, const std::string& script, bool input) {
  guest::v1::Exec exec = GRANARY_TRY(agent::to_exec({.argv = {"sh", "-c", script}, .env = {}, .cwd = {}}));
  exec.set_has_stdin(input);
  return pool::ExecSession::start(clone.socket_path(), exec, steady_clock::now() + kExecLimit);
}

}  // namespace

Result<std::unique_ptr<Stage>> Stage::start(const StageOptions& options, const std::string& folder,
                                            Interrupt& interrupt) {
  GRANARY_TRY(write_config(options, folder));
  std::vector<std::string> argv = {options.programs + "/granaryd",
                                   "--config",
                                   folder + "/granary.yaml",
                                   "--libexec-dir",
                                   options.programs,
                                   "--kvm",
                                   options.kvm,
                                   "--cgroup-parent",
                                   stage_cgroup()};
  if (options.skip_preflight) argv.emplace_back("--skip-preflight");
  Child agent = GRANARY_TRY(Child::start(argv, {}, {.output = "", .errors = folder + "/granaryd.log"}));
  std::unique_ptr<Stage> stage(new Stage(folder, interrupt, std::move(agent)));
  const Status connected = stage->connect();
  if (!connected) return Error(connected.error().code(), connected.error().context() + ": " + stage->last_words());
  return stage;
}

Status Stage::connect() {
  const std::string socket = folder_ + "/run/granaryd.sock";
  const auto limit = steady_clock::now() + kStartLimit;
  for (;;) {
    GRANARY_TRY(interrupt_.check());
    Result<Client> client = Client::connect(socket);
    if (client) {
      client_ = *std::move(client);
      return ok();
    }
    if (!agent_.running()) return Error(Errc::kPeerGone, "the self-test's granaryd ended at its start");
    if (steady_clock::now() > limit)
      return Error(client.error().code(), "the self-test's granaryd, " + client.error().context());
    interrupt_.wait(kLook);
  }
}

template <class Request, class Response>
Result<Response> Stage::call(grpc::Status (v1::Pool::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                             const Request& request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kCallLimit);
  Response response;
  const grpc::Status status = (client_->stub().*method)(&context, request, &response);
  if (!status.ok()) return api::from_grpc(status);
  return response;
}

Result<v1::PoolStatus> Stage::pool() {
  const v1::StatusResponse status = GRANARY_TRY(call(&v1::Pool::Stub::Status, v1::StatusRequest()));
  if (status.pools().empty()) return Error(Errc::kPoolUnknown, "the self-test's pool");
  return status.pools(0);
}

Status Stage::wait_warm(seconds limit) {
  const auto deadline = steady_clock::now() + limit;
  for (;;) {
    GRANARY_TRY(interrupt_.check());
    const v1::PoolStatus pool = GRANARY_TRY(this->pool());
    if (pool.template_state().starts_with("failed"))
      return Error(Errc::kVmmFailed, "template " + pool.template_state());
    if (pool.target() > 0 && pool.warm() >= pool.target() && pool.restoring() == 0 && pool.reclaiming() == 0)
      return ok();
    if (steady_clock::now() > deadline) {
      return Error(Errc::kDeadlineExceeded, "the pool did not become warm: template " + pool.template_state() + ", " +
                                                std::to_string(pool.warm()) +
                                                " warm, last error: " + pool.last_error());
    }
    interrupt_.wait(kLook);
  }
}

// In slices, so that an interruption does not wait for the pool.
Result<std::unique_ptr<HeldClone>> Stage::take(seconds limit) {
  const auto deadline = steady_clock::now() + limit;
  v1::AcquireRequest request;
  request.set_wait_ms(1000);
  for (;;) {
    GRANARY_TRY(interrupt_.check());
    auto held = HeldClone::take(*client_, request);
    if (held || !held.error().is(Errc::kPoolEmpty) || steady_clock::now() > deadline) return held;
  }
}

Result<Ran> Stage::run(const v1::Clone& clone, const std::string& script) {
  const auto session = GRANARY_TRY(start_script(clone, "exec 2>&1; " + script, false));
  const auto deadline = steady_clock::now() + kExecLimit;
  Ran ran;
  while (steady_clock::now() < deadline) {
    GRANARY_TRY(interrupt_.check());
    const auto event = GRANARY_TRY(session->next(steady_clock::now() + kLook));
    if (!event) continue;
    if (event->kind == pool::ExecEvent::Kind::kExited) {
      ran.status = event->exit_status;
      return ran;
    }
    ran.output += event->data.substr(0, kMaxOutput - std::min(ran.output.size(), kMaxOutput));
  }
  return Error(Errc::kGuestUnresponsive, "a script in clone " + clone.id() + " did not end within a minute");
}

// The tightest of several looks: what the look took is what the comparison cannot tell.
Result<Stage::Clocks> Stage::clocks(const v1::Clone& clone) {
  const auto session = GRANARY_TRY(start_script(clone, clock_script(), true));
  std::optional<Clocks> best;
  for (int look = 0; look < kClockLooks; ++look) {
    const auto deadline = steady_clock::now() + kExecLimit;
    std::string output;
    const int64_t before = now_ns();
    GRANARY_TRY(session->write_stdin("x\n", deadline));
    std::optional<GuestClocks> guest;
    while (!(guest = parse_clocks(output))) {
      GRANARY_TRY(interrupt_.check());
      const auto event = GRANARY_TRY(session->next(steady_clock::now() + kLook));
      const bool over = event && event->kind == pool::ExecEvent::Kind::kExited;
      if (over || output.size() > kMaxOutput || steady_clock::now() > deadline) {
        return Error(Errc::kGuestProtocol,
                     "clone " + clone.id() + " does not tell its clocks: " + output.substr(0, 200));
      }
      if (event) output += event->data;
    }
    const int64_t after = now_ns();
    const Clocks seen{
        .guest = *guest, .off_ns = outside_ns(guest->realtime_ns, before, after), .look_ns = after - before};
    if (!best || seen.look_ns < best->look_ns) best = seen;
  }
  return *best;
}

Result<std::vector<std::string>> Stage::audit() {
  const v1::AuditResponse response = GRANARY_TRY(call(&v1::Pool::Stub::Audit, v1::AuditRequest()));
  return std::vector<std::string>(response.differences().begin(), response.differences().end());
}

Status Stage::end() {
  client_.reset();
  const int code = agent_.end(kEndLimit, interrupt_);
  if (code != 0)
    return Error(Errc::kVmmFailed,
                 "the self-test's granaryd ended with code " + std::to_string(code) + ": " + last_words());
  return ok();
}

Stage::~Stage() {
  client_.reset();
  if (agent_.running()) agent_.end(kEndLimit, interrupt_);
}

std::string Stage::last_words() const {
  std::ifstream log(folder_ + "/granaryd.log");
  std::string last;
  for (std::string line; std::getline(log, line);) {
    if (!line.empty()) last = line;
  }
  return last.substr(0, kMaxWords);
}

std::string stage_cgroup() { return "granary.slice/selftest-" + std::to_string(::getpid()); }

std::vector<std::string> cgroup_folders() {
  std::vector<std::string> all;
  std::error_code code;
  const fs::path root = "/sys/fs/cgroup";
  std::vector<fs::path> roots = {root};
  for (const auto& entry : fs::directory_iterator(root, code)) roots.push_back(entry.path());  // v1: one a controller
  for (const fs::path& each : roots) {
    if (fs::is_directory(each / stage_cgroup(), code)) all.push_back((each / stage_cgroup()).native());
  }
  return all;
}

void remove_cgroup_folders() {
  for (const std::string& top : cgroup_folders()) {
    std::error_code code;
    for (const auto& entry : fs::directory_iterator(top, code)) ::rmdir(entry.path().c_str());
    ::rmdir(top.c_str());
  }
}

}  // namespace granary::ctl::selftest
