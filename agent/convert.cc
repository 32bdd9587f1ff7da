// SPDX-License-Identifier: Apache-2.0
#include "agent/convert.h"

#include <algorithm>

#include "agent/log_text.h"

namespace granary::agent {
namespace {

int64_t unix_ns(pool::WallTime when) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(when.time_since_epoch()).count();
}

}  // namespace

v1::Clone to_message(const pool::CloneInfo& info) {
  v1::Clone clone;
  clone.set_id(info.id);
  clone.set_pool(info.pool);
  clone.set_socket_path(info.socket_path);
  clone.set_template_key(info.template_key);
  clone.set_boot_id(info.boot_id);
  clone.set_hostname(info.hostname);
  clone.set_vmm_pid(info.vmm_pid);
  clone.set_handover_ns(info.handover.count());
  clone.set_warm(info.warm);
  clone.set_residue_bytes(info.residue_bytes);
  return clone;
}

v1::Clone to_message(const Lease& lease) {
  v1::Clone clone = to_message(lease.clone);
  clone.set_pool(lease.pool);
  clone.set_owner_id(lease.owner_id);
  clone.set_state("running");
  *clone.mutable_disks() = to_messages(lease.disks);
  if (lease.net) *clone.mutable_network() = to_message(*lease.net, lease.address);
  return clone;
}

v1::NetworkUse to_message(const NetWish& net, const std::string& address) {
  v1::NetworkUse out;
  out.set_address(address);
  for (const std::string& rule : net.allow) out.add_allow(rule);
  return out;
}

void put(const OwnNetwork::Use& use, v1::NetworkUse& out) {
  out.set_sent_bytes(use.traffic.sent_bytes);
  out.set_sent_packets(use.traffic.sent_packets);
  out.set_received_bytes(use.traffic.received_bytes);
  out.set_received_packets(use.traffic.received_packets);
  out.set_denied_packets(use.denied_packets);
  out.set_limited_packets(use.limited_packets);
}

std::optional<NetWish> to_net_wish(const v1::AcquireRequest& request) {
  if (!request.has_own_network()) return std::nullopt;
  const auto& allow = request.own_network().allow();
  return NetWish{.allow = {allow.begin(), allow.end()}};
}

google::protobuf::RepeatedPtrField<v1::Disk> to_messages(const std::vector<DiskWish>& disks) {
  google::protobuf::RepeatedPtrField<v1::Disk> out;
  for (const DiskWish& disk : disks) {
    v1::Disk* const message = out.Add();
    message->set_path(disk.path);
    message->set_read_only(disk.read_only);
  }
  return out;
}

std::vector<DiskWish> to_wishes(const google::protobuf::RepeatedPtrField<v1::Disk>& disks) {
  std::vector<DiskWish> out;
  for (const v1::Disk& disk : disks) out.push_back({.path = disk.path(), .read_only = disk.read_only()});
  return out;
}

v1::PoolStatus to_message(const pool::PoolStatus& status) {
  v1::PoolStatus out;
  out.set_name(status.name);
  out.set_vcpus(status.shape.vcpus);
  out.set_memory_bytes(status.shape.memory_bytes);
  out.set_template_key(status.template_key);
  out.set_template_state(ascii(status.template_state));
  out.set_target(status.target);
  out.set_warm(status.warm);
  out.set_restoring(status.restoring);
  out.set_running(status.running);
  out.set_reclaiming(status.reclaiming);
  out.set_hits(status.hits);
  out.set_waited(status.waited);
  out.set_failed(status.failed);
  out.set_reclaimed(status.reclaimed);
  out.set_leaks(status.leaks);
  out.set_last_error(ascii(status.last_error));
  out.set_size(status.size);
  out.set_min(status.min);
  out.set_bound(status.bound);
  out.set_clone_bytes(status.usage.clone_bytes);
  out.set_other_bytes(status.usage.other_bytes);
  out.set_residue_bytes(status.usage.residue_bytes);
  out.set_policy(status.adaptive ? "adaptive" : "fixed");
  out.set_wanted(status.wanted);
  out.set_why(ascii(status.why));
  return out;
}

v1::FlightRecord to_message(const pool::FlightRecord& record) {
  v1::FlightRecord out;
  out.set_clone_id(record.clone_id);
  out.set_pool(record.pool);
  out.set_failure(ascii(one_line(record.failure)));
  out.set_failed_in(record.failed_in);
  out.set_dropped(record.dropped);
  for (const pool::FlightStep& step : record.steps) {
    v1::FlightStep* const message = out.add_steps();
    message->set_unix_ns(unix_ns(step.when));
    message->set_state(step.state);
    message->set_detail(ascii(one_line(step.detail)));
  }
  return out;
}

v1::ConfigStatus to_message(const PoolSet::Configuration& configuration) {
  v1::ConfigStatus out;
  out.set_generation(configuration.generation);
  out.set_hash(configuration.hash);
  out.set_refused(ascii(configuration.refused));
  return out;
}

v1::Event to_message(const pool::Event& event) {
  v1::Event out;
  out.set_unix_ns(unix_ns(event.when));
  out.set_kind(event.kind);
  out.set_pool(event.pool);
  out.set_clone_id(event.clone_id);
  out.set_text(ascii(event.text));
  return out;
}

v1::TemplateInfo to_message(const PoolSet::TemplateUse& use) {
  v1::TemplateInfo out;
  out.set_key(use.info.key);
  out.set_inputs(use.info.inputs);
  out.set_memory_bytes(use.info.memory_bytes);
  out.set_populated_bytes(use.info.populated_bytes);
  out.set_created_unix_s(use.info.created_unix_s);
  out.set_boot_seconds(use.info.boot_seconds);
  for (const std::string& pool : use.used_by) out.add_used_by(pool);
  return out;
}

PodNeeds to_needs(const v1::PodLimits& limits) {
  const auto number = [](uint64_t value) { return static_cast<int64_t>(std::min<uint64_t>(value, INT64_MAX)); };
  return {.memory_bytes = limits.memory_bytes(),
          .vcpus = PodNeeds::vcpus_of(number(limits.cpu_quota_us()), number(limits.cpu_period_us()))};
}

}  // namespace granary::agent
