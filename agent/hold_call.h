// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <grpcpp/support/server_callback.h>

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "agent/pool_set.h"
#include "granary/v1/pool.pb.h"

namespace granary::agent {

class HoldCall;

// The Hold calls in progress: leases that end with their connection. Thread-safe.
class HoldTable {
 public:
  // Starts the call, which fails with the error of a wish that is none; gRPC owns the reactor, and the table until it
  // is done.
  grpc::ServerWriteReactor<v1::AcquireResponse>* start(PoolSet& pools, Result<PoolSet::Wish> wish);
  // Ends the call that holds this clone, if any, with an error that says why the clone is gone.
  void end(const std::string& clone_id, const Error& error);
  // Ends every call.
  void end_all(const Error& error);
  // True: no call is left; false: the deadline passed, or cut_short() was called.
  bool wait_until_empty(pool::SteadyTime deadline);
  void cut_short();

 private:
  friend class HoldCall;
  void remove(HoldCall* call);
  std::vector<std::shared_ptr<HoldCall>> calls();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<HoldCall*, std::shared_ptr<HoldCall>> calls_;
  bool cut_short_ = false;
};

}  // namespace granary::agent
