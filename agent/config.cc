// SPDX-License-Identifier: Apache-2.0
#include "agent/config.h"

#include <sys/un.h>

#include <algorithm>
#include <array>
#include <map>

#include "agent/config_fields.h"
#include "netplumb/ip_text.h"
#include "vmpool/base/guest_memory.h"
#include "vmpool/base/machine_layout.h"
#include "vmpool/pool/sha256.h"

namespace granary::agent {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kHour{3'600'000};
constexpr milliseconds kLongestAge{8760 * kHour};
constexpr uint32_t kMostTemplateClones = 1'000'000'000;
// The spawner puts per-clone sockets into run_dir: file names of up to 63 bytes.
constexpr size_t kMaxRunDirBytes = sizeof(sockaddr_un::sun_path) - 1 - 64;
constexpr uint32_t kMaxClones = 4096;
constexpr uint64_t kMaxBudget = 16 * 1024 * kGiB;
constexpr const char* kDefaultSubnet = "10.213.0.0/16";
constexpr uint32_t kMinMtu = 576;    // RFC 791
constexpr uint32_t kMaxMtu = 65521;  // of a tap
constexpr uint32_t kMostConnections = 1'000'000;
constexpr uint64_t kMinRate = 16 * kKiB;  // per second
constexpr uint64_t kMaxRate = 16 * kGiB;

const char* kDefaultKernel = "/usr/lib/granary/guest/vmlinuz";
const char* kDefaultInitramfs = "/usr/lib/granary/guest/initramfs.cpio";
const char* kDefaultCommandLine = "console=ttyS0 reboot=k panic=-1 clocksource=kvm-clock quiet";

pool::PoolSettings default_pool(const pool::TemplateSource& guest) {
  pool::PoolSettings settings;
  settings.name = "default";
  settings.source = guest;
  return settings;
}

std::vector<Field> source_fields(pool::TemplateSource& source) {
  return {path_field("kernel", source.kernel_path), path_field("initramfs", source.initramfs_path, true),
          text_field("command_line", source.command_line, sizeof(control::Boot::command_line) - 1)};
}

Field sharing_field(pool::Sharing& into) {
  return {"sharing", [&into](const YamlNode& node, const Place& place) -> Status {
            std::string word;
            GRANARY_TRY(word_field("sharing", word, {"node", "pool", "none"}).read(node, place));
            into = word == "node" ? pool::Sharing::kNode : word == "pool" ? pool::Sharing::kPool : pool::Sharing::kNone;
            return ok();
          }};
}

std::vector<Field> template_fields(pool::PoolSettings& pool) {
  std::vector<Field> fields = source_fields(pool.source);
  fields.push_back(duration_field("max_age", pool.template_max_age, milliseconds(60'000), kLongestAge));
  fields.push_back(number_field("max_clones", pool.template_max_clones, 1, kMostTemplateClones));
  fields.push_back(sharing_field(pool.sharing));
  return fields;
}

Field map_field(std::string_view name, std::vector<Field> fields) {
  return {name, [fields = std::move(fields)](const YamlNode& node, const Place& place) -> Status {
            return read_map(node, place, fields);
          }};
}

Field device_field(std::string_view name, uint8_t& slots) {
  return switch_field(name, [&slots](bool on) { slots = on ? 1 : 0; });
}

Field charge_field(pool::Charge& into) {
  return {"charge", [&into](const YamlNode& node, const Place& place) -> Status {
            std::string word;
            GRANARY_TRY(word_field("charge", word, {"residue", "exact"}).read(node, place));
            into = word == "exact" ? pool::Charge::kExact : pool::Charge::kResidue;
            return ok();
          }};
}

Field policy_field(bool& adaptive) {
  return {"policy", [&adaptive](const YamlNode& node, const Place& place) -> Status {
            std::string word;
            GRANARY_TRY(word_field("policy", word, {"fixed", "adaptive"}).read(node, place));
            adaptive = word == "adaptive";
            return ok();
          }};
}

std::vector<Field> pool_fields(pool::PoolSettings& pool) {
  control::DeviceSet& devices = pool.shape.devices;
  return {name_field("name", pool.name),
          number_field("vcpus", pool.shape.vcpus, 1, machine::kMaxVcpus),
          size_field("memory", pool.shape.memory_bytes, kMinGuestMemory, kMaxGuestMemory),
          number_field("size", pool.size, 0, kMaxClones),
          number_field("min", pool.min, 0, kMaxClones),
          number_field("max", pool.max, 1, kMaxClones),
          policy_field(pool.adaptive),
          share_field("hit_target", pool.hit_target, 0.5, 0.9999),
          optional_size_field("memory_budget", pool.memory_budget, kMiB, kMaxBudget),
          charge_field(pool.charge),
          switch_field("core_scheduling", [&pool](bool on) { pool.core_scheduling = on; }),
          switch_field("anti_spoofing", [&pool](bool on) { pool.anti_spoofing = on; }),
          number_field("refill_concurrency", pool.refill_concurrency, 1, 64),
          map_field("template", template_fields(pool)),
          map_field("devices", {count_field("net", devices.net_slots, 2), count_field("block", devices.block_slots, 8),
                                device_field("entropy", devices.entropy), device_field("console", devices.console),
                                device_field("balloon", devices.balloon), device_field("fs", devices.fs)}),
          duration_field("boot_timeout", pool.boot_timeout, milliseconds(1000), kHour),
          duration_field("probe_timeout", pool.probe_timeout, milliseconds(10), kHour),
          duration_field("identity_timeout", pool.identity_timeout, milliseconds(10), kHour)};
}

const YamlNode& value_or_map(const YamlNode& map, std::string_view key) {
  for (const auto& [name, value] : map.entries) {
    if (name.text == key) return value;
  }
  return map;
}

// What can be neither a guest's nor a resolver's: "this" network, loopback, multicast and what is reserved (RFC 6890).
bool is_no_unicast(const netplumb::Prefix& prefix) {
  return std::ranges::any_of(std::array{"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"}, [&](const char* special) {
    return netplumb::overlap(*netplumb::parse_prefix(special), prefix);
  });
}

Status read_network(const YamlNode& node, const Place& place, std::optional<netplumb::RoutedNetwork>& into) {
  netplumb::RoutedNetwork& network = into.emplace();
  network.subnet = *netplumb::parse_prefix(kDefaultSubnet);
  GRANARY_TRY(read_map(node, place,
                       {subnet_field("subnet", network.subnet, netplumb::kShortestPrefix, netplumb::kLongestPrefix),
                        addresses_field("resolvers", network.resolvers, netplumb::kMaxResolvers),
                        number_field("mtu", network.mtu, kMinMtu, kMaxMtu),
                        number_field("connections", network.most_connections, 1, kMostConnections),
                        size_field("up_rate", network.up_bytes_per_second, kMinRate, kMaxRate),
                        size_field("down_rate", network.down_bytes_per_second, kMinRate, kMaxRate)}));
  if (is_no_unicast(network.subnet)) {
    return place.key("subnet").refuse(value_or_map(node, "subnet"),
                                      netplumb::to_text(network.subnet) + " is not for hosts; give a private network");
  }
  for (auto one = network.resolvers.begin(); one != network.resolvers.end(); ++one) {
    const bool twice = std::find(network.resolvers.begin(), one, *one) != one;
    if (!twice && !is_no_unicast({*one, 32})) continue;
    return place.key("resolvers")
        .refuse(value_or_map(node, "resolvers"),
                netplumb::to_text(*one) +
                    (twice ? " is given twice; leave one out" : " is no address that a guest can ask"));
  }
  return ok();
}

// What concerns more than one key of a pool.
Status check_pool(const YamlNode& node, const Place& place, const pool::PoolSettings& pool,
                  std::map<std::string, int>& lines) {
  if (pool.name.empty()) return place.refuse(node, "no name; give each pool a name");
  const YamlNode& name = value_or_map(node, "name");
  if (const auto [other, fresh] = lines.emplace(pool.name, name.line); !fresh) {
    return place.key("name").refuse(name, "duplicate pool \"" + pool.name + "\", first given in line " +
                                              std::to_string(other->second) + "; rename one of them");
  }
  if (pool.shape.memory_bytes % kMiB != 0) {
    return place.key("memory").refuse(value_or_map(node, "memory"),
                                      spell_size(pool.shape.memory_bytes) + " is no whole number of MiB; round it");
  }
  if (pool.charge == pool::Charge::kExact && pool.adaptive) {
    return place.key("policy").refuse(
        value_or_map(node, "policy"),
        "adaptive with charge: exact, which keeps no warm clones; leave policy out, or use residue");
  }
  if (pool.charge == pool::Charge::kExact && pool.size > 0) {
    return place.key("size").refuse(
        value_or_map(node, "size"),
        std::to_string(pool.size) + " with charge: exact, which keeps no warm clones; leave size out, or use residue");
  }
  if (pool.size > pool.max) {
    return place.key("size").refuse(
        value_or_map(node, "size"),
        std::to_string(pool.size) + " is more than max (" + std::to_string(pool.max) + "); lower size or raise max");
  }
  if (pool.min > pool.size) {
    return place.key("min").refuse(
        value_or_map(node, "min"),
        std::to_string(pool.min) + " is more than size (" + std::to_string(pool.size) + "); lower min or raise size");
  }
  return ok();
}

Status read_pools(const YamlNode& node, const Place& place, Config& config) {
  std::map<std::string, int> lines;
  return read_list(node, place, kMaxPools, [&](const YamlNode& item, const Place& at) -> Status {
    pool::PoolSettings pool = default_pool(config.guest);
    pool.name.clear();
    GRANARY_TRY(read_map(item, at, pool_fields(pool)));
    const bool has_size = &value_or_map(item, "size") != &item;
    if (pool.charge == pool::Charge::kExact && !has_size) pool.size = 0;
    if (pool.adaptive && !has_size) pool.size = pool.max;
    GRANARY_TRY(check_pool(item, at, pool, lines));
    config.pools.push_back(std::move(pool));
    return ok();
  });
}

// Sockets, journal and templates lie there, and others know the paths.
Status check_unchanged(const YamlNode& root, const Place& top, const Config& next, const Config& running) {
  for (const auto& [key, member] : {std::pair("run_dir", &Config::run_dir), std::pair("state_dir", &Config::state_dir),
                                    std::pair("socket", &Config::socket),
                                    std::pair("containerd_events", &Config::containerd_events)}) {
    if (next.*member == running.*member) continue;
    const std::string was = (running.*member).empty() ? "the default" : running.*member;
    return top.key(key).refuse(value_or_map(root, key),
                               "cannot change while granaryd runs; restart it, or set it back to " + was);
  }
  if (next.network != running.network) {
    return top.key("network").refuse(value_or_map(root, "network"),
                                     "cannot change while granaryd runs; restart it, or set it back");
  }
  return ok();
}

void name_shapes(Config& config) {
  for (pool::PoolSettings& pool : config.pools) {
    pool.shape.name = std::to_string(pool.shape.vcpus) + "x" + spell_size(pool.shape.memory_bytes);
  }
}

}  // namespace

std::string Config::socket_path() const { return socket.empty() ? run_dir + "/granaryd.sock" : socket; }

Config default_config() {
  Config config;
  config.guest = {
      .kernel_path = kDefaultKernel, .initramfs_path = kDefaultInitramfs, .command_line = kDefaultCommandLine};
  config.pools = {default_pool(config.guest)};
  name_shapes(config);
  return config;
}

Status check_paths(const Config& config) {
  const auto check = [](const char* what, const std::string& path, size_t most) -> Status {
    if (path.starts_with('/') && path.size() <= most) return ok();
    return Error(Errc::kConfigInvalid, std::string(what) + " " + path + " (" + std::to_string(path.size()) +
                                           " bytes): give an absolute path of at most " + std::to_string(most) +
                                           " bytes; socket addresses are that short");
  };
  GRANARY_TRY(check("run_dir", config.run_dir, kMaxRunDirBytes));
  GRANARY_TRY(check("state_dir", config.state_dir, 4000));
  GRANARY_TRY(check("socket", config.socket_path(), sizeof(sockaddr_un::sun_path) - 1));
  return check("containerd_events", config.containerd_events, sizeof(sockaddr_un::sun_path) - 1);
}

Result<Config> parse_config(std::string_view text, const std::string& name, const Config* running) {
  const YamlNode root = GRANARY_TRY(parse_yaml(text, name));
  const Place top{.file = name, .path = ""};
  Config config = default_config();
  config.pools.clear();
  // Pools take what they leave out from `guest`, wherever that stands in the file: so they are read last.
  const YamlNode* pools = nullptr;
  const auto keep_pools = [&](const YamlNode& node, const Place&) -> Status {
    pools = &node;
    return ok();
  };
  GRANARY_TRY(read_map(root, top,
                       {path_field("run_dir", config.run_dir), path_field("state_dir", config.state_dir),
                        path_field("socket", config.socket), path_field("containerd_events", config.containerd_events),
                        address_field("metrics_address", config.metrics_address),
                        word_field("log_level", config.log_level, {"debug", "info", "warn", "error"}),
                        duration_field("shutdown_grace", config.shutdown_grace, milliseconds(0), kHour),
                        optional_size_field("memory_budget", config.memory_budget, kMiB, kMaxBudget),
                        size_field("min_available", config.min_available, 0, kMaxBudget),
                        Field{"network", [&](const YamlNode& node,
                                             const Place& place) { return read_network(node, place, config.network); }},
                        map_field("guest", source_fields(config.guest)), Field{"pools", keep_pools}}));
  const auto paths = check_paths(config);
  if (!paths) return yaml_error(name, root.line, root.column, paths.error().context());
  if (running != nullptr) GRANARY_TRY(check_unchanged(root, top, config, *running));
  if (pools != nullptr) {
    GRANARY_TRY(read_pools(*pools, top.key("pools"), config));
  } else {
    config.pools = {default_pool(config.guest)};
  }
  name_shapes(config);
  return config;
}

Result<Config> load_config(const std::string& path, const Config* running) {
  const std::string text = GRANARY_TRY(read_file(path, kMaxYamlBytes + 1));
  Config config = GRANARY_TRY(parse_config(text, path, running));
  config.hash = pool::sha256_of(text).substr(0, 12);
  return config;
}

}  // namespace granary::agent
