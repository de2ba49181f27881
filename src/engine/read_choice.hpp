// ReadChoice: the pages that queries of a layer step read where `read.select` leaves some out. Candidates come in, the backend scores them, the chosen
// ones go out, both in the order of the queries.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/backend.hpp"
#include "rules/select/catalogue.hpp"

namespace moekv {

class ReadChoice {
 public:
  explicit ReadChoice(const SelectRule& rule) : rule_(&rule), pick_(pick_of(rule)) {}

  void clear();
  /// Starts the choice of one query at one (request, layer, shard, head group). The task's pages are those offered from now on.
  void begin(ScoreTask task);
  /// A page with an entry that the query may read; `newest`: the largest position of those entries. Pages come in read order.
  void offer(std::uint32_t page, const BlockRef& block, std::uint32_t newest);
  /// Position of the newest entry offered to the current choice; a page without a newer one may be offered with any smaller number.
  [[nodiscard]] std::uint32_t newest() const { return choices_.back().newest_position; }
  /// Scores and chooses. `rows` names the queries; its tasks, pages, rule and scores are set here.
  void decide(Backend& backend, ScoreBatch rows);

  struct Chosen {
    std::uint32_t n_offered = 0;
    bool scored = false;                   // false: every page offered is read, and no bounds were
    std::span<const std::uint32_t> pages;  // in read order
  };
  /// What the next choice, in the order of `begin`, came to.
  [[nodiscard]] Chosen next();
  [[nodiscard]] std::int64_t buffer_bytes() const;

 private:
  struct Choice {
    ScoreTask task;
    std::uint32_t newest = 0, newest_position = 0;  // index among the offered pages
    std::uint32_t first_chosen = 0, n_chosen = 0;
    bool scored = false;
  };

  const SelectRule* rule_;
  select::Pick pick_;
  std::vector<Choice> choices_;
  std::size_t cursor_ = 0;
  std::vector<std::uint32_t> pages_, chosen_, picked_;
  std::vector<BlockRef> blocks_;
  std::vector<ScoreTask> tasks_;
};

}  // namespace moekv
