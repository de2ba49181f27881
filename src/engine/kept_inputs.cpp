// Room for rows and results, and how they are found.
#include "engine/kept_inputs.hpp"

#include <xxhash.h>

#include "core/rng.hpp"

namespace moekv {
namespace {

constexpr std::uint64_t bytes_to_find = 160;  // a node of a map and its place in the order

}  // namespace

std::size_t KeptInputs::RowsHash::operator()(const Rows& rows) const {
  static_assert(sizeof(Positions) == 3 * sizeof(std::uint32_t));
  const std::uint64_t seed = hash_words(static_cast<std::uint64_t>(rows.kind), static_cast<std::uint64_t>(rows.element), rows.layer.value);
  return XXH3_64bits_withSeed(rows.tokens.data(), rows.tokens.size() * sizeof(Positions), seed);
}

std::size_t KeptInputs::QueryHash::operator()(const Query& query) const { return hash_words(query.layer.value, query.request.value, query.position); }

KeptInputs::~KeptInputs() {
  while (drop_latest()) {
  }
}

std::shared_ptr<const std::byte[]> KeptInputs::find(const Rows& rows) const {
  const auto it = rows_.find(rows);
  return it == rows_.end() ? nullptr : it->second;
}

std::shared_ptr<const ExactResult> KeptInputs::find(const Query& query) const {
  const auto it = exact_.find(query);
  return it == exact_.end() ? nullptr : it->second;
}

std::shared_ptr<std::byte[]> KeptInputs::add(const Rows& rows, std::size_t n) {
  const std::uint64_t bytes = n + rows.tokens.size() * sizeof(Positions) + bytes_to_find;
  if (!bytes_->take(bytes, KeptBytes::For::next_runs)) return nullptr;
  const auto [it, added] = rows_.emplace(rows, std::make_shared_for_overwrite<std::byte[]>(n));
  if (added) {
    order_.push_back({&it->first, nullptr, bytes});
  } else {
    bytes_->give_back(bytes);
  }
  return it->second;
}

void KeptInputs::add(const Query& query, std::shared_ptr<const ExactResult> exact) {
  const std::uint64_t bytes = (exact->o.size() + exact->weights.size()) * sizeof(double) + bytes_to_find;
  if (!bytes_->take(bytes, KeptBytes::For::next_runs)) return;
  const auto [it, added] = exact_.emplace(query, std::move(exact));
  if (added) {
    order_.push_back({nullptr, &it->first, bytes});
  } else {
    bytes_->give_back(bytes);
  }
}

bool KeptInputs::drop_latest() {
  if (order_.empty()) return false;
  const Kept last = order_.back();
  order_.pop_back();
  if (last.rows != nullptr) {
    rows_.erase(rows_.find(*last.rows));
  } else {
    exact_.erase(exact_.find(*last.query));
  }
  bytes_->give_back(last.bytes);
  return true;
}

}  // namespace moekv
