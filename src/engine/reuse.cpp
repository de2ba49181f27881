// The order of last lookups as slots: a lookup takes the next one, and a tree over the slots sums the pages of later ones. Units are mostly looked up in
// the order of before, so each sum follows from the last one and the tree may lag behind.
#include "engine/reuse.hpp"

#include <algorithm>

namespace moekv {

std::uint32_t ReuseClock::add() {
  if (free_.empty()) {
    units_.emplace_back();
    return static_cast<std::uint32_t>(units_.size() - 1);
  }
  const std::uint32_t unit = free_.back();
  free_.pop_back();
  units_[unit] = {};
  return unit;
}

void ReuseClock::remove(std::uint32_t unit) {
  Unit& u = units_[unit];
  if (u.slot != none) {
    weigh(u.slot, 0U - u.pages);
    owner_[u.slot] = none;
  }
  u = {};
  free_.push_back(unit);
}

ReuseClock::Before ReuseClock::look_up(std::uint32_t unit, std::uint32_t pages) {
  Unit& u = units_[unit];
  Before before{u.pages, 0, 0};
  const bool newest = u.slot != none && u.slot + 1 == next_slot_;
  if (u.pages > 0) {
    const std::uint32_t later = newest ? 0 : weight_ - weight_up_to(u.slot);
    before.time = now_ - u.last;
    before.distance = std::uint64_t{later} + u.pages - 1;
  }
  if (newest) {
    if (pages != u.pages) weigh(u.slot, pages - u.pages);
  } else {
    if (u.slot != none) {
      weigh(u.slot, 0U - u.pages);
      owner_[u.slot] = none;
    }
    if (next_slot_ == owner_.size()) compact();
    u.slot = next_slot_++;
    owner_[u.slot] = unit;
    weigh(u.slot, pages);
  }
  u.last = now_;
  u.pages = pages;
  now_ += pages;
  return before;
}

void ReuseClock::weigh(std::uint32_t slot, std::uint32_t change) {
  weight_ += change;  // modulo 2^32, as every sum of the tree
  weights_[slot] += change;
  if (asked_ != none && slot <= asked_) sum_ += change;
  changes_.emplace_back(slot, change);
  if (changes_.size() > tree_.size()) build_tree();
}

std::uint32_t ReuseClock::weight_up_to(std::uint32_t slot) {
  constexpr std::uint32_t near = 16;
  if (asked_ != none && slot >= asked_ && slot - asked_ <= near) {
    for (std::uint32_t s = asked_ + 1; s <= slot; ++s) sum_ += weights_[s];
  } else {
    settle();
    sum_ = 0;
    for (std::size_t i = std::size_t{slot} + 1; i > 0; i &= i - 1) sum_ += tree_[i - 1];
  }
  asked_ = slot;
  return sum_;
}

void ReuseClock::settle() {
  if (changes_.size() * 8 > tree_.size()) return build_tree();
  for (const auto& [slot, change] : changes_) {
    for (std::size_t i = std::size_t{slot} + 1; i <= tree_.size(); i += i & (~i + 1)) tree_[i - 1] += change;
  }
  changes_.clear();
}

void ReuseClock::build_tree() {
  tree_ = weights_;
  for (std::size_t i = 1; i <= tree_.size(); ++i) {
    const std::size_t parent = i + (i & (~i + 1));
    if (parent <= tree_.size()) tree_[parent - 1] += tree_[i - 1];
  }
  changes_.clear();
}

void ReuseClock::compact() {
  std::uint32_t n = 0;
  for (const std::uint32_t unit : owner_) {
    if (unit == none) continue;
    units_[unit].slot = n;
    owner_[n++] = unit;
  }
  owner_.resize(std::max<std::size_t>(4, 2 * (std::size_t{n} + 1)));
  std::fill(owner_.begin() + n, owner_.end(), none);
  weights_.assign(owner_.size(), 0);
  for (std::uint32_t i = 0; i < n; ++i) weights_[i] = units_[owner_[i]].pages;
  next_slot_ = n;
  asked_ = none;
  build_tree();
}

}  // namespace moekv
