// SPDX-License-Identifier: Apache-2.0
#include <getopt.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>
#include <sstream>

#include "tests/bench/rows.h"
#include "vmpool/kvm/preflight.h"

namespace granary::bench {
namespace {

constexpr char kUsage[] =
    "usage: granary-bench [--rows NAME,…] [--guests tiny,minimal,distro] [--n N] [--output FILE] [--where host|node] "
    "[--list]\n"
    "Measures Granary on this machine's /dev/kvm: prints a table and writes the figures as a JSON array.\n"
    "  --rows NAME,…    only these rows (default: all; --list names them)\n"
    "  --guests NAME,…  only rows of these guests (rows without a guest run with tiny)\n"
    "  --n N            samples of the quick rows (default 100; Linux guests take fewer)\n"
    "  --output FILE    where the figures go (default bench.json beside the programs' folder); - for standard output, "
    "and\n"
    "                   the table then goes to standard error\n"
    "  --where WHERE    what the figures are labelled with (default: $GRANARY_WHERE, else host)\n"
    "Linux guests are taken from guest/minimal and guest/distro (vmlinuz, initramfs.cpio) beside the programs' "
    "folder.\n"
    "Without a usable /dev/kvm every row is skipped and the exit code is 0.\n"
    "SIGTERM or SIGINT: the row under way is the last one, and takes down what it made; the exit code is 3.\n"
    "Files go below $TMPDIR, else /tmp.\n";

constexpr int kExitInterrupted = 3;
volatile std::sig_atomic_t interrupted = 0;

void end_after_this_row() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
}

struct Options {
  std::set<std::string> rows;
  std::set<std::string> guests;
  unsigned n = 100;
  std::string output;
  std::string where = "host";
  bool list = false;
};

std::set<std::string> words(const std::string& list) {
  std::set<std::string> out;
  std::istringstream stream(list);
  for (std::string word; std::getline(stream, word, ',');) {
    if (!word.empty()) out.insert(word);
  }
  return out;
}

bool parse(int argc, char** argv, Options& options) {
  static const option kKnown[] = {{"rows", required_argument, nullptr, 'r'},
                                  {"guests", required_argument, nullptr, 'g'},
                                  {"n", required_argument, nullptr, 'n'},
                                  {"output", required_argument, nullptr, 'o'},
                                  {"where", required_argument, nullptr, 'w'},
                                  {"list", no_argument, nullptr, 'l'},
                                  {nullptr, 0, nullptr, 0}};
  if (const char* where = std::getenv("GRANARY_WHERE")) options.where = where;
  for (;;) {
    switch (::getopt_long(argc, argv, "", kKnown, nullptr)) {
      case 'r':
        options.rows = words(optarg);
        break;
      case 'g':
        options.guests = words(optarg);
        break;
      case 'n':
        options.n = static_cast<unsigned>(std::strtoul(optarg, nullptr, 10));
        break;
      case 'o':
        options.output = optarg;
        break;
      case 'w':
        options.where = optarg;
        break;
      case 'l':
        options.list = true;
        break;
      case -1:
        return optind == argc && options.n > 0 && (options.where == "host" || options.where == "node");
      default:
        return false;
    }
  }
}

Settings settings_beside_this_program(unsigned n, const std::string& extra_command_line) {
  std::error_code code;
  const std::filesystem::path programs = std::filesystem::read_symlink("/proc/self/exe", code).parent_path();
  const std::filesystem::path guests = programs.parent_path() / "guest";
  Settings settings;
  settings.n = n;
  settings.programs = programs.string();
  settings.bell = {"tiny", (guests / "tiny-bell.elf").string(), "", ""};
  settings.tiny = {"tiny", (guests / "tiny-vsock.elf").string(), "", ""};
  for (const char* name : {"minimal", "distro"}) {
    const std::filesystem::path kernel = guests / name / "vmlinuz";
    if (!std::filesystem::exists(kernel, code)) continue;
    settings.linux_guests.push_back(
        {name, kernel.string(), (guests / name / "initramfs.cpio").string(),
         "console=ttyS0 reboot=k panic=-1 clocksource=kvm-clock quiet" + extra_command_line});
  }
  return settings;
}

bool is_wanted(const Options& options, const RowSpec& spec) {
  const std::string guest = spec.guest == "none" ? "tiny" : spec.guest;
  return (options.rows.empty() || options.rows.contains(spec.name)) &&
         (options.guests.empty() || options.guests.contains(guest));
}

bool wants_linux(const Options& options) {
  return options.guests.empty() || options.guests.contains("minimal") || options.guests.contains("distro");
}

Row skipped(const RowSpec& spec, const std::string& why) { return {spec.name, spec.guest, "", "", {}, why}; }

// A row that fails is shown with its reason; the others go on.
std::vector<Row> measure(const RowSpec& spec, bool& failed) {
  std::fprintf(stderr, "granary-bench: %s (%s)\n", spec.name.c_str(), spec.guest.c_str());
  Result<std::vector<Row>> rows = spec.measure();
  if (rows) return *std::move(rows);
  failed = true;
  std::fprintf(stderr, "granary-bench: %s (%s) failed: %s\n", spec.name.c_str(), spec.guest.c_str(),
               rows.error().message().c_str());
  return {skipped(spec, rows.error().message())};
}

bool write_output(const Options& options, const Settings& settings, const std::vector<Row>& rows) {
  const std::string json = to_json(rows, options.where);
  const std::string table = to_table(rows, options.where);
  if (options.output == "-") {
    std::cerr << table;
    std::cout << json << std::flush;
    return std::cout.good();
  }
  std::cout << table;
  const std::string path = options.output.empty()
                               ? (std::filesystem::path(settings.programs).parent_path() / "bench.json").string()
                               : options.output;
  std::ofstream file(path);
  file << json << std::flush;
  if (!file.good()) std::cerr << "granary-bench: cannot write " << path << '\n';
  return file.good();
}

std::vector<RowSpec> wanted_rows(const Options& options, const Settings& settings, Lab* lab) {
  std::vector<RowSpec> specs = vmm_rows(lab, settings);
  for (RowSpec& spec : count_rows(lab, settings)) specs.push_back(std::move(spec));
  for (RowSpec& spec : net_speed_rows(lab, settings)) specs.push_back(std::move(spec));
  for (RowSpec& spec : fs_rows(lab, settings)) specs.push_back(std::move(spec));
  for (RowSpec& spec : net_echo_rows(lab, settings)) specs.push_back(std::move(spec));
  for (RowSpec& spec : agent_rows(settings)) specs.push_back(std::move(spec));
  for (RowSpec& spec : cgroup_rows(lab, settings)) specs.push_back(std::move(spec));
  for (RowSpec& spec : net_rows(settings)) specs.push_back(std::move(spec));
  for (RowSpec& spec : own_net_rows(settings)) specs.push_back(std::move(spec));
  for (RowSpec& spec : pool_rows(settings)) specs.push_back(std::move(spec));
  for (RowSpec& spec : pod_rows(settings)) specs.push_back(std::move(spec));
  std::erase_if(specs, [&](const RowSpec& spec) { return !is_wanted(options, spec); });
  return specs;
}

int list(const std::vector<RowSpec>& specs) {
  for (const RowSpec& spec : specs) std::cout << spec.name << " (" << spec.guest << ")\n";
  return 0;
}

int run(const Options& options) {
  const bool has_kvm = ::access("/dev/kvm", R_OK | W_OK) == 0;
  const Settings settings = settings_beside_this_program(
      options.n, has_kvm && wants_linux(options) ? kvm::extra_command_line(kvm::run_preflight()) : "");
  std::unique_ptr<Lab> lab;
  if (has_kvm && !options.list) {
    auto created = Lab::create(settings.programs);
    if (!created) {
      std::cerr << "granary-bench: " << created.error().message() << '\n';
      return 1;
    }
    lab = *std::move(created);
  }
  const std::vector<RowSpec> specs = wanted_rows(options, settings, lab.get());
  if (specs.empty()) {
    std::cerr << "granary-bench: no row of that name and guest; --list names them\n";
    return 2;
  }
  if (options.list) return list(specs);
  std::vector<Row> rows;
  bool failed = false;
  end_after_this_row();
  for (const RowSpec& spec : specs) {
    if (interrupted != 0) break;
    if (!has_kvm) rows.push_back(skipped(spec, "no usable /dev/kvm here"));
    if (!has_kvm) continue;
    for (Row& row : measure(spec, failed)) rows.push_back(std::move(row));
  }
  const bool written = write_output(options, settings, rows);
  if (interrupted != 0) return kExitInterrupted;
  return written && !failed ? 0 : 1;
}

}  // namespace
}  // namespace granary::bench

int main(int argc, char** argv) {
  granary::bench::Options options;
  if (!granary::bench::parse(argc, argv, options)) {
    std::fputs(granary::bench::kUsage, stderr);
    return 2;
  }
  return granary::bench::run(options);
}
