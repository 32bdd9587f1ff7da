// SPDX-License-Identifier: Apache-2.0
#include "vmpool/guest/init/container.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>

#include "vmpool/base/log.h"
#include "vmpool/guest/init/cgroup.h"
#include "vmpool/guest/init/container_spec.h"
#include "vmpool/guest/init/failure.h"
#include "vmpool/guest/init/rootfs.h"

namespace granary::guest {
namespace {

// Far above what crun takes once the process that it starts is gone, also on a vCPU that is held back.
constexpr std::chrono::seconds kStartEndsWithin{5};

Status make_folder(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0) return ok();
  return Error::last_os_error("make " + path);
}

Status write_new_file(const std::string& path, const std::string& text) {
  const Fd file = GRANARY_TRY(open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
  return write_all(file.get(), std::as_bytes(std::span(text)));
}

// In an Errand. Everything that create() and crun made, whatever of it is there.
Status remove_traces(const std::string& bundle, const std::string& group) {
  GRANARY_TRY(cgroup::remove(group));
  GRANARY_TRY(unmount_rootfs(bundle + "/rootfs"));
  // By name: a recursive removal could get below a mount.
  ::unlink((bundle + "/config.json").c_str());
  ::rmdir((bundle + "/rootfs").c_str());
  if (::rmdir(bundle.c_str()) == 0 || errno == ENOENT) return ok();
  return Error::last_os_error("remove " + bundle);
}

}  // namespace

Container::Container(Surroundings around, v1::ContainerCreate request)
    : around_(std::move(around)), request_(std::move(request)), memory_watch_(around_.loop) {}

Container::~Container() { around_.loop.remove(start_limit_); }

Result<std::unique_ptr<Container>> Container::create(Surroundings around, v1::ContainerCreate request) {
  GRANARY_TRY(check_rootfs(request.rootfs()));
  std::unique_ptr<Container> container(new Container(std::move(around), std::move(request)));
  const std::string rootfs = container->around_.paths.bundle(container->id()) + "/rootfs";
  const OciJson json = GRANARY_TRY(make_container_json(container->request_.spec(), rootfs, "/pod/" + container->id()));
  container->on_terminal_ = json.terminal;
  container->request_.clear_spec();
  GRANARY_TRY(container->prepare(json.text));
  return container;
}

Status Container::prepare(const std::string& json) {
  const std::string bundle = around_.paths.bundle(id());
  const auto work = [&]() -> Status {
    GRANARY_TRY(make_folder(bundle));
    GRANARY_TRY(write_new_file(bundle + "/config.json", json));
    GRANARY_TRY(make_folder(bundle + "/rootfs"));
    return mount_rootfs(request_.rootfs(), bundle + "/rootfs", around_.paths.disks);
  };
  errand_ = GRANARY_TRY(Errand::run(around_.reaper, work, [this](const Status& status) {
    errand_.reset();
    if (!status) return fail_creation(status.error());
    create_with_crun();
  }));
  return ok();
}

void Container::create_with_crun() {
  if (unwanted_) return fail_creation(Error(Errc::kInvalidArgument, "given up while it was created"));
  CrunCall::Settings settings;
  settings.arguments = {"create", "--bundle", around_.paths.bundle(id())};
  settings.has_stdin = request_.has_stdin();
  settings.leaves_process = true;
  settings.on_terminal = on_terminal_;
  settings.target = id();
  crun_knows_it_ = true;
  Result<std::unique_ptr<CrunCall>> call = CrunCall::start(around_.reaper, around_.paths, std::move(settings),
                                                           [this](const Status& status) { on_created(status); });
  if (!call) return fail_creation(call.error());
  call_ = std::move(*call);
}

Status Container::take_process(Streams& streams) {
  pid_ = GRANARY_TRY(call_->adopt_process([this](Reaper::Ending ending) { on_ending(ending); }));
  streams = GRANARY_TRY(call_->take_streams());
  if (on_terminal_) set_window_size(streams.terminal.get(), request_.window_size());
  return ok();
}

void Container::on_created(const Status& status) {
  Streams streams;
  const Status taken = status ? take_process(streams) : status;
  call_.reset();
  if (!taken) return fail_creation(taken.error());
  if (unwanted_) return fail_creation(Error(Errc::kInvalidArgument, "deleted while it was created"));
  state_ = State::kCreated;
  watch_memory();
  if (listener_.created) listener_.created(pid_, std::move(streams));
}

void Container::fail_creation(const Error& error) {
  creation_failure_ = failure(error);
  unwanted_ = true;
  if (pid_ > 0) return kill_all();  // on_ending() goes on
  state_ = State::kEnded;
  clean_up_if_idle();
}

void Container::on_ending(Reaper::Ending ending) {
  look_at_memory();
  memory_watch_.stop();
  memory_events_.reset();
  pid_ = 0;
  state_ = State::kEnded;
  // Without a pid namespace of its own it may have left processes.
  cgroup::signal_all(cgroup(), SIGKILL);
  ending_ = ending;
  // A short process ends before crun, which started it, has.
  if (starting_) {
    limit_start();
  } else {
    tell_ending();
  }
  clean_up_if_idle();
}

// crun waits for ever for a process that went between its two looks at it.
void Container::limit_start() {
  start_limit_ = around_.loop.call_at(EventLoop::Clock::now() + kStartEndsWithin, [this] {
    start_limit_ = 0;
    if (call_) call_->kill();
  });
}

void Container::tell_ending() {
  if (!ending_ || creation_failure_.has_failure()) return;
  const Listener listener = std::exchange(listener_, {});
  if (listener.ended) listener.ended(*ending_);
}

void Container::abandon() {
  listener_ = {};
  if (state_ == State::kCreating) {
    give_up_creation();
  } else if (state_ != State::kEnded) {
    kill_all();
  }
}

void Container::start(Answer answer) {
  if (state_ != State::kCreated || call_) {
    return answer(named(v1::Failure::INVALID, state_ == State::kEnded ? "has ended" : "was started already"));
  }
  CrunCall::Settings settings;
  settings.arguments = {"start"};
  settings.target = id();
  Result<std::unique_ptr<CrunCall>> call =
      CrunCall::start(around_.reaper, around_.paths, std::move(settings), [=, this, pid = pid_](const Status& status) {
        call_.reset();
        around_.loop.remove(std::exchange(start_limit_, 0));
        starting_ = false;
        if (state_ == State::kCreated && status) state_ = State::kRunning;
        v1::Reply reply;
        reply.mutable_started()->set_pid(pid);
        answer(status ? reply : failure(status.error()));
        tell_ending();
        clean_up_if_idle();
      });
  if (!call) return answer(failure(call.error()));
  call_ = std::move(*call);
  starting_ = true;
}

v1::Reply Container::kill(int signal, bool all) {
  if (signal < 1 || signal >= NSIG)
    return named(v1::Failure::INVALID, "signal " + std::to_string(signal) + " does not exist");
  if (state_ == State::kCreating) return named(v1::Failure::INVALID, "is not created yet");
  if (state_ == State::kEnded) return named(v1::Failure::NOT_FOUND, "has ended");
  if (!all || !cgroup::signal_all(cgroup(), signal)) ::kill(pid_, signal);
  v1::Reply reply;
  reply.mutable_done();
  return reply;
}

void Container::kill_all() {
  cgroup::signal_all(cgroup(), SIGKILL);
  if (pid_ > 0) ::kill(pid_, SIGKILL);
}

void Container::remove(bool force, Answer answer) {
  if (state_ != State::kEnded && !force) {
    return answer(named(v1::Failure::INVALID, "has not ended: kill it first, or delete it with force"));
  }
  removal_answers_.push_back(std::move(answer));
  if (state_ == State::kCreating) {
    give_up_creation();
  } else {
    unwanted_ = true;
    if (call_ && (starting_ || state_ != State::kEnded)) call_->kill();
  }
  kill_all();
  clean_up_if_idle();
}

// Whatever step it is at: waiting for a disk takes half a minute.
void Container::give_up_creation() {
  unwanted_ = true;
  if (errand_) errand_->cancel();
  if (call_) call_->kill();
}

void Container::watch_memory() {
  Result<Fd> events = open_file(cgroup() + "/memory.events", O_RDONLY | O_NONBLOCK);
  if (!events) return;  // a kernel without the controller
  memory_events_ = std::move(*events);
  const Status watched = memory_watch_.start(memory_events_.get(), EPOLLPRI, [this](uint32_t) { look_at_memory(); });
  if (!watched) memory_events_.reset();  // looked at when it has ended
}

void Container::look_at_memory() {
  // Read through this descriptor, or it stays ready.
  char buffer[512];
  if (memory_events_.valid()) (void)!::pread(memory_events_.get(), buffer, sizeof(buffer), 0);
  if (out_of_memory_told_ || cgroup::oom_kills(cgroup()) == 0) return;
  out_of_memory_told_ = true;
  if (listener_.out_of_memory) listener_.out_of_memory();
}

void Container::clean_up_if_idle() {
  if (unwanted_ && state_ == State::kEnded && !call_ && !errand_) clean_up();
}

void Container::clean_up() {
  if (!crun_knows_it_) return sweep();
  CrunCall::Settings settings;
  settings.arguments = {"delete", "--force"};
  settings.target = id();
  Result<std::unique_ptr<CrunCall>> call =
      CrunCall::start(around_.reaper, around_.paths, std::move(settings), [this](const Status& status) {
        call_.reset();
        if (!status) return on_swept(status);
        crun_knows_it_ = false;
        sweep();
      });
  if (!call) return on_swept(call.error());
  call_ = std::move(*call);
}

void Container::sweep() {
  const std::string bundle = around_.paths.bundle(id());
  const std::string group = cgroup();
  Result<std::unique_ptr<Errand>> errand = Errand::run(
      around_.reaper, [&] { return remove_traces(bundle, group); },
      [this](const Status& status) {
        errand_.reset();
        on_swept(status);
      });
  if (!errand) return on_swept(errand.error());
  errand_ = std::move(*errand);
}

void Container::on_swept(const Status& status) {
  if (!status) log_line(LogLevel::kError, "container=%s stays: %s", id().c_str(), status.error().message().c_str());
  unwanted_ = false;
  v1::Reply done;
  done.mutable_done();
  const v1::Reply reply = status ? done : failure(status.error());
  const std::vector<Answer> answers = std::exchange(removal_answers_, {});
  const Listener listener = std::exchange(listener_, {});
  // First the table: who is answered may ask for the same name at once.
  if (status) around_.gone(*this);
  if (listener.failed && creation_failure_.has_failure()) listener.failed(creation_failure_);
  for (const Answer& answer : answers) answer(reply);
}

v1::Reply Container::named(v1::Failure::Kind kind, const std::string& what) const {
  return failure(kind, "container " + id() + " " + what);
}

}  // namespace granary::guest
