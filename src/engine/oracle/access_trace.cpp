// Numbers for pages, budgets and tenants, and the next lookups, backwards.
#include "engine/oracle/access_trace.hpp"

#include <fmt/format.h>

#include "core/error.hpp"

namespace moekv {

void AccessTrace::fail(const std::string& what) const { throw UserError(path_, what, "the file is damaged"); }

void AccessTrace::push(AccessKind kind, std::uint32_t id) {
  if (kinds_.size() >= max_ops) throw UserError(path_, fmt::format("has more than {} page events", max_ops), "log a shorter run");
  kinds_.push_back(kind);
  ids_.push_back(id);
}

std::uint32_t AccessTrace::budget_for(const AccessEvent& e) const {
  auto it = open_budgets_.find({e.shard, e.request, e.layer, e.head_group});
  if (it == open_budgets_.end()) it = open_budgets_.find({e.shard, AccessEvent::whole_shard, 0, 0});
  if (it == open_budgets_.end()) fail(fmt::format("a page of request {} is written before its budget begins", e.request));
  return it->second;
}

void AccessTrace::open_budget(const AccessEvent& e) {
  const auto id = static_cast<std::uint32_t>(budgets_.size());
  if (!open_budgets_.try_emplace({e.shard, e.request, e.layer, e.head_group}, id).second) fail(fmt::format("a budget of request {} begins twice", e.request));
  budgets_.push_back({e.shard, e.count});
  if (e.request != AccessEvent::whole_shard) {
    const auto [tenant, added] = open_tenants_.try_emplace({e.shard, e.request}, static_cast<std::uint32_t>(tenants_.size()));
    if (added) tenants_.emplace_back();
    tenants_[tenant->second].budgets.push_back(id);
  }
  push(AccessKind::opened, id);
}

void AccessTrace::finish(const AccessEvent& e) {
  const auto tenant = open_tenants_.find({e.shard, e.request});
  if (tenant == open_tenants_.end()) fail(fmt::format("request {} ends in a shard that does not have it", e.request));
  push(AccessKind::finished, tenant->second);
  open_tenants_.erase(tenant);
  open_budgets_.erase(open_budgets_.lower_bound({e.shard, e.request, 0, 0}), open_budgets_.upper_bound({e.shard, e.request, 0xFFFF, 0xFFFF}));
  const Chain first{e.shard, e.request, 0, 0, 0, 0}, last{e.shard, e.request, 0xFFFF, 0xFFFF, 0xFF, 0xFFFF};
  chains_.erase(chains_.lower_bound(first), chains_.upper_bound(last));
}

void AccessTrace::add(std::uint64_t step, const AccessEvent& e) {
  if (step_begin_.empty() || step != last_step_) {
    if (!step_begin_.empty() && step < last_step_) fail("steps go backwards");
    step_begin_.push_back(kinds_.size());
    last_step_ = step;
  }
  if (e.kind == AccessKind::opened) return open_budget(e);
  if (e.kind == AccessKind::finished) return finish(e);
  std::vector<std::uint32_t>& pages = chains_[{e.shard, e.request, e.layer, e.head_group, e.side, e.expert}];
  const std::uint64_t end = std::uint64_t{e.first} + e.count;
  for (std::uint64_t i = e.first; i < end; ++i) {
    if (e.kind == AccessKind::written && i == pages.size()) {
      const auto [tenant, added] = open_tenants_.try_emplace({e.shard, e.request}, static_cast<std::uint32_t>(tenants_.size()));
      if (added) tenants_.emplace_back();
      pages.push_back(n_pages());
      tenants_[tenant->second].pages.push_back(n_pages());
      budget_of_page_.push_back(budget_for(e));
      looked_up_.push_back(0);
    }
    if (i >= pages.size()) fail(fmt::format("page {} of request {}, layer {} is accessed before it is written", i, e.request, e.layer));
    if (e.kind == AccessKind::hit || e.kind == AccessKind::miss) looked_up_[pages[i]] = step_begin_.size();
    // A page that comes back without a lookup comes to every cache, as a written one does.
    const bool given = e.kind == AccessKind::recalled && looked_up_[pages[i]] != step_begin_.size();
    push(given ? AccessKind::written : e.kind, pages[i]);
  }
}

void AccessTrace::close() {
  next_.assign(kinds_.size(), never);
  // `later` is the next lookup that a page must be resident for: a write before it brings the page back anyway.
  std::vector<std::uint32_t> later(n_pages(), never);
  for (std::uint32_t step = n_steps(); step-- > 0;) {
    const std::size_t begin = step_begin_[step], end = step + 1 < n_steps() ? step_begin_[step + 1] : kinds_.size();
    for (std::size_t i = begin; i < end; ++i) {
      if (kinds_[i] != AccessKind::opened && kinds_[i] != AccessKind::finished) next_[i] = later[ids_[i]];
    }
    for (std::size_t i = end; i-- > begin;) {
      if (kinds_[i] == AccessKind::written) later[ids_[i]] = never;
      if (kinds_[i] == AccessKind::hit || kinds_[i] == AccessKind::miss) later[ids_[i]] = step;
    }
  }
}

}  // namespace moekv
