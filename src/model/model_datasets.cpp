// Datasets of a model file: which there must and may be, and their shapes.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <set>

#include "model/model_check.hpp"

namespace moekv::model_check {
namespace {

constexpr std::uint64_t most_width = 1 << 20;  // of an FFN

class Datasets {
 public:
  Datasets(const std::string& path, const std::map<std::string, h5::Dims>& dims, std::vector<Problem>& problems)
      : path_(path), dims_(dims), problems_(problems) {}

  [[nodiscard]] bool has(const std::string& name) const { return dims_.contains(name); }
  void need(const std::string& name, const h5::Dims& expected) {
    if (has(name)) return may(name, expected);
    problems_.push_back({path_ + ":/" + name, "dataset is missing", fmt::format("expected shape [{}]", fmt::join(expected, ", "))});
  }
  void may(const std::string& name, const h5::Dims& expected) { may(name, std::vector<h5::Dims>{expected}); }
  void may(const std::string& name, const std::vector<h5::Dims>& expected) {
    known_.insert(name);
    const auto it = dims_.find(name);
    if (it == dims_.end() || std::find(expected.begin(), expected.end(), it->second) != expected.end()) return;
    std::vector<std::string> shapes;
    for (const h5::Dims& dims : expected) shapes.push_back(fmt::format("[{}]", fmt::join(dims, ", ")));
    problems_.push_back(
        {path_ + ":/" + name, fmt::format("has shape [{}]", fmt::join(it->second, ", ")), fmt::format("expected {}", fmt::join(shapes, " or "))});
  }
  /// All of `names` or none.
  [[nodiscard]] bool together(const std::vector<std::string>& names) {
    const auto n = std::count_if(names.begin(), names.end(), [&](const std::string& name) { return has(name); });
    if (n != 0 && n != static_cast<std::ptrdiff_t>(names.size()))
      problems_.push_back({path_, fmt::format("has only some of {}", fmt::join(names, ", ")), "give all of them or none"});
    return n != 0;
  }
  /// Width of an FFN: the second last axis of `name`, which may be absent.
  [[nodiscard]] std::uint64_t width_of(const std::string& name) const {
    const auto it = dims_.find(name);
    return it == dims_.end() || it->second.size() < 2 ? 1 : std::clamp<std::uint64_t>(it->second[it->second.size() - 2], 1, most_width);
  }
  void refuse_others() {
    for (const auto& [name, dims] : dims_) {
      if (!known_.contains(name)) problems_.push_back({path_ + ":/" + name, "unknown dataset", see_format});
    }
  }

 private:
  const std::string& path_;
  const std::map<std::string, h5::Dims>& dims_;
  std::vector<Problem>& problems_;
  std::set<std::string> known_;
};

void check_attention(const std::string& at, const DecoderSpec& s, Datasets& d) {
  const std::uint64_t q = std::uint64_t{s.n_heads} * s.head_dim, kv = std::uint64_t{s.n_kv_heads} * s.head_dim;
  d.need(at + "norm", {s.hidden});
  d.need(at + "q", {q, s.hidden});
  d.need(at + "k", {kv, s.hidden});
  d.need(at + "v", {kv, s.hidden});
  d.need(at + "o", {s.hidden, q});
  d.may(at + "q_bias", h5::Dims{q});
  d.may(at + "k_bias", h5::Dims{kv});
  d.may(at + "v_bias", h5::Dims{kv});
  d.may(at + "o_bias", h5::Dims{s.hidden});
  (void)d.together({at + "q_norm", at + "k_norm"});
  d.may(at + "q_norm", {h5::Dims{s.head_dim}, h5::Dims{q}});
  d.may(at + "k_norm", {h5::Dims{s.head_dim}, h5::Dims{kv}});
  d.may(at + "sinks", h5::Dims{s.n_heads});
}

void check_experts(const std::string& at, const DecoderSpec& s, Datasets& d) {
  const std::uint64_t e = s.gate.n_experts, h = s.hidden, f = d.width_of(at + "experts_gate");
  d.need(at + "router", {e, h});
  d.may(at + "router_bias", h5::Dims{e});
  d.may(at + "choice_bias", h5::Dims{e});
  d.need(at + "experts_gate", {e, f, h});
  d.need(at + "experts_up", {e, f, h});
  d.need(at + "experts_down", {e, h, f});
  (void)d.together({at + "experts_gate_bias", at + "experts_up_bias", at + "experts_down_bias"});
  d.may(at + "experts_gate_bias", {e, f});
  d.may(at + "experts_up_bias", {e, f});
  d.may(at + "experts_down_bias", {e, h});
  if (!d.together({at + "shared_gate", at + "shared_up", at + "shared_down"})) return;
  const std::uint64_t shared = d.width_of(at + "shared_gate");
  d.may(at + "shared_gate", {shared, h});
  d.may(at + "shared_up", {shared, h});
  d.may(at + "shared_down", {h, shared});
  d.may(at + "shared_router", h5::Dims{h});
}

void check_layer(const std::string& at, const DecoderSpec& s, DecoderLayer& layer, Datasets& d) {
  check_attention(at + "attn/", s, d);
  layer.sinks = d.has(at + "attn/sinks");
  const std::string ffn = at + "ffn/";
  d.need(ffn + "norm", {s.hidden});
  layer.moe = d.has(ffn + "router");
  if (layer.moe) return check_experts(ffn, s, d);
  const std::uint64_t f = d.width_of(ffn + "gate");
  d.need(ffn + "gate", {f, s.hidden});
  d.need(ffn + "up", {f, s.hidden});
  d.need(ffn + "down", {s.hidden, f});
}

}  // namespace

void check_datasets(const std::string& path, const std::map<std::string, h5::Dims>& dims, DecoderSpec& spec, std::vector<Problem>& problems) {
  Datasets d(path, dims, problems);
  d.need("embed", {spec.vocab, spec.hidden});
  d.may("head", h5::Dims{spec.vocab, spec.hidden});
  d.need("norm", {spec.hidden});
  for (std::size_t l = 0; l < spec.layers.size(); ++l) check_layer(fmt::format("layers/{}/", l), spec, spec.layers[l], d);
  d.refuse_others();
  const auto count = [&](auto member) {
    return std::count_if(spec.layers.begin(), spec.layers.end(), [&](const DecoderLayer& l) { return l.*member; });
  };
  if (count(&DecoderLayer::moe) == 0) problems.push_back({path, "no layer has a router, so the model is no mixture of experts", see_format});
  const auto sinks = count(&DecoderLayer::sinks);
  if (sinks != 0 && sinks != static_cast<std::ptrdiff_t>(spec.layers.size()))
    problems.push_back({path, "some layers have attention sinks and others have none", "give sinks to all layers or to none"});
}

}  // namespace moekv::model_check
