// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/exec_plan.h"

#include <algorithm>
#include <limits>
#include <string_view>

namespace granary::guest {
namespace {

constexpr std::string_view kDefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr int kMaxGroups = 65536;  // setgroups(2): NGROUPS_MAX

Error invalid(const std::string& what) { return {Errc::kInvalidArgument, "exec: " + what}; }

// The strings as execve(2) takes them: it does not write to them in spite of its type.
Result<std::vector<char*>> to_vector(const google::protobuf::RepeatedPtrField<std::string>& strings, const char* name) {
  std::vector<char*> pointers;
  pointers.reserve(static_cast<size_t>(strings.size()) + 1);
  for (const std::string& text : strings) {
    if (text.find('\0') != std::string::npos) return invalid(std::string(name) + " holds a NUL byte");
    pointers.push_back(const_cast<char*>(text.c_str()));
  }
  pointers.push_back(nullptr);
  return pointers;
}

std::string_view path_of(const v1::Exec& request) {
  constexpr std::string_view kName = "PATH=";
  for (const std::string& variable : request.env()) {
    if (variable.starts_with(kName)) return std::string_view(variable).substr(kName.size());
  }
  return kDefaultPath;
}

// An empty element of PATH is the working directory (POSIX.1, 8.3).
std::vector<std::string> search(std::string_view path, const std::string& command) {
  std::vector<std::string> candidates;
  for (;;) {
    const size_t colon = path.find(':');
    const std::string_view folder = path.substr(0, colon);
    candidates.push_back((folder.empty() ? std::string(".") : std::string(folder)) + "/" + command);
    if (colon == std::string_view::npos) return candidates;
    path.remove_prefix(colon + 1);
  }
}

Status fill_user(const v1::Exec& request, ExecPlan& plan) {
  // To the system calls this number means "leave it as it is", which would be root.
  constexpr uint32_t kNobody = std::numeric_limits<uint32_t>::max();
  if (request.uid() == kNobody) return invalid("uid 4294967295 is no user");
  if (request.gid() == kNobody) return invalid("gid 4294967295 is no group");
  if (request.groups_size() > kMaxGroups)
    return invalid(std::to_string(request.groups_size()) + " groups; at most 65536");
  if (std::find(request.groups().begin(), request.groups().end(), kNobody) != request.groups().end()) {
    return invalid("supplementary group 4294967295 is no group");
  }
  plan.uid = request.uid();
  plan.gid = request.gid();
  plan.groups.assign(request.groups().begin(), request.groups().end());
  return ok();
}

Status fill_rlimits(const v1::Exec& request, ExecPlan& plan) {
  for (const v1::Rlimit& limit : request.rlimits()) {
    if (limit.resource() >= RLIM_NLIMITS) return invalid("rlimit " + std::to_string(limit.resource()) + " is unknown");
    if (limit.soft() > limit.hard()) {
      return invalid("rlimit " + std::to_string(limit.resource()) + ": soft limit above the hard limit");
    }
    plan.rlimits.emplace_back(static_cast<int>(limit.resource()), rlimit{limit.soft(), limit.hard()});
  }
  return ok();
}

}  // namespace

Result<ExecPlan> make_exec_plan(const v1::Exec& request) {
  if (request.argv_size() == 0 || request.argv(0).empty()) return invalid("argv names no command");
  ExecPlan plan;
  plan.argv = GRANARY_TRY(to_vector(request.argv(), "argv"));
  plan.envp = GRANARY_TRY(to_vector(request.env(), "env"));
  for (const std::string& variable : request.env()) {
    if (variable.find('=') == std::string::npos) return invalid("env \"" + variable + "\" is not NAME=VALUE");
  }
  if (request.cwd().find('\0') != std::string::npos) return invalid("cwd holds a NUL byte");
  plan.cwd = request.cwd().empty() ? "/" : request.cwd();
  plan.searched = request.argv(0).find('/') == std::string::npos;
  if (plan.searched) {
    plan.candidates = search(path_of(request), request.argv(0));
  } else {
    plan.candidates.push_back(request.argv(0));
  }
  GRANARY_TRY(fill_user(request, plan));
  GRANARY_TRY(fill_rlimits(request, plan));
  return plan;
}

}  // namespace granary::guest
