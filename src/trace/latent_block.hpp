// LatentBlock: the AR(1) latents of one 64-position block, any of them without those before it.
#pragma once

#include <cstdint>
#include <vector>

#include "rules/generate.hpp"
#include "trace/generator_tables.hpp"

namespace moekv {

class LatentBlock {
 public:
  LatentBlock();
  /// Makes the unit-variance latents of offsets [first, last] of the block that begins at position `block_begin`; rows of other offsets
  /// are then unspecified. A row does not depend on which others are made.
  void fill(const PlaneMap& map, std::uint32_t request, std::uint32_t block_begin, std::uint32_t first, std::uint32_t last);
  /// [4 * n_quads] of the map given to fill; values from map.rank on are padding.
  [[nodiscard]] const float* row(std::uint32_t offset) const { return rows_.data() + static_cast<std::size_t>(offset) * stride_; }

 private:
  void draw(std::uint32_t offset, std::uint32_t left, std::uint32_t right);
  void fill_between(std::uint32_t left, std::uint32_t right);

  generate::BridgeNode nodes_[generate::block_tokens];
  std::vector<float> rows_, noise_;
  std::size_t stride_ = 0;
  const PlaneMap* map_ = nullptr;
  std::uint32_t request_ = 0, block_begin_ = 0, first_ = 0, last_ = 0;
};

}  // namespace moekv
