// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/ctl/client.h"
#include "agent/ctl/held_clone.h"
#include "agent/ctl/selftest/child.h"
#include "agent/ctl/selftest/identity.h"

namespace granary::ctl::selftest {

struct StageOptions {
  std::string programs;  // folder of granaryd, granary-spawn, granary-vmm, granary-fsd
  std::string kernel;
  std::string initramfs;
  std::string kvm = "/dev/kvm";
  bool skip_preflight = false;
  unsigned max_clones = 100;  // held at the same time
};

// What a script in a guest left; its output is a guest's.
struct Ran {
  int status = -1;
  std::string output;  // its beginning; standard error is in it
};

// An agent of the self-test's own, with folder, pool and cgroup of its own, so that one in service is not touched.
// Everything waits for the interrupt, too: EINTR. One thread.
class Stage {
 public:
  static Result<std::unique_ptr<Stage>> start(const StageOptions& options, const std::string& folder,
                                              Interrupt& interrupt);
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;
  ~Stage();  // as end(), whatever comes of it

  Client& client() { return *client_; }
  Result<v1::PoolStatus> pool();
  // Until the pool has its warm clones and reclaims none. kVmmFailed with the pool's words when its template failed.
  Status wait_warm(std::chrono::seconds limit);
  Result<std::unique_ptr<HeldClone>> take(std::chrono::seconds limit);
  // `sh -c script`.
  Result<Ran> run(const v1::Clone& clone, const std::string& script);
  // The guest's clocks and how far its wall clock is off the host's, beyond what the look itself took.
  struct Clocks {
    GuestClocks guest;
    int64_t off_ns = 0;
    int64_t look_ns = 0;
  };
  Result<Clocks> clocks(const v1::Clone& clone);
  Result<std::vector<std::string>> audit();
  // SIGTERM, and waits. An error when it did not end with 0.
  Status end();
  // The last line of its log, cut.
  [[nodiscard]] std::string last_words() const;

 private:
  Stage(std::string folder, Interrupt& interrupt, Child agent)
      : folder_(std::move(folder)), interrupt_(interrupt), agent_(std::move(agent)) {}
  Status connect();
  template <class Request, class Response>
  Result<Response> call(grpc::Status (v1::Pool::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                        const Request& request);

  std::string folder_;
  Interrupt& interrupt_;
  Child agent_;
  std::optional<Client> client_;
};

// The cgroup of the self-test's clones, and its folders that are there, in all hierarchies.
std::string stage_cgroup();
std::vector<std::string> cgroup_folders();
// Removes them where they are empty.
void remove_cgroup_folders();

}  // namespace granary::ctl::selftest
