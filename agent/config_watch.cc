// SPDX-License-Identifier: Apache-2.0
#include "agent/config_watch.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <filesystem>

namespace granary::agent {
namespace {

Result<Fd> hangup_fd() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGHUP);
  Fd fd(::signalfd(-1, &set, SFD_CLOEXEC));
  if (!fd.valid()) return Error::last_os_error("signalfd");
  return fd;
}

// Not IN_CREATE: a file that is just being written would be read half.
Result<Fd> watch_folder(const std::string& folder) {
  Fd fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!fd.valid()) return Error::last_os_error("inotify_init1");
  if (::inotify_add_watch(fd.get(), folder.c_str(), IN_CLOSE_WRITE | IN_MOVED_TO) < 0) {
    return Error::last_os_error("watch " + folder);
  }
  return fd;
}

}  // namespace

Result<std::unique_ptr<ConfigWatch>> ConfigWatch::start(const std::string& path,
                                                        std::function<void(bool asked)> changed) {
  const std::filesystem::path file(path);
  Fd folder;
  if (!path.empty()) {
    auto watched = watch_folder(file.has_parent_path() ? file.parent_path().string() : ".");
    if (watched) {
      folder = *std::move(watched);
    } else {
      spdlog::warn("changes of the configuration are seen on SIGHUP only error=\"{}\"", watched.error().message());
    }
  }
  return std::unique_ptr<ConfigWatch>(new ConfigWatch(file.filename().string(), GRANARY_TRY(hangup_fd()),
                                                      std::move(folder), GRANARY_TRY(EventFd::create()),
                                                      std::move(changed)));
}

ConfigWatch::ConfigWatch(std::string file, Fd signals, Fd folder, EventFd stop, std::function<void(bool asked)> changed)
    : file_(std::move(file)),
      signals_(std::move(signals)),
      folder_(std::move(folder)),
      stop_(std::move(stop)),
      changed_(std::move(changed)),
      thread_([this] { watch(); }) {}

ConfigWatch::~ConfigWatch() {
  stop_.signal();
  thread_.join();
}

void ConfigWatch::watch() {
  changed_(false);
  for (;;) {
    std::array<pollfd, 3> fds = {{{.fd = stop_.get(), .events = POLLIN, .revents = 0},
                                  {.fd = signals_.get(), .events = POLLIN, .revents = 0},
                                  {.fd = folder_.get(), .events = POLLIN, .revents = 0}}};  // poll skips -1
    if (::poll(fds.data(), fds.size(), -1) < 0) continue;
    if (fds[0].revents != 0) return;
    signalfd_siginfo info{};
    const bool asked = fds[1].revents != 0 && ::read(signals_.get(), &info, sizeof(info)) == sizeof(info);
    const bool changed = fds[2].revents != 0 && concerns_file();
    if (asked || changed) changed_(asked);
  }
}

// Takes all events that are there.
bool ConfigWatch::concerns_file() {
  alignas(inotify_event) std::array<char, 4096> buffer;
  bool concerns = false;
  for (ssize_t size = 0; (size = ::read(folder_.get(), buffer.data(), buffer.size())) > 0;) {
    for (ssize_t at = 0; at < size;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
      const std::string name = event->len == 0 ? "" : event->name;
      // The kubelet swaps the link `..data`, through which the file's own link leads.
      concerns = concerns || name == file_ || name.starts_with("..") || (event->mask & IN_Q_OVERFLOW) != 0;
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
  }
  return concerns;
}

}  // namespace granary::agent
