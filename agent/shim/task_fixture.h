// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gmock/gmock.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/shim/loop_fixture.h"
#include "agent/shim/task_service.h"
#include "containerd/events.pb.h"
#include "vmpool/guest/frame.h"
#include "vmpool/guest/guest.pb.h"

namespace granary::shim {

// A guest's init at the other end of a unix socket: does what it is asked, or what a test says.
class FakeGuest {
 public:
  struct Peer {
    Fd socket;
    EventLoop::Token token = 0;
    bool greeted = false;
    guest::FrameReader reader;
    std::string container;  // whose conversation this is
    bool is_exec = false;
    std::string input;
    bool input_closed = false;
  };
  FakeGuest(EventLoop& loop, const std::string& path);
  ~FakeGuest();

  // True: it is dealt with, else the guest does what a good one does.
  std::function<bool(Peer& peer, const guest::v1::Request& request)> on_request = [](Peer&, const guest::v1::Request&) {
    return false;
  };
  bool greets = true;
  std::vector<guest::v1::Request> requests;

  static void reply(Peer& peer, const guest::v1::Reply& reply);
  static void fail(Peer& peer, guest::v1::Failure::Kind kind, const std::string& message);
  static void output(Peer& peer, const std::string& bytes);
  // Nothing of what the peer sends is read, until it is listened to again.
  void ignore(Peer& peer) { loop_.remove(peer.token); }
  void listen_to(Peer& peer);
  // The conversation of a container, or of the newest exec in it; nullptr: none is open.
  Peer* conversation(const std::string& container, bool exec = false);
  void exit(const std::string& container, int32_t status, bool exec = false);
  // The VM ends.
  void die();

 private:
  void accept_one();
  void on_readable(Peer& peer);
  void serve(Peer& peer, const guest::v1::Request& request);

  EventLoop& loop_;
  std::string path_;
  Fd listener_;
  EventLoop::Token token_ = 0;
  std::vector<std::unique_ptr<Peer>> peers_;
};

// A Task service between a fake guest, a fake agent and a fake containerd.
class TaskTest : public LoopTest {
 protected:
  TaskTest();
  ~TaskTest() override;

  // Calls a method and waits for its answer.
  Result<std::string> call_raw(const std::string& method, const std::string& payload,
                               const std::string& version = "v3");
  template <class Request>
  Result<std::string> call(const std::string& method, const Request& request) {
    return call_raw(method, request.SerializeAsString());
  }
  Rpc code_of(const Result<std::string>& result) { return result ? Rpc::kOk : to_rpc(result.error()).code; }
  // Requests about a container, or an exec of it.
  template <class Request>
  Result<std::string> ask(const std::string& method, const std::string& id, const std::string& exec_id = "") {
    Request request;
    request.set_id(id);
    if constexpr (requires { request.set_exec_id(exec_id); }) request.set_exec_id(exec_id);
    return call(method, request);
  }
  containerd::task::v3::CreateTaskRequest create_request(const std::string& id);
  void create_and_start(const std::string& id);
  Result<std::string> exec(const std::string& id, const std::string& exec_id);
  std::string make_fifo(const std::string& name);
  std::vector<std::string> topics() const;

  std::unique_ptr<FakeGuest> guest_;
  std::unique_ptr<ttrpc::Server> agent_;
  std::unique_ptr<ttrpc::Server> containerd_;
  std::vector<uint32_t> attached_;
  std::vector<uint32_t> detached_;
  std::optional<Error> attach_fails_;
  std::vector<containerd::events::Envelope> events_;
  std::unique_ptr<TaskService> service_;
};

}  // namespace granary::shim
