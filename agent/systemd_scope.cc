// SPDX-License-Identifier: Apache-2.0
#include "agent/systemd_scope.h"

#include <systemd/sd-bus.h>

#include <chrono>
#include <memory>

#include "vmpool/base/fd.h"

namespace granary::agent {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::microseconds kLimit{10'000'000};
constexpr const char* kService = "org.freedesktop.systemd1";
constexpr const char* kPath = "/org/freedesktop/systemd1";
constexpr const char* kInterface = "org.freedesktop.systemd1.Manager";

struct Unref {
  void operator()(sd_bus* bus) const { ::sd_bus_flush_close_unref(bus); }
  void operator()(sd_bus_message* message) const { ::sd_bus_message_unref(message); }
  void operator()(sd_bus_slot* slot) const { ::sd_bus_slot_unref(slot); }
};
using Bus = std::unique_ptr<sd_bus, Unref>;
using Message = std::unique_ptr<sd_bus_message, Unref>;
using Slot = std::unique_ptr<sd_bus_slot, Unref>;

// The newest job that ended.
struct EndedJob {
  std::string path;
  std::string result;
};

int on_job_removed(sd_bus_message* message, void* ended, sd_bus_error* /*error*/) {
  uint32_t id = 0;
  const char* path = nullptr;
  const char* unit = nullptr;
  const char* result = nullptr;
  if (::sd_bus_message_read(message, "uoss", &id, &path, &unit, &result) >= 0) {
    *static_cast<EndedJob*>(ended) = {path, result};
  }
  return 0;
}

// Negative errno numbers, as everything of sd-bus.
int fill(sd_bus_message* call, const std::string& slice, const std::string& scope, int32_t pid) {
  int done = ::sd_bus_message_append(call, "ss", scope.c_str(), "fail");
  if (done >= 0) {
    // As for a container's scope: none stays as "failed" after a kill for want of memory, and a node that shuts down
    // leaves it to the kubelet to end its pods.
    done = ::sd_bus_message_append(call, "a(sv)", 9, "Description", "s", "Granary microVM", "Slice", "s", slice.c_str(),
                                   "CollectMode", "s", "inactive-or-failed", "DefaultDependencies", "b", 0, "Delegate",
                                   "b", 1, "MemoryAccounting", "b", 1, "CPUAccounting", "b", 1, "TasksAccounting", "b",
                                   1, "PIDs", "au", 1, static_cast<uint32_t>(pid));
  }
  if (done >= 0) done = ::sd_bus_message_append(call, "a(sa(sv))", 0);
  return done;
}

class Call {
 public:
  explicit Call(std::string scope) : scope_(std::move(scope)) {}

  Status run(const std::string& slice, int32_t pid) {
    sd_bus* bus = nullptr;
    GRANARY_TRY(
        check(::sd_bus_open_system(&bus), "connect to the system bus (in a container, mount the host's /run/dbus)"));
    bus_.reset(bus);
    ::sd_bus_set_method_call_timeout(bus, static_cast<uint64_t>(kLimit.count()));
    sd_bus_slot* slot = nullptr;
    GRANARY_TRY(
        check(::sd_bus_match_signal(bus, &slot, kService, kPath, kInterface, "JobRemoved", on_job_removed, &ended_),
              "listen"));
    const Slot listening(slot);
    sd_bus_message* call = nullptr;
    GRANARY_TRY(
        check(::sd_bus_message_new_method_call(bus, &call, kService, kPath, kInterface, "StartTransientUnit"), "ask"));
    const Message request(call);
    GRANARY_TRY(check(fill(call, slice, scope_, pid), "ask"));
    sd_bus_error error = SD_BUS_ERROR_NULL;
    sd_bus_message* answer = nullptr;
    const int called = ::sd_bus_call(bus, call, 0, &error, &answer);
    const std::string why = error.message != nullptr ? error.message : "StartTransientUnit";
    ::sd_bus_error_free(&error);
    GRANARY_TRY(check(called, why));
    const Message reply(answer);
    const char* job = nullptr;
    GRANARY_TRY(check(::sd_bus_message_read(answer, "o", &job), "read the answer"));
    return wait_for(job);
  }

 private:
  Status check(int done, const std::string& what) const {
    if (done >= 0) return ok();
    return Error::from_errno(-done, "systemd: start " + scope_ + ": " + what);
  }

  Status wait_for(const std::string& job) {
    const auto limit = steady_clock::now() + kLimit;
    while (ended_.path != job) {
      const int handled = ::sd_bus_process(bus_.get(), nullptr);
      GRANARY_TRY(check(handled, "wait"));
      if (handled > 0) continue;
      const auto left = std::chrono::duration_cast<std::chrono::microseconds>(limit - steady_clock::now());
      if (left.count() <= 0) return Error(Errc::kDeadlineExceeded, "systemd: start " + scope_);
      GRANARY_TRY(check(::sd_bus_wait(bus_.get(), static_cast<uint64_t>(left.count())), "wait"));
    }
    if (ended_.result == "done") return ok();
    return Error::from_errno(EIO, "systemd: start " + scope_ + ": the job ended as \"" + ended_.result + "\"");
  }

  std::string scope_;
  Bus bus_;
  EndedJob ended_;
};

}  // namespace

// Not sd_booted(), whose folder a container with the host's processes and bus does not see.
bool systemd_runs() {
  const auto first = read_file("/proc/1/comm");
  return first && *first == "systemd\n";
}

Status start_scope(const std::string& slice, const std::string& scope, int32_t pid) {
  return Call(scope).run(slice, pid);
}

}  // namespace granary::agent
