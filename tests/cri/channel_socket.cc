// SPDX-License-Identifier: Apache-2.0
#include "tests/cri/channel_socket.h"

#include <gtest/gtest.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/websocket.hpp>
#include <chrono>
#include <regex>

namespace granary::cri {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = beast::websocket;
using ErrorCode = beast::error_code;

constexpr const char* kSubprotocol = "v4.channel.k8s.io";
// Of any one step: an emulated node is slow.
constexpr std::chrono::seconds kPatience{120};

}  // namespace

struct ChannelSocket::Stream {
  asio::io_context context;
  websocket::stream<beast::tcp_stream> socket{context};

  // Runs one asynchronous operation, which unlike a synchronous one has a time limit.
  template <class Start>
  ErrorCode run(Start start) {
    ErrorCode result;
    beast::get_lowest_layer(socket).expires_after(kPatience);
    start([&result](ErrorCode error, auto&&...) { result = error; });
    context.restart();
    context.run();
    return result;
  }
};

ChannelSocket::ChannelSocket(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}
ChannelSocket::~ChannelSocket() = default;

std::unique_ptr<ChannelSocket> ChannelSocket::open(const std::string& url) {
  std::unique_ptr<ChannelSocket> made(new ChannelSocket(std::make_unique<Stream>()));
  const std::string error = made->shake_hands(url);
  made->closed_ = !error.empty();
  EXPECT_EQ(error, "") << "the streaming server's URL is \"" << url << "\"";
  return made;
}

std::string ChannelSocket::shake_hands(const std::string& url) {
  std::smatch parts;
  if (!std::regex_match(url, parts, std::regex("http://([0-9.]+):([0-9]+)(/.*)"))) return "that is none";
  const std::string host = parts[1].str() + ":" + parts[2].str();
  const asio::ip::tcp::endpoint server(asio::ip::make_address(parts[1].str()),
                                       static_cast<unsigned short>(std::stoi(parts[2])));
  auto& socket = stream_->socket;
  const ErrorCode connected =
      stream_->run([&](auto done) { beast::get_lowest_layer(socket).async_connect(server, done); });
  if (connected) return connected.message();
  socket.set_option(websocket::stream_base::decorator(
      [](websocket::request_type& request) { request.set(beast::http::field::sec_websocket_protocol, kSubprotocol); }));
  socket.binary(true);
  socket.auto_fragment(false);  // the server takes the first byte of each frame for a channel
  socket.read_message_max(0);
  const ErrorCode shaken = stream_->run([&](auto done) { socket.async_handshake(host, parts[3].str(), done); });
  return shaken ? shaken.message() : "";
}

void ChannelSocket::send(int channel, std::string_view data) {
  if (closed_) return;
  const std::string message = static_cast<char>(channel) + std::string(data);
  const ErrorCode error = stream_->run([&](auto done) { stream_->socket.async_write(asio::buffer(message), done); });
  EXPECT_FALSE(error) << error.message();
}

bool ChannelSocket::receive_until(const std::function<bool()>& done) {
  while (!done() && !closed_) {
    beast::flat_buffer buffer;
    const ErrorCode error = stream_->run([&](auto told) { stream_->socket.async_read(buffer, told); });
    if (error == beast::error::timeout) {
      ADD_FAILURE() << "the streaming server says nothing";
      return false;
    }
    closed_ = static_cast<bool>(error);
    const std::string message = beast::buffers_to_string(buffer.data());
    if (!closed_ && !message.empty()) received_[static_cast<unsigned char>(message[0])] += message.substr(1);
  }
  return done();
}

bool ChannelSocket::finish() {
  (void)receive_until([] { return false; });
  return closed_;
}

void ChannelSocket::close() {
  (void)stream_->run([&](auto done) { stream_->socket.async_close(websocket::close_code::normal, done); });
}

void ChannelSocket::vanish() {
  ErrorCode ignored;
  beast::get_lowest_layer(stream_->socket).socket().close(ignored);
}

}  // namespace granary::cri
