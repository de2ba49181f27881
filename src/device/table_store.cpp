// Tables are found by key when pages are sealed and by block when they are read.
#include "device/table_store.hpp"

#include <utility>

#include "core/error.hpp"
#include "core/state_stream.hpp"

namespace moekv {

std::byte* TableStore::add(std::uint64_t key, bool fixed) {
  MOEKV_EXPECT(needed() && !has(key));
  if (free_.empty()) {
    free_.push_back(static_cast<std::uint32_t>(tables_.size()));
    tables_.emplace_back();
  }
  const std::uint32_t at = free_.back();
  free_.pop_back();
  tables_[at] = {std::vector<std::byte>(table_bytes_), key, 0, fixed};
  index_.emplace(key, at);
  return tables_[at].bytes.data();
}

void TableStore::assign(std::uint32_t block, std::uint64_t key, bool away) {
  const auto it = index_.find(key);
  MOEKV_EXPECT(it != index_.end());
  std::vector<std::uint32_t>& of = away ? of_away_ : of_block_;
  if (block >= of.size()) of.resize(block + 1, none);
  const std::uint32_t before = std::exchange(of[block], it->second);
  ++tables_[it->second].users;
  if (before == none || --tables_[before].users > 0 || tables_[before].fixed) return;
  index_.erase(tables_[before].key);
  tables_[before] = {};
  free_.push_back(before);
}

void TableStore::Table::transfer(StateStream& stream) { stream(bytes, key, users, fixed); }

void TableStore::transfer(StateStream& stream) { stream(tables_, free_, of_block_, of_away_, index_); }

}  // namespace moekv
