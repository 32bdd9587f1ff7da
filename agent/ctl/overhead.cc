// SPDX-License-Identifier: Apache-2.0
#include <grpcpp/create_channel.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "agent/ctl/commands.h"
#include "agent/ctl/output.h"
#include "containerd/sandbox.grpc.pb.h"
#include "cri/runtime.pb.h"
#include "vmpool/base/fd.h"
#include "vmpool/base/units.h"
#include "vmpool/pool/process_use.h"

namespace granary::ctl {
namespace {

namespace sandbox = containerd::services::sandbox::v1;
using Stub = sandbox::Controller::Stub;
constexpr std::chrono::seconds kPodLimit{60};
constexpr useconds_t kAtRestUs = 2'000'000;  // until all of it has started, and then to look at it

// A pod without containers, as containerd would ask for it; gone with its owner.
class Pod {
 public:
  Pod(const std::string& socket, const std::string& pool)
      : stub_(sandbox::Controller::NewStub(grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials()))),
        id_("granaryctl-overhead-" + std::to_string(::getpid())) {
    if (!pool.empty()) (*config_.mutable_annotations())["granary.dev/pool"] = pool;
    config_.set_hostname("overhead");
  }
  ~Pod() { (void)ask<sandbox::ControllerShutdownResponse>(&Stub::Shutdown, sandbox::ControllerShutdownRequest()); }
  Pod(const Pod&) = delete;
  Pod& operator=(const Pod&) = delete;

  // The number of its VMM's process.
  Result<pid_t> start() {
    sandbox::ControllerCreateRequest create;
    config_.SerializeToString(create.mutable_options()->mutable_value());
    GRANARY_TRY(ask<sandbox::ControllerCreateResponse>(&Stub::Create, create));
    const auto started =
        GRANARY_TRY(ask<sandbox::ControllerStartResponse>(&Stub::Start, sandbox::ControllerStartRequest()));
    return static_cast<pid_t>(started.pid());
  }
  [[nodiscard]] const std::string& id() const { return id_; }

 private:
  template <class Response, class Request>
  Result<Response> ask(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*), Request request) {
    request.set_sandbox_id(id_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kPodLimit);
    Response response;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    if (!status.ok()) return api::from_grpc(status);
    return response;
  }
  std::unique_ptr<Stub> stub_;
  std::string id_;
  runtime::v1::PodSandboxConfig config_;
};

struct Process {
  std::string what;
  pid_t pid = 0;
  uint64_t bytes = 0;
};

// Anonymous memory and its share of files; the template, which is there once for all clones, is shared memory
// (proc(5)).
Result<uint64_t> own_bytes(pid_t pid) {
  const uint64_t bytes = pool::rollup_bytes(pid, "Pss_Anon") + pool::rollup_bytes(pid, "Pss_File");
  if (bytes > 0) return bytes;
  return Error(Errc::kNotSupported, "the memory of process " + std::to_string(pid) +
                                        " cannot be read: run it as root, in the host's process namespace");
}

Result<std::string> words_of(pid_t pid) {
  std::string words = GRANARY_TRY(read_file("/proc/" + std::to_string(pid) + "/cmdline"));
  std::ranges::replace(words, '\0', ' ');
  return words;
}

// The VMM and those of its brothers that serve the same pod.
Result<std::vector<Process>> processes_of(const Pod& pod, pid_t vmm) {
  std::vector<Process> all = {{"VMM, the guest's own memory at rest included", vmm}};
  const std::string vmm_words = GRANARY_TRY(words_of(vmm));
  const std::string of_vm = vmm_words.substr(vmm_words.find(' ') + 1);  // "vm=N"
  std::ifstream status("/proc/" + std::to_string(vmm) + "/status");
  pid_t parent = 0;
  for (std::string word; status >> word;) {
    if (word == "PPid:") status >> parent;
  }
  for (const pid_t child : pool::children_of(parent)) {
    const Result<std::string> words = words_of(child);
    if (!words) continue;
    if (words->starts_with("granary-fsd " + of_vm)) all.push_back({"file server", child});
    if (words->find("--sandbox " + pod.id() + " ") != std::string::npos) all.push_back({"shim", child});
  }
  return all;
}

