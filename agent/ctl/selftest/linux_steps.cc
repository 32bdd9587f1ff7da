// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/selftest/linux_steps.h"

#include <algorithm>
#include <fstream>

#include "agent/ctl/output.h"
#include "vmpool/base/units.h"

namespace granary::ctl::selftest {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr seconds kBootLimit{330};
constexpr seconds kTakeLimit{120};
constexpr int64_t kClockLimitNs = 50'000'000;  // docs/specification.md
constexpr int kExitWanted = 7;
constexpr uint64_t kReserve = 512 * kMiB;  // left to the host

double to_ms(int64_t ns) { return static_cast<double>(ns) / 1e6; }
double to_mib(uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(kMiB); }

Status check_clock(const v1::Clone& clone, const Stage::Clocks& clocks) {
  if (clocks.off_ns <= kClockLimitNs) return ok();
  return Error(Errc::kIdentityFailed, "clone " + clone.id() + ": its wall clock is " +
                                          std::to_string(to_ms(clocks.off_ns)) +
                                          " ms off the host's; at most 50 ms are promised");
}

Status check_script(Stage& stage, const v1::Clone& clone, const std::string& script, int status,
                    const std::string& output) {
  const Ran ran = GRANARY_TRY(stage.run(clone, script));
  if (ran.status == status && ran.output == output) return ok();
  return Error(Errc::kGuestProtocol, "\"" + script + "\" in clone " + clone.id() + " ended with " +
                                         std::to_string(ran.status) + " and said \"" + ran.output.substr(0, 400) +
                                         "\"; expected " + std::to_string(status) + " and \"" + output + "\"");
}

// What a kernel says whose CPUs stood still where they should not.
Status check_kernel_log(Stage& stage, const v1::Clone& clone) {
  return check_script(stage, clone, "dmesg | grep -iE 'soft lockup|hard lockup|rcu.*stall'; true", 0, "");
}

uint64_t available_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string word; file >> word;) {
    uint64_t kib = 0;
    if (word == "MemAvailable:" && file >> kib) return kib * kKiB;
  }
  return 0;
}

// What so many clones take, if each is like this one, which has run what they will; nothing: there is room.
std::string too_little_memory(Stage& stage, const v1::Clone& probed, unsigned count) {
  const auto clone = stage.client().find_clone(probed.id());
  const uint64_t each = (clone ? clone->memory_bytes() : 0) + 16 * kMiB;
  const uint64_t available = available_bytes();
  const uint64_t room = available > kReserve ? available - kReserve : 0;
  if (room / each >= count) return "";
  return std::to_string(count) + " clones take about " + human_size(each * count) + " and " + human_size(kReserve) +
         " are left to the host, but MemAvailable is " + human_size(available) + "; --clones " +
         std::to_string(room / each) + " fits";
}

Status probe(Stage& stage, const v1::Clone& clone, Identities& identities) {
  const Ran ran = GRANARY_TRY(stage.run(clone, identity_script()));
  if (ran.status != 0) {
    return Error(Errc::kGuestProtocol, "the identity script in clone " + clone.id() + " ended with " +
                                           std::to_string(ran.status) + " and said \"" + ran.output.substr(0, 400) +
                                           "\"");
  }
  identities.add(clone.id(), ran.output);
  return ok();
}

// What all the clones of the identity step showed.
struct Crowd {
  std::vector<std::unique_ptr<HeldClone>> held;
  Identities identities;
  int64_t clock_off_ns = 0;
  std::vector<int64_t> handover_ns;
};

Status add_clone(Stage& stage, Crowd& crowd) {
  crowd.held.push_back(GRANARY_TRY(stage.take(kTakeLimit)));
  const v1::Clone& clone = crowd.held.back()->clone();
  crowd.handover_ns.push_back(clone.handover_ns());
  GRANARY_TRY(probe(stage, clone, crowd.identities));
  const Stage::Clocks clocks = GRANARY_TRY(stage.clocks(clone));
  GRANARY_TRY(check_clock(clone, clocks));
  crowd.clock_off_ns = std::max(crowd.clock_off_ns, clocks.off_ns);
  return ok();
}

Outcome passed(std::vector<Figure> figures, std::string detail) {
  return {.figures = std::move(figures), .skipped = {}, .rows = {}, .detail = std::move(detail)};
}

}  // namespace

