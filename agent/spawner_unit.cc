// SPDX-License-Identifier: Apache-2.0
#include "agent/spawner_unit.h"

#include <linux/capability.h>
#include <systemd/sd-bus.h>

#include <memory>

namespace granary::agent {
namespace {

constexpr uint64_t bit(unsigned capability) { return uint64_t{1} << capability; }
constexpr uint64_t kCapabilities =
    bit(CAP_SYS_ADMIN) | bit(CAP_SYS_CHROOT) | bit(CAP_SETUID) | bit(CAP_SETGID) | bit(CAP_SETPCAP) | bit(CAP_KILL);
constexpr uint64_t kDescriptors = 1048576;

struct BusDeleter {
  void operator()(sd_bus* bus) const { ::sd_bus_flush_close_unref(bus); }
};
struct MessageDeleter {
  void operator()(sd_bus_message* message) const { ::sd_bus_message_unref(message); }
};
using Message = std::unique_ptr<sd_bus_message, MessageDeleter>;

// Each call on a message that has failed before fails too, so the last one tells.
int append_command(sd_bus_message* message, const std::vector<std::string>& argv) {
  ::sd_bus_message_open_container(message, 'r', "sv");
  ::sd_bus_message_append(message, "s", "ExecStart");
  ::sd_bus_message_open_container(message, 'v', "a(sasb)");
  ::sd_bus_message_open_container(message, 'a', "(sasb)");
  ::sd_bus_message_open_container(message, 'r', "sasb");
  ::sd_bus_message_append(message, "s", argv[0].c_str());
  ::sd_bus_message_open_container(message, 'a', "s");
  for (const std::string& word : argv) ::sd_bus_message_append(message, "s", word.c_str());
  ::sd_bus_message_close_container(message);
  ::sd_bus_message_append(message, "b", 0);  // a failure is one
  ::sd_bus_message_close_container(message);
  ::sd_bus_message_close_container(message);
  ::sd_bus_message_close_container(message);
  return ::sd_bus_message_close_container(message);
}

// The properties of systemd/granary-spawn.service; tests/e2e/residency compares the two.
int append_properties(sd_bus_message* message, const std::vector<std::string>& argv) {
  ::sd_bus_message_open_container(message, 'a', "(sv)");
  ::sd_bus_message_append(message, "(sv)", "Description", "s", "Granary VMM spawner");
  ::sd_bus_message_append(message, "(sv)", "Slice", "s", "granary.slice");
  ::sd_bus_message_append(message, "(sv)", "KillMode", "s", "process");
  ::sd_bus_message_append(message, "(sv)", "Delegate", "b", 1);
  ::sd_bus_message_append(message, "(sv)", "CapabilityBoundingSet", "t", kCapabilities);
  ::sd_bus_message_append(message, "(sv)", "NoNewPrivileges", "b", 1);
  ::sd_bus_message_append(message, "(sv)", "LimitNOFILE", "t", kDescriptors);
  ::sd_bus_message_append(message, "(sv)", "LimitNOFILESoft", "t", kDescriptors);
  ::sd_bus_message_append(message, "(sv)", "OOMScoreAdjust", "i", -900);
  // A spawner that died must not be in its successor's way; the agent starts that, so no Restart.
  ::sd_bus_message_append(message, "(sv)", "CollectMode", "s", "inactive-or-failed");
  append_command(message, argv);
  return ::sd_bus_message_close_container(message);
}

int build_order(sd_bus* bus, const std::vector<std::string>& argv, Message& message) {
  sd_bus_message* raw = nullptr;
  const int made = ::sd_bus_message_new_method_call(bus, &raw, "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                                                    "org.freedesktop.systemd1.Manager", "StartTransientUnit");
  message.reset(raw);
  if (made < 0) return made;
  ::sd_bus_message_append(raw, "ss", kSpawnerUnit, "fail");
  append_properties(raw, argv);
  return ::sd_bus_message_append(raw, "a(sa(sv))", 0);  // no further units
}

}  // namespace

Status start_spawner_unit(const std::vector<std::string>& argv) {
  sd_bus* raw = nullptr;
  const int opened = ::sd_bus_open_system(&raw);
  const std::unique_ptr<sd_bus, BusDeleter> bus(raw);
  if (opened < 0) {
    return Error::from_errno(
        -opened,
        "reach the host's systemd at /run/dbus/system_bus_socket (in a container, mount the host's /run/dbus)");
  }
  Message order;
  if (const int built = build_order(bus.get(), argv, order); built < 0) {
    return Error::from_errno(-built, "write an order for systemd");
  }
  sd_bus_error error = SD_BUS_ERROR_NULL;
  const int done = ::sd_bus_call(bus.get(), order.get(), 0, &error, nullptr);
  const std::string text = error.message != nullptr ? std::string(": ") + error.message : "";
  ::sd_bus_error_free(&error);
  if (done < 0) return Error::from_errno(-done, "have systemd start " + std::string(kSpawnerUnit) + text);
  return ok();
}

}  // namespace granary::agent
