// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/pool.h"

#include "vmpool/pool/pool_impl.h"

namespace granary::pool {

Result<std::unique_ptr<Pool>> Pool::start(PoolSettings settings, PoolResources resources) {
  GRANARY_TRY(check_settings(settings));
  auto impl = std::make_unique<Impl>(std::move(settings), std::move(resources));
  impl->start();
  return std::unique_ptr<Pool>(new Pool(std::move(impl)));
}

Pool::Pool(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Pool::~Pool() = default;

Result<CloneInfo> Pool::acquire(const IdentityRequest& identity, SteadyTime deadline, const Attachments& attachments) {
  return impl_->acquire(identity, deadline, attachments);
}
Result<bool> Pool::release(const std::string& clone_id) { return impl_->release(clone_id); }
Result<uint32_t> Pool::attach(const std::string& clone_id, const Disk& disk) { return impl_->attach(clone_id, disk); }
Status Pool::detach(const std::string& clone_id, uint32_t disk) { return impl_->detach(clone_id, disk); }
PoolSettings Pool::settings() const { return impl_->settings(); }
PoolStatus Pool::status() const { return impl_->status(); }
std::vector<CloneStatus> Pool::clones() const { return impl_->clones(); }
PoolMemory Pool::memory() const { return impl_->memory(); }
std::vector<FlightRecord> Pool::flights() const { return impl_->flights(); }
Result<std::string> Pool::console(const std::string& clone_id) const { return impl_->console(clone_id); }
void Pool::on_clone_ended(std::function<void(const std::string&, EndState, const std::string&)> callback) {
  impl_->on_clone_ended(std::move(callback));
}
Status Pool::rebuild_template(const std::function<void(const std::string&)>& progress) {
  return impl_->rebuild_template(progress);
}
Status Pool::resize(const PoolLimits& limits) { return impl_->resize(limits); }
PoolUsage Pool::usage() const { return impl_->usage(); }
uint32_t Pool::allow(const PoolAllowance& allowance) { return impl_->allow(allowance); }
Status Pool::adopt(CloneInfo info, const std::string& group, const std::string& owners_group,
                   std::function<Status()> unwire) {
  return impl_->adopt(std::move(info), group, owners_group, std::move(unwire));
}
void Pool::drain(bool and_running) { impl_->drain(and_running); }
void Pool::spawner_replaced() { impl_->spawner_replaced(); }
void Pool::leave_running() { impl_->leave_running(); }

}  // namespace granary::pool
