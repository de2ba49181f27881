// Attributes of a model file, with their defaults and limits.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <initializer_list>
#include <set>

#include "model/model_check.hpp"

namespace moekv::model_check {
namespace {

/// Attributes of one object: each is asked for once; those that nobody asked for are unknown.
class Attributes {
 public:
  Attributes(const h5::Object& object, std::vector<Problem>& problems) : object_(object), problems_(problems) {}

  /// Whether the text was read.
  bool text(const char* name, std::string& to, bool required) {
    return present(name, required) && attempt([&] { to = object_.text(name); });
  }
  void ignore(const char* name) { asked_.insert(name); }
  template <class T>
  void number(const char* name, T& to, double low, double high, bool required = true) {
    if (!present(name, required)) return;
    attempt([&] {
      double value = 0;
      if constexpr (std::is_floating_point_v<T>) {
        value = object_.number<double>(name);
      } else {
        value = static_cast<double>(object_.number<std::int64_t>(name));
      }
      if (!(value >= low && value <= high)) {
        problems_.push_back({object_.where(), fmt::format("attribute '{}' is {}, allowed: {}..{}", name, value, low, high), see_format});
      } else {
        to = static_cast<T>(value);
      }
    });
  }
  /// One of `names`, by value.
  template <class E>
  void choice(const char* name, E& to, std::vector<std::string_view> names, bool required = true) {
    std::string value;
    if (!text(name, value, required)) return;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (names[i] == value) {
        to = static_cast<E>(i);
        return;
      }
    }
    problems_.push_back({object_.where(), fmt::format("attribute '{}' is '{}'", name, value), fmt::format("allowed: {}", fmt::join(names, ", "))});
  }
  /// Refuses attributes that say nothing because the file did not make a choice.
  void refuse_unless(bool chosen, std::initializer_list<const char*> names, std::string_view choice) {
    for (const char* name : names) {
      if (!chosen && object_.has_attribute(name))
        problems_.push_back({object_.where(), fmt::format("attribute '{}' says nothing without {}", name, choice), see_format});
    }
  }
  void refuse_others() {
    for (const std::string& name : object_.attribute_names()) {
      if (!asked_.contains(name)) problems_.push_back({object_.where(), fmt::format("unknown attribute '{}'", name), see_format});
    }
  }

 private:
  bool present(const char* name, bool required) {
    asked_.insert(name);
    if (object_.has_attribute(name)) return true;
    if (required) problems_.push_back({object_.where(), fmt::format("attribute '{}' is missing", name), see_format});
    return false;
  }
  template <class F>
  bool attempt(F&& f) {
    try {
      f();
      return true;
    } catch (const UserError& e) {
      problems_.insert(problems_.end(), e.problems().begin(), e.problems().end());
      return false;
    }
  }

