// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/task_state.h"

#include <array>

#include "agent/shim/rpc_status.h"

namespace granary::shim {
namespace {

enum class Verdict : char { kYes, kNotNow, kGone };
constexpr Verdict yes = Verdict::kYes;
constexpr Verdict not_now = Verdict::kNotNow;
constexpr Verdict gone = Verdict::kGone;

// A row per operation, a column per phase.
constexpr std::array<std::array<Verdict, kPhases>, kOperations> kTable = {{
    //                creating  created  starting running  stopped  deleting
    /* start      */ {not_now, yes, not_now, not_now, not_now, gone},
    /* kill       */ {not_now, yes, yes, yes, gone, gone},
    /* delete     */ {not_now, yes, not_now, not_now, yes, gone},
    /* exec       */ {not_now, not_now, not_now, yes, not_now, gone},
    /* close-io   */ {not_now, yes, yes, yes, yes, gone},
    /* resize-pty */ {not_now, yes, yes, yes, not_now, gone},
    /* update     */ {not_now, yes, yes, yes, not_now, gone},
    /* pause      */ {not_now, not_now, not_now, yes, gone, gone},
    /* stats      */ {not_now, yes, yes, yes, gone, gone},
    /* pids       */ {not_now, yes, yes, yes, yes, gone},
    /* wait       */ {yes, yes, yes, yes, yes, yes},
    /* state      */ {yes, yes, yes, yes, yes, yes},
}};

}  // namespace

const char* to_string(Phase phase) {
  static constexpr std::array<const char*, kPhases> kNames = {"being created", "created", "being started",
                                                              "running",       "stopped", "being deleted"};
  return kNames[static_cast<size_t>(phase)];
}

const char* to_string(Operation operation) {
  static constexpr std::array<const char*, kOperations> kNames = {"start",
                                                                  "kill",
                                                                  "delete",
                                                                  "execute in",
                                                                  "close the input of",
                                                                  "resize the terminal of",
                                                                  "update",
                                                                  "pause or resume",
                                                                  "measure",
                                                                  "list",
                                                                  "wait for",
                                                                  "look at"};
  return kNames[static_cast<size_t>(operation)];
}

Status check_operation(Operation operation, Phase phase, const std::string& name) {
  const Verdict verdict = kTable[static_cast<size_t>(operation)][static_cast<size_t>(phase)];
  if (verdict == yes) return ok();
  return rpc_error(verdict == gone ? Rpc::kNotFound : Rpc::kFailedPrecondition,
                   std::string("cannot ") + to_string(operation) + " " + name + ": it is " + to_string(phase));
}

}  // namespace granary::shim
