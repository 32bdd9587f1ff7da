// SPDX-License-Identifier: Apache-2.0
#include "agent/shim/oci_spec.h"

#include <algorithm>
#include <array>
#include <optional>

#include "agent/shim/spec_json.h"

namespace granary::shim {
namespace {

using nlohmann::json;
using namespace spec_json;  // NOLINT: all of this file reads with it

constexpr std::string_view kPodFiles = "/run/granary/pod/";

Result<GuestSpec> adapt_process(json& process, bool terminal) {
  drop(process, {"apparmorProfile", "selinuxLabel", "ioPriority", "scheduler", "execCPUAffinity"});
  process["terminal"] = terminal;
  GuestSpec size;
  if (json* console = GRANARY_TRY(object_in(process, "consoleSize")); console != nullptr) {
    size.rows = static_cast<uint32_t>(std::min<uint64_t>(GRANARY_TRY(number_in(*console, "height")), UINT16_MAX));
    size.columns = static_cast<uint32_t>(std::min<uint64_t>(GRANARY_TRY(number_in(*console, "width")), UINT16_MAX));
  }
  return size;
}

// One configuration on its way into the guest.
class Translation {
 public:
  Translation(json& spec, const SpecContext& context) : spec_(spec), context_(context) {}

  Result<GuestSpec> run() {
    GRANARY_TRY(refuse_hooks());
    json* process = GRANARY_TRY(object_in(spec_, "process"));
    if (process == nullptr) return invalid("process is missing");
    GuestSpec result = GRANARY_TRY(adapt_process(*process, context_.terminal));
    GRANARY_TRY(replace_root());
    GRANARY_TRY(adapt_linux());
    for (json* mount : GRANARY_TRY(objects_in(spec_, "mounts"))) GRANARY_TRY(adapt_mount(*mount));
    add_pod_files();
    drop(spec_, {"hooks", "windows", "solaris", "vm", "zos"});
    // The guest's crun (1.8) takes no later one; what later versions added it ignores.
    spec_["ociVersion"] = "1.0.2";
    result.json = spec_.dump();
    result.host_root = std::move(host_root_);
    return result;
  }

 private:
  Status refuse_hooks() {
    json* hooks = GRANARY_TRY(object_in(spec_, "hooks"));
    if (hooks == nullptr) return ok();
    for (const auto& [kind, list] : hooks->items()) {
      if (!list.empty()) return impossible("hooks." + shown(kind) + " are programs of the host; remove them");
    }
    return ok();
  }

  Status replace_root() {
    json* root = GRANARY_TRY(object_in(spec_, "root"));
    const bool read_only = root != nullptr && GRANARY_TRY(flag_in(*root, "readonly"));
    if (root != nullptr) host_root_ = GRANARY_TRY(text_in(*root, "path"));
    spec_["root"] = {{"path", "rootfs"}, {"readonly", read_only}};
    return ok();
  }

  Status adapt_linux() {
    json* of_linux = GRANARY_TRY(object_in(spec_, "linux"));
    if (of_linux == nullptr) return invalid("linux is missing: containers of another operating system cannot run here");
    of_linux->operator[]("cgroupsPath") = "/pod/" + context_.container_id;
    drop(*of_linux, {"mountLabel", "intelRdt", "uidMappings", "gidMappings"});
    GRANARY_TRY(adapt_namespaces(*of_linux));
    for (json* device : GRANARY_TRY(objects_in(*of_linux, "devices"))) GRANARY_TRY(check_device(*device));
    if (json* seccomp = GRANARY_TRY(object_in(*of_linux, "seccomp")); seccomp != nullptr) {
      if (!GRANARY_TRY(text_in(*seccomp, "listenerPath")).empty()) {
        return impossible("seccomp.listenerPath is a socket of the host; use a profile without SCMP_ACT_NOTIFY");
      }
    }
    json* resources = GRANARY_TRY(object_in(*of_linux, "resources"));
    return resources == nullptr ? ok() : adapt_resources(*resources);
  }

