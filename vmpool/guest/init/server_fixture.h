// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "vmpool/base/fd.h"
#include "vmpool/guest/frame.h"
#include "vmpool/guest/guest.pb.h"
#include "vmpool/guest/init/container_paths.h"

namespace granary::guest {

v1::Request probe_request(uint64_t nonce);
v1::Request identity_request();
v1::Request exec_request(std::vector<std::string> argv);

// A client's end of one conversation.
class Conversation {
 public:
  // Everything an exec said, put together.
  struct Outcome {
    std::optional<int> pid;
    std::string out;
    std::string err;
    bool out_of_memory = false;
    std::optional<v1::Exited> exited;
    std::optional<v1::Failure> failure;
  };

  explicit Conversation(Fd socket) : socket_(std::move(socket)) {}
  void send(const v1::Request& request);
  void send_input(std::string data);
  void close_input();
  void send_signal(int number);
  // Fails the test when nothing comes for a long time.
  v1::Reply receive();
  // A request and its one answer.
  v1::Reply ask(const v1::Request& request);
  // Up to and with Exited or Failure.
  Outcome finish();
  // Receives until the output so far contains `text`.
  void expect_output(const std::string& text);
  // True if the server has ended the stream.
  [[nodiscard]] bool at_end();
  // What was received so far.
  [[nodiscard]] const std::string& output() const { return outcome_.out; }
  [[nodiscard]] int pid() const { return outcome_.pid.value_or(-1); }
  [[nodiscard]] int fd() const { return socket_.get(); }
  void hang_up() { socket_.reset(); }

 private:
  void take(const v1::Reply& reply);
  Fd socket_;
  FrameReader reader_;
  Outcome outcome_;
};

// A connection to the unix socket that the process `server` is about to make at `path`.
Result<Fd> connect_when_there(const std::string& path, pid_t server);

// Tells when a process that runs now has ended.
class ProcessEnd {
 public:
  explicit ProcessEnd(pid_t pid);
  // False if it goes on running for a long time.
  [[nodiscard]] bool await() const;

 private:
  Fd pidfd_;
};

// A server with a dry system in a process of its own, on a unix socket in a fresh folder.
class ServerTest : public testing::Test {
 protected:
  // The name of the system's step that shall fail; before SetUp().
  explicit ServerTest(std::string fail = {}) : fail_(std::move(fail)) {}
  // What the server's process does before it serves, and where its containers live; they see the test's folder.
  virtual ContainerPaths prepare_server() { return {}; }
  void SetUp() override;
  void TearDown() override;
  void end_server();
  Conversation connect();
  // Gives the server an identity, without which it runs nothing.
  void identify();
  Conversation::Outcome run(const v1::Request& exec);
  Conversation::Outcome shell(const std::string& script);
  // The server's largest resident size so far, in KiB; 0 under a sanitizer, whose own memory would hide it.
  [[nodiscard]] long peak_rss_kib() const;
  [[nodiscard]] pid_t server() const { return server_; }
  [[nodiscard]] const std::string& folder() const { return folder_; }

 private:
  std::string fail_;
  std::string folder_;
  pid_t server_ = 0;
};

}  // namespace granary::guest
