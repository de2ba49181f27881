// The rules for experts and weights, and the marks of warm-up rows, copied layers, dense layers and dead experts.
#include "trace/choice_checks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/rng.hpp"
#include "rules/codec/element.hpp"
#include "trace/native_format.hpp"

namespace moekv::native {
namespace {

constexpr std::uint64_t warm_up_rows = 64;        // consecutive tokens with one expert set
constexpr std::uint64_t choices_per_expert = 10;  // fewer say nothing about dead experts

std::string layer_list(const std::vector<std::uint16_t>& layers) {
  if (layers.size() <= 6) return fmt::format("{}", fmt::join(layers, ", "));
  return fmt::format("{}, ... {} ({} layers)", fmt::join(layers.begin(), layers.begin() + 4, ", "), layers.back(), layers.size());
}

}  // namespace

ChoiceChecks::ChoiceChecks(const NativeFile& trace)
    : trace_(trace),
      layers_(trace.info.moe_layers.size()),
      range_(trace.info.path + ":/routing/expert_ids", fmt::format("an expert id is not below n_experts = {}", trace.info.n_experts),
             "check n_experts, or whether the source counts experts from 1 or names physical replicas"),
      repeated_(trace.info.path + ":/routing/expert_ids", "an expert occurs twice in one choice", "check top_k and the order of the source's axes"),
      finite_(trace.info.path + ":/routing/weights", "a weight is negative or not finite", "import the weights again; logits are not weights"),
      sum_(trace.info.path + ":/routing/weights",
           fmt::format("weights do not fit weight_kind '{}'", weight_kinds[static_cast<std::size_t>(trace.weight_kind)]),
           "renorm sums to 1, raw_softmax to at most 1, sigmoid weights are at most max(1, scale); set the right weight_kind"),
      partly_zero_(trace.info.path + ":/routing/expert_ids", "a choice of expert 0 only, in a layer that has others",
                   "rows were not recorded: drop these tokens") {
  for (auto& layer : layers_) layer.chosen.assign(trace.info.n_experts, 0);
}

void ChoiceChecks::add(std::uint64_t row, std::span<const std::uint16_t> ids, std::span<const std::uint16_t> weights) {
  const std::size_t k = trace_.info.top_k;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const auto choice = ids.subspan(l * k, k);
    check_ids(row, l, choice);
    if (!weights.empty()) check_weights(row, l, choice, weights.subspan(l * k, k));
    follow(row, layers_[l], choice);
  }
  ++n_rows_;
}

void ChoiceChecks::check_ids(std::uint64_t row, std::size_t l, std::span<const std::uint16_t> ids) {
  const auto place = [&] { return fmt::format("token row {} layer {} has {{{}}}", row, trace_.info.moe_layers[l], fmt::join(ids, ", ")); };
  const ChoiceFault fault = fault_of(ids, trace_.info.n_experts);
  if (fault == ChoiceFault::out_of_range) range_.add(place);
  if (fault == ChoiceFault::repeated) repeated_.add(place);
}

void ChoiceChecks::check_weights(std::uint64_t row, std::size_t l, std::span<const std::uint16_t> ids, std::span<const std::uint16_t> weights) {
  values_.resize(weights.size());
  std::transform(weights.begin(), weights.end(), values_.begin(), float_from_fp16);
  const bool sound = std::all_of(values_.begin(), values_.end(), [](float w) { return std::isfinite(w) && w >= 0.0F; });
  const auto place = [&] { return fmt::format("token row {} layer {} has {{{:.4g}}}", row, trace_.info.moe_layers[l], fmt::join(values_, ", ")); };
  if (!sound) finite_.add(place);
  if (sound && !weights_fit(trace_.weight_kind, trace_.info.shape.gate.scale, ids, values_)) sum_.add(place);
}

