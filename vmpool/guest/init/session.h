// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "vmpool/guest/frame.h"
#include "vmpool/guest/init/clock_keeper.h"
#include "vmpool/guest/init/command.h"
#include "vmpool/guest/init/containers.h"
#include "vmpool/guest/init/identity.h"

namespace granary::guest {

// What all conversations of one server share.
struct Guest {
  EventLoop& loop;
  Reaper& reaper;
  System& system;
  GuestIdentity& identity;
  ClockKeeper& clock;
  Containers& containers;
};

// One conversation of the guest protocol on one connection. Bounded on both sides: requests are read only while the
// process takes its input and the peer takes the replies, output only while the connection is writable.
class Session {
 public:
  // `on_closed` is called once when the conversation is over; the Session may be destroyed only after that callback has
  // returned to the event loop.
  static Result<std::unique_ptr<Session>> create(Guest guest, Fd connection, std::function<void()> on_closed);

  ~Session() { *self_ = nullptr; }

 private:
  Session(Guest guest, Fd connection, std::function<void()> on_closed);
  void on_events(uint32_t events);
  void read_some();
  void take_requests();
  void handle(v1::Request& request);
  void handle_identity(const v1::Identity& identity);
  void handle_carried(v1::Request& request);
  void handle_containers(const v1::Request& request);
  void handle_for_carried(v1::Request& request);
  void handle_for_task(v1::Request& request);
  Status begin(v1::Request& request);
  void reply(const v1::Reply& reply);
  void flush();
  void settle();
  void close();
  [[nodiscard]] bool may_read() const;

  Guest guest_;
  Fd connection_;
  Watch watch_;
  std::function<void()> on_closed_;
  FrameReader reader_;
  std::string outbox_;
  size_t outbox_sent_ = 0;
  std::unique_ptr<Carried> carried_;
  Task* task_ = nullptr;                                               // it, if it is a process
  ContainerTask* container_ = nullptr;                                 // the same, if it is a container's
  bool waiting_ = false;                                               // for an answer about pod or containers
  std::shared_ptr<Session*> self_ = std::make_shared<Session*>(this);  // null once it is gone
  bool broken_ = false;    // the peer's stream is out of step: nothing more is read
  bool said_all_ = false;  // the last message went out, and after it the end of our stream
  bool closed_ = false;
};

}  // namespace granary::guest
