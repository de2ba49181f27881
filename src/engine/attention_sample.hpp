// AttentionSample: exact attention of every query of a sample of (request, layer) pairs, beside what the run read: the input of the oracles of
// attention mass.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "engine/access_log.hpp"
#include "engine/exact.hpp"
#include "engine/geometry.hpp"
#include "engine/home.hpp"
#include "engine/request_table.hpp"

namespace moekv {

/// Why a run has no attention rows: its pairs of request and layer do not each have one budget in tokens. Null where they have.
[[nodiscard]] const char* attention_refusal(const RunSpec& spec);

class AttentionSample {
 public:
  static constexpr std::size_t max_cells = 512;  // of a row; the residual tells what the others hold

  AttentionSample() = default;
  /// Samples `n_groups` of the pairs of replayed requests and layers by hash; attention_refusal is null.
  AttentionSample(const Geometry& geometry, const RequestTable& requests, std::uint32_t n_requests, std::uint32_t n_groups);

  /// Asks for the read sets of every query of sampled pairs.
  void mark(const ReplayLayer& layer, std::span<HomeToken> tokens) const;
  [[nodiscard]] bool contains(RequestId request, LayerId layer) const { return groups_.contains({request.value, layer.value}); }
  /// Whether pairs are sampled at all.
  [[nodiscard]] bool active() const { return !groups_.empty(); }
  /// Begins the rows of the sampled pairs of a layer step, also of those without a query.
  void begin_layer(const ReplayLayer& layer, std::span<const HomeToken> tokens);
  /// One query's exact attention over positions [begin, position] and the positions that it read, ascending.
  void add(RequestId request, const ExactResult& exact, std::uint32_t n_heads, std::uint32_t begin, std::span<const std::uint32_t> read);
  void end_layer();

  [[nodiscard]] std::span<const AttentionRow> rows() const { return rows_; }
  [[nodiscard]] std::span<const AttentionCell> cells() const { return cells_; }
  void clear();

 private:
  struct Open {
    AttentionRow row;
    std::vector<double> mass;  // [length]
  };
  const Geometry* geometry_ = nullptr;
  const RequestTable* requests_ = nullptr;
  std::set<std::pair<std::uint32_t, std::uint16_t>> groups_;
  std::vector<Open> open_;  // rows of the layer step, by request
  std::vector<AttentionRow> rows_;
  std::vector<AttentionCell> cells_;
};

/// Rows and their cells, gathered from several processes, by (step, request, layer).
void order_attention(std::vector<AttentionRow>& rows, std::vector<AttentionCell>& cells);

}  // namespace moekv
