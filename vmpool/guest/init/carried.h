// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "vmpool/guest/guest.pb.h"

namespace granary::guest {

// What a conversation carries from one request to its end: the streams of a process, or a connection. Owned by the
// conversation.
class Carried {
 public:
  // Called from the event loop, never from inside the call that made the object, and never after it is gone.
  struct Owner {
    // What answers the request; then output; at last the word that ends it. Or a Failure and nothing after it.
    std::function<void(const v1::Reply&)> reply;
    // accepts_input() or ended() has become true.
    std::function<void()> wants_input;
  };

  virtual ~Carried() = default;
  Carried(const Carried&) = delete;
  Carried& operator=(const Carried&) = delete;

  // False until it is there, and while it leaves input unread.
  [[nodiscard]] virtual bool accepts_input() const = 0;
  // These only while accepts_input(). Input that is not wanted any more is dropped.
  virtual void write_input(std::string data) = 0;
  virtual void close_input() = 0;
  // Output is read only while allowed; at first it is.
  virtual void allow_output(bool allowed) = 0;
  // The last word was given to the owner.
  [[nodiscard]] virtual bool ended() const = 0;

 protected:
  Carried() = default;
};

}  // namespace granary::guest
