// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vmpool/base/fd.h"

namespace granary::netplumb {

// Tells that some nf_tables table of the network namespace was deleted, as `nft flush ruleset` does with all of them,
// by whomever (nfnetlink's group NFNLGRP_NFTABLES).
class NftWatch {
 public:
  static Result<NftWatch> open();
  [[nodiscard]] int fd() const { return socket_.get(); }  // readable: there is something to read
  // Reads what has come. True: a table was deleted, or so much came that the kernel dropped some of it.
  bool table_deleted();

 private:
  explicit NftWatch(Fd socket) : socket_(std::move(socket)) {}
  Fd socket_;
};

}  // namespace granary::netplumb
