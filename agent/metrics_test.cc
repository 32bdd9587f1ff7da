// SPDX-License-Identifier: Apache-2.0
#include "agent/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace granary::agent {
namespace {

using pool::Measure;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

TEST(MetricsTest, EverySeriesOfAPoolExistsBeforeAnythingHappens) {
  Metrics metrics("1.2.3");
  EXPECT_THAT(metrics.text({}), AllOf(HasSubstr("granary_build_info{version=\"1.2.3\"} 1\n"),
                                      HasSubstr("granary_spawner_replaced_total 0\n"), Not(HasSubstr("pool=\""))));
  metrics.add_pool("a");
  for (const char* line :
       {"granary_reclaim_leaks_total{pool=\"a\"} 0\n", "granary_acquires_total{outcome=\"failed\",pool=\"a\"} 0\n",
        "granary_vmm_exits_total{pool=\"a\",reason=\"seccomp-violation\"} 0\n",
        "granary_reclaim_seconds_count{pool=\"a\"} 0\n"}) {
    EXPECT_THAT(metrics.text({}), HasSubstr(line));
  }
}

TEST(MetricsTest, CountsAndObserves) {
  Metrics metrics("1");
  metrics.add_pool("a");
  metrics.measured("a", Measure::kAcquires, 1, "hit");
  metrics.measured("a", Measure::kAcquires, 1, "hit");
  metrics.measured("b", Measure::kLeaks, 3, "");
  metrics.measured("a", Measure::kVmmExits, 1, "never heard of");
  metrics.measured("a", Measure::kRestoreSeconds, 0.002, "");
  metrics.measured("a", Measure::kRestoreSeconds, 100, "");
  metrics.spawner_replaced();
  const std::string text = metrics.text({});
  for (const char* line :
       {"granary_acquires_total{outcome=\"hit\",pool=\"a\"} 2\n",
        "granary_acquires_total{outcome=\"cold\",pool=\"a\"} 0\n", "granary_reclaim_leaks_total{pool=\"a\"} 0\n",
        "granary_reclaim_leaks_total{pool=\"b\"} 3\n",
        "granary_vmm_exits_total{pool=\"a\",reason=\"never heard of\"} 1\n",
        "granary_restore_seconds_count{pool=\"a\"} 2\n", "granary_restore_seconds_bucket{pool=\"a\",le=\"0.001\"} 0\n",
        "granary_restore_seconds_bucket{pool=\"a\",le=\"0.0025\"} 1\n",
        "granary_restore_seconds_bucket{pool=\"a\",le=\"10\"} 1\n",
        "granary_restore_seconds_bucket{pool=\"a\",le=\"+Inf\"} 2\n", "granary_spawner_replaced_total 1\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(MetricsTest, LooksAtWhatIsThereNow) {
  MetricsSnapshot::PerPool pool;
  pool.status.name = "a";
  pool.status.target = 4;
  pool.status.wanted = 9;
  pool.status.warm = 3;
  pool.status.running = 2;
  pool.status.usage.residue_bytes = 12288;
  pool.memory = {.template_bytes = 1048576, .idle_bytes = 4096, .running_bytes = 8192};
  const std::string text = Metrics("1").text({.pools = {pool},
                                              .journal_records = 7,
                                              .journal_bytes = 900,
                                              .journal_compactions = 2,
                                              .events_lost = 5,
                                              .configuration_generation = 3,
                                              .configuration_refused = true});
  for (const char* line :
       {"granary_pool_clones{pool=\"a\",state=\"warm\"} 3\n", "granary_pool_clones{pool=\"a\",state=\"running\"} 2\n",
        "granary_pool_clones{pool=\"a\",state=\"reclaiming\"} 0\n", "granary_pool_target_clones{pool=\"a\"} 4\n",
        "granary_pool_wanted_clones{pool=\"a\"} 9\n", "granary_memory_bytes{pool=\"a\",kind=\"template\"} 1048576\n",
        "granary_memory_bytes{pool=\"a\",kind=\"running\"} 8192\n",
        "granary_memory_bytes{pool=\"a\",kind=\"residue\"} 12288\n", "granary_journal_records 7\n",
        "granary_journal_bytes 900\n", "granary_journal_compactions_total 2\n", "granary_events_lost_total 5\n",
        "granary_configuration_generation 3\n", "granary_configuration_refused 1\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(MetricsTest, AnAddressInUseIsRefusedByName) {
  const Metrics metrics("1");
  const auto first = MetricsServer::start("127.0.0.1:0", metrics, [] { return MetricsSnapshot(); });
  ASSERT_TRUE(first) << first.error().message();
  const std::string address = "127.0.0.1:" + std::to_string((*first)->port());
  const auto second = MetricsServer::start(address, metrics, [] { return MetricsSnapshot(); });
  ASSERT_FALSE(second);
  EXPECT_TRUE(second.error().is_errno(EADDRINUSE));
  EXPECT_THAT(second.error().message(), HasSubstr(address));
}

}  // namespace
}  // namespace granary::agent
