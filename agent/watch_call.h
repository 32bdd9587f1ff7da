// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <grpcpp/support/server_callback.h>

#include "agent/event_feed.h"
#include "granary/v1/pool.pb.h"

namespace granary::agent {

// The Watch calls in progress: one reactor and one bounded queue each, no thread. Thread-safe.
class WatchTable {
 public:
  explicit WatchTable(EventFeed& feed) : feed_(feed) {}
  // Starts a call; gRPC owns the reactor.
  grpc::ServerWriteReactor<v1::Event>* start();
  // Ends every call with OK: the agent goes.
  void end_all();

 private:
  friend class WatchCall;
  void remove(class WatchCall* call);

  EventFeed& feed_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<class WatchCall>> calls_;
};

}  // namespace granary::agent
