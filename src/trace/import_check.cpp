// Checks of imported rows, and the recomputation of choices and weights from recorded logits.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "rules/route/gate.hpp"
#include "trace/import_sink.hpp"
#include "trace/native_format.hpp"

namespace moekv {

bool is_filler(std::span<const std::uint16_t> row) {
  return (row[0] == 0 || row[0] == ExpertId::invalid) && std::ranges::all_of(row, [&](std::uint16_t id) { return id == row[0]; });
}

void ImportSink::problem(Problem p) {
  constexpr std::size_t most = 20;
  problems_.push_back(std::move(p));
  if (problems_.size() >= most) throw UserError(problems_);
}

/// One (token, layer): row = token * layers + column.
void ImportSink::check_row(const TokenBlock& block, std::size_t row, const std::string& place) {
  const std::uint32_t k = gate_.top_k;
  const std::uint16_t* ids = block.ids.data() + row * k;
  const auto where = [&] { return fmt::format("token {}, layer {}", position_ + row / facts_.n_layers, column_layers_[row % facts_.n_layers]); };
  for (std::uint32_t j = 0; j < k; ++j) {
    if (ids[j] == ExpertId::invalid) {
      ++n_absent_;
    } else if (ids[j] >= gate_.n_experts) {
      problem({place, fmt::format("{}: expert {} does not exist, there are {}", where(), ids[j], gate_.n_experts), "is --experts or --model right?"});
      return;
    } else if (std::find(ids, ids + j, ids[j]) != ids + j) {
      problem({place, fmt::format("{}: expert {} is chosen twice", where(), ids[j]), "are --topk and the layout right?"});
      return;
    }
    if (block.weights.empty()) continue;
    const float w = block.weights[row * k + j];
    if (!std::isfinite(w) || w < 0.0F) {
      problem({place, fmt::format("{}: weight {} is not a finite number >= 0", where(), w), "is this the member or field with the weights?"});
      return;
    }
  }
  if (block.weights.empty()) return;
  const std::span<const float> weights(block.weights.data() + row * k, k);
  if (!native::weights_fit(weight_kind_, gate_.scale, {ids, k}, weights)) {
    const float sum = std::accumulate(weights.begin(), weights.end(), 0.0F);
    problem({place,
             fmt::format("{}: weights sum to {:.4f}, which does not fit weight kind {}", where(), sum,
                         native::weight_kinds[static_cast<std::size_t>(weight_kind_)]),
             "--weight-kind names another; none takes any"});
  }
}

void ImportSink::check_rows(const TokenBlock& block, const std::string& place) {
  for (std::uint32_t t = 0; t < block.n_tokens; ++t) {
    for (const auto c : columns_) check_row(block, std::size_t{t} * facts_.n_layers + c, place);
    for (const auto c : zero_columns_) {
      const std::span row(block.ids.data() + (std::size_t{t} * facts_.n_layers + c) * gate_.top_k, gate_.top_k);
      if (is_filler(row)) continue;
      problem({place, fmt::format("layer {} was taken for one without experts (all ids 0), but token {} has some", column_layers_[c], position_ + t),
               "name the layers with experts: --moe-layers or --model"});
    }
  }
  const auto bad = std::ranges::find_if(block.logits, [](float z) { return !std::isfinite(z); });
  if (bad != block.logits.end()) {
    const auto row = static_cast<std::uint64_t>(bad - block.logits.begin()) / gate_.n_experts;
    problem({place,
             fmt::format("token {}, layer {}: a logit is not finite", position_ + row / facts_.n_layers, column_layers_[row % facts_.n_layers]), ""});
  }
}

void weights_from_logits(const GateShape& gate, std::uint32_t n_rows, const std::vector<float>& logits, const std::vector<std::uint16_t>& ids,
                         std::vector<float>& weights) {
  weights.resize(std::size_t{n_rows} * gate.top_k);
  for (std::size_t r = 0; r < n_rows; ++r) {
    route::weigh(gate, logits.data() + r * gate.n_experts, gate.n_experts, 1.0F, gate.top_k, ids.data() + r * gate.top_k,
                 weights.data() + r * gate.top_k);
  }
}

void choose_from_logits(const GateShape& gate, std::uint32_t n_rows, const std::vector<float>& logits, std::vector<std::uint16_t>& ids,
                        std::vector<float>& weights) {
  ids.resize(std::size_t{n_rows} * gate.top_k);
  std::vector<float> scratch(gate.top_k);
  for (std::size_t r = 0; r < n_rows; ++r) {
    route::select_top(gate, logits.data() + r * gate.n_experts, gate.n_experts, gate.top_k, {ids.data() + r * gate.top_k, scratch.data()});
  }
  weights_from_logits(gate, n_rows, logits, ids, weights);
}

}  // namespace moekv
