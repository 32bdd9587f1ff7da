// SPDX-License-Identifier: Apache-2.0
// What granaryd tells of itself: metrics over HTTP, flight records, events. Real processes; only the VMM is a stand-in.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/integration/agent_bench.h"

namespace granary::integration {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

// GET over loopback: the whole answer, empty when nobody listens.
std::string http_get(int port, const std::string& path) {
  const Fd peer(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(peer.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) return "";
  const std::string request = "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  if (::write(peer.get(), request.data(), request.size()) != static_cast<ssize_t>(request.size())) return "";
  std::string answer;
  char part[4096];
  for (ssize_t n = 0; (n = ::read(peer.get(), part, sizeof(part))) > 0;) answer.append(part, static_cast<size_t>(n));
  return answer;
}

// "name type label,label" of each metric.
using Names = std::set<std::string>;

std::string joined(const std::set<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ",") + word;
  return text;
}

// The labels of a sample such as `name{a="x",b="y"} 1`, but those of the format itself.
std::set<std::string> labels_of(const std::string& sample) {
  std::set<std::string> labels;
  size_t at = sample.find('{');
  while (at != std::string::npos) {
    const size_t equals = sample.find("=\"", at + 1);
    if (equals == std::string::npos) break;
    const std::string label = sample.substr(at + 1, equals - at - 1);
    if (label != "le" && label != "quantile") labels.insert(label);
    at = sample.find("\",", equals + 2);
    if (at != std::string::npos) ++at;
  }
  return labels;
}

Names scraped_names(const std::string& text) {
  std::istringstream lines(text);
  std::map<std::string, std::string> types;
  std::map<std::string, std::set<std::string>> labels;
  std::string name;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("# TYPE ")) {
      std::istringstream words(line.substr(7));
      words >> name >> types[name];
      words >> types[name];
    } else if (!name.empty() && line.starts_with(name)) {
      for (const std::string& label : labels_of(line)) labels[name].insert(label);
    }
  }
  Names names;
  for (const auto& [metric, type] : types) names.insert(metric + " " + type + " " + joined(labels[metric]));
  return names;
}

// Rows "| `name` | type | `label`, `label` | … |" of the document.
Names documented_names() {
  std::ifstream document(GRANARY_OPERATIONS);
  Names names;
  for (std::string line; std::getline(document, line);) {
    if (!line.starts_with("| `granary_") && !line.starts_with("| `exposer_")) continue;
    std::vector<std::string> cells;
    std::istringstream row(line.substr(1));
    for (std::string cell; std::getline(row, cell, '|');) cells.push_back(cell);
    if (cells.size() < 3) continue;
    std::set<std::string> labels;
    for (std::string& cell : cells) std::erase_if(cell, [](char c) { return c == '`' || c == ' '; });
    std::istringstream list(cells[2]);
    for (std::string label; std::getline(list, label, ',');) labels.insert(label);
    names.insert(cells[0] + " " + cells[1] + " " + joined(labels));
  }
  return names;
}

class AgentMetricsTest : public testing::Test {
 protected:
  AgentMetricsTest() { bench_.configure("size: 2", "shutdown_grace: 0s\nmetrics_address: 127.0.0.1:0"); }

