// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "vmpool/guest/init/server_fixture.h"

namespace granary::guest {

// A server with containers of its own: mounts and cgroups that only it sees. Needs root.
class ContainerServerTest : public ServerTest {
 protected:
  void SetUp() override;
  void TearDown() override;
  ContainerPaths prepare_server() override;
  // The OCI runtime that the server uses.
  [[nodiscard]] virtual std::string runtime() const = 0;

  // A configuration with namespaces and mounts as containerd asks for them.
  [[nodiscard]] nlohmann::json spec(const std::string& script, bool terminal = false) const;
  [[nodiscard]] v1::Request create_request(const std::string& id, const nlohmann::json& spec) const;
  [[nodiscard]] static v1::Request exec_in(const std::string& id, const std::string& script, bool terminal = false);
  // A conversation whose container runs.
  Conversation start(const v1::Request& create);
  Conversation start(const std::string& id, const std::string& script) {
    return start(create_request(id, spec(script)));
  }
  v1::Reply ask(const v1::Request& request) { return connect().ask(request); }
  v1::Reply remove(const std::string& id, bool force = false);
  v1::Reply kill(const std::string& id, int signal, bool all = false);
  void expect_failure(const v1::Reply& reply, v1::Failure::Kind kind, const std::string& text);
  [[nodiscard]] std::string rootfs() const { return folder() + "/root"; }
  // What the server keeps about containers.
  [[nodiscard]] std::vector<std::string> traces() const;

 private:
  std::string group_;  // the server's cgroup on this host
};

v1::Request start_request();

}  // namespace granary::guest
