// AccessTrace: an access log with pages numbered and the next lookup of each known: what caches that see the future run on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "engine/access_log.hpp"

namespace moekv {

class AccessTrace {
 public:
  static constexpr std::uint32_t never = std::numeric_limits<std::uint32_t>::max();
  static constexpr std::uint64_t max_ops = std::uint64_t{1} << 31;  // 9 bytes each

  /// One event of one page (a budget for `opened`, a tenant for `finished`).
  struct Op {
    AccessKind kind;
    std::uint32_t id;
    std::uint32_t next;  // step of the page's next lookup after this step with no write before it, or never
  };
  /// What shares a capacity: a group of a request, or a shard.
  struct Budget {
    std::uint32_t shard;
    std::uint32_t pages;  // AccessEvent::unlimited: none
  };
  /// A request in a shard.
  struct Tenant {
    std::vector<std::uint32_t> pages, budgets;  // budgets that end with it
  };

  /// `path` stands in messages.
  explicit AccessTrace(std::string path) : path_(std::move(path)) {}

  /// Events in the order of the log; steps do not descend. Throws UserError where an event contradicts those before it.
  void add(std::uint64_t step, const AccessEvent& event);
  /// Fills in the next lookups. Once, after the last event.
  void close();

  /// Steps that have events, numbered without gaps.
  [[nodiscard]] std::uint32_t n_steps() const { return static_cast<std::uint32_t>(step_begin_.size()); }
  [[nodiscard]] std::uint32_t n_pages() const { return static_cast<std::uint32_t>(budget_of_page_.size()); }
  [[nodiscard]] std::uint32_t budget_of(std::uint32_t page) const { return budget_of_page_[page]; }
  [[nodiscard]] const std::vector<Budget>& budgets() const { return budgets_; }
  [[nodiscard]] const std::vector<Tenant>& tenants() const { return tenants_; }
  /// Calls f(op) for each event of a step, in order.
  template <class F>
  void for_each_op(std::uint32_t step, F&& f) const {
    const std::size_t end = step + 1 < n_steps() ? step_begin_[step + 1] : kinds_.size();
    for (std::size_t i = step_begin_[step]; i < end; ++i) f(Op{kinds_[i], ids_[i], next_[i]});
  }

 private:
  using Chain = std::tuple<std::uint32_t, std::uint32_t, std::uint16_t, std::uint16_t, std::uint8_t, std::uint16_t>;
  using Owner = std::tuple<std::uint32_t, std::uint32_t, std::uint16_t, std::uint16_t>;
  void push(AccessKind kind, std::uint32_t id);
  void open_budget(const AccessEvent& event);
  void finish(const AccessEvent& event);
  [[nodiscard]] std::uint32_t budget_for(const AccessEvent& event) const;
  [[noreturn]] void fail(const std::string& what) const;

  std::string path_;
  std::vector<std::size_t> looked_up_;  // [pages] number of steps when it was last looked up
  std::uint64_t last_step_ = 0;
  std::map<Chain, std::vector<std::uint32_t>> chains_;  // pages by index, of requests that live
  std::map<Owner, std::uint32_t> open_budgets_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> open_tenants_;
  std::vector<Budget> budgets_;
  std::vector<Tenant> tenants_;
  std::vector<std::uint32_t> budget_of_page_;
  std::vector<std::size_t> step_begin_;
  std::vector<AccessKind> kinds_;
  std::vector<std::uint32_t> ids_, next_;
};

}  // namespace moekv