struct Overhead {
  std::string pool;
  std::vector<Process> processes;
  uint64_t guest_bytes = 0;
  uint64_t milli_cpu = 0;

  [[nodiscard]] uint64_t mebibytes() const {
    uint64_t bytes = guest_bytes;
    for (const Process& process : processes) bytes += process.bytes;
    return (bytes + kMiB - 1) / kMiB;
  }
};

Result<uint64_t> template_bytes(Client& client, const std::string& pool) {
  const auto list = GRANARY_TRY(client.call(&v1::Pool::Stub::ListTemplates, v1::ListTemplatesRequest()));
  for (const v1::TemplateInfo& info : list.templates()) {
    if (std::ranges::count(info.used_by(), pool) != 0) return info.populated_bytes();
  }
  return Error::from_errno(ENOENT, "template of pool " + pool);
}

Result<Overhead> measure(const Globals& globals, const std::string& wanted) {
  Client client = GRANARY_TRY(Client::connect(globals.socket));
  const auto status = GRANARY_TRY(client.call(&v1::Pool::Stub::Status, v1::StatusRequest()));
  Overhead overhead;
  overhead.pool = wanted.empty() && !status.pools().empty() ? status.pools(0).name() : wanted;
  Pod pod(globals.socket, wanted);
  const pid_t vmm = GRANARY_TRY(pod.start());
  ::usleep(kAtRestUs);
  overhead.processes = GRANARY_TRY(processes_of(pod, vmm));
  uint64_t before = 0;
  for (const Process& process : overhead.processes) before += pool::cpu_ticks(process.pid);
  ::usleep(kAtRestUs);
  uint64_t used = 0;
  for (Process& process : overhead.processes) {
    process.bytes = GRANARY_TRY(own_bytes(process.pid));
    used += pool::cpu_ticks(process.pid);
  }
  const auto ticks_a_second = static_cast<uint64_t>(::sysconf(_SC_CLK_TCK));
  overhead.milli_cpu = (used - before) * 1'000'000'000 / (ticks_a_second * kAtRestUs);
  overhead.guest_bytes = GRANARY_TRY(template_bytes(client, overhead.pool));
  return overhead;
}

void print_json(const Overhead& overhead) {
  nlohmann::json out = {{"pool", overhead.pool},
                        {"guest_kernel_bytes", overhead.guest_bytes},
                        {"milli_cpu", overhead.milli_cpu},
                        {"memory_mib", overhead.mebibytes()}};
  for (const Process& process : overhead.processes) {
    out["processes"].push_back({{"what", process.what}, {"pid", process.pid}, {"bytes", process.bytes}});
  }
  std::cout << out.dump() << std::endl;
}

Result<int> print(const Globals& globals, const std::string& pool) {
  const Overhead overhead = GRANARY_TRY(measure(globals, pool));
  if (globals.json) {
    print_json(overhead);
    return 0;
  }
  Table table({"WHAT", "MEMORY"});
  for (const Process& process : overhead.processes) table.add({process.what, human_size(process.bytes)});
  table.add({"guest kernel and init, once a clone has written all of it", human_size(overhead.guest_bytes)});
  table.print(std::cout);
  std::cout << "\n# RuntimeClass of pool " << overhead.pool
            << ", measured on this node\noverhead:\n  podFixed:\n    memory: " << overhead.mebibytes()
            << "Mi\n    cpu: " << std::max<uint64_t>(overhead.milli_cpu, 1) << "m" << std::endl;
  return 0;
}

}  // namespace

void define_overhead(CLI::App& app, const Globals& globals, Action& action) {
  const auto pool = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "overhead", "measure what a pod takes beyond its containers, for the RuntimeClass; takes a clone for seconds");
  command->add_option("--pool", *pool, "of this pool (default: the first)");
  command->callback([=, &globals, &action] { action = [=, &globals] { return print(globals, *pool); }; });
}

}  // namespace granary::ctl
