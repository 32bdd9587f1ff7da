// SPDX-License-Identifier: Apache-2.0
#include "agent/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "agent/yaml_tree.h"
#include "netplumb/ip_text.h"

namespace granary::agent {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;
using testing::StartsWith;

TEST(ConfigTest, DefaultIsOneSmallPool) {
  for (const Config& config : {default_config(), *parse_config("", "c"), *parse_config("# nothing\n", "c")}) {
    ASSERT_EQ(config.pools.size(), 1u);
    EXPECT_EQ(config.pools[0].name, "default");
    EXPECT_EQ(config.pools[0].shape.vcpus, 1u);
    EXPECT_EQ(config.pools[0].shape.memory_bytes, 256 * kMiB);
    EXPECT_EQ(config.pools[0].shape.name, "1x256MiB");
    EXPECT_EQ(config.pools[0].size, 4u);
    EXPECT_EQ(config.socket_path(), "/run/granary/granaryd.sock");
  }
}

TEST(ConfigTest, TheEventsSocketOfShimsStays) {
  const auto running = parse_config("containerd_events: /run/a", "c");
  ASSERT_TRUE(running);
  EXPECT_TRUE(parse_config("containerd_events: /run/a", "c", &*running));
  const auto changed = parse_config("containerd_events: /run/b", "c", &*running);
  ASSERT_FALSE(changed);
  EXPECT_THAT(changed.error().message(), HasSubstr("containerd_events"));
  EXPECT_FALSE(parse_config("containerd_events: /" + std::string(107, 'x'), "c"));
}

TEST(ConfigTest, ReadsEveryKey) {
  const auto config = parse_config(R"(
run_dir: /run/g
state_dir: /var/g
socket: /run/g/api.sock
containerd_events: /run/c.ttrpc
metrics_address: "[::1]:9464"
log_level: debug
shutdown_grace: 2m
memory_budget: 3GiB
min_available: 0MiB
pools:
  - name: a
    vcpus: 8
    memory: 2GiB
    size: 7
    min: 2
    max: 9
    memory_budget: 64MiB
    refill_concurrency: 3
    template: {kernel: /k, initramfs: "", command_line: "quiet x=y", max_age: 24h, max_clones: 500, sharing: none}
    core_scheduling: true
    anti_spoofing: true
    devices: {net: 1, block: 0, entropy: false, console: true, balloon: false, fs: false}
    boot_timeout: 90s
    probe_timeout: 250ms
    identity_timeout: 1h
  - name: b
guest: {kernel: /gk, initramfs: /gi, command_line: gc}
)",
                                   "c");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->run_dir, "/run/g");
  EXPECT_EQ(config->state_dir, "/var/g");
  EXPECT_EQ(config->socket_path(), "/run/g/api.sock");
  EXPECT_EQ(config->metrics_address, "[::1]:9464");
  EXPECT_EQ(config->containerd_events, "/run/c.ttrpc");
  EXPECT_EQ(config->log_level, "debug");
  EXPECT_EQ(config->shutdown_grace, milliseconds(120'000));
  ASSERT_EQ(config->pools.size(), 2u);
  const pool::PoolSettings& a = config->pools[0];
  EXPECT_EQ(a.shape.vcpus, 8u);
  EXPECT_EQ(a.shape.memory_bytes, 2 * kGiB);
  EXPECT_EQ(a.shape.name, "8x2GiB");
  EXPECT_EQ(a.size, 7u);
  EXPECT_EQ(a.min, 2u);
  EXPECT_EQ(a.max, 9u);
  EXPECT_EQ(a.memory_budget, 64 * kMiB);
  EXPECT_EQ(config->pools[1].memory_budget, std::nullopt);
  EXPECT_EQ(config->memory_budget, 3 * kGiB);
  EXPECT_EQ(config->min_available, 0u);
  EXPECT_EQ(a.refill_concurrency, 3u);
  EXPECT_EQ(a.source.kernel_path, "/k");
  EXPECT_EQ(a.source.initramfs_path, "");
  EXPECT_EQ(a.source.command_line, "quiet x=y");
  EXPECT_EQ(a.template_max_age, std::chrono::hours(24));
  EXPECT_EQ(a.template_max_clones, 500u);
  EXPECT_EQ(a.sharing, pool::Sharing::kNone);
  EXPECT_EQ(a.shape.devices.net_slots, 1);
  EXPECT_EQ(a.shape.devices.block_slots, 0);
  EXPECT_EQ(a.shape.devices.entropy, 0);
  EXPECT_EQ(a.shape.devices.console, 1);
  EXPECT_EQ(a.shape.devices.balloon, 0);
  EXPECT_TRUE(a.core_scheduling);
  EXPECT_TRUE(a.anti_spoofing);
  EXPECT_FALSE(config->pools[1].anti_spoofing);
  EXPECT_EQ(a.shape.devices.fs, 0);
  EXPECT_EQ(config->pools[1].shape.devices.fs, 1) << "pods need it";
  EXPECT_EQ(a.boot_timeout, milliseconds(90'000));
  EXPECT_EQ(a.probe_timeout, milliseconds(250));
  EXPECT_EQ(a.identity_timeout, milliseconds(3'600'000));
  // A pool takes what it leaves out from `guest`, also when that comes later in the file.
  EXPECT_EQ(config->pools[1].source.kernel_path, "/gk");
  EXPECT_EQ(config->pools[1].source.initramfs_path, "/gi");
  EXPECT_EQ(config->pools[1].source.command_line, "gc");
}

TEST(ConfigTest, ReadsTheNetwork) {
  EXPECT_FALSE(parse_config("", "c")->network);
  const auto plain = parse_config("network:", "c");
  ASSERT_TRUE(plain) << plain.error().message();
  EXPECT_EQ(netplumb::to_text(plain->network->subnet), "10.213.0.0/16");
  const auto config = parse_config(R"(
network:
  subnet: 172.30.0.0/20
  mtu: 9000
  resolvers: [192.0.2.53, 10.0.0.2]
  up_rate: 10MiB
  down_rate: 1GiB
  connections: 100
)",
                                   "c");
  ASSERT_TRUE(config) << config.error().message();
  const netplumb::RoutedNetwork& network = *config->network;
  EXPECT_EQ(netplumb::to_text(network.subnet), "172.30.0.0/20");
  EXPECT_EQ(network.mtu, 9000U);
  EXPECT_EQ(netplumb::to_text(network.resolvers.at(0)), "192.0.2.53");
  EXPECT_EQ(network.up_bytes_per_second, 10 * kMiB);
  EXPECT_EQ(network.down_bytes_per_second, kGiB);
  EXPECT_EQ(network.most_connections, 100U);
  EXPECT_TRUE(parse_config("network: {}", "c", &*plain)) << "the same";
  EXPECT_THAT(parse_config("network: {mtu: 1400}", "c", &*plain).error().context(),
              StartsWith("c:1:10: network: cannot change while granaryd runs"));
  EXPECT_THAT(parse_config("", "c", &*plain).error().context(), HasSubstr("network: cannot change"));
}

TEST(ConfigTest, TheExampleParses) {
  const auto config = load_config(GRANARY_EXAMPLE_CONFIG);
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->pools.size(), 2u);
}

TEST(ConfigTest, MissingFileNamesThePath) {
  const auto config = load_config("/nonexistent/granary.yaml");
  ASSERT_FALSE(config);
  EXPECT_TRUE(config.error().is_errno(ENOENT));
  EXPECT_THAT(config.error().message(), HasSubstr("/nonexistent/granary.yaml"));
}

TEST(ConfigTest, PathsStayWhileItRuns) {
  const auto running = parse_config("run_dir: /a\nsocket: /a/s", "c");
  ASSERT_TRUE(running);
  EXPECT_TRUE(parse_config("log_level: warn\nrun_dir: /a\nsocket: /a/s", "c", &*running));
  EXPECT_THAT(parse_config("socket: /a/s\nrun_dir: /b", "c", &*running).error().context(),
              StartsWith("c:2:10: run_dir: cannot change while granaryd runs; restart it, or set it back to /a"));
  EXPECT_THAT(parse_config("run_dir: /a", "c", &*running).error().context(), StartsWith("c:1:1: socket: cannot"));
}

struct Refusal {
  const char* name;
  std::string yaml;
  const char* place;   // line:column
  const char* reason;  // part of it
};
void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.name; }

