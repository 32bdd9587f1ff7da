// SPDX-License-Identifier: Apache-2.0
#include "agent/metrics.h"

#include <netdb.h>
#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <exception>
#include <map>
#include <sstream>
#include <thread>

#include "vmpool/base/fd.h"

namespace granary::agent {
namespace {

using pool::Measure;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct HistogramSpec {
  Measure what;
  const char* name;
  const char* help;
  std::vector<double> buckets;
};
const std::vector<double> kShort = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                    0.05,   0.1,     0.25,   0.5,   1,      2.5,   5,    10};
const std::vector<double> kLong = {0.5, 1, 2.5, 5, 10, 25, 50, 100, 250};
const HistogramSpec kHistograms[] = {
    {Measure::kRestoreSeconds, "granary_restore_seconds", "Mapping a template into a shell and resuming it.", kShort},
    {Measure::kProbeSeconds, "granary_probe_seconds", "From the resume of a clone to its guest's answer.", kShort},
    {Measure::kAcquireSeconds, "granary_acquire_seconds", "From acquire to the acknowledged identity.", kShort},
    {Measure::kMoveSeconds, "granary_cgroup_move_seconds", "Of a hand-over: the VMM into its owner's cgroup.", kShort},
    {Measure::kIdentitySeconds, "granary_identity_seconds", "From unpark to the acknowledged identity.", kShort},
    {Measure::kRefillSeconds, "granary_refill_seconds", "Of a clone for the pool: begun until it is warm.", kShort},
    {Measure::kReclaimSeconds, "granary_reclaim_seconds", "Ending a clone until nothing of it is left.", kShort},
    {Measure::kTemplateSeconds, "granary_template_build_seconds", "Building a template, boot included.", kLong},
};

struct CounterSpec {
  Measure what;
  const char* name;
  const char* help;
  const char* label;                // nullptr: none beside the pool
  std::vector<const char*> values;  // that exist from the start
};
const CounterSpec kCounters[] = {
    {Measure::kAcquires, "granary_acquires_total", "Acquires.", "outcome", {"hit", "waited", "cold", "failed"}},
    {Measure::kRefills, "granary_refills_total", "Clones made for the pool.", "result", {"ok", "failed"}},
    {Measure::kEvictions,
     "granary_evictions_total",
     "Idle clones given up.",
     "reason",
     {"template", "spawner", "size", "memory", "policy"}},
    {Measure::kCloneFailures,
     "granary_clone_failures_total",
     "Clones that failed or were lost.",
     "state",
     {"spawned", "restoring", "probing", "warm", "acquiring", "unparked", "running", "reclaiming"}},
    {Measure::kVmmExits,
     "granary_vmm_exits_total",
     "VMMs of clones that ended.",
     "reason",
     {"reclaimed", "shutdown", "reboot", "panic", "triple-fault", "internal-error", "terminated", "lost",
      "seccomp-violation"}},
    {Measure::kLeaks, "granary_reclaim_leaks_total", "Resources not proven gone.", nullptr, {""}},
    {Measure::kTemplateBuilds, "granary_template_builds_total", "Templates built.", "result", {"ok", "failed"}},
};

MetricFamily family_of(MetricType type, const char* name, const char* help) {
  return {.name = name, .help = help, .type = type, .metric = {}};
}

void add(MetricFamily& family, std::vector<prometheus::ClientMetric::Label> labels, double value) {
  prometheus::ClientMetric metric;
  metric.label = std::move(labels);
  (family.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  family.metric.push_back(std::move(metric));
}

MetricFamily single(MetricType type, const char* name, const char* help, uint64_t value) {
  MetricFamily family = family_of(type, name, help);
  add(family, {}, static_cast<double>(value));
  return family;
}

std::vector<MetricFamily> families_of(const MetricsSnapshot& now) {
  MetricFamily clones = family_of(MetricType::Gauge, "granary_pool_clones", "Clones by state.");
  MetricFamily target = family_of(MetricType::Gauge, "granary_pool_target_clones", "Warm clones wanted.");
  MetricFamily wanted =
      family_of(MetricType::Gauge, "granary_pool_wanted_clones", "Idle clones that the policy wants.");
  MetricFamily memory = family_of(MetricType::Gauge, "granary_memory_bytes", "Host memory by kind.");
  for (const auto& [status, bytes] : now.pools) {
    const std::pair<const char*, uint32_t> states[] = {{"restoring", status.restoring},
                                                       {"warm", status.warm},
                                                       {"running", status.running},
                                                       {"reclaiming", status.reclaiming}};
    for (const auto& [state, n] : states) add(clones, {{"pool", status.name}, {"state", state}}, n);
    add(target, {{"pool", status.name}}, status.target);
    add(wanted, {{"pool", status.name}}, status.wanted);
    const std::pair<const char*, uint64_t> kinds[] = {{"template", bytes.template_bytes},
                                                      {"idle", bytes.idle_bytes},
                                                      {"running", bytes.running_bytes},
                                                      {"residue", status.usage.residue_bytes}};
    for (const auto& [kind, n] : kinds) {
      add(memory, {{"pool", status.name}, {"kind", kind}}, static_cast<double>(n));
    }
  }
  return {std::move(clones),
          std::move(target),
          std::move(wanted),
          std::move(memory),
          single(MetricType::Gauge, "granary_journal_records", "Records in the journal file.", now.journal_records),
          single(MetricType::Gauge, "granary_journal_bytes", "Size of the journal file.", now.journal_bytes),
          single(MetricType::Counter, "granary_journal_compactions_total", "Journal files written anew.",
                 now.journal_compactions),
          single(MetricType::Counter, "granary_events_lost_total", "Events that slow watchers lost.", now.events_lost),
          single(MetricType::Gauge, "granary_configuration_generation", "Generation that is live.",
                 now.configuration_generation),
          single(MetricType::Gauge, "granary_configuration_refused", "1: the newest file is refused.",
                 now.configuration_refused ? 1 : 0)};
}

// Connects and goes away.
void knock(const std::string& address, int port) {
  std::string host = address.substr(0, address.rfind(':'));
  if (host.starts_with('[')) host = host.substr(1, host.size() - 2);
  addrinfo numeric{};
  numeric.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  numeric.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &numeric, &found) != 0) return;
  const Fd peer(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (peer.valid()) (void)::connect(peer.get(), found->ai_addr, found->ai_addrlen);
  ::freeaddrinfo(found);
}

}  // namespace

