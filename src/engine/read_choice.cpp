// A choice that reads every page anyway is not scored.
#include "engine/read_choice.hpp"

#include "core/error.hpp"

namespace moekv {

void ReadChoice::clear() {
  choices_.clear();
  cursor_ = 0;
  pages_.clear();
  chosen_.clear();
  blocks_.clear();
  tasks_.clear();
}

void ReadChoice::begin(ScoreTask task) {
  task.first_page = static_cast<std::uint32_t>(pages_.size());
  task.n_pages = 0;
  choices_.push_back({task});
}

void ReadChoice::offer(std::uint32_t page, const BlockRef& block, std::uint32_t newest) {
  Choice& choice = choices_.back();
  if (choice.task.n_pages == 0 || newest > choice.newest_position) {
    choice.newest = choice.task.n_pages;
    choice.newest_position = newest;
  }
  choice.task.n_pages += 1;
  pages_.push_back(page);
  blocks_.push_back(block);
}

void ReadChoice::decide(Backend& backend, ScoreBatch rows) {
  std::size_t n_picked = 0;
  for (Choice& choice : choices_) {
    choice.scored = choice.task.n_pages > pick_.best + (pick_.newest ? 1 : 0);
    choice.task.newest = choice.newest;
    choice.n_chosen = choice.scored ? select::n_chosen(pick_, choice.task.n_pages) : choice.task.n_pages;
    n_picked += choice.scored ? choice.n_chosen : 0;
    if (choice.scored) tasks_.push_back(choice.task);
  }
  picked_.resize(n_picked);
  if (!tasks_.empty()) {
    rows.tasks = tasks_;
    rows.pages = blocks_;
    rows.rule = rule_;
    rows.chosen = picked_.data();
    backend.score_pages(rows);
    backend.sync();
  }
  const std::uint32_t* picked = picked_.data();
  for (Choice& choice : choices_) {
    const std::span<const std::uint32_t> offered = std::span(pages_).subspan(choice.task.first_page, choice.task.n_pages);
    choice.first_chosen = static_cast<std::uint32_t>(chosen_.size());
    if (choice.scored) {
      for (std::uint32_t i = 0; i < choice.n_chosen; ++i) chosen_.push_back(offered[*picked++]);
    } else {
      chosen_.insert(chosen_.end(), offered.begin(), offered.end());
    }
  }
}

ReadChoice::Chosen ReadChoice::next() {
  MOEKV_EXPECT(cursor_ < choices_.size());
  const Choice& choice = choices_[cursor_++];
  return {choice.task.n_pages, choice.scored, std::span(chosen_).subspan(choice.first_chosen, choice.n_chosen)};
}

std::int64_t ReadChoice::buffer_bytes() const {
  const auto bytes = [](const auto& v) { return static_cast<std::int64_t>(v.capacity() * sizeof(v[0])); };
  return bytes(choices_) + bytes(pages_) + bytes(chosen_) + bytes(picked_) + bytes(blocks_) + bytes(tasks_);
}

}  // namespace moekv
