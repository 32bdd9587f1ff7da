// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "vmpool/base/error.h"

namespace google::protobuf {
class Message;
}

namespace granary::ctl {

// Exit code for everything that is granaryctl's own failure, so that `run` and `exec` can pass on a command's codes.
inline constexpr int kExitOwnError = 125;

// Without control characters, which become '?': the text may quote a guest.
std::string clean(std::string text);

// Columns as wide as their widest cell, two blanks between, nothing behind the last. Control characters become '?':
// cells may quote a guest.
class Table {
 public:
  explicit Table(std::vector<std::string> headers) { rows_.push_back(std::move(headers)); }
  // One cell per header.
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  void print(std::ostream& out) const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

std::string human_size(uint64_t bytes);           // "0 B", "12.5 MiB"
std::string human_duration(int64_t nanoseconds);  // "0 ns", "312 µs", "1.25 s"
std::string short_key(const std::string& key);    // the first 12 characters; "-" for none
std::string or_dash(const std::string& text);

// Protobuf's JSON with the names of the .proto file and every field, on one line.
std::string to_json(const google::protobuf::Message& message);

// "granaryctl: …" on standard error; returns kExitOwnError.
int complain(const Error& error);

}  // namespace granary::ctl