void ChoiceChecks::follow(std::uint64_t row, Layer& layer, std::span<const std::uint16_t> ids) const {
  std::uint64_t set = 0;
  std::size_t n_absent = 0;
  for (const auto id : ids) {
    layer.chain = mix64(layer.chain ^ id);
    if (id >= trace_.info.n_experts) {
      n_absent += id == ExpertId::invalid ? 1 : 0;
      continue;
    }
    set += mix64(id);
    ++layer.chosen[id];
  }
  layer.absent_ids += n_absent;
  const bool zero = is_zero_fill(ids);
  layer.zero_rows += zero ? 1 : 0;
  if (zero || n_absent == ids.size() || trace_.info.top_k == trace_.info.n_experts) {
    layer.run_rows = 0;
    return;
  }
  if (layer.run_rows == 0 || set != layer.set) {
    layer.set = set;
    layer.run_begin = row;
    layer.run_rows = 0;
  }
  if (++layer.run_rows > layer.longest_rows) {
    layer.longest_rows = layer.run_rows;
    layer.longest_begin = layer.run_begin;
  }
}

void ChoiceChecks::report(TraceReport& report) const {
  range_.report(report.errors);
  repeated_.report(report.errors);
  finite_.report(report.errors);
  sum_.report(report.errors);
  Tally partly = partly_zero_;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    if (layers_[l].zero_rows == 0 || dense(layers_[l])) continue;
    partly.add([&] { return fmt::format("layer {} has {} such tokens", trace_.info.moe_layers[l], layers_[l].zero_rows); });
  }
  partly.report(report.errors);
  warn_of_runs(report);
  warn_of_equal_layers(report);
  warn_of_dense_and_dead(report);
}

void ChoiceChecks::warn_of_runs(TraceReport& report) const {
  const Layer* longest = nullptr;
  std::vector<std::uint16_t> affected;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    if (layers_[l].longest_rows < warm_up_rows) continue;
    affected.push_back(trace_.info.moe_layers[l]);
    if (longest == nullptr || layers_[l].longest_rows > longest->longest_rows) longest = &layers_[l];
  }
  if (longest == nullptr) return;
  report.warnings.push_back({trace_.info.path + ":/routing/expert_ids",
                             fmt::format("warm-up rows or looping text: token rows {}..{} share one expert set; layers {}", longest->longest_begin,
                                         longest->longest_begin + longest->longest_rows, layer_list(affected)),
                             "drop them at import: --drop-warmup"});
}

void ChoiceChecks::warn_of_equal_layers(TraceReport& report) const {
  std::map<std::uint64_t, std::vector<std::uint16_t>> by_chain;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    if (!dense(layers_[l])) by_chain[layers_[l].chain].push_back(trace_.info.moe_layers[l]);
  }
  for (const auto& [chain, layers] : by_chain) {
    if (layers.size() < 2) continue;
    report.warnings.push_back({trace_.info.path + ":/routing/expert_ids",
                               fmt::format("identical layers: {} hold the same choices", layer_list(layers)),
                               "the recorder copied a layer; leave the copies out at import"});
  }
}

void ChoiceChecks::warn_of_dense_and_dead(TraceReport& report) const {
  const std::string where = trace_.info.path + ":/routing/expert_ids";
  std::vector<std::uint16_t> dense_layers;
  std::vector<std::uint16_t> dead_layers;
  std::uint64_t absent = 0;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    absent += layer.absent_ids;
    if (dense(layer)) {
      dense_layers.push_back(trace_.info.moe_layers[l]);
      continue;
    }
    const auto dead = std::count(layer.chosen.begin(), layer.chosen.end(), 0U);
    const bool enough = n_rows_ * trace_.info.top_k >= choices_per_expert * trace_.info.n_experts;
    if (enough && 2 * static_cast<std::uint64_t>(dead) > trace_.info.n_experts) dead_layers.push_back(trace_.info.moe_layers[l]);
  }
  if (!dense_layers.empty()) {
    report.warnings.push_back({where,
                               fmt::format("all-zero layers: {} name only expert 0; they read as layers without experts", layer_list(dense_layers)),
                               "dense layers filled by the recorder; leave them out at import"});
  }
  if (!dead_layers.empty()) {
    report.warnings.push_back(
        {where,
         fmt::format("dead experts: more than half of the {} experts are never chosen; layers {}", trace_.info.n_experts, layer_list(dead_layers)),
         "check n_experts, or record more varied text"});
  }
  if (absent > 0) {
    const double share = static_cast<double>(absent) / (static_cast<double>(n_rows_) * static_cast<double>(layers_.size()) * trace_.info.top_k);
    report.warnings.push_back(
        {where, fmt::format("sentinels: {} expert ids ({:.3g} %) are absent", absent, 100 * share), "dropped tokens are stored at home and counted"});
  }
}

}  // namespace moekv::native
