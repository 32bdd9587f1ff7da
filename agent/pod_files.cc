// SPDX-License-Identifier: Apache-2.0
#include "agent/pod_files.h"

#include <algorithm>

namespace granary::agent {
namespace {

// A text of the API server may be anything: what would end a line ends the word.
std::string word(const std::string& text) { return text.substr(0, text.find_first_of("\n\r \t#")); }

std::string resolv_conf(const runtime::v1::DNSConfig& dns) {
  std::string text;
  const auto line = [&text](const char* name, const auto& words) {
    if (words.empty()) return;
    text += name;
    for (const std::string& each : words) text += " " + word(each);
    text += "\n";
  };
  line("search", dns.searches());
  for (const std::string& server : dns.servers()) text += "nameserver " + word(server) + "\n";
  line("options", dns.options());
  return text;
}

std::string hosts(const std::string& hostname) {
  std::string text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";
  if (!hostname.empty()) text += "127.0.1.1 " + hostname + "\n";
  return text;
}

uint64_t positive(int64_t value) { return static_cast<uint64_t>(std::max<int64_t>(value, 0)); }

}  // namespace

guest::v1::Pod to_guest_pod(const runtime::v1::PodSandboxConfig& config, const std::string& host_resolv_conf) {
  guest::v1::Pod pod;
  const std::string hostname = word(config.hostname());
  pod.set_hosts(hosts(hostname));
  pod.set_hostname(hostname + "\n");
  const std::string dns = resolv_conf(config.dns_config());
  pod.set_resolv_conf(dns.empty() ? host_resolv_conf : dns);
  const auto& of_linux = config.linux_config();
  pod.mutable_limits()->set_memory_bytes(positive(of_linux.resources().memory_limit_in_bytes()));
  pod.mutable_limits()->set_cpu_quota_us(positive(of_linux.resources().cpu_quota()));
  pod.mutable_limits()->set_cpu_period_us(positive(of_linux.resources().cpu_period()));
  for (const auto& [name, value] : of_linux.sysctls()) {
    auto& sysctl = *pod.add_sysctls();
    sysctl.set_name(name);
    sysctl.set_value(value);
  }
  return pod;
}

}  // namespace granary::agent