  std::unique_ptr<Process> start() {
    auto agent = bench_.start_agent();
    EXPECT_TRUE(agent->wait_for("metrics address=127.0.0.1:0 port=")) << agent->errors();
    const std::string log = agent->errors();
    const std::string before = "metrics address=127.0.0.1:0 port=";
    port_ = std::stoi(log.substr(log.find(before) + before.size()));
    return agent;
  }
  std::string scrape() const { return http_get(port_, "/metrics"); }
  // Of the sample that is spelled so; -1 when there is none.
  static double value(const std::string& text, const std::string& sample) {
    const size_t at = text.find("\n" + sample + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + sample.size() + 2));
  }
  double value(const std::string& sample) const { return value(scrape(), sample); }
  // Scrapes until the sample has this value; the agent's end would leave -1.
  bool reaches(const std::string& sample, double wanted) const {
    for (const auto limit = std::chrono::steady_clock::now() + std::chrono::minutes(1);
         std::chrono::steady_clock::now() < limit;) {
      if (value(sample) == wanted) return true;
    }
    return false;
  }
  std::string acquire() {
    const Outcome taken = bench_.ctl({"acquire"});
    EXPECT_EQ(taken.status, 0) << taken.errors;
    return taken.output.substr(0, taken.output.find('\n'));
  }
  pid_t vmm_of(const std::string& id) {
    const json list = json::parse(bench_.ctl({"--output", "json", "ls"}).output);
    for (const json& clone : list["clones"]) {
      if (clone["id"] == id) return clone["vmm_pid"];
    }
    ADD_FAILURE() << "no clone " << id;
    return -1;
  }

  AgentBench bench_;
  int port_ = 0;
};

TEST_F(AgentMetricsTest, TheDocumentListsExactlyWhatIsScraped) {
  const auto agent = start();
  const std::string text = scrape();
  EXPECT_THAT(text, AllOf(HasSubstr("HTTP/1.1 200"), HasSubstr("Content-Type: text/plain")));
  const Names documented = documented_names();
  EXPECT_GT(documented.size(), 20U);
  EXPECT_EQ(scraped_names(text), documented);
  EXPECT_THAT(http_get(port_, "/etc/passwd"), HasSubstr("404"));
}

TEST_F(AgentMetricsTest, AcquireReleaseAndFailureShow) {
  const auto agent = start();
  ASSERT_TRUE(reaches(R"(granary_pool_clones{pool="a",state="warm"})", 2));
  EXPECT_EQ(value(R"(granary_pool_target_clones{pool="a"})"), 2);
  const std::string id = acquire();
  const std::string lost = acquire();
  std::string text = scrape();
  EXPECT_EQ(value(text, R"(granary_pool_clones{pool="a",state="running"})"), 2);
  EXPECT_EQ(value(text, R"(granary_acquires_total{outcome="hit",pool="a"})") +
                value(text, R"(granary_acquires_total{outcome="waited",pool="a"})") +
                value(text, R"(granary_acquires_total{outcome="cold",pool="a"})"),
            2);
  EXPECT_EQ(value(text, R"(granary_acquire_seconds_count{pool="a"})"), 2);
  EXPECT_EQ(value(text, R"(granary_identity_seconds_count{pool="a"})"), 2);
  EXPECT_GT(value(text, R"(granary_memory_bytes{pool="a",kind="template"})"), 0);
  EXPECT_GT(value(text, R"(granary_memory_bytes{pool="a",kind="running"})"), 0);
  EXPECT_EQ(value(text, R"(granary_template_builds_total{pool="a",result="ok"})"), 1);
  EXPECT_GT(value(text, "granary_journal_records"), 2);
  EXPECT_GT(value(text, "granary_journal_bytes"), 100);

  EXPECT_EQ(bench_.ctl({"release", id}).status, 0);
  EXPECT_GE(value(R"(granary_vmm_exits_total{pool="a",reason="reclaimed"})"), 1);
  EXPECT_GE(value(R"(granary_reclaim_seconds_count{pool="a"})"), 1);
  ::kill(vmm_of(lost), SIGKILL);
  EXPECT_TRUE(reaches(R"(granary_vmm_exits_total{pool="a",reason="lost"})", 1));
  EXPECT_TRUE(reaches(R"(granary_clone_failures_total{pool="a",state="running"})", 1));
  EXPECT_TRUE(reaches(R"(granary_pool_clones{pool="a",state="warm"})", 2));
  EXPECT_TRUE(reaches(R"(granary_refills_total{pool="a",result="ok"})", 4));
  text = scrape();
  EXPECT_EQ(value(text, R"(granary_refills_total{pool="a",result="failed"})"), 0);
  EXPECT_EQ(value(text, R"(granary_restore_seconds_count{pool="a"})"), 4);
  EXPECT_EQ(value(text, R"(granary_reclaim_leaks_total{pool="a"})"), 0);

  EXPECT_EQ(bench_.ctl({"template", "build", "--force"}).status, 0);
  EXPECT_TRUE(reaches(R"(granary_evictions_total{pool="a",reason="template"})", 2));
  EXPECT_EQ(value(R"(granary_template_build_seconds_count{pool="a"})"), 2);
  ASSERT_EQ(::kill(bench_.spawner_pid(), SIGKILL), 0);
  EXPECT_TRUE(reaches("granary_spawner_replaced_total", 1));
}

