// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace granary::cri {

// A client of a CRI streaming server: a WebSocket (RFC 6455) of the subprotocol v4.channel.k8s.io, in which the first
// byte of each message names its channel. Of exec and attach: 0 standard input, 1 output, 2 errors, 3 the outcome as a
// Kubernetes Status in JSON, 4 terminal sizes. Of port-forward, for the n-th port: 2n data, 2n + 1 errors; the first
// two bytes of each are the port. The subprotocol has no way to end one channel alone.
class ChannelSocket {
 public:
  // One that is closed, and a failure of the test, when it cannot be had.
  static std::unique_ptr<ChannelSocket> open(const std::string& url);
  ~ChannelSocket();
  ChannelSocket(const ChannelSocket&) = delete;
  ChannelSocket& operator=(const ChannelSocket&) = delete;

  void send(int channel, std::string_view data);
  // Receives until `done`. False: the server has closed before, or, which fails the test, says nothing for too long.
  bool receive_until(const std::function<bool()>& done);
  // Receives until the server has closed.
  bool finish();
  [[nodiscard]] const std::string& received(int channel) { return received_[channel]; }
  [[nodiscard]] bool closed() const { return closed_; }
  // With a closing handshake, and without.
  void close();
  void vanish();

 private:
  struct Stream;
  explicit ChannelSocket(std::unique_ptr<Stream> stream);
  // Why not, if it could not.
  std::string shake_hands(const std::string& url);
  std::unique_ptr<Stream> stream_;
  std::map<int, std::string> received_;
  bool closed_ = false;
};

}  // namespace granary::cri
