// SPDX-License-Identifier: Apache-2.0
#include "agent/pod_files.h"

#include <gtest/gtest.h>

namespace granary::agent {
namespace {

TEST(PodFiles, ComeFromTheSandboxConfig) {
  runtime::v1::PodSandboxConfig config;
  config.set_hostname("web-1");
  config.mutable_dns_config()->add_servers("10.0.0.10");
  config.mutable_dns_config()->add_searches("default.svc.cluster.local");
  config.mutable_dns_config()->add_searches("cluster.local");
  config.mutable_dns_config()->add_options("ndots:5");
  (*config.mutable_linux_config()->mutable_sysctls())["net.ipv4.ip_forward"] = "1";
  config.mutable_linux_config()->mutable_resources()->set_memory_limit_in_bytes(1 << 20);
  config.mutable_linux_config()->mutable_resources()->set_cpu_quota(-1);
  const guest::v1::Pod pod = to_guest_pod(config, "host's");
  EXPECT_EQ(pod.resolv_conf(),
            "search default.svc.cluster.local cluster.local\nnameserver 10.0.0.10\noptions ndots:5\n");
  EXPECT_EQ(pod.hostname(), "web-1\n");
  EXPECT_EQ(pod.hosts(), "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 web-1\n");
  EXPECT_EQ(pod.limits().memory_bytes(), 1U << 20);
  EXPECT_EQ(pod.limits().cpu_quota_us(), 0U);
  ASSERT_EQ(pod.sysctls_size(), 1);
  EXPECT_EQ(pod.sysctls(0).name(), "net.ipv4.ip_forward");
}

TEST(PodFiles, WithoutDnsThePodHasTheHostsAndNoWordMakesALine) {
  runtime::v1::PodSandboxConfig config;
  EXPECT_EQ(to_guest_pod(config, "nameserver 1.1.1.1\n").resolv_conf(), "nameserver 1.1.1.1\n");
  config.set_hostname("a\n6.6.6.6 bank.example");
  config.mutable_dns_config()->add_servers("1.1.1.1\nnameserver 6.6.6.6");
  const guest::v1::Pod pod = to_guest_pod(config, "");
  EXPECT_EQ(pod.resolv_conf(), "nameserver 1.1.1.1\n");
  EXPECT_EQ(pod.hostname(), "a\n");
  EXPECT_EQ(pod.hosts().find("bank"), std::string::npos);
}

}  // namespace
}  // namespace granary::agent
