// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>

#include "netplumb/attach.h"
#include "tests/bench/pod_network.h"
#include "tests/bench/rows.h"
#include "tests/bench/smaps.h"
#include "tests/guest/layout.h"
#include "vmpool/pool/guest_client.h"

namespace granary::bench {
namespace {

using pool::SteadyClock;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr int kAnswerMs = 30'000;

std::string with_devices(const std::string& text) { return text + "; " + std::to_string(device_count()) + " devices"; }

uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

control::CreateShell shell_request() { return {shape().memory_bytes, shape().vcpus, 0, shape().devices}; }

Status send_restore(int socket, const pool::Template& from) {
  const control::Restore body{.resume = 1, .reserved = 0, .vm_generation_id = new_generation()};
  const int fds[] = {from.state.get(), from.memory.get()};
  return control::send(socket, control::Type::kRestore, 2, body, fds);
}

// When the VMM saw the guest's first doorbell after its restore. Answers to requests on the way must not be errors.
Result<uint64_t> first_instruction_ns(int socket) {
  for (;;) {
    const control::Message message = GRANARY_TRY(control::receive(socket, kAnswerMs));
    if (message.type == control::Type::kError) GRANARY_TRY(message.as_answer<control::Empty>(control::Type::kDone));
    if (message.type == control::Type::kEnded) return Error(Errc::kVmmFailed, "the clone ended instead of running");
    if (message.type != control::Type::kDoorbell) continue;
    const auto event = GRANARY_TRY(message.as<control::DoorbellEvent>());
    if (event.value == TINY_MARK_RESTORED) return event.monotonic_ns;
  }
}

Result<Row> restore_shell(Lab& lab, const Settings& settings) {
  Row row{"restore_shell",
          "tiny",
          "us",
          with_devices("restore request sent to a ready-made shell -> first guest instruction's exit"),
          {},
          ""};
  const pool::Template& from = *GRANARY_TRY(lab.template_of(settings.bell));
  for (unsigned i = 0; i < settings.n; ++i) {
    const LabVm vm = GRANARY_TRY(lab.spawn_shell());
    const uint64_t start = monotonic_ns();
    GRANARY_TRY(send_restore(vm.control(), from));
    row.samples.push_back(static_cast<double>(GRANARY_TRY(first_instruction_ns(vm.control())) - start) / 1e3);
  }
  return row;
}

Result<Row> restore_fresh(Lab& lab, const Settings& settings) {
  Row row{"restore_fresh",
          "tiny",
          "us",
          with_devices("shell request sent to a running VMM process -> first guest instruction's exit"),
          {},
          ""};
  const pool::Template& from = *GRANARY_TRY(lab.template_of(settings.bell));
  for (unsigned i = 0; i < settings.n; ++i) {
    const LabVm vm = GRANARY_TRY(lab.spawn());
    GRANARY_TRY(GRANARY_TRY(vm.client())->stats());  // the process serves requests
    const uint64_t start = monotonic_ns();
    GRANARY_TRY(control::send(vm.control(), control::Type::kCreateShell, 1, shell_request()));
    const control::Message shell = GRANARY_TRY(control::receive(vm.control(), kAnswerMs));
    GRANARY_TRY(shell.as_answer<control::Empty>(control::Type::kDone));
    GRANARY_TRY(send_restore(vm.control(), from));
    row.samples.push_back(static_cast<double>(GRANARY_TRY(first_instruction_ns(vm.control())) - start) / 1e3);
  }
  return row;
}

Result<Row> vmm_start(Lab& lab, const Settings& settings) {
  Row row{"vmm_start", "none",
          "us",        "spawn request sent -> the new process has answered its first request; no devices yet",
          {},          ""};
  for (unsigned i = 0; i < settings.n; ++i) {
    const auto start = SteadyClock::now();
    const LabVm vm = GRANARY_TRY(lab.spawn());
    const auto client = GRANARY_TRY(vm.client());
    GRANARY_TRY(client->stats());
    row.samples.push_back(microseconds(SteadyClock::now() - start));
  }
  return row;
}

// A cgroup v2 group for one VMM; none where the host has no v2 tree that can be written.
class Group {
 public:
  Group() {
    if (::mkdir(kPath, 0755) == 0) fd_ = Fd(::open(kPath, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  ~Group() {
    if (fd_.valid()) ::rmdir(kPath);
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  [[nodiscard]] int fd() const { return fd_.get(); }
  // Waits until nothing is in it: the kernel finishes an exit after it was reported.
  Status remove() {
    const auto deadline = SteadyClock::now() + seconds(10);
    while (::rmdir(kPath) != 0) {
      if (errno != EBUSY || SteadyClock::now() > deadline) return Error::last_os_error(std::string("remove ") + kPath);
    }
    fd_.reset();
    return ok();
  }

 private:
  static constexpr const char* kPath = "/sys/fs/cgroup/granary-bench";
  Fd fd_;
};

bool has_cgroup2() { return ::access("/sys/fs/cgroup/cgroup.procs", W_OK) == 0; }

// Since Linux 6.17 KVM frees some of what the making of a VM replaced (its old I/O buses) by call_srcu(), and the end
// of a VM waits for that: within some 20 ms of its making it takes so much longer (srcu_barrier() in kvm_destroy_vm()).
constexpr int kSettleMs = 100;

Result<Row> reclaim(Lab& lab, const Settings& settings, const char* name, const netplumb::Attachment* network) {
  const bool grouped = has_cgroup2();
  Row row{
      name,
      "tiny",
      "us",
      with_devices(
          grouped
              ? "kill request sent to the spawner of a clone 100 ms old -> process reaped, socket gone, cgroup removed"
              : "kill request sent to the spawner of a clone 100 ms old -> process reaped, socket gone; no cgroup v2 "
                "here"),
      {},
      ""};
  const pool::Template& from = *GRANARY_TRY(lab.template_of(settings.bell));
  for (unsigned i = 0; i < settings.n; ++i) {
    std::optional<Group> group;
    if (grouped) group.emplace();
    LabVm vm = GRANARY_TRY(lab.spawn(grouped ? group->fd() : -1));
    GRANARY_TRY(GRANARY_TRY(vm.client())->create_shell(shape()));
    GRANARY_TRY(send_restore(vm.control(), from));
    GRANARY_TRY(first_instruction_ns(vm.control()));
    if (network != nullptr) {
      GRANARY_TRY(GRANARY_TRY(vm.client())->attach_net(0, network->taps.at(0).get()));
    }
    ::poll(nullptr, 0, kSettleMs);
    const auto start = SteadyClock::now();
    GRANARY_TRY(vm.end());
    if (group) GRANARY_TRY(group->remove());
    row.samples.push_back(microseconds(SteadyClock::now() - start));
  }
  return row;
}

// As "reclaim", with a persistent tap of a pod's namespace in the first card: the VMM's end must not wait for it.
Result<Row> reclaim_with_tap(Lab& lab, const Settings& settings) {
  const PodNetwork pod;
  const Fd netns = GRANARY_TRY(pod.open());
  netplumb::Attachment network = GRANARY_TRY(netplumb::attach(netns.get(), pod.path(), 1));
  Result<Row> row = reclaim(lab, settings, "reclaim_with_tap", &network);
  network.taps.clear();
  GRANARY_TRY(netplumb::detach(netns.get(), pod.path()));
  return row;
}

// A restored clone whose guest has answered the probe.
struct Probed {
  LabVm vm;
  std::unique_ptr<pool::VmmClient> client;
  nanoseconds took;  // restore request sent -> probe answered
};

Result<Probed> restore_and_probe(Lab& lab, const Guest& guest) {
  const pool::Template& from = *GRANARY_TRY(lab.template_of(guest));
  LabVm vm = GRANARY_TRY(lab.spawn_shell());
  auto client = GRANARY_TRY(vm.client());
  const auto start = SteadyClock::now();
  GRANARY_TRY(client->restore(from.state.get(), from.memory.get(), true, new_generation()));
  const auto deadline = start + seconds(60);
  pool::GuestClient init = GRANARY_TRY(pool::GuestClient::connect(vm.socket_path(), deadline));
  GRANARY_TRY(init.probe(deadline));
  const auto took = SteadyClock::now() - start;
  return Probed{std::move(vm), std::move(client), took};
}

Result<Row> template_boot(Lab& lab, const Guest& guest) {
  Row row{"template_boot", guest.name, "ms", with_devices("VMM spawn -> guest ready, parked and snapshotted"), {}, ""};
  for (unsigned i = 0; i < 3; ++i) {
    const auto start = SteadyClock::now();
    GRANARY_TRY(lab.build_template(guest));
    row.samples.push_back(microseconds(SteadyClock::now() - start) / 1e3);
  }
  return row;
}

// Rows that look at a probed clone.
Result<Row> probed_row(Lab& lab, const Guest& guest, unsigned n, Row row,
                       const std::function<Result<double>(Probed&)>& figure) {
  row.guest = guest.name;
  for (unsigned i = 0; i < n; ++i) {
    Probed clone = GRANARY_TRY(restore_and_probe(lab, guest));
    row.samples.push_back(GRANARY_TRY(figure(clone)));
  }
  return row;
}

Result<VmmMemory> memory_of(const Probed& clone) { return read_vmm_memory(clone.vm.pid(), shape().memory_bytes); }

double mib(uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(kMiB); }

void add_probed_rows(std::vector<RowSpec>& rows, Lab* lab, const Guest& guest, unsigned n) {
  const auto add = [&](Row row, std::function<Result<double>(Probed&)> figure) {
    rows.push_back({row.name, guest.name, [lab, guest, n, row, figure = std::move(figure)] {
                      return only(probed_row(*lab, guest, n, row, figure));
                    }});
  };
  add({"restore_to_probe",
       "",
       "us",
       with_devices("restore request sent to a ready-made shell -> probe answered over the per-clone socket"),
       {},
       ""},
      [](Probed& clone) -> Result<double> { return microseconds(clone.took); });
  add({"exits_resume_to_probe",
       "",
       "count",
       with_devices("KVM exits to the VMM from resume to the probe's answer"),
       {},
       ""},
      [](Probed& clone) -> Result<double> { return static_cast<double>(GRANARY_TRY(clone.client->stats()).exits); });
  add({"guest_pages_written",
       "",
       "count",
       with_devices("guest pages copied or new after the probe's answer (smaps: Anonymous)"),
       {},
       ""},
      [](Probed& clone) -> Result<double> {
        return static_cast<double>(GRANARY_TRY(memory_of(clone)).guest_private_bytes / kPageSize);
      });
  add({"clone_private",
       "",
       "MiB",
       with_devices("guest memory that is the clone's alone after the probe's answer (smaps: Anonymous)"),
       {},
       ""},
      [](Probed& clone) -> Result<double> { return mib(GRANARY_TRY(memory_of(clone)).guest_private_bytes); });
  add({"vmm_pss",
       "",
       "MiB",
       with_devices("Pss of the VMM process outside guest memory, after the probe's answer (smaps)"),
       {},
       ""},
      [](Probed& clone) -> Result<double> { return mib(GRANARY_TRY(memory_of(clone)).vmm_pss_bytes); });
}

}  // namespace

std::vector<RowSpec> vmm_rows(Lab* lab, const Settings& settings) {
  std::vector<RowSpec> rows = {
      {"restore_shell", "tiny", [=, &settings] { return only(restore_shell(*lab, settings)); }},
      {"restore_fresh", "tiny", [=, &settings] { return only(restore_fresh(*lab, settings)); }},
      {"vmm_start", "none", [=, &settings] { return only(vmm_start(*lab, settings)); }},
      {"reclaim", "tiny", [=, &settings] { return only(reclaim(*lab, settings, "reclaim", nullptr)); }},
      {"reclaim_with_tap", "tiny", [=, &settings] { return only(reclaim_with_tap(*lab, settings)); }},
  };
  std::vector<Guest> guests = settings.linux_guests;
  guests.insert(guests.begin(), settings.tiny);
  for (const Guest& guest : guests) {
    const unsigned n = guest.name == "tiny" ? settings.n : std::min(settings.n, 10U);
    rows.push_back({"template_boot", guest.name, [=] { return only(template_boot(*lab, guest)); }});
    add_probed_rows(rows, lab, guest, n);
  }
  return rows;
}

}  // namespace granary::bench
