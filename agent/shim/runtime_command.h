// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "vmpool/base/fd.h"

// The commands by which containerd 1.6 and 1.7 and CRI-O use a runtime v2 shim (containerd, runtime/v2/README: "Commands"):
//   … -id ID start    in the bundle's folder: starts the pod's shim, or finds it, and prints its address
//   … -id ID delete   what is left of a container whose shim has gone; prints a serialized DeleteResponse
//   -info, -v         who this is
// All input is hostile: kInvalidArgument or kNotSupported that name the option or file, with nothing left behind.
namespace granary::shim {

struct RuntimeCommand {
  enum class Verb { kStart, kDelete, kInfo, kVersion };
  Verb verb = Verb::kStart;
  std::string id;                    // of the container
  std::string containerd_namespace;
  std::string bundle;                // -bundle, else the working directory
  std::string events_socket;         // TTRPC_ADDRESS of the environment; empty: nobody is told of events
  std::string run_dir;               // granaryd's; as the runtime's options say (ConfigPath), else the default
};

// Go's flags: one dash or two, "-id X" or "-id=X". Those that mean nothing here (-address, -publish-binary, -debug) are taken.
Result<RuntimeCommand> parse_runtime_command(const std::vector<std::string>& words);

// ConfigPath of a serialized Any of runtimeoptions.v1.Options; empty: not given, or `any` is empty. kNotSupported: options of
// another type; kInvalidArgument: no such message, or a path that is not absolute.
Result<std::string> read_runtime_options(const std::string& any);

// The address ("unix:///…"), which is in the bundle's file "address" as well. Of a sandbox: of its shim that listens already,
// or a new one in the place of one that has gone. Of another container: of its sandbox's; FAILED_PRECONDITION when that has
// none.
// `program`: what is started with the listening socket as standard input.
Result<std::string> start_shim(const RuntimeCommand& command, const std::string& program = "/proc/self/exe");

// Idempotent, also when there was never anything: unmounts the root file system, and for a sandbox ends its shim, removes
// its socket and releases its clone. Gives a serialized DeleteResponse (exit status 137, now). What could not be done is
// logged; a clone that no agent took back is found by the next one.
std::string delete_leftovers(const RuntimeCommand& command);

// A serialized RuntimeInfo.
std::string runtime_info();

}  // namespace granary::shim
