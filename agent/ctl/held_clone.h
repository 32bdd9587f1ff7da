// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "agent/ctl/client.h"

namespace granary::ctl {

// A clone whose lease ends with this object, or with this process, however that ends.
class HeldClone {
 public:
  // The errors of Hold.
  static Result<std::unique_ptr<HeldClone>> take(Client& client, const v1::AcquireRequest& request);
  HeldClone(const HeldClone&) = delete;
  HeldClone& operator=(const HeldClone&) = delete;
  ~HeldClone();

  [[nodiscard]] const v1::Clone& clone() const { return clone_; }
  // Returns once the clone is proven gone.
  Status release();

 private:
  explicit HeldClone(Client& client) : client_(client) {}
  Client& client_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::AcquireResponse>> stream_;
  v1::Clone clone_;
};

}  // namespace granary::ctl
