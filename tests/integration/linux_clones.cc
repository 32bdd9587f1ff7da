// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/linux_clones.h"

#include "vmpool/guest/guest.pb.h"
#include "vmpool/pool/exec_session.h"
#include "vmpool/pool/linux_image.h"

namespace granary::integration {

pool::SteadyTime in_time() { return std::chrono::steady_clock::now() + std::chrono::seconds(300); }

std::string until(const std::string& condition) { return "until " + condition + "; do usleep 20000; done\n"; }

void LinuxClones::SetUp() {
  bench_.emplace(GRANARY_VMM, "/dev/kvm");
  bench_->print_events = true;
  groups_ = bench_->resources().groups;
  pool::PoolSettings settings = bench_->settings();
  settings.shape = {.name = "linux", .vcpus = 1, .memory_bytes = 256 * kMiB};
  settings.source = pool::linux_image("distro");
  settings.size = 1;
  settings.refill_concurrency = 1;
  settings.boot_timeout = std::chrono::seconds(400);
  settings.probe_timeout = settings.identity_timeout = std::chrono::seconds(60);
  Result<std::unique_ptr<pool::Pool>> pool = pool::Pool::start(settings, bench_->resources());
  ASSERT_TRUE(pool) << pool.error().message();
  pool_ = std::move(*pool);
  const pool::SteadyTime limit = in_time();
  const auto settled = [&] { return pool_->status().warm == 1 || bench_->events("template-failed") > 0; };
  // Each wait is shorter than an emulated boot may take.
  while (!bench_->wait_until(settled) && std::chrono::steady_clock::now() < limit) continue;
  ASSERT_EQ(pool_->status().template_state, "ready") << pool_->status().last_error;
}

void LinuxClones::TearDown() {
  if (pool_) {
    EXPECT_EQ(pool_->status().leaks, 0U) << pool_->status().last_error;
  }
  pool_.reset();
  bench_.reset();
}

Result<std::shared_ptr<pool::Clone>> LinuxClones::bare_clone() {
  const pool::PoolStatus status = pool_->status();
  const pool::Template content = GRANARY_TRY(bench_->spawner().get_template(status.template_key));
  auto clone = GRANARY_TRY(pool::Clone::create({bench_->spawner(), *groups_, journal_}, "bare"));
  const auto bring_up = [&]() -> Status {
    GRANARY_TRY(clone->make_shell(status.shape));
    GRANARY_TRY(clone->restore(content));
    GRANARY_TRY(clone->probe(std::chrono::seconds(60)));
    GRANARY_TRY(clone->park());
    (void)GRANARY_TRY(clone->hand_over("bare", nullptr, std::chrono::seconds(60)));
    return ok();
  };
  if (const Status up = bring_up(); !up) {
    clone->destroy();
    return up.error();
  }
  return clone;
}

CommandEnd run_script(const std::string& socket_path, const std::string& script, std::string_view input) {
  guest::v1::Exec request;
  for (const std::string& word : {std::string("/bin/sh"), std::string("-c"), script}) request.add_argv(word);
  request.add_env("PATH=/bin");
  request.set_has_stdin(true);
  CommandEnd end;
  const auto session = pool::ExecSession::start(socket_path, request, in_time());
  if (!session) return {.status = -1, .output = session.error().message()};
  while (!input.empty()) {
    const std::string_view chunk = input.substr(0, pool::ExecSession::kStdinChunkBytes);
    if (const Status sent = (*session)->write_stdin(chunk, in_time()); !sent) break;
    input.remove_prefix(chunk.size());
  }
  (void)(*session)->close_stdin();
  for (;;) {
    const Result<std::optional<pool::ExecEvent>> event = (*session)->next(in_time());
    if (!event || !*event) return {.status = -1, .output = end.output + (event ? "timeout" : event.error().message())};
    end.output += (*event)->data;
    if ((*event)->kind != pool::ExecEvent::Kind::kExited) continue;
    end.status = (*event)->exit_status;
    return end;
  }
}

}  // namespace granary::integration
