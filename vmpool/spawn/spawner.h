// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "vmpool/spawn/peer.h"
#include "vmpool/spawn/shim_table.h"
#include "vmpool/spawn/template_shelf.h"
#include "vmpool/spawn/vm_table.h"

namespace granary::spawn {

struct SpawnerOptions {
  std::string control_socket;
  std::string run_directory;
  std::string vmm = "granary-vmm";
  std::string fsd = {};  // granary-fsd; empty: there are no file servers
  std::string kvm = "/dev/kvm";
  std::string shim = {};   // containerd-shim-granary-v2; empty: no pod can have containers
  bool transient = false;  // ends once its last client has gone and no VM lives
  UidRange uids;
};

// granary-spawn: parent and reaper of every VMM and shim, keeper of what must outlive the agent. One thread, one event loop;
// several clients at once, each checked by SO_PEERCRED (uid 0 or the spawner's own). Every path is opened once, at
// start. A client can send what it likes: it gets kError and nothing else happens.
//
// Failure: a request that fails leaves nothing behind; running out of descriptors fails the request (EMFILE) and never
// the spawner. finish() is the orderly end: every VMM killed and reaped, every socket gone.
class Spawner {
 public:
  // kAlreadyRunning when another spawner has the run directory; the error of JailNamespaces::create() where VMMs cannot
  // be jailed: there are none without.
  static Result<std::unique_ptr<Spawner>> create(EventLoop& loop, const SpawnerOptions& options);
  ~Spawner();
  Spawner(const Spawner&) = delete;
  Spawner& operator=(const Spawner&) = delete;

  // Takes no more clients, kills every VMM, and stops the loop once all are reaped.
  void finish();

 private:
  Spawner(EventLoop& loop, std::string socket_path, RunDirectory run);
  Status open(const SpawnerOptions& options);
  void accept_one();
  void shed_one_connection();
  void add_peer(Fd socket);

  void on_message(Peer& peer, control::Message message);
  Status dispatch(Peer& peer, control::Message& message);
  Status hello(Peer& peer, const control::Message& message);
  Status spawn(Peer& peer, const control::Message& message);
  Status spawn_fsd(Peer& peer, const control::Message& message);
  Status kill(Peer& peer, const control::Message& message);
  Status adopt(Peer& peer, const control::Message& message);
  Status take(Peer& peer, control::Message& message);
  Status put_template(Peer& peer, const control::Message& message);
  Status get_template(Peer& peer, const control::Message& message);
  Status start_shim(Peer& peer, const control::Message& message, const control::StartShim& body,
                    const std::string& netns);
  Status stop_shim(Peer& peer, const control::Message& message);
  Status find_shim(Peer& peer, const control::Message& message);
  Status take_shim(Peer& peer, control::Message& message);
  Status send_vm(Peer& peer, const control::Message& question, VmId vm);
  void on_ended(const control::VmRecord& record);
  void on_shim_ended(const control::ShimRecord& record);
  void stop_if_finished();
  void end_if_unused();

  struct WaitingKill {
    uint64_t peer;
    uint32_t request;
    VmId vm;
  };
  struct WaitingStop {
    uint64_t peer;
    uint32_t request;
    std::string sandbox_id;
  };

  EventLoop& loop_;
  std::string socket_path_;
  std::string run_path_;  // for shims, which find their clone's socket by its path
  bool transient_ = false;
  bool had_agent_ = false;  // somebody said hello: a client that only looks does not end a transient spawner
  std::string vmm_build_id_;
  RunDirectory run_;
  std::unique_ptr<VmTable> vms_;
  std::unique_ptr<ShimTable> shims_;
  TemplateShelf templates_;
  Fd listener_;
  EventLoop::Token listener_token_ = 0;
  Fd reserve_;  // given up for a moment when descriptors run out, to accept and close a connection
  uint64_t next_peer_ = 1;
  std::map<uint64_t, std::unique_ptr<Peer>> peers_;
  std::vector<WaitingKill> waiting_kills_;
  std::vector<WaitingStop> waiting_stops_;
  bool finishing_ = false;
};

}  // namespace granary::spawn