TEST_F(AgentMetricsTest, NothingListensUnlessItIsConfigured) {
  bench_.configure();
  const auto agent = bench_.start_agent();
  EXPECT_THAT(agent->errors(), testing::Not(HasSubstr("metrics address")));
}

TEST_F(AgentMetricsTest, AnAddressInUseEndsTheStart) {
  const auto agent = start();
  AgentBench other;
  other.configure("size: 2", "metrics_address: 127.0.0.1:" + std::to_string(port_));
  const Outcome refused = run_to_end(other.agent_command());
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.errors, HasSubstr("metrics_address 127.0.0.1:" + std::to_string(port_) + ": cannot listen"));
}

TEST_F(AgentMetricsTest, TheFlightOfALostCloneIsKept) {
  const auto agent = start();
  const std::string id = acquire();
  EXPECT_THAT(bench_.ctl({"flight", id.substr(0, 13)}).output,
              AllOf(HasSubstr("clone " + id + ", pool a\n"), HasSubstr("restoring"), HasSubstr("running")));
  EXPECT_EQ(json::parse(bench_.ctl({"--output", "json", "flight", "--failed"}).output)["records"].size(), 0U);
  ::kill(vmm_of(id), SIGKILL);
  ASSERT_TRUE(agent->wait_for("flight record clone=" + id + " pool=a failed_in=running failure=\""));
  EXPECT_TRUE(reaches(R"(granary_clone_failures_total{pool="a",state="running"})", 1));
  EXPECT_THAT(bench_.ctl({"flight", "--failed"}).output,
              AllOf(HasSubstr("FAILED IN"), HasSubstr(id), HasSubstr("killed by signal 9")));
  const json records = json::parse(bench_.ctl({"--output", "json", "flight", id}).output)["records"];
  ASSERT_EQ(records.size(), 1U);
  EXPECT_EQ(records[0]["failed_in"], "running");
  EXPECT_EQ(records[0]["steps"].back()["state"], "gone");
  const Outcome unknown = bench_.ctl({"flight", "0123456789"});
  EXPECT_EQ(unknown.status, 125);
  EXPECT_THAT(unknown.errors, HasSubstr("neither there nor among the newest failures"));
  EXPECT_EQ(bench_.ctl({"flight"}).status, 125);
}

TEST_F(AgentMetricsTest, EventsTellALifeInOrder) {
  const auto agent = start();
  const auto events = bench_.start_ctl({"events"});
  // Until the subscription is there.
  while (events->running() && events->output().find("  reclaimed  pool=a") == std::string::npos) {
    ASSERT_EQ(bench_.ctl({"release", acquire()}).status, 0);
  }
  const std::string id = acquire();
  ASSERT_EQ(bench_.ctl({"release", id}).status, 0);
  ASSERT_TRUE(events->wait_for("  reclaimed  pool=a  clone=" + id));
  const std::string text = events->output();
  EXPECT_THAT(text, testing::ContainsRegex("handed-over  pool=a  clone=" + id + "  in [0-9.]+ ms, (hit|waited|cold)"));
  EXPECT_THAT(text, testing::ContainsRegex("reclaimed  pool=a  clone=" + id + "  in [0-9.]+ ms, 0 leaks"));
}

}  // namespace
}  // namespace granary::integration