class ConfigRefusal : public testing::TestWithParam<Refusal> {};

TEST_P(ConfigRefusal, NamesLineColumnReason) {
  const auto config = parse_config(GetParam().yaml, "c");
  ASSERT_FALSE(config);
  EXPECT_TRUE(config.error().is(Errc::kConfigInvalid));
  EXPECT_THAT(config.error().context(), StartsWith(std::string("c:") + GetParam().place + ": "));
  EXPECT_THAT(config.error().context(), HasSubstr(GetParam().reason));
}

std::string many(int n, const std::string& text) {
  std::string all;
  for (int i = 0; i < n; ++i) all += text;
  return all;
}

INSTANTIATE_TEST_SUITE_P(
    Document, ConfigRefusal,
    testing::Values(
        Refusal{"NotYaml", "pools: [", "1:1", "not valid YAML"},
        Refusal{"Tab", "pools:\n\t- name: a", "2:2", "not valid YAML"},
        Refusal{"Scalar", "hello", "1:1", "wrong type: a single value; give a map of run_dir"},
        Refusal{"UnknownKey", "run_dir: /r\npolls: []", "2:1", "unknown key \"polls\"; known here: run_dir"},
        Refusal{"DuplicateKey", "run_dir: /r\nrun_dir: /s", "2:1", "duplicate key \"run_dir\", first given in line 1"},
        Refusal{"KeyIsAList", "[a, b]: c", "1:1", "a key that is not a plain word"},
        Refusal{"SecondDocument", "run_dir: /r\n---\nrun_dir: /s", "2:1", "a second document"},
        Refusal{"Anchor", "run_dir: &x /r", "1:10", "an anchor"},
        Refusal{"Alias", "guest:\n  kernel: &x /r\n  initramfs: *x", "2:11", "an anchor"},
        Refusal{"Tag", "run_dir: !!binary /r", "1:10", "a tag"},
        Refusal{"TooDeep", many(20, "[") + many(20, "]"), "1:17", "nested deeper than 16"},
        Refusal{"VeryDeep", many(100'000, "["), "1:9", "nested deeper than 16"},
        Refusal{"TooLong", many(kMaxYamlBytes + 1, "#"), "1:1", "the limit is 262144"},
        Refusal{"TooManyValues", "pools: [" + many(kMaxYamlNodes + 1, "a,") + "]", "1:32771", "more than 16384 values"},
        Refusal{"ZeroByte", std::string("run_dir: /r\n\0", 13), "2:1", "a zero byte"}),
    [](const auto& instance) { return std::string(instance.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Top, ConfigRefusal,
    testing::Values(
        Refusal{"RelativePath", "run_dir: run", "1:10", "run_dir: \"run\" is not an absolute path"},
        Refusal{"PathIsAList", "run_dir: [/r]", "1:10", "run_dir: wrong type: a list; give an absolute path"},
        Refusal{"PathIsNothing", "run_dir:", "1:1", "run_dir: wrong type: nothing"},
        Refusal{"RunDirTooLong", "run_dir: /" + many(60, "x"), "1:1", "run_dir /x"},
        Refusal{"SocketTooLong", "socket: /" + many(120, "x"), "1:1", "at most 107 bytes"},
        Refusal{"MetricsPortOnly", "metrics_address: 9464", "1:18",
                "\"9464\" is no address; give an IP address and a port"},
        Refusal{"MetricsHostName", "metrics_address: localhost:9464", "1:18", "is no address"},
        Refusal{"MetricsPortTooBig", "metrics_address: 127.0.0.1:65536", "1:18", "is no address"},
        Refusal{"MetricsTwo", "metrics_address: \"127.0.0.1:1,127.0.0.1:2\"", "1:18", "is no address"},
        Refusal{"MetricsTls", "metrics_address: 127.0.0.1:9464s", "1:18", "is no address"},
        Refusal{"MetricsBareIpv6", "metrics_address: \"::1:9464\"", "1:18", "is no address"},
        Refusal{"LogLevel", "log_level: loud", "1:12", "\"loud\" is unknown; give one of debug, info, warn, error"},
        Refusal{"DurationWithoutUnit", "shutdown_grace: 10", "1:17",
                "wrong type: \"10\"; give a whole number with a unit, 0ms to 1h"},
        Refusal{"DurationTooLong", "shutdown_grace: 2h", "1:17", "2h is out of range"},
        Refusal{"DurationNegative", "shutdown_grace: -1s", "1:17", "wrong type: \"-1s\""},
        Refusal{"DurationOverflow", "shutdown_grace: 18446744073709551615h", "1:17", "wrong type"},
        Refusal{"NodeBudgetTooSmall", "memory_budget: 1023KiB", "1:16",
                "give a whole number with a unit, 1MiB to 16384GiB"},
        Refusal{"MinAvailableUnit", "min_available: 100Mi", "1:16", "wrong type: \"100Mi\""},
        Refusal{"PoolsIsAMap", "pools: {a: b}", "1:8", "pools: wrong type: a map; give a list"},
        Refusal{"NoPools", "pools: []", "1:8", "pools: 0 items; give 1 to 64"},
        Refusal{"TooManyPools", "pools: [" + many(65, "{},") + "]", "1:8", "65 items"},
        Refusal{"NetworkUnknownKey", "network: {net: 1}", "1:11", "network: unknown key \"net\""},
        Refusal{"SubnetOfIpv6", "network: {subnet: \"fd00::/64\"}", "1:19", "give an IPv4 network of /8 to /29"},
        Refusal{"SubnetTooSmall", "network: {subnet: 10.0.0.0/30}", "1:19", "give an IPv4 network of /8 to /29"},
        Refusal{"SubnetOfAHost", "network: {subnet: 10.0.0.1/24}", "1:19", "bits are set behind the prefix"},
        Refusal{"SubnetOfLoopback", "network: {subnet: 127.1.0.0/16}", "1:19", "is not for hosts"},
        Refusal{"ResolverIsAName", "network: {resolvers: [dns]}", "1:23",
                "resolvers[0]: \"dns\"; give an IPv4 address"},
        Refusal{"ResolverIsAStub", "network: {resolvers: [127.0.0.53]}", "1:22", "no address that a guest can ask"},
        Refusal{"ResolverTwice", "network: {resolvers: [10.0.0.1, 10.0.0.1]}", "1:22", "is given twice"},
        Refusal{"ResolversTooMany", "network: {resolvers: [a, b, c, d]}", "1:22", "4 items; give 1 to 3"},
        Refusal{"NetworkMtu", "network: {mtu: 100}", "1:16", "100 is out of range; give a whole number, 576 to 65521"},
        Refusal{"NetworkRate", "network: {up_rate: 1KiB}", "1:20", "1KiB is out of range"},
        Refusal{"GuestUnknownKey", "guest:\n  kernal: /k", "2:3", "guest: unknown key \"kernal\""},
        Refusal{"CommandLineTooLong", "guest: {command_line: " + many(2048, "x") + "}", "1:23",
                "2048 bytes; give at most 2047"}),
    [](const auto& instance) { return std::string(instance.param.name); });

Refusal in_pool(const char* name, const std::string& line, const char* place, const char* reason) {
  return {name, "pools:\n  - name: a\n    " + line, place, reason};
}

INSTANTIATE_TEST_SUITE_P(
    PoolOf, ConfigRefusal,
    testing::Values(
        Refusal{"DuplicatePool", "pools:\n  - name: a\n  - {vcpus: 1, name: a}", "3:22",
                "duplicate pool \"a\", first given in line 2"},
        Refusal{"NoName", "pools:\n  - vcpus: 1", "2:5", "pools[0]: no name"},
        Refusal{"BadName", "pools:\n  - name: A/b", "2:11", "\"A/b\" is not a name"},
        Refusal{"PoolIsScalar", "pools:\n  - a", "2:5", "pools[0]: wrong type: a single value; give a map"},
        in_pool("UnknownKey", "cpus: 1", "3:5", "pools[0]: unknown key \"cpus\""),
        in_pool("VcpusZero", "vcpus: 0", "3:12", "pools[0].vcpus: 0 is out of range; give a whole number, 1 to 8"),
        in_pool("VcpusNine", "vcpus: 9", "3:12", "9 is out of range"),
        in_pool("VcpusText", "vcpus: two", "3:12", "wrong type: \"two\""),
        in_pool("VcpusQuoted", "vcpus: \"2\"", "3:12", "wrong type: \"2\""),
        in_pool("VcpusFraction", "vcpus: 1.5", "3:12", "wrong type"),
        in_pool("MemoryWithoutUnit", "memory: 256", "3:13", "give a whole number with a unit, 1MiB to 512GiB"),
        in_pool("MemoryUnknownUnit", "memory: 256MB", "3:13", "wrong type: \"256MB\""),
        in_pool("MemoryTooSmall", "memory: 1023KiB", "3:13", "1023KiB is out of range"),
        in_pool("MemoryTooBig", "memory: 513GiB", "3:13", "513GiB is out of range"),
        in_pool("MemoryOdd", "memory: 2049KiB", "3:13", "no whole number of MiB"),
        in_pool("SizeOverMax", "size: 65", "3:11", "65 is more than max (64)"),
        in_pool("MinOverSize", "min: 5", "3:10", "pools[0].min: 5 is more than size (4); lower min or raise size"),
        in_pool("ChargeUnknown", "charge: pod", "3:13", "\"pod\""),
        in_pool("ExactAdaptive", "charge: exact\n    policy: adaptive", "4:13",
                "adaptive with charge: exact, which keeps no warm clones"),
        in_pool("PolicyWrong", "policy: clever", "3:13", "\"clever\" is unknown; give one of fixed, adaptive"),
        in_pool("HitTargetNoShare", "hit_target: 99", "3:17",
                "wrong type: \"99\"; give a percentage with at most two decimals, 50% to 99.99%"),
        in_pool("HitTargetTooFine", "hit_target: 99.999%", "3:17", "wrong type: \"99.999%\""),
        in_pool("HitTargetWhole", "hit_target: 100%", "3:17", "100% is out of range"),
        in_pool("HitTargetNumbers", "hit_target: 9x.1%", "3:17", "wrong type"),
        in_pool("ExactWithSize", "charge: exact\n    size: 1", "4:11",
                "1 with charge: exact, which keeps no warm clones"),
        in_pool("MinNegative", "min: -1", "3:10", "wrong type: \"-1\""),
        in_pool("BudgetTooSmall", "memory_budget: 0MiB", "3:20", "0MiB is out of range"),
        in_pool("MaxZero", "max: 0", "3:10", "0 is out of range"),
        in_pool("RefillZero", "refill_concurrency: 0", "3:25", "0 is out of range"),
        in_pool("SharingUnknown", "template: {sharing: all}", "3:25",
                "pools[0].template.sharing: \"all\" is unknown; give one of"),
        in_pool("MaxAgeTooShort", "template: {max_age: 59s}", "3:25", "pools[0].template.max_age: "),
        in_pool("MaxClonesZero", "template: {max_clones: 0}", "3:28", "pools[0].template.max_clones: "),
        in_pool("TemplateIsAList", "template: []", "3:15", "wrong type: a list; give a map of kernel"),
        in_pool("KernelRelative", "template: {kernel: vmlinuz}", "3:24",
                "pools[0].template.kernel: \"vmlinuz\" is not"),
        in_pool("NetSlots", "devices: {net: 3}", "3:20", "3 is out of range"),
        in_pool("BlockSlots", "devices: {block: 9}", "3:22", "9 is out of range"),
        in_pool("SwitchIsNumber", "devices: {entropy: 1}", "3:24", "give true or false"),
        in_pool("BootTimeout", "boot_timeout: 10ms", "3:19", "out of range; give a whole number with a unit, 1s to 1h"),
        in_pool("ProbeTimeout", "probe_timeout: 0s", "3:20", "out of range")),
    [](const auto& instance) { return std::string(instance.param.name); });

TEST(ConfigTest, AnAdaptivePoolMayUseAllOfMax) {
  const auto config = parse_config(
      "pools:\n  - {name: a, policy: adaptive, max: 20, hit_target: 99.5%}\n"
      "  - {name: b, policy: adaptive, size: 3, hit_target: 97%}\n  - {name: c, hit_target: 99.05%}\n",
      "f");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_TRUE(config->pools[0].adaptive);
  EXPECT_EQ(config->pools[0].size, 20U);
  EXPECT_DOUBLE_EQ(config->pools[0].hit_target, 0.995);
  EXPECT_EQ(config->pools[1].size, 3U);
  EXPECT_DOUBLE_EQ(config->pools[1].hit_target, 0.97);
  EXPECT_FALSE(config->pools[2].adaptive);
  EXPECT_EQ(config->pools[2].size, 4U);
  EXPECT_DOUBLE_EQ(config->pools[2].hit_target, 0.9905);
}

TEST(ConfigTest, AnExactPoolKeepsNothingWarm) {
  const auto config = parse_config("pools:\n  - {name: a, charge: exact}\n  - {name: b, charge: residue}\n", "f");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->pools[0].charge, pool::Charge::kExact);
  EXPECT_EQ(config->pools[0].size, 0U);
  EXPECT_EQ(config->pools[1].charge, pool::Charge::kResidue);
  EXPECT_EQ(config->pools[1].size, 4U);
}

}  // namespace
}  // namespace granary::agent
