// SPDX-License-Identifier: Apache-2.0
// Rows about pods under a real containerd, Granary's and runc's in turn on the same one. tests/bench/run names it and
// its images in the environment: GRANARY_CONTAINERD, GRANARY_PAUSE_IMAGE, GRANARY_BUSYBOX_IMAGE.
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <thread>

#include "tests/bench/agent.h"
#include "tests/bench/rows.h"
#include "tests/cri/cri_client.h"
#include "tests/e2e/containerd.h"
#include "vmpool/base/units.h"
#include "vmpool/pool/process_use.h"

namespace granary::bench {
namespace {

using pool::SteadyClock;

constexpr const char* kReference = "runc";
constexpr const char* kBusyboxImage = "granary.test/busybox:1";
constexpr unsigned kCrowds[] = {10, 30};

std::string setting(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

double milliseconds_since(SteadyClock::time_point start) {
  return std::chrono::duration<double, std::milli>(SteadyClock::now() - start).count();
}

Error from_rpc(const grpc::Status& status, const std::string& what) {
  return {Errc::kVmmFailed, what + ": " + status.error_message()};
}

// The same figure of both runtimes, and their ratio by pair.
struct Pair {
  Row ours;
  Row theirs;
  Row ratio;

  Pair(const std::string& name, const std::string& guest, const std::string& clock)
      : ours{name, guest, "ms", clock, {}, ""},
        theirs{name + "_runc", guest, "ms", "the same with runc, in turn on the same containerd", {}, ""},
        ratio{name + "_ratio", guest, "ratio", name + " by " + name + "_runc, pair by pair", {}, ""} {}
  void add(double mine, double reference) {
    ours.samples.push_back(mine);
    theirs.samples.push_back(reference);
    ratio.samples.push_back(mine / reference);
  }
  void append_to(std::vector<Row>& rows) const { rows.insert(rows.end(), {ours, theirs, ratio}); }
};

// A containerd of our own with a granaryd behind its handler "granary".
class Node {
 public:
  static Result<std::unique_ptr<Node>> start(const Settings& settings, const Guest& guest, Agent::PoolSize pool) {
    std::unique_ptr<Node> node(new Node);
    char name[] = "/var/tmp/granary-bench.XXXXXX";
    if (::mkdtemp(name) == nullptr) return Error::last_os_error("make a folder in /var/tmp");
    node->folder_ = name;
    pool.containerd_events = node->folder_ + "/containerd/containerd.sock.ttrpc";
    node->agent_ = GRANARY_TRY(Agent::start(settings.programs, guest, pool));
    node->containerd_ =
        e2e::Containerd::start({.unpacked = setting("GRANARY_CONTAINERD"),
                                .directory = node->folder_ + "/containerd",
                                .sandbox_socket = node->agent_->socket(),
                                .images = {setting("GRANARY_PAUSE_IMAGE"), setting("GRANARY_BUSYBOX_IMAGE")}});
    if (node->containerd_ == nullptr) return Error(Errc::kPeerGone, "containerd did not come up, see above");
    return node;
  }
  ~Node() {
    containerd_.reset();
    agent_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  [[nodiscard]] cri::Client client(const std::string& handler) const {
    return {containerd_->cri_target(), handler, folder_};
  }
  [[nodiscard]] Agent& agent() const { return *agent_; }
  std::string new_name() { return "bench-" + std::to_string(++names_); }

 private:
  Node() = default;
  std::string folder_;
  std::unique_ptr<Agent> agent_;
  std::unique_ptr<e2e::Containerd> containerd_;
  std::atomic<unsigned> names_ = 0;
};

struct Pod {
  runtime::v1::PodSandboxConfig config;
  std::string id;
  double ready_ms = 0;
};

Result<Pod> run_pod(Node& node, cri::Client& client) {
  Pod pod{.config = client.pod_config(node.new_name()), .id = "", .ready_ms = 0};
  const auto start = SteadyClock::now();
  const grpc::Status ran = client.run_pod(pod.config, &pod.id);
  pod.ready_ms = milliseconds_since(start);
  if (!ran.ok()) return from_rpc(ran, "RunPodSandbox with " + client.handler());
  runtime::v1::PodSandboxStatus status;
  (void)client.pod_status(pod.id, &status);
  if (status.state() != runtime::v1::SANDBOX_READY) return Error(Errc::kVmmFailed, "a pod is not ready");
  return pod;
}

// How long StopPodSandbox took.
Result<double> end_pod(cri::Client& client, const Pod& pod) {
  const auto start = SteadyClock::now();
  const grpc::Status stopped = client.stop_pod(pod.id);
  const double took = milliseconds_since(start);
  if (!stopped.ok()) return from_rpc(stopped, "StopPodSandbox with " + client.handler());
  if (const grpc::Status removed = client.remove_pod(pod.id); !removed.ok())
    return from_rpc(removed, "RemovePodSandbox");
  return took;
}

// Ready and stopped.
Result<std::pair<double, double>> one_pod(Node& node, const std::string& handler) {
  cri::Client client = node.client(handler);
  GRANARY_TRY(node.agent().wait_warm());
  const Pod pod = GRANARY_TRY(run_pod(node, client));
  return std::pair(pod.ready_ms, GRANARY_TRY(end_pod(client, pod)));
}

// From the first request to the last answer.
Result<double> crowd(Node& node, const std::string& handler, unsigned size) {
  GRANARY_TRY(node.agent().wait_warm());
  std::mutex mutex;
  std::vector<Pod> pods;
  Status failed = ok();
  const auto start = SteadyClock::now();
  {
    std::vector<std::jthread> callers;
    for (unsigned i = 0; i < size; ++i) {
      callers.emplace_back([&] {
        cri::Client client = node.client(handler);
        Result<Pod> pod = run_pod(node, client);
        const std::lock_guard lock(mutex);
        if (pod) {
          pods.push_back(*std::move(pod));
        } else {
          failed = Status(pod.error());
        }
      });
    }
  }
  const double took = milliseconds_since(start);
  cri::Client client = node.client(handler);
  for (const Pod& pod : pods) GRANARY_TRY(end_pod(client, pod));
  GRANARY_TRY(failed);
  return took;
}

Result<std::vector<Row>> pods(const Settings& settings) {
  const auto node =
      GRANARY_TRY(Node::start(settings, settings.tiny, {.size = kCrowds[1], .max = 2 * kCrowds[1], .memory_mib = 16}));
  Pair ready("pod_ready", "tiny", "RunPodSandbox sent -> reply: Ready, on a CNI bridge");
  Pair stop("pod_stop", "tiny", "StopPodSandbox sent -> reply");
  for (unsigned i = 0; i < settings.n; ++i) {
    const auto [mine, my_stop] = GRANARY_TRY(one_pod(*node, e2e::kGranaryHandler));
    const auto [reference, their_stop] = GRANARY_TRY(one_pod(*node, kReference));
    ready.add(mine, reference);
    stop.add(my_stop, their_stop);
  }
  std::vector<Row> rows;
  ready.append_to(rows);
  stop.append_to(rows);
  for (const unsigned size : kCrowds) {
    const std::string count = std::to_string(size);
    Pair all("pod_ready_all_" + count, "tiny", count + " RunPodSandbox sent at once -> the last reply");
    for (unsigned i = 0; i < std::max(settings.n / 10, 1U); ++i) {
      const double mine = GRANARY_TRY(crowd(*node, e2e::kGranaryHandler, size));
      all.add(mine, GRANARY_TRY(crowd(*node, kReference, size)));
    }
    all.append_to(rows);
  }
  return rows;
}

runtime::v1::ContainerConfig sleeper() {
  runtime::v1::ContainerConfig config;
  config.mutable_metadata()->set_name("main");
  config.mutable_image()->set_image(kBusyboxImage);
  for (const char* word : {"/bin/busybox", "sleep", "600"}) config.add_command(word);
  config.set_log_path("main.log");
  return config;
}

// PSS of the shims and file servers of all of this granaryd's pods.
double pod_processes_mib(const Node& node) {
  uint64_t bytes = 0;
  for (const pid_t pid : family_of(node.agent().spawner_pid())) {
    const Result<std::string> words = read_file("/proc/" + std::to_string(pid) + "/cmdline");
    if (words && (words->starts_with("granary-fsd") || words->starts_with("containerd-shim")))
      bytes += pool::rollup_bytes(pid, "Pss");
  }
  return static_cast<double>(bytes) / static_cast<double>(kMiB);
}

struct Times {
  double ready = 0;
  double start = 0;
  double memory_mib = 0;
};

Result<Times> pod_with_container(Node& node, const std::string& handler) {
  cri::Client client = node.client(handler);
  GRANARY_TRY(node.agent().wait_warm());
  Times times;
  const Pod pod = GRANARY_TRY(run_pod(node, client));
  times.ready = pod.ready_ms;
  const auto begin = SteadyClock::now();
  std::string container;
  const grpc::Status created = client.create(pod.id, pod.config, sleeper(), &container);
  if (!created.ok()) return from_rpc(created, "CreateContainer with " + handler);
  if (const grpc::Status started = client.start(container); !started.ok()) return from_rpc(started, "StartContainer");
  times.start = milliseconds_since(begin);
  if (handler == e2e::kGranaryHandler) times.memory_mib = pod_processes_mib(node);
  GRANARY_TRY(end_pod(client, pod));
  return times;
}

Result<std::vector<Row>> containers(const Settings& settings, const Guest& guest) {
  const auto node = GRANARY_TRY(Node::start(settings, guest, {.size = 2, .max = 4, .memory_mib = 512}));
  Pair ready("pod_ready", guest.name, "RunPodSandbox sent -> reply: Ready, on a CNI bridge");
  Pair start("container_start", guest.name, "CreateContainer sent -> StartContainer's reply, image there, overlayfs");
  Pair total("pod_total", guest.name, "both one after the other");
  Row memory{"pod_processes_pss", guest.name, "MiB", "PSS of one pod's shim and file server, one container", {}, ""};
  for (unsigned i = 0; i < std::min(settings.n, 10U); ++i) {
    const Times mine = GRANARY_TRY(pod_with_container(*node, e2e::kGranaryHandler));
    const Times reference = GRANARY_TRY(pod_with_container(*node, kReference));
    ready.add(mine.ready, reference.ready);
    start.add(mine.start, reference.start);
    total.add(mine.ready + mine.start, reference.ready + reference.start);
    memory.samples.push_back(mine.memory_mib);
  }
  std::vector<Row> rows;
  for (const Pair* pair : {&ready, &start, &total}) pair->append_to(rows);
  rows.push_back(memory);
  return rows;
}

Result<std::vector<Row>> where_possible(const std::string& name, const std::string& guest,
                                        const std::function<Result<std::vector<Row>>()>& measure) {
  if (!setting("GRANARY_CONTAINERD").empty()) return measure();
  return std::vector<Row>{{name,
                           guest,
                           "",
                           "",
                           {},
                           "no containerd: tests/bench/run (make bench) fetches one, and says above why it could not"}};
}

}  // namespace

std::vector<RowSpec> pod_rows(const Settings& settings) {
  std::vector<RowSpec> rows = {
      {"pods", "tiny", [&] { return where_possible("pods", "tiny", [&] { return pods(settings); }); }}};
  for (const Guest& guest : settings.linux_guests) {
    rows.push_back({"containers", guest.name, [&] {
                      return where_possible("containers", guest.name, [&] { return containers(settings, guest); });
                    }});
  }
  return rows;
}

}  // namespace granary::bench
