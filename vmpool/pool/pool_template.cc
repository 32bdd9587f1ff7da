// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/pool_impl.h"

#include <sys/stat.h>

namespace granary::pool {
namespace {

uint64_t allocated_bytes(const Fd& file) {
  constexpr uint64_t kBlock = 512;  // of st_blocks, whatever the file system
  struct stat info {};
  return ::fstat(file.get(), &info) == 0 ? static_cast<uint64_t>(info.st_blocks) * kBlock : 0;
}

}  // namespace

void Pool::Impl::template_loop() {
  for (;;) {
    prepare_first_template();
    rotate_loop();
    const std::lock_guard lock(mutex_);
    if (draining_) return;
  }
}

void Pool::Impl::prepare_first_template() {
  Backoff backoff;
  for (;;) {
    const Status prepared = prepare_template();
    std::unique_lock lock(mutex_);
    if (prepared || draining_ || template_.content) return;
    template_state_ = "failed: " + prepared.error().message();
    last_error_ = prepared.error().message();
    lock.unlock();
    emit("template-failed", "", prepared.error().message());
    lock.lock();
    backoff.failed(SteadyClock::now());
    // A rebuild that somebody asked for may bring one sooner.
    work_cv_.wait_until(lock, backoff.not_before(), [this] { return draining_ || template_.content != nullptr; });
    if (draining_ || template_.content) return;
  }
}

// From the spawner (an earlier agent left it there), from disk, or built.
Status Pool::Impl::prepare_template() {
  const std::lock_guard build_lock(build_mutex_);
  set_template_state("hashing kernel and initramfs");
  const TemplateInputs inputs =
      GRANARY_TRY(template_inputs(settings(), resources_.vmm_build_id(), resources_.host_fingerprint));
  if (const std::optional<SteadyTime> since = stored_since(inputs.key())) {
    if (GRANARY_TRY(take_stored(inputs, *since))) return ok();
  } else {
    emit("template-building", "", "no stored template is young enough for this pool");
  }
  return build_and_keep(inputs, [](const std::string&) {});
}

Result<bool> Pool::Impl::take_stored(const TemplateInputs& inputs, SteadyTime since) {
  const std::string key = inputs.key();
  if (Result<Template> kept = resources_.spawner.get_template(key)) {
    GRANARY_TRY(set_template(std::move(*kept), inputs, since, "kept by the spawner"));
    return true;
  }
  set_template_state("loading");
  Result<Template> loaded = resources_.templates.load(key);
  if (loaded) {
    // Only for the next agent's start; without it that one reads the disk.
    (void)resources_.spawner.put_template(*loaded);
    GRANARY_TRY(set_template(std::move(*loaded), inputs, since, "loaded and verified"));
    return true;
  }
  emit("template-building", "",
       loaded.error().is_errno(ENOENT) ? "no template for this kernel, shape, build and host"
                                       : "the stored template is unusable: " + loaded.error().message());
  return false;
}

Status Pool::Impl::build_and_keep(const TemplateInputs& inputs,
                                  const std::function<void(const std::string&)>& progress) {
  const BuildProgress on_step = [&](int percent, const std::string& text) {
    const std::string line = std::to_string(percent) + "% " + text;
    set_template_state("building: " + line);
    emit("template-building", "", line);
    progress(line);
  };
  const SteadyTime begin = SteadyClock::now();
  std::vector<std::string> leaks;
  const PoolSettings now = settings();
  Result<BuiltTemplate> built = build_template(tools(), now, inputs, on_step, cancel_build_, leaks);
  {
    const std::lock_guard lock(mutex_);
    count_leaks(leaks);
  }
  if (!built) {
    if (!built.error().is(Errc::kShuttingDown)) measure(Measure::kTemplateBuilds, 1, "failed");
    return built.error();
  }
  on_step(95, "writing the template to disk");
  std::string how = "built in " + in_ms(SteadyClock::now() - begin);
  if (now.sharing != Sharing::kNone) store(*built, how);
  measure(Measure::kTemplateBuilds, 1, "ok");
  measure_since(begin, Measure::kTemplateSeconds);
  GRANARY_TRY(set_template(std::move(built->content), inputs, SteadyClock::now(), how));
  progress("100% ready");
  return ok();
}

void Pool::Impl::store(const BuiltTemplate& built, std::string& how) {
  // A full disk costs a rebuild at the next start, not this pool.
  if (const Status saved = resources_.templates.save(built.info, built.content); !saved) {
    how += ", not stored: " + saved.error().message();
    const std::lock_guard lock(mutex_);
    last_error_ = "template not stored: " + saved.error().message();
  }
  (void)resources_.spawner.put_template(built.content);
}

Status Pool::Impl::set_template(Template content, const TemplateInputs& inputs, SteadyTime built_at,
                                const std::string& how) {
  const std::string key = content.key;
  const std::string build = inputs.lines.at("vmm");
  const uint64_t bytes = allocated_bytes(content.memory);
  {
    const std::lock_guard lock(mutex_);
    // spawner_replaced() withdraws what was set before it; this is what would be set after it.
    if (build != resources_.vmm_build_id()) {
      (void)resources_.spawner.drop_template(key);
      return Error(Errc::kVmmFailed, "the template is of VMM build " + build +
                                         ", and the spawner was replaced by another build's meanwhile");
    }
    // What was counted against a used-up template is what it was meant for: those clones stay.
    const bool keep_idle = template_.content && is_used_up();
    template_ = {.content = std::make_shared<const Template>(std::move(content)),
                 .generation = template_.generation + 1,
                 .vmm_build_id = build,
                 .built_at = built_at,
                 .clones = 0,
                 .bytes = bytes};
    last_measured_bytes_ = 0;
    template_state_ = "ready";
    if (!keep_idle) give_up_idle(/*and_running=*/false, template_.generation, "template");
  }
  work_cv_.notify_all();
  emit("template-ready", "", key.substr(0, 12) + ": " + how);
  return ok();
}

void Pool::Impl::set_template_state(const std::string& state) {
  const std::lock_guard lock(mutex_);
  template_state_ = state;
}

Status Pool::Impl::rebuild_template(const std::function<void(const std::string&)>& progress) {
  const std::lock_guard build_lock(build_mutex_);
  if (cancel_build_) return Error(Errc::kShuttingDown, "rebuild the template of pool " + settings_.name);
  const TemplateInputs inputs =
      GRANARY_TRY(template_inputs(settings(), resources_.vmm_build_id(), resources_.host_fingerprint));
  const Status built = build_and_keep(inputs, progress);
  if (built) return built;
  {
    // The old template, if there is one, goes on serving.
    const std::lock_guard lock(mutex_);
    template_state_ = template_.content ? "ready" : "failed: " + built.error().message();
    last_error_ = built.error().message();
  }
  emit("template-failed", "", built.error().message());
  return built;
}

}  // namespace granary::pool
