// SPDX-License-Identifier: Apache-2.0
#include "agent/daemon.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <thread>

#include "agent/api_server.h"
#include "agent/config_watch.h"
#include "agent/host_programs.h"
#include "agent/log_text.h"
#include "agent/metrics.h"
#include "agent/pool_service.h"
#include "agent/reconcile.h"
#include "agent/reload.h"
#include "agent/resolvers.h"
#include "agent/sandbox_controller.h"
#include "agent/shim/own_names.h"
#include "agent/shim_door.h"
#include "agent/shim_watch.h"
#include "agent/shims.h"
#include "agent/sizer.h"
#include "agent/spawner_process.h"
#include "agent/state_lock.h"
#include "vmpool/base/event_loop.h"
#include "vmpool/kvm/host_fingerprint.h"
#include "vmpool/kvm/preflight.h"
#include "vmpool/pool/container_session.h"

namespace granary::agent {
namespace {

// SIGTERM and SIGINT as a descriptor. They are blocked in every thread, and so is ConfigWatch's SIGHUP: block_signals()
// comes before any starts.
sigset_t end_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  ::sigaddset(&set, SIGINT);
  return set;
}

void block_signals() {
  sigset_t set = end_signals();
  ::sigaddset(&set, SIGHUP);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

Result<Fd> end_signal_fd() {
  const sigset_t set = end_signals();
  Fd fd(::signalfd(-1, &set, SFD_CLOEXEC));
  if (!fd.valid()) return Error::last_os_error("signalfd");
  return fd;
}

// True: a signal came; false: `stop` was raised first.
bool wait_for_signal(const Fd& signals, const EventFd& stop) {
  pollfd fds[2] = {{.fd = signals.get(), .events = POLLIN, .revents = 0},
                   {.fd = stop.get(), .events = POLLIN, .revents = 0}};
  while (::poll(fds, 2, -1) < 0 && errno == EINTR) {
  }
  signalfd_siginfo info{};
  if (fds[0].revents == 0 || ::read(signals.get(), &info, sizeof(info)) != sizeof(info)) return false;
  spdlog::info("signal received number={} sender_pid={}", info.ssi_signo, info.ssi_pid);
  return true;
}

struct Host {
  bool runs_linux = false;
  std::string extra_command_line;  // of Linux guests
};

Host preflight(const std::string& kvm_path) {
  Host host;
  const std::vector<kvm::Check> checks = kvm::run_preflight(kvm_path);
  for (const kvm::Check& check : checks) {
    if (check.verdict == kvm::Check::Verdict::kOk) continue;
    spdlog::warn("preflight check={} verdict={} detail=\"{}\" remedy=\"{}\"", check.name, kvm::to_string(check.verdict),
                 check.detail, check.remedy);
  }
  host.runs_linux = kvm::can_run_linux(checks);
  host.extra_command_line = kvm::extra_command_line(checks);
  spdlog::log(host.runs_linux ? spdlog::level::info : spdlog::level::err, "preflight verdict=\"{}\"",
              log_value(kvm::one_line_verdict(checks)));
  return host;
}

// What this host's KVM needs goes into the command line of Linux guests, which is part of the template key.
Config adapt(Config config, const Host& host) {
  if (host.extra_command_line.empty()) return config;
  for (pool::PoolSettings& pool : config.pools) {
    if (pool.source.initramfs_path.empty()) continue;
    pool.source.command_line += host.extra_command_line;
    spdlog::info("this KVM needs more of the guest's command line pool={} added=\"{}\"", pool.name,
                 host.extra_command_line);
  }
  return config;
}

constexpr std::chrono::seconds kGuestLimit{30};
constexpr size_t kMostResolvConfBytes = 64 * 1024;

// One that cannot be looked at is refused when its clone is taken.
bool has_unlimited_memory(const Cgroups* groups, const std::string& cgroup_parent) {
  if (groups == nullptr) return false;
  const auto pod = groups->find_pod(cgroup_parent);
  const auto limited = pod ? groups->has_memory_limit(*pod) : pod.error();
  return limited && !*limited;
}

SandboxBackend sandbox_backend(PoolSet& pools, Shims& shims, const Cgroups* groups) {
  const Result<std::string> resolv_conf = read_file("/etc/resolv.conf", kMostResolvConfBytes);
  return {.acquire = [&pools](const PoolSet::Wish& wish) -> Result<pool::CloneInfo> {
            return GRANARY_TRY(pools.acquire(wish)).clone;
          },
          .release = [&pools](const std::string& clone_id) { return pools.release(clone_id); },
          .check_running = [&pools](const std::string& clone_id) -> Status {
            GRANARY_TRY(pools.running(clone_id));
            return ok();
          },
          .prepare_guest = [](const pool::CloneInfo& clone, const guest::v1::Pod& pod) -> Status {
            return pool::set_pod(clone.socket_path, pod, std::chrono::steady_clock::now() + kGuestLimit);
          },
          .start_shim = [&shims](const std::string& sandbox, const auto& clone,
                                 const std::string& netns) { return shims.start(sandbox, clone, netns); },
          .stop_shim = [&shims](const std::string& sandbox) { return shims.stop(sandbox); },
          .task_address = [&shims](const std::string& sandbox) { return shims.address(sandbox); },
          .has_unlimited_memory = [groups](const auto& parent) { return has_unlimited_memory(groups, parent); },
          .host_resolv_conf = resolv_conf ? *resolv_conf : ""};
}

// Without KVM no template can be built or loaded: what the fingerprint would protect does not exist.
std::string host_fingerprint(const std::string& kvm_path) {
  const auto text = [&]() -> Result<std::string> {
    const kvm::Kvm device = GRANARY_TRY(kvm::Kvm::open(kvm_path.c_str()));
    return kvm::to_text(GRANARY_TRY(kvm::read_host_fingerprint(device)));
  }();
  if (text) return *text;
  spdlog::warn("no host fingerprint error=\"{}\"", log_value(text.error().message()));
  return "";
}

std::unique_ptr<Cgroups> open_cgroups(const std::string& parent) {
  auto groups = Cgroups::open(parent);
  if (!groups) {
    spdlog::warn("running without cgroups: clones are neither limited nor accounted error=\"{}\"",
                 groups.error().message());
    return nullptr;
  }
  spdlog::info("cgroups version={} parent={}", static_cast<int>((*groups)->version()), parent);
  return *std::move(groups);
}

MemoryFiles memory_files(const std::string& proc, const Cgroups* groups) {
  MemoryFiles files{.meminfo = proc + "/meminfo", .stalls = {proc + "/pressure/memory"}};
  if (groups != nullptr) files.stalls.push_back(groups->pressure_file());
  return files;
}

Result<SpawnerFiles> spawner_files(const DaemonOptions& options) {
  SpawnerFiles files{.libexec_dir = options.libexec_dir, .kvm_path = options.kvm_path};
  if (options.host_libexec_dir.empty()) return files;
  files.libexec_dir = GRANARY_TRY(install_programs(options.libexec_dir, options.host_libexec_dir, GRANARY_VERSION));
  files.as_unit = true;
  const OldPrograms old = remove_unused_programs(files.libexec_dir);
  for (const std::string& path : old.removed) spdlog::info("programs of another version removed directory={}", path);
  for (const std::string& why : old.left_over) {
    spdlog::error("programs of other versions left over error=\"{}\"", log_value(why));
  }
  return files;
}

void log_reconciled(const Reconciled& found, const Journal& journal) {
  if (journal.ignored_bytes() > 0) {
    spdlog::error("journal damaged at its end, clones that it named there are ended ignored_bytes={}",
                  journal.ignored_bytes());
  }
  for (const std::string& leak : found.leaks) spdlog::error("reconcile failed left_behind=\"{}\"", log_value(leak));
  if (found.adopt.empty() && found.ended.empty() && found.orphans_ended + found.groups_removed == 0) return;
  spdlog::warn("reconciled adopted={} ended_meanwhile={} orphans_ended={} cgroups_removed={}", found.adopt.size(),
               found.ended.size(), found.orphans_ended, found.groups_removed);
}

// The shims of the agent before this one: those of sandboxes that are still known live on.
void take_up_shims(const Reconciled& found, Shims& shims) {
  std::set<std::string> kept;
  for (const JournalClone& clone : found.adopt) kept.insert(SandboxController::sandbox_of(*clone.lease));
  for (const auto& [clone, reason] : found.ended) kept.insert(SandboxController::sandbox_of(*clone.lease));
  for (const std::string& leak : shims.reconcile(kept)) {
    spdlog::error("reconcile failed left_behind=\"{}\"", log_value(leak));
  }
}

// A pod whose shim has ended has lost its containers: their conversations with the guest were the shim's.
void end_pods_of_lost_shims(pool::SpawnerClient& spawner, PoolSet& pools) {
  spawner.on_shim_exit([&pools](const control::ShimRecord& record) {
    const std::string sandbox = control::text_of(record.shim.sandbox_id);
    const auto lease = pools.lease_of_owner(SandboxController::owner_of(sandbox));
    if (lease) pools.release_later(lease->clone.id, "ended: its shim has ended");
  });
}

// Those that ended while no agent ran.
void end_pods_without_shim(const Reconciled& found, Shims& shims, PoolSet& pools) {
  for (const JournalClone& clone : found.adopt) {
    if (!shims.was_lost(SandboxController::sandbox_of(*clone.lease))) continue;
    pools.release_later(clone.id, "ended: its shim ended while no agent ran");
  }
}

// Pods whose shims took them themselves: such a shim's end ends its pod, as the shims of granaryd's own do.
Result<std::unique_ptr<ShimWatch>> watch_own_shims(const Config& config, const Reconciled& found, PoolSet& pools) {
  auto watch = GRANARY_TRY(ShimWatch::start(config.run_dir, [&pools](const std::string& sandbox) {
    const auto lease = pools.lease_of_owner(shim::owner_of_sandbox(sandbox));
    if (lease) pools.release_later(lease->clone.id, "ended: its shim has ended");
  }));
  for (const JournalClone& clone : found.adopt) {
    const std::string sandbox = shim::sandbox_of_owner(clone.lease->owner_id);
    if (!sandbox.empty()) watch->watch(sandbox);
  }
  return watch;
}

ShimDoor::Pools door_to(PoolSet& pools, ShimWatch& watch, const Cgroups* groups) {
  return {.attach = [&](const std::string& clone, const pool::Disk& disk) { return pools.attach(clone, disk); },
          .detach = [&](const std::string& clone, uint32_t disk) { return pools.detach(clone, disk); },
          .acquire = [&](const PoolSet::Wish& wish) -> Result<Lease> {
            Lease lease = GRANARY_TRY(pools.acquire(wish));
            watch.watch(shim::sandbox_of_owner(wish.owner_id));
            return lease;
          },
          .release = [&](const std::string& owner) { return pools.release_owner(owner); },
          .has_unlimited_memory = [groups](const auto& parent) { return has_unlimited_memory(groups, parent); }};
}

// The clones of the agent before this one, and the sandboxes that hold them.
void take_up(const Reconciled& found, PoolSet& pools, SandboxController& sandboxes) {
  for (const JournalClone& clone : found.adopt) {
    sandboxes.restore(*clone.lease, clone.leased_unix_ns);
    if (const Status adopted = pools.adopt(clone); !adopted) {
      pools.remember_ended(clone.id, "ended: " + adopted.error().message());
      sandboxes.on_clone_ended(clone.id, adopted.error().message());
    }
  }
  for (const auto& [clone, reason] : found.ended) {
    sandboxes.restore(*clone.lease, clone.leased_unix_ns);
    pools.remember_ended(clone.id, reason);
    sandboxes.on_clone_ended(clone.id, reason);
  }
}

// The agent's own network, for the clones that live on and for those to come; nullptr when none is configured.
Result<std::unique_ptr<OwnNetwork>> start_own_network(const Config& config, const Reconciled& found) {
  std::vector<OwnNetwork::Held> held;
  for (const JournalClone& clone : found.adopt) {
    if (clone.lease->net) held.push_back({.address = clone.lease->address, .allow = clone.lease->net->allow});
  }
  if (config.network) {
    netplumb::RoutedNetwork settings = *config.network;
    if (settings.resolvers.empty()) settings.resolvers = host_resolvers();
    return OwnNetwork::start(settings, config.state_dir, held);
  }
  if (!held.empty()) {
    return Error(Errc::kConfigInvalid, "no `network`, but a clone that is still held has the address " +
                                           held.front().address + " in it; set it back, or release the clone first");
  }
  if (const Status removed = OwnNetwork::remove_leftovers(config.state_dir); !removed) {
    spdlog::error("own network is left error=\"{}\"", log_value(removed.error().message()));
  }
  return std::unique_ptr<OwnNetwork>();
}

pool::Measured measured_by(Metrics& metrics, const std::string& pool) {
  metrics.add_pool(pool);
  return [&metrics, pool](pool::Measure what, double value, const char* label) {
    metrics.measured(pool, what, value, label);
  };
}

MetricsSnapshot snapshot(const PoolSet& pools, const Journal& journal, const EventFeed& events) {
  MetricsSnapshot now{.pools = {},
                      .journal_records = journal.records(),
                      .journal_bytes = journal.bytes(),
                      .journal_compactions = journal.compactions(),
                      .events_lost = events.lost(),
                      .configuration_generation = pools.configuration().generation,
                      .configuration_refused = !pools.configuration().refused.empty()};
  for (pool::PoolStatus& status : pools.status()) now.pools.push_back({.status = std::move(status), .memory = {}});
  for (const auto& [name, memory] : pools.memory()) {
    const auto pool = std::ranges::find(now.pools, name, [](const auto& entry) { return entry.status.name; });
    if (pool == now.pools.end()) continue;
    // A re-shaped pool and those of its name that are retired.
    pool->memory.template_bytes += memory.template_bytes;
    pool->memory.idle_bytes += memory.idle_bytes;
    pool->memory.running_bytes += memory.running_bytes;
  }
  return now;
}

Result<std::unique_ptr<MetricsServer>> serve_metrics(const Config& config, const Metrics& metrics,
                                                     std::function<MetricsSnapshot()> look) {
  if (config.metrics_address.empty()) return std::unique_ptr<MetricsServer>();
  auto server = MetricsServer::start(config.metrics_address, metrics, std::move(look));
  if (server) spdlog::info("metrics address={} port={}", config.metrics_address, (*server)->port());
  return server;
}

struct Ending {
  Fd signals;
  EventFd stop;
};

// `door`: closed before the pools end, so that no shim is told that a clone is gone which runs on; it asks the next
// agent.
void serve_until_signal(PoolSet& pools, PoolService& service, ApiServer& server, const Ending& ending, Reload& reload,
                        std::unique_ptr<ConfigWatch> watch, std::unique_ptr<ShimDoor> door) {
  wait_for_signal(ending.signals, ending.stop);
  server.set_not_serving();
  service.drain();
  watch.reset();
  {
    std::jthread second_signal([&] {
      if (wait_for_signal(ending.signals, ending.stop)) service.hurry();
    });
    const bool all = service.wait_for_holds(std::chrono::steady_clock::now() + reload.shutdown_grace());
    if (!all) spdlog::warn("ending Hold calls that are still running");
    ending.stop.signal();
  }
  door.reset();
  pools.finish("the agent ends");
  service.end();
  server.shutdown();
}

// What must happen however serve() ends.
struct AtEnd {
  std::function<void()> action;
  ~AtEnd() { action(); }
};

Status serve(const DaemonOptions& options, const Host& host) {
  const Config config = adapt(options.config, host);
  const Ending ending{.signals = GRANARY_TRY(end_signal_fd()), .stop = GRANARY_TRY(EventFd::create())};
  GRANARY_TRY(make_directories(config.task_directory()));
  pool::TemplateStore templates = GRANARY_TRY(pool::TemplateStore::open(config.state_dir + "/templates"));
  const std::unique_ptr<Cgroups> groups = open_cgroups(options.cgroup_parent);
  const AtEnd remove_groups{[&] {
    if (groups) groups->remove_parent();
  }};
  const std::unique_ptr<SpawnerProcess> spawner =
      GRANARY_TRY(SpawnerProcess::connect_or_start(config, GRANARY_TRY(spawner_files(options))));
  const AtEnd end_spawner{[&] { spawner->wait_if_unused(); }};
  const std::unique_ptr<Journal> journal =
      GRANARY_TRY(Journal::open(config.run_dir + "/journal", GRANARY_TRY(host_boot_id())));
  Networks networks(*journal);
  const Reconciled found = GRANARY_TRY(reconcile(*journal, spawner->client(), groups.get(), networks));
  log_reconciled(found, *journal);
  const std::unique_ptr<OwnNetwork> own_network = GRANARY_TRY(start_own_network(config, found));
  EventFeed events;
  FlightLog flights;
  Metrics metrics(GRANARY_VERSION);
  Shims shims(spawner->client(), {.directory = config.task_directory(),
                                  .agent_socket = config.shim_door_path(),
                                  .events_socket = config.containerd_events});
  {
    const std::unique_ptr<PoolSet> pools =
        GRANARY_TRY(PoolSet::start(config, {.spawner = spawner->client(),
                                            .templates = templates,
                                            .host_fingerprint = host_fingerprint(options.kvm_path),
                                            .groups = groups.get(),
                                            .journal = *journal,
                                            .networks = networks,
                                            .own_network = own_network.get(),
                                            .shims = shims,
                                            .events = events,
                                            .flights = flights,
                                            .measure = [&](const auto& pool) { return measured_by(metrics, pool); },
                                            .run_dir = config.run_dir,
                                            .learned_path = config.state_dir + "/learned"}));
    PoolService service(*pools, events);
    take_up_shims(found, shims);
    SandboxController sandboxes(sandbox_backend(*pools, shims, groups.get()));
    pools->on_lease_ended([&sandboxes](const std::string& clone_id, const std::string& reason) {
      sandboxes.on_clone_ended(clone_id, reason);
    });
    take_up(found, *pools, sandboxes);
    end_pods_of_lost_shims(spawner->client(), *pools);
    end_pods_without_shim(found, shims, *pools);
    const AtEnd shims_end_alone{[&] { spawner->client().on_shim_exit({}); }};
    spawner->keep([&] {
      metrics.spawner_replaced();
      pools->spawner_replaced();
      shims.spawner_replaced();
    });
    const AtEnd stop_keeping{[&] { spawner->stop_keeping(); }};
    const std::unique_ptr<MetricsServer> metrics_server =
        GRANARY_TRY(serve_metrics(config, metrics, [&] { return snapshot(*pools, *journal, events); }));
    const std::unique_ptr<ShimWatch> watch_of_shims = GRANARY_TRY(watch_own_shims(config, found, *pools));
    std::unique_ptr<ShimDoor> door =
        GRANARY_TRY(ShimDoor::open(config.shim_door_path(), door_to(*pools, *watch_of_shims, groups.get())));
    const std::unique_ptr<ApiServer> server =
        GRANARY_TRY(ApiServer::start(config.socket_path(), {&service, &sandboxes}));
    spdlog::info("ready version={} socket={} pools={}", GRANARY_VERSION, config.socket_path(), config.pools.size());
    const Sizer sizer(*pools, events, memory_files(options.proc, groups.get()));
    Reload reload(
        options.source, *pools, [&host](Config newer) { return adapt(std::move(newer), host); }, config);
    auto watch =
        GRANARY_TRY(ConfigWatch::start(options.source.path(), [&reload](bool asked) { reload.reload(asked); }));
    serve_until_signal(*pools, service, *server, ending, reload, std::move(watch), std::move(door));
  }
  const size_t left = journal->clones().size();
  if (left == 0) {
    spdlog::info("ended, every clone is reclaimed");
  } else {
    spdlog::info("ended, clones with an explicit lease run on count={}", left);
  }
  return ok();
}

}  // namespace

int run_daemon(const DaemonOptions& options) {
  block_signals();
  ::signal(SIGPIPE, SIG_IGN);
  const auto lock = lock_state_directory(options.config.state_dir);
  if (!lock) {
    spdlog::error("start failed error=\"{}\"", log_value(lock.error().message()));
    return lock.error().is(Errc::kAlreadyRunning) ? kExitRunning : kExitFailed;
  }
  const Host host = preflight(options.kvm_path);
  if (!host.runs_linux && !options.skip_preflight) return kExitHost;
  const Status served = serve(options, host);
  if (!served) spdlog::error("ends error=\"{}\"", log_value(served.error().message()));
  return served ? kExitOk : kExitFailed;
}

}  // namespace granary::agent
