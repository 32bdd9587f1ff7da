// SPDX-License-Identifier: Apache-2.0
#include "tests/cri/cri_fixture.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace granary::cri {
namespace {

// For anything that a case waits for. GRANARY_CRI_PATIENCE_S: to see how long something takes that takes longer.
std::chrono::seconds patience() {
  const char* const given = std::getenv("GRANARY_CRI_PATIENCE_S");
  return std::chrono::seconds(given != nullptr ? std::max(1, std::atoi(given)) : 120);
}
constexpr std::chrono::milliseconds kLook{20};

Runtime* the_runtime = nullptr;

}  // namespace

void CriTest::SetUp() {
  if (the_runtime == nullptr) GTEST_SKIP() << "run through tests/cri/run, which prepares containerd and the images";
  reconnect();
}

Runtime& CriTest::runtime() { return *the_runtime; }

void CriTest::reconnect() {
  client_ = std::make_unique<Client>(runtime().target(), runtime().handler(), runtime().folder() + "/logs");
}

void CriTest::end_pods() {
  for (const auto& [id, config] : pods_) {
    // Of one that its case has removed containerd 1.6 says that it is not there.
    const grpc::Status stopped = cri().stop_pod(id);
    EXPECT_TRUE(stopped.ok() || stopped.error_code() == grpc::StatusCode::NOT_FOUND) << stopped.error_message();
    EXPECT_RPC(cri().remove_pod(id));
  }
  pods_.clear();
}

void CriTest::TearDown() {
  if (IsSkipped()) return;
  end_pods();
  if (!folder_.empty()) std::filesystem::remove_all(folder_);
}

std::string CriTest::name(const std::string& suffix) {
  const auto* const test = ::testing::UnitTest::GetInstance()->current_test_info();
  std::string text = std::string(test->name()) + "-" + std::to_string(::getpid()) + "-" + std::to_string(++names_);
  for (char& c : text) c = std::isalnum(c) != 0 ? static_cast<char>(std::tolower(c)) : '-';
  text = text.substr(text.size() > 50 ? text.size() - 50 : 0);
  return text.substr(text.find_first_not_of('-')) + suffix;
}

std::string CriTest::folder() {
  if (folder_.empty()) {
    std::string pattern = runtime().folder() + "/case-XXXXXX";
    folder_ = ::mkdtemp(pattern.data()) != nullptr ? pattern : "";
    std::filesystem::permissions(folder_, std::filesystem::perms{0755});
  }
  return folder_;
}

std::string CriTest::run_pod(const runtime::v1::PodSandboxConfig& config) {
  std::string id;
  EXPECT_RPC(cri().run_pod(config, &id));
  if (!id.empty()) pods_.emplace_back(id, config);
  return id;
}

runtime::v1::ContainerConfig CriTest::script(const std::string& text) {
  runtime::v1::ContainerConfig config;
  config.mutable_metadata()->set_name(name());
  config.mutable_image()->set_image(kImage);
  for (const char* word : {"/bin/busybox", "sh", "-c"}) config.add_command(word);
  config.add_command(text);
  config.set_log_path(config.metadata().name() + ".log");
  config.mutable_linux_config();
  return config;
}

std::string CriTest::create(const std::string& pod, const runtime::v1::ContainerConfig& config) {
  std::string id;
  for (const auto& [pod_id, pod_config] : pods_) {
    if (pod_id == pod) EXPECT_RPC(cri().create(pod, pod_config, config, &id));
  }
  return id;
}

std::string CriTest::start(const std::string& pod, const runtime::v1::ContainerConfig& config) {
  const std::string id = create(pod, config);
  if (!id.empty()) EXPECT_RPC(cri().start(id));
  return id;
}

runtime::v1::ContainerStatus CriTest::status(const std::string& container) {
  runtime::v1::ContainerStatus status;
  EXPECT_RPC(cri().status(container, &status));
  return status;
}

runtime::v1::ContainerStatus CriTest::wait(const std::string& container) {
  runtime::v1::ContainerStatus last;
  EXPECT_TRUE(eventually([&] {
    return cri().status(container, &last).ok() && last.state() == runtime::v1::CONTAINER_EXITED;
  })) << last.ShortDebugString();
  return last;
}

Outcome CriTest::run(const std::string& pod, runtime::v1::ContainerConfig config) {
  const std::string id = start(pod, config);
  if (id.empty()) return {};
  const int status = wait(id).exit_code();
  return {status, log(id, "stdout"), log(id, "stderr")};
}

Outcome CriTest::exec(const std::string& container, const std::string& text, int64_t timeout_s) {
  Outcome outcome;
  EXPECT_RPC(cri().exec(container, {"/bin/busybox", "sh", "-c", text}, timeout_s, &outcome));
  return outcome;
}

// "<time> <stream> <F or P> <message>": F ends a line, P does not (kubelet: the CRI log format).
std::string CriTest::log(const std::string& container, const std::string& stream) {
  std::ifstream file(status(container).log_path());
  std::string text;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string time;
    std::string of;
    std::string end;
    words >> time >> of >> end;
    if (!stream.empty() && of != stream) continue;
    const size_t at = time.size() + of.size() + end.size() + 3;
    text += (at <= line.size() ? line.substr(at) : "") + (end == "F" ? "\n" : "");
  }
  return text;
}

bool CriTest::eventually(const std::function<bool()>& condition) {
  const auto limit = std::chrono::steady_clock::now() + patience();
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::sleep_for(kLook);
  }
  return true;
}

}  // namespace granary::cri

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const auto started = granary::cri::Runtime::start();
  if (granary::cri::Runtime::is_asked_for() && started == nullptr) return 1;
  granary::cri::the_runtime = started.get();
  return RUN_ALL_TESTS();
}