struct Metrics::Impl {
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  prometheus::Counter* spawner_replaced = nullptr;
  std::map<Measure, std::pair<prometheus::Family<prometheus::Counter>*, const CounterSpec*>> counters;
  std::map<Measure, std::pair<prometheus::Family<prometheus::Histogram>*, const HistogramSpec*>> histograms;

  // The same object for the same labels.
  prometheus::Counter& counter(Measure what, const std::string& pool, const std::string& label) {
    const auto& [family, spec] = counters.at(what);
    if (spec->label == nullptr) return family->Add({{"pool", pool}});
    return family->Add({{"pool", pool}, {spec->label, label}});
  }
  prometheus::Histogram& histogram(Measure what, const std::string& pool) {
    const auto& [family, spec] = histograms.at(what);
    return family->Add({{"pool", pool}}, spec->buckets);
  }
};

Metrics::Metrics(const std::string& version) : impl_(std::make_unique<Impl>()) {
  prometheus::Registry& registry = *impl_->registry;
  prometheus::BuildGauge()
      .Name("granary_build_info")
      .Help("1; the version is a label.")
      .Register(registry)
      .Add({{"version", version}})
      .Set(1);
  impl_->spawner_replaced = &prometheus::BuildCounter()
                                 .Name("granary_spawner_replaced_total")
                                 .Help("Spawners that went and were replaced.")
                                 .Register(registry)
                                 .Add({});
  for (const CounterSpec& spec : kCounters) {
    impl_->counters[spec.what] = {&prometheus::BuildCounter().Name(spec.name).Help(spec.help).Register(registry),
                                  &spec};
  }
  for (const HistogramSpec& spec : kHistograms) {
    impl_->histograms[spec.what] = {&prometheus::BuildHistogram().Name(spec.name).Help(spec.help).Register(registry),
                                    &spec};
  }
}

Metrics::~Metrics() = default;

void Metrics::add_pool(const std::string& pool) {
  for (const CounterSpec& spec : kCounters) {
    for (const char* value : spec.values) impl_->counter(spec.what, pool, value);
  }
  for (const HistogramSpec& spec : kHistograms) impl_->histogram(spec.what, pool);
}

void Metrics::measured(const std::string& pool, Measure what, double value, const std::string& label) {
  if (impl_->counters.contains(what)) {
    impl_->counter(what, pool, label).Increment(value);
  } else {
    impl_->histogram(what, pool).Observe(value);
  }
}

void Metrics::spawner_replaced() { impl_->spawner_replaced->Increment(); }

std::string Metrics::text(const MetricsSnapshot& now) const {
  std::vector<MetricFamily> families = impl_->registry->Collect();
  for (MetricFamily& family : families_of(now)) families.push_back(std::move(family));
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return out.str();
}

struct MetricsServer::Impl {
  struct Looked final : prometheus::Collectable {
    std::function<MetricsSnapshot()> look;
    [[nodiscard]] std::vector<MetricFamily> Collect() const override { return families_of(look()); }
  };
  std::string address;
  std::shared_ptr<Looked> looked = std::make_shared<Looked>();
  std::unique_ptr<prometheus::Exposer> exposer;  // last: its threads use the other
};

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

// civetweb looks whether it is to stop every 2 s, and when somebody connects: nobody shall wait for that while the
// agent ends.
MetricsServer::~MetricsServer() {
  const int known_port = port();
  std::atomic<bool> stopped = false;
  const std::jthread stopping([&] {
    impl_->exposer.reset();
    stopped = true;
  });
  while (!stopped) {
    knock(impl_->address, known_port);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

Result<std::unique_ptr<MetricsServer>> MetricsServer::start(const std::string& address, const Metrics& metrics,
                                                            std::function<MetricsSnapshot()> look) {
  auto impl = std::make_unique<Impl>();
  impl->address = address;
  impl->looked->look = std::move(look);
  try {
    // Two threads: a peer that says nothing keeps one of them for as long as the time-out.
    impl->exposer = std::make_unique<prometheus::Exposer>(
        std::vector<std::string>{"listening_ports", address, "num_threads", "2", "request_timeout_ms", "5000"});
  } catch (const std::exception&) {
    return Error::from_errno(EADDRINUSE, "metrics_address " + address +
                                             ": cannot listen there; choose an address of this host "
                                             "and a free port");
  }
  impl->exposer->RegisterCollectable(metrics.impl_->registry);
  impl->exposer->RegisterCollectable(impl->looked);
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(impl)));
}

int MetricsServer::port() const { return impl_->exposer->GetListeningPorts().at(0); }

}  // namespace granary::agent