  const h5::Object& object_;
  std::vector<Problem>& problems_;
  std::set<std::string> asked_;
};

void read_rope(Attributes& a, DecoderSpec& spec) {
  RopeSpec& rope = spec.rope;
  a.choice("rope_style", rope.style, {"none", "half", "interleaved"});
  a.number("rope_theta", rope.theta, 1, 1e12, rope.style != RopeStyle::none);
  rope.dim = spec.head_dim;
  a.number("rope_dim", rope.dim, 2, 4096, false);
  bool yarn = false;
  a.choice("rope_scaling", yarn, {"none", "yarn"}, false);
  a.number("yarn_factor", rope.yarn_factor, 1, 1e6, yarn);
  a.number("yarn_original_tokens", rope.yarn_original_tokens, 1, 1 << 30, yarn);
  a.number("yarn_beta_fast", rope.yarn_beta_fast, 0, 1e6, false);
  a.number("yarn_beta_slow", rope.yarn_beta_slow, 0, 1e6, false);
  a.number("yarn_attention_factor", rope.yarn_attention_factor, 0, 1e3, false);
  a.number("yarn_truncate", rope.yarn_truncate, 0, 1, false);
  a.refuse_unless(rope.style != RopeStyle::none, {"rope_scaling"}, "a rope_style other than none");
  a.refuse_unless(yarn, {"yarn_factor", "yarn_original_tokens", "yarn_beta_fast", "yarn_beta_slow", "yarn_attention_factor", "yarn_truncate"},
                  "rope_scaling = yarn");
}

void read_gate(Attributes& a, DecoderSpec& spec) {
  GateShape& gate = spec.gate;
  a.number("n_experts", gate.n_experts, 1, most_experts);
  a.number("top_k", gate.top_k, 1, 22);
  a.choice("gate_score", gate.score, {"softmax", "sigmoid", "sqrtsoftplus"});
  a.choice("gate_order", gate.order, {"pre", "post"});
  a.number("gate_renormalise", gate.renormalise, 0, 1);
  a.number("gate_scale", gate.scale, 0, 1000, false);
  a.number("gate_n_group", gate.n_group, 1, 64, false);
  a.number("gate_topk_group", gate.topk_group, 1, 64, false);
  a.choice("gate_weight_on", spec.weight_on_input, {"output", "input"}, false);
  a.choice("activation", spec.activation, {"swiglu", "swiglu_clamped"}, false);
  a.number("swiglu_alpha", spec.swiglu_alpha, 0, 1e3, false);
  a.number("swiglu_limit", spec.swiglu_limit, 0, 1e6, false);
  a.refuse_unless(spec.activation == Activation::swiglu_clamped, {"swiglu_alpha", "swiglu_limit"}, "activation = swiglu_clamped");
}

/// Combinations that no decoder has.
void check_spec(const std::string& path, const DecoderSpec& s, std::vector<Problem>& problems) {
  const auto refuse = [&](std::string what) { problems.push_back({path, std::move(what), see_format}); };
  if (s.n_heads % s.n_kv_heads != 0) refuse(fmt::format("{} KV heads do not divide {} query heads", s.n_kv_heads, s.n_heads));
  if (s.rope.style != RopeStyle::none && (s.rope.dim > s.head_dim || s.rope.dim % 2 != 0))
    refuse(fmt::format("rope_dim {} is no even number up to head_dim {}", s.rope.dim, s.head_dim));
  if (s.rope.yarn_factor > 0 && !(s.rope.theta > 1 && s.rope.yarn_beta_slow > 0 && s.rope.yarn_beta_fast >= s.rope.yarn_beta_slow))
    refuse(fmt::format("yarn needs rope_theta > 1 and yarn_beta_fast >= yarn_beta_slow > 0, not {}, {} and {}", s.rope.theta, s.rope.yarn_beta_fast,
                       s.rope.yarn_beta_slow));
  const GateShape& g = s.gate;
  if (g.top_k > g.n_experts) refuse(fmt::format("a token cannot choose {} of {} experts", g.top_k, g.n_experts));
  if (g.n_experts % g.n_group != 0 || g.topk_group > g.n_group || g.topk_group * (g.n_experts / g.n_group) < g.top_k)
    refuse(fmt::format("top_k {} does not fit {} of {} groups of {} experts", g.top_k, g.topk_group, g.n_group, g.n_experts));
}

void read_layers(const h5::File& file, std::uint32_t n_layers, DecoderSpec& spec, std::vector<Problem>& problems) {
  spec.layers.resize(n_layers);
  for (std::uint32_t l = 0; l < n_layers; ++l) {
    const std::string name = fmt::format("layers/{}", l);
    if (!file.has(name) || !file.is_group(name)) {
      problems.push_back({file.path() + ":/" + name, "group is missing", fmt::format("n_layers is {}", n_layers)});
      if (problems.size() > 8) return;
      continue;
    }
    const h5::Group group = file.group(name);
    Attributes a(group, problems);
    a.number("window_tokens", spec.layers[l].window_tokens, 0, 1 << 30, false);
    a.number("rope", spec.layers[l].rope, 0, 1, false);
    a.refuse_others();
  }
}

}  // namespace

DecoderSpec read_spec(const h5::File& file, std::vector<Problem>& problems) {
  DecoderSpec spec;
  std::string format;
  if (file.has_attribute("format")) format = file.attribute_type("format") == h5::Type::text ? file.text("format") : "";
  if (format != "moekv-model") throw UserError(file.path(), "is no model file: attribute 'format' is not 'moekv-model'", see_format);
  Attributes a(file, problems);
  a.ignore("format");
  int version = 0;
  a.number("format_version", version, model_format_version, model_format_version);
  a.text("name", spec.name, true);
  for (const char* name : {"source", "source_uri", "source_commit", "license", "converter"}) a.ignore(name);
  std::uint32_t n_layers = 0;
  a.number("n_layers", n_layers, 1, 1024);
  a.number("hidden", spec.hidden, 1, 1 << 16);
  a.number("vocab", spec.vocab, 2, 1 << 22);
  a.number("n_heads", spec.n_heads, 1, 1024);
  a.number("n_kv_heads", spec.n_kv_heads, 1, 1024);
  a.number("head_dim", spec.head_dim, 1, 4096);
  a.number("norm_eps", spec.norm_eps, 0, 1);
  a.number("attention_scale", spec.attention_scale, 0, 100, false);
  a.number("max_positions", spec.max_positions, 0, 1 << 30, false);
  read_rope(a, spec);
  read_gate(a, spec);
  a.refuse_others();
  if (!problems.empty()) return spec;
  check_spec(file.path(), spec, problems);
  read_layers(file, n_layers, spec, problems);
  return spec;
}

}  // namespace moekv::model_check