  // What the pod's containers share is the guest's own. A process namespace is new unless a path says that it is
  // shared.
  Status adapt_namespaces(json& of_linux) {
    json kept = json::array();
    for (json* entry : GRANARY_TRY(objects_in(of_linux, "namespaces"))) {
      const std::string type = GRANARY_TRY(text_in(*entry, "type"));
      const bool has_path = !GRANARY_TRY(text_in(*entry, "path")).empty();
      if (type == "user") {
        return impossible(
            "a user namespace (hostUsers: false): the pod has a kernel of its own already; leave hostUsers unset");
      }
      const bool shared = type == "network" || type == "ipc" || type == "uts";
      if (!has_path && !shared) kept.push_back(*entry);
    }
    of_linux["namespaces"] = std::move(kept);
    drop(spec_, {"hostname", "domainname"});
    return ok();
  }

  // Those that every Linux has under the same number.
  static Status check_device(json& device) {
    static constexpr std::array<std::string_view, 8> kEverywhere = {
        "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/fuse", "/dev/ptmx"};
    const std::string path = GRANARY_TRY(text_in(device, "path"));
    if (std::ranges::find(kEverywhere, path) != kEverywhere.end()) return ok();
    return impossible("device " + shown(path) +
                      " is the host's; a microVM cannot have it (for privileged containers: set "
                      "privileged_without_host_devices in containerd's runtime)");
  }

  static Status adapt_resources(json& resources) {
    drop(resources, {"hugepageLimits", "network", "rdma"});
    if (json* cpu = GRANARY_TRY(object_in(resources, "cpu")); cpu != nullptr) {
      drop(*cpu, {"cpus", "mems", "realtimeRuntime", "realtimePeriod"});
    }
    if (json* io = GRANARY_TRY(object_in(resources, "blockIO")); io != nullptr) {
      drop(*io, {"weightDevice", "throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice",
                 "throttleWriteIOPSDevice"});
    }
    return ok();
  }

  struct Options {
    bool bind = false;
    bool read_only = false;
  };
  static Result<Options> options_of(json& mount, const std::string& type) {
    Options options{.bind = type == "bind", .read_only = false};
    json* list = GRANARY_TRY(array_in(mount, "options"));
    if (list == nullptr) return options;
    for (const json& option : *list) {
      if (!option.is_string()) return invalid("an option of a mount is a " + std::string(option.type_name()));
      const auto& text = option.get_ref<const std::string&>();
      options.bind = options.bind || text == "bind" || text == "rbind";
      options.read_only = options.read_only || text == "ro" || text == "rro";
      if (text.starts_with("idmap") || text.starts_with("ridmap")) return impossible("an id-mapped mount");
      if (text == "shared" || text == "rshared") {
        return impossible("option " + text +
                          " (mountPropagation: Bidirectional): what is mounted in a microVM cannot appear on the host");
      }
    }
    return options;
  }

  Status adapt_mount(json& mount) {
    const std::string destination = GRANARY_TRY(text_in(mount, "destination"));
    const std::string type = GRANARY_TRY(text_in(mount, "type"));
    if (!destination.starts_with('/')) return invalid("mount destination " + shown(destination) + " is not absolute");
    if (mount.contains("uidMappings") || mount.contains("gidMappings")) return impossible("an id-mapped mount");
    const Options options = GRANARY_TRY(options_of(mount, type));
    if (!options.bind) return check_type(type, destination);
    const std::string source = GRANARY_TRY(text_in(mount, "source"));
    if (!source.starts_with('/')) {
      return invalid("source " + shown(source) + " of the mount at " + shown(destination) + " is not absolute");
    }
    if (const std::optional<std::string> own = pod_file(source, destination)) {
      mount["source"] = *own;
      return ok();
    }
    Result<std::string> guest_path = context_.share(source, options.read_only);
    if (!guest_path) {
      return Error(guest_path.error().code(),
                   "mount " + shown(source) + " at " + shown(destination) + ": " + guest_path.error().context());
    }
    mount["source"] = *std::move(guest_path);
    return ok();
  }

