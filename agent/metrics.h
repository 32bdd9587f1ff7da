// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "vmpool/base/result.h"
#include "vmpool/pool/pool.h"

namespace granary::agent {

// What is looked up at each scrape instead of being counted.
struct MetricsSnapshot {
  struct PerPool {
    pool::PoolStatus status;
    pool::PoolMemory memory;
  };
  std::vector<PerPool> pools;
  uint64_t journal_records = 0;
  uint64_t journal_bytes = 0;
  uint64_t journal_compactions = 0;
  uint64_t events_lost = 0;
  uint64_t configuration_generation = 0;
  bool configuration_refused = false;
};

// The agent's metrics; docs/operations.md lists them. The only file that knows Prometheus is metrics.cc. Thread-safe.
class Metrics {
 public:
  explicit Metrics(const std::string& version);
  ~Metrics();

  // From here on all series of this pool exist: a counter that nothing has happened to says 0.
  void add_pool(const std::string& pool);
  void measured(const std::string& pool, pool::Measure what, double value, const std::string& label);
  void spawner_replaced();

  // Prometheus' text format.
  [[nodiscard]] std::string text(const MetricsSnapshot& now) const;

 private:
  friend class MetricsServer;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Answers GET /metrics over HTTP, to anybody who can connect.
class MetricsServer {
 public:
  // `address`: "host:port" of Config::metrics_address; port 0 takes a free one. `look` is called on threads of this
  // object, until it is destroyed. EADDRINUSE with the remedy when it cannot listen there, for whatever reason.
  static Result<std::unique_ptr<MetricsServer>> start(const std::string& address, const Metrics& metrics,
                                                      std::function<MetricsSnapshot()> look);
  ~MetricsServer();
  [[nodiscard]] int port() const;

 private:
  struct Impl;
  explicit MetricsServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace granary::agent
