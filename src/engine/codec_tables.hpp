// CodecTables: the tables of codecs that all sequences of a run share, loaded from a file or fitted to calibration sequences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/geometry.hpp"

namespace moekv {

class CodecTables {
 public:
  /// Makes them at once for every replayed layer and KV head; nothing where no codec needs any. Throws UserError where a file does not fit.
  explicit CodecTables(const Geometry& geometry);

  [[nodiscard]] bool needed() const { return !heads_.empty(); }
  /// BlockFormat::shared_bytes of the KV heads [first, first + count) of a replayed layer, for a page class.
  [[nodiscard]] std::vector<std::byte> of(std::uint32_t layer, std::uint32_t first, std::uint32_t count, std::uint32_t page_class) const;

 private:
  void add_class(const Geometry& geometry, std::uint32_t page_class);

  std::uint32_t n_kv_heads_ = 0, n_layers_ = 0;
  std::vector<std::vector<std::byte>> heads_;  // [class][layer][KV head]
};

}  // namespace moekv
