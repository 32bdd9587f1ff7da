// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "agent/pool_set.h"
#include "granary/v1/pool.pb.h"

// The tree's own values as messages of granary.v1.
namespace granary::agent {

v1::Clone to_message(const pool::CloneInfo& info);
v1::Clone to_message(const Lease& lease);
PodNeeds to_needs(const v1::PodLimits& limits);
google::protobuf::RepeatedPtrField<v1::Disk> to_messages(const std::vector<DiskWish>& disks);
std::vector<DiskWish> to_wishes(const google::protobuf::RepeatedPtrField<v1::Disk>& disks);
v1::NetworkUse to_message(const NetWish& net, const std::string& address);
void put(const OwnNetwork::Use& use, v1::NetworkUse& out);
std::optional<NetWish> to_net_wish(const v1::AcquireRequest& request);
v1::PoolStatus to_message(const pool::PoolStatus& status);
v1::ConfigStatus to_message(const PoolSet::Configuration& configuration);
v1::Event to_message(const pool::Event& event);
v1::FlightRecord to_message(const pool::FlightRecord& record);
v1::TemplateInfo to_message(const PoolSet::TemplateUse& use);

}  // namespace granary::agent
