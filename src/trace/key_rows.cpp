// Room for rows, and which request gives up its own.
#include "trace/key_rows.hpp"

#include <algorithm>

namespace moekv {

bool KeyRows::take_block() {
  while (!kept_->take(block_bytes(), KeptBytes::For::next_runs)) {
    if (!drop_idle()) return kept_->take(block_bytes(), KeptBytes::For::requests_in_flight);
  }
  return true;
}

bool KeyRows::drop_idle() {
  const auto oldest =
      std::min_element(requests_.begin(), requests_.end(), [](const auto& a, const auto& b) { return a.second.asked < b.second.asked; });
  if (oldest == requests_.end() || oldest->second.asked + idle_calls_ > now_) return false;
  kept_->give_back(oldest->second.bytes);
  bytes_ -= oldest->second.bytes;
  requests_.erase(oldest);
  return true;
}

void KeyRows::make_room(std::uint32_t request, std::size_t first, std::size_t n, std::uint32_t begin, std::uint32_t end) {
  if (begin >= end) return;
  Request& kept = requests_[request];
  kept.asked = now_;
  kept.heads.resize(n_heads_);
  const std::uint32_t first_block = begin / generate::block_tokens, end_block = (end - 1) / generate::block_tokens + 1;
  for (std::size_t head = first; head < first + n; ++head) {
    Blocks& blocks = kept.heads[head];
    if (blocks.size() < end_block) blocks.resize(end_block);
    for (std::uint32_t b = first_block; b < end_block; ++b) {
      if (blocks[b] != nullptr) continue;
      if (!take_block()) return;
      blocks[b] = std::make_unique<Block>(generate::block_tokens * width_);
      kept.bytes += block_bytes();
      bytes_ += block_bytes();
    }
  }
}

std::span<const std::unique_ptr<KeyRows::Block>> KeyRows::blocks(std::uint32_t request, std::size_t head) const {
  const auto it = requests_.find(request);
  if (it == requests_.end()) return {};
  return it->second.heads[head];
}

}  // namespace moekv