  // For sandboxes that are not its own containerd mounts none of these, and makes /dev/shm anew for each container.
  void add_pod_files() {
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kFiles = {
        {{"/etc/hosts", "hosts"},
         {"/etc/hostname", "hostname"},
         {"/etc/resolv.conf", "resolv.conf"},
         {"/dev/shm", "shm"}}};
    json& mounts = spec_["mounts"];
    if (mounts.is_null()) mounts = json::array();
    for (const auto& [destination, name] : kFiles) {
      const auto there =
          std::ranges::find_if(mounts, [&destination = destination](const json& one) { return one["destination"] == destination; });
      const bool is_new_memory = there != mounts.end() && name == "shm" && (*there)["type"] == "tmpfs";
      if (there != mounts.end() && !is_new_memory) continue;
      json own = {{"destination", destination},
                  {"type", "bind"},
                  {"source", std::string(kPodFiles) + std::string(name)},
                  {"options", {"rbind", "rprivate", "rw"}}};
      if (is_new_memory) {
        *there = std::move(own);
      } else {
        mounts.push_back(std::move(own));
      }
    }
  }

  // File systems that the guest's kernel makes of nothing.
  static Status check_type(const std::string& type, const std::string& destination) {
    static constexpr std::array<std::string_view, 8> kWithoutSource = {"proc",   "sysfs",  "tmpfs",   "devpts",
                                                                       "mqueue", "cgroup", "cgroup2", "devtmpfs"};
    if (std::ranges::find(kWithoutSource, type) != kWithoutSource.end()) return ok();
    return impossible("a mount of type " + shown(type) + " at " + shown(destination) +
                      "; possible are bind mounts and what the guest's kernel makes itself");
  }

  // What containerd made for the pod, and the guest has for itself.
  [[nodiscard]] std::optional<std::string> pod_file(const std::string& source, const std::string& destination) const {
    if (source == "/dev/shm" && destination == "/dev/shm") return std::string(kPodFiles) + "shm";
    const std::string directory = "/sandboxes/" + context_.sandbox_id + "/";
    const size_t at = source.find(directory);
    if (context_.sandbox_id.empty() || at == std::string::npos) return std::nullopt;
    const std::string name = source.substr(at + directory.size());
    if (name != "hosts" && name != "hostname" && name != "resolv.conf" && name != "shm") return std::nullopt;
    return std::string(kPodFiles) + name;
  }

  json& spec_;
  const SpecContext& context_;
  std::string host_root_;
};

uint64_t weight_of_shares(uint64_t shares) {
  if (shares == 0) return 0;
  const uint64_t inside = std::clamp<uint64_t>(shares, 2, 262'144);
  return 1 + (inside - 2) * 9999 / 262'142;
}

}  // namespace

Result<GuestSpec> translate_spec(std::string_view config_json, const SpecContext& context) {
  json spec = GRANARY_TRY(parse_object(config_json));
  return Translation(spec, context).run();
}

Result<GuestSpec> translate_process(std::string_view process_json, bool terminal) {
  json process = GRANARY_TRY(parse_object(process_json));
  GuestSpec result = GRANARY_TRY(adapt_process(process, terminal));
  result.json = process.dump();
  return result;
}

Result<GuestLimits> read_resources(std::string_view resources_json) {
  json resources = GRANARY_TRY(parse_object(resources_json));
  GuestLimits limits;
  if (json* memory = GRANARY_TRY(object_in(resources, "memory")); memory != nullptr) {
    limits.memory_bytes = GRANARY_TRY(number_in(*memory, "limit"));
  }
  if (json* cpu = GRANARY_TRY(object_in(resources, "cpu")); cpu != nullptr) {
    limits.cpu_quota_us = GRANARY_TRY(number_in(*cpu, "quota"));
    limits.cpu_period_us = GRANARY_TRY(number_in(*cpu, "period"));
    limits.cpu_weight = weight_of_shares(GRANARY_TRY(number_in(*cpu, "shares")));
  }
  if (json* pids = GRANARY_TRY(object_in(resources, "pids")); pids != nullptr) {
    limits.pids = GRANARY_TRY(number_in(*pids, "limit"));
  }
  return limits;
}

}  // namespace granary::shim
