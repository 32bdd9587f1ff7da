// SPDX-License-Identifier: Apache-2.0
// What times are made of, counted: figures that do not depend on how fast a machine is.
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>

#include "agent/exec_request.h"
#include "tests/bench/rows.h"
#include "vmpool/pool/exec_session.h"
#include "vmpool/pool/guest_client.h"

namespace granary::bench {
namespace {

constexpr std::chrono::seconds kGuestLimit{60};

std::string with_devices(const std::string& text) { return text + "; " + std::to_string(device_count()) + " devices"; }

// Retired in guest mode by one thread of another process (perf_event_open(2)). ENOENT: no such counter, as in virtual
// machines without a PMU.
Result<Fd> open_counter(pid_t thread) {
  perf_event_attr attributes{};
  attributes.size = sizeof(attributes);
  attributes.type = PERF_TYPE_HARDWARE;
  attributes.config = PERF_COUNT_HW_INSTRUCTIONS;
  attributes.exclude_host = 1;
  const long fd = ::syscall(SYS_perf_event_open, &attributes, thread, -1, -1, PERF_FLAG_FD_CLOEXEC);
  if (fd < 0) return Error::last_os_error("count a guest's instructions (perf_event_open)");
  return Fd(static_cast<int>(fd));
}

Result<std::vector<Fd>> open_counters(pid_t process) {
  std::vector<Fd> counters;
  std::error_code code;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/task", code))
    counters.push_back(GRANARY_TRY(open_counter(std::stoi(thread.path().filename().string()))));
  return counters;
}

Result<double> sum(const std::vector<Fd>& counters) {
  double all = 0;
  for (const Fd& counter : counters) {
    uint64_t count = 0;
    if (::read(counter.get(), &count, sizeof(count)) != sizeof(count))
      return Error::last_os_error("read a counter of instructions");
    all += static_cast<double>(count);
  }
  return all;
}

struct Restored {
  LabVm vm;
  std::unique_ptr<pool::VmmClient> client;
};

// Its guest has not run yet.
Result<Restored> restore(Lab& lab, const Guest& guest) {
  const pool::Template& from = *GRANARY_TRY(lab.template_of(guest));
  LabVm vm = GRANARY_TRY(lab.spawn_shell());
  auto client = GRANARY_TRY(vm.client());
  GRANARY_TRY(client->restore(from.state.get(), from.memory.get(), false, new_generation()));
  return Restored{std::move(vm), std::move(client)};
}

Result<pool::GuestClient> probe(const LabVm& vm, pool::SteadyTime deadline) {
  pool::GuestClient init = GRANARY_TRY(pool::GuestClient::connect(vm.socket_path(), deadline));
  GRANARY_TRY(init.probe(deadline));
  return init;
}

// The vCPUs' threads are there before the guest runs.
Result<double> count_instructions(Lab& lab, const Guest& guest) {
  const Restored clone = GRANARY_TRY(restore(lab, guest));
  const std::vector<Fd> counters = GRANARY_TRY(open_counters(clone.vm.pid()));
  GRANARY_TRY(clone.client->unpark());
  (void)GRANARY_TRY(probe(clone.vm, pool::SteadyClock::now() + kGuestLimit));
  return sum(counters);
}

Result<double> exits_of(pool::VmmClient& vmm) { return static_cast<double>(GRANARY_TRY(vmm.stats()).exits); }

// As a pool hands a warm clone over, with the exits that it takes: none while it is parked.
Result<double> hand_over(const Restored& clone) {
  const auto deadline = pool::SteadyClock::now() + kGuestLimit;
  GRANARY_TRY(clone.client->unpark());
  pool::GuestClient init = GRANARY_TRY(probe(clone.vm, deadline));
  GRANARY_TRY(clone.client->park());
  const double before = GRANARY_TRY(exits_of(*clone.client));
  const pool::Uuid uuid = GRANARY_TRY(pool::random_uuid());
  GRANARY_TRY(init.send_identity(uuid, "bench", nullptr, deadline));
  GRANARY_TRY(clone.client->unpark());
  (void)GRANARY_TRY(init.identity_applied(uuid, deadline));
  return GRANARY_TRY(exits_of(*clone.client)) - before;
}

Result<double> handover_exits(Lab& lab, const Guest& guest) { return hand_over(GRANARY_TRY(restore(lab, guest))); }

Result<double> exec_exits(Lab& lab, const Guest& guest) {
  const Restored clone = GRANARY_TRY(restore(lab, guest));
  (void)GRANARY_TRY(hand_over(clone));
  const double before = GRANARY_TRY(exits_of(*clone.client));
  const auto deadline = pool::SteadyClock::now() + kGuestLimit;
  const guest::v1::Exec exec = GRANARY_TRY(agent::to_exec({.argv = {"/bin/true"}, .env = {}, .cwd = {}}));
  const auto session = GRANARY_TRY(pool::ExecSession::start(clone.vm.socket_path(), exec, deadline));
  for (;;) {
    const auto event = GRANARY_TRY(session->next(deadline));
    if (!event) return Error(Errc::kGuestUnresponsive, "/bin/true did not end within a minute");
    if (event->kind != pool::ExecEvent::Kind::kExited) continue;
    if (event->exit_status != 0)
      return Error(Errc::kVmmFailed, "/bin/true ended with " + std::to_string(event->exit_status));
    return GRANARY_TRY(exits_of(*clone.client)) - before;
  }
}

Result<double> boot_exits(Lab& lab, const Guest& guest) {
  const auto [vm, client] = GRANARY_TRY(lab.boot(guest));
  return exits_of(*client);
}

using Count = Result<double> (*)(Lab& lab, const Guest& guest);

struct Counted {
  const char* name;
  const char* clock;
  Count count;
  bool needs_linux = false;
  unsigned most = 10;
};
constexpr Counted kRows[] = {
    {"exits_handover", "KVM exits to the VMM from unpark to the acknowledged identity", handover_exits},
    {"exits_exec_true", "KVM exits to the VMM during an exec of /bin/true in a clone that was handed over", exec_exits,
     true},
    {"exits_template_boot", "KVM exits to the VMM from boot to the guest's ready doorbell", boot_exits, false, 3},
};

Result<Row> row_of(Lab& lab, const Guest& guest, unsigned n, const Counted& what) {
  Row row{what.name, guest.name, "count", with_devices(what.clock), {}, ""};
  for (unsigned i = 0; i < n; ++i) row.samples.push_back(GRANARY_TRY(what.count(lab, guest)));
  return row;
}

Result<Row> guest_instructions(Lab& lab, const Guest& guest, unsigned n) {
  if (const Result<Fd> counter = open_counter(0); !counter)
    return Row{"guest_instructions", guest.name, "count", "", {}, counter.error().message() + "; no counters here"};
  return row_of(lab, guest, n,
                {"guest_instructions", "instructions retired in guest mode from resume to the probe's answer (perf)",
                 count_instructions});
}

}  // namespace

std::vector<RowSpec> count_rows(Lab* lab, const Settings& settings) {
  std::vector<Guest> guests = settings.linux_guests;
  guests.insert(guests.begin(), settings.tiny);
  std::vector<RowSpec> rows;
  for (const Guest& guest : guests) {
    for (const Counted& what : kRows) {
      if (what.needs_linux && guest.name == "tiny") continue;
      const unsigned n = std::min(settings.n, what.most);
      rows.push_back({what.name, guest.name, [=, &what] { return only(row_of(*lab, guest, n, what)); }});
    }
    const unsigned n = std::min(settings.n, 10U);
    rows.push_back({"guest_instructions", guest.name, [=] { return only(guest_instructions(*lab, guest, n)); }});
  }
  return rows;
}

}  // namespace granary::bench