Result<Outcome> template_step(Stage& stage) {
  GRANARY_TRY(stage.wait_warm(kBootLimit));
  const auto held = GRANARY_TRY(stage.take(kTakeLimit));
  const v1::Clone& clone = held->clone();
  GRANARY_TRY(check_script(stage, clone, "exit " + std::to_string(kExitWanted), kExitWanted, ""));
  GRANARY_TRY(
      check_script(stage, clone, "nproc; taskset 1 echo first; taskset 2 echo second", 0, "2\nfirst\nsecond\n"));
  const Ran kernel = GRANARY_TRY(stage.run(clone, "uname -r"));
  const Stage::Clocks clocks = GRANARY_TRY(stage.clocks(clone));
  GRANARY_TRY(check_clock(clone, clocks));
  GRANARY_TRY(check_kernel_log(stage, clone));
  const auto templates = GRANARY_TRY(stage.client().call(&v1::Pool::Stub::ListTemplates, v1::ListTemplatesRequest()));
  std::vector<Figure> figures = {{"hand-over of a warm clone", to_ms(clone.handover_ns()), "ms"},
                                 {"a look at the guest's clocks", to_ms(clocks.look_ns), "ms"}};
  for (const v1::TemplateInfo& info : templates.templates()) {
    figures.push_back({"boot of the template", info.boot_seconds(), "s"});
    figures.push_back({"memory that the template has", to_mib(info.populated_bytes()), "MiB"});
  }
  GRANARY_TRY(held->release());
  return passed(std::move(figures), "guest kernel " + kernel.output.substr(0, kernel.output.find('\n')));
}

// Idle clones are parked, so a pool that is left alone for the time has what is wanted.
Result<Outcome> park_step(Stage& stage, Interrupt& interrupt, seconds time) {
  GRANARY_TRY(stage.wait_warm(kBootLimit));
  const auto before = GRANARY_TRY(stage.take(kTakeLimit));
  const double uptime = GRANARY_TRY(stage.clocks(before->clone())).guest.uptime_s;
  GRANARY_TRY(before->release());
  GRANARY_TRY(stage.wait_warm(kBootLimit));
  const auto until = steady_clock::now() + time;
  while (steady_clock::now() < until) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - steady_clock::now());
    interrupt.wait(left + std::chrono::milliseconds(1));
    GRANARY_TRY(interrupt.check());
  }
  const auto taken = steady_clock::now();
  const auto held = GRANARY_TRY(stage.take(kTakeLimit));
  const v1::Clone& clone = held->clone();
  if (!clone.warm())
    return Error(Errc::kPoolEmpty, "clone " + clone.id() + " was not parked: the pool made it on demand");
  const Stage::Clocks clocks = GRANARY_TRY(stage.clocks(clone));
  GRANARY_TRY(check_clock(clone, clocks));
  const double jump = clocks.guest.uptime_s - uptime;
  // Before their hand-over both had run equally long, so what one is ahead is what it has run since, unless the park
  // shows in it.
  const double ran = std::chrono::duration<double>(steady_clock::now() - taken).count();
  if (jump > ran + static_cast<double>(time.count()) / 2) {
    return Error(Errc::kIdentityFailed, "clone " + clone.id() +
                                            ": the guest's uptime went on while it was parked, by " +
                                            std::to_string(jump) + " of " + std::to_string(time.count()) + " s");
  }
  GRANARY_TRY(check_kernel_log(stage, clone));
  const double handover = to_ms(clone.handover_ns());
  GRANARY_TRY(held->release());
  return passed({{"parked for", static_cast<double>(time.count()), "s"},
                 {"hand-over after it", handover, "ms"},
                 {"uptime beyond a fresh clone's", jump, "s"},
                 {"wall clock off the host's", to_ms(clocks.off_ns), "ms"}},
                "");
}

Result<Outcome> identity_step(Stage& stage, Interrupt& interrupt, unsigned count) {
  Crowd crowd;
  GRANARY_TRY(stage.wait_warm(kBootLimit));
  GRANARY_TRY(add_clone(stage, crowd));
  if (std::string why = too_little_memory(stage, crowd.held.front()->clone(), count - 1); !why.empty())
    return skip(std::move(why));
  while (crowd.held.size() < count) {
    GRANARY_TRY(interrupt.check());
    GRANARY_TRY(add_clone(stage, crowd));
  }
  uint64_t bytes = 0;
  for (const auto& held : crowd.held) {
    const auto clone = stage.client().find_clone(held->clone().id());
    if (!clone) return clone.error();
    bytes += clone->memory_bytes();
  }
  for (const auto& held : crowd.held) GRANARY_TRY(held->release());
  if (crowd.identities.wrong() > 0) {
    std::string text = std::to_string(crowd.identities.wrong()) + " of the clones' values are not their own: ";
    for (const std::string& complaint : crowd.identities.complaints()) text += complaint + "; ";
    return Error(Errc::kIdentityFailed, text.substr(0, text.size() - 2));
  }
  std::ranges::sort(crowd.handover_ns);
  return passed({{"clones held at once", static_cast<double>(count), ""},
                 {"values that are unlike all others", static_cast<double>(crowd.identities.compared()), ""},
                 {"wall clock off the host's, at most", to_ms(crowd.clock_off_ns), "ms"},
                 {"hand-over, median", to_ms(crowd.handover_ns[crowd.handover_ns.size() / 2]), "ms"},
                 {"memory of a clone, mean", to_mib(bytes / count), "MiB"}},
                "");
}

}  // namespace granary::ctl::selftest
