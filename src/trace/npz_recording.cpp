// What the arrays of a NumPy recording mean: roles, axes, sequence lengths, q, k, v.
#include "trace/npz_recording.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

namespace moekv::npz {

const std::map<std::string, std::vector<std::string>>& role_names() {
  static const std::map<std::string, std::vector<std::string>> names{
      {"ids", {"ids", "expert_ids", "topk_ids", "routed_experts", "selected_experts", "indices"}},
      {"weights", {"weights", "topk_weights", "expert_weights"}},
      {"logits", {"logits", "router_logits", "gate_logits"}},
      {"seq_lens", {"seq_lens", "lengths"}},
      {"prompt_lens", {"prompt_lens"}},
      {"moe_layer_ids", {"moe_layer_ids"}},
      {"arrival_ns", {"arrival_ns"}},
      {"token_ids", {"token_ids", "input_ids"}},
      {"domains", {"categories", "domains"}},
      {"q", {"q"}},
      {"k", {"k"}},
      {"v", {"v"}}};
  return names;
}

Recording::Recording(const ImportOptions& options, ImportSink& sink, NpyArrays arrays, std::string path)
    : options_(options), sink_(sink), arrays_(std::move(arrays)), path_(std::move(path)) {
  std::vector<std::string_view> roles;
  for (const auto& [role, names] : role_names()) roles.push_back(role);
  for (const auto& [role, name] : options_.fields) {
    if (!role_names().contains(role)) throw UserError("--field", fmt::format("unknown role '{}'", role), suggest_name(role, roles));
  }
  ids_ = find("ids");
  logits_ = find("logits");
  if (ids_ == nullptr && logits_ == nullptr && arrays_.size() == 1) {  // a single array of any name
    auto& [name, array] = *arrays_.begin();
    (array.is_integer() ? ids_ : logits_) = &array;
    used_.insert(name);
  }
  const NpyArray* main = ids_ != nullptr ? ids_ : logits_;
  if (main == nullptr) {
    std::vector<std::string> names;
    for (const auto& [name, array] : arrays_) names.push_back(name + " " + array.header().shape_text());
    throw UserError(path_, "no member with expert ids or gate logits", fmt::format("name it: --field ids=NAME; members: {}", fmt::join(names, ", ")));
  }
  const auto& shape = main->shape();
  if (shape.size() != 2 && shape.size() != 3)
    throw UserError(main->name(), fmt::format("shape {} is neither [T, L, K], [L, T, K] nor [T, K]", main->header().shape_text()));
  layer_first_ = shape.size() == 3 && layer_first(shape);
  n_tokens_ = shape[layer_first_ ? 1 : 0];
  n_layers_ = shape.size() == 2 ? 1 : shape[layer_first_ ? 0 : 1];
  if (n_layers_ == 0 || n_layers_ > 4096 || n_tokens_ > 0xFFFFFFFFU)
    throw UserError(main->name(), fmt::format("shape {} cannot be {} tokens of {} layers", main->header().shape_text(), n_tokens_, n_layers_));
  weights_ = find("weights");
  token_ids_ = find("token_ids");
  q_ = find("q");
  k_ = find("k");
  v_ = find("v");
  if (ids_ != nullptr && weights_ != nullptr) check_shape(*weights_, "weights", ids_->shape().back());
  if (ids_ != nullptr && logits_ != nullptr) check_shape(*logits_, "logits", logits_->shape().back());
  if (token_ids_ != nullptr && (token_ids_->shape().size() != 1 || token_ids_->shape()[0] != n_tokens_)) token_ids_ = nullptr;
  read_lengths();
  read_marks();
  if (auto* names = find("domains");
      names != nullptr && names->header().kind == NpyKind::unicode && names->shape() == std::vector<std::uint64_t>{seq_lens_.size()}) {
    domains_ = names->read_strings();
  }
}

NpyArray* Recording::find(const std::string& role) {
  const auto given = options_.fields.find(role);
  const std::vector<std::string> names = given != options_.fields.end() ? std::vector<std::string>{given->second} : role_names().at(role);
  for (const auto& name : names) {
    const auto found = arrays_.find(name);
    if (found == arrays_.end()) continue;
    used_.insert(name);
    return &found->second;
  }
  if (given != options_.fields.end()) throw UserError(path_, fmt::format("no member '{}' (--field {}={})", given->second, role, given->second));
  return nullptr;
}

/// Which of the first two axes counts layers: by option, the model's layers, the sequence lengths, else the shorter one.
bool Recording::layer_first(const std::vector<std::uint64_t>& shape) {
  if (options_.layout == "tlk" || options_.layout == "ltk") return options_.layout == "ltk";
  if (!options_.layout.empty()) throw UserError("--layout", fmt::format("unknown layout '{}'", options_.layout), "allowed: tlk, ltk");
  std::set<std::uint64_t> layers;
  if (!options_.moe_layers.empty()) layers.insert(options_.moe_layers.size());
  if (options_.shape) {
    layers.insert(options_.shape->n_layers());
    layers.insert(static_cast<std::uint64_t>(std::ranges::count_if(options_.shape->layers, [](const LayerShape& l) { return l.moe; })));
  }
  if (layers.contains(shape[0]) != layers.contains(shape[1])) return layers.contains(shape[0]);
  if (auto* lens = find("seq_lens"); lens != nullptr && lens->is_integer() && lens->shape().size() == 1) {
    std::vector<std::int64_t> values;
    lens->read_ints(0, 0, lens->shape()[0], values);
    const std::int64_t sum = std::accumulate(values.begin(), values.end(), std::int64_t{0});
    const auto fits = [&](std::uint64_t n) { return sum == static_cast<std::int64_t>(n) || sum == static_cast<std::int64_t>(n + values.size()); };
    if (fits(shape[0]) != fits(shape[1])) return fits(shape[1]);
  }
  if (shape[0] == shape[1]) sink_.warn(path_ + ": both axes have the same length; taken as [tokens, layers] (--layout ltk says otherwise)");
  return shape[0] < shape[1];
}

void Recording::check_shape(NpyArray& array, const char* role, std::uint64_t width) const {
  const NpyArray& main = ids_ != nullptr ? *ids_ : *logits_;
  std::vector<std::uint64_t> expected = main.shape();
  expected.back() = width;
  if (array.shape() != expected)
    throw UserError(array.name(), fmt::format("{} of shape {} do not fit {} of shape {}", role, array.header().shape_text(), main.name(),
                                              main.header().shape_text()));
}

std::vector<std::int64_t> Recording::lengths(const char* role) {
  std::vector<std::int64_t> values;
  if (auto* array = find(role)) {
    if (!array->is_integer() || array->shape().size() != 1) throw UserError(array->name(), fmt::format("{} is no list of integers", role));
    array->read_ints(0, 0, array->shape()[0], values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (values[i] < 0 || values[i] > 0xFFFFFFFFLL)
        throw UserError(array->name(), fmt::format("entry {}: {} is not a number of tokens", i, values[i]));
    }
  }
  return values;
}

/// Model layers and arrivals, where the file names them for each layer and sequence. Arrivals are all unknown (-1) or ascend.
void Recording::read_marks() {
  const auto integers = [&](const char* role, std::uint64_t n, std::int64_t least, std::int64_t most) {
    std::vector<std::int64_t> values;
    auto* array = find(role);
    if (array == nullptr) return values;
    if (!array->is_integer() || array->shape() != std::vector<std::uint64_t>{n}) {
      if (options_.fields.contains(role)) throw UserError(array->name(), fmt::format("{} is no list of {} integers", role, n));
      used_.erase(role);
      return values;
    }
    array->read_ints(0, 0, n, values);
    for (std::size_t i = 0; i < n; ++i) {
      if (values[i] < least || values[i] > most || (i > 0 && values[i] < values[i - 1]))
        throw UserError(array->name(), fmt::format("entry {}: {} is out of range or order", i, values[i]));
    }
    return values;
  };
  for (const std::int64_t layer : integers("moe_layer_ids", n_layers_, 0, 65534)) layer_ids_.push_back(static_cast<std::uint16_t>(layer));
  arrivals_ = integers("arrival_ns", seq_lens_.size(), -1, std::int64_t{1} << 62);
  if (!arrivals_.empty() && arrivals_.front() < 0 && arrivals_.back() >= 0)
    throw UserError(path_, "arrival_ns: some arrivals are known and some are not", "give all of them or -1 for all");
}

void Recording::read_lengths() {
  seq_lens_ = lengths("seq_lens");
  prompt_lens_ = lengths("prompt_lens");
  const bool one_sequence = seq_lens_.empty();
  if (one_sequence) {
    sink_.note(path_ + ": no seq_lens: all rows are one sequence");
    seq_lens_ = {static_cast<std::int64_t>(n_tokens_)};
  }
  const auto sum = static_cast<std::uint64_t>(std::accumulate(seq_lens_.begin(), seq_lens_.end(), std::int64_t{0}));
  if (sum == n_tokens_ + seq_lens_.size() && sum != n_tokens_) {
    sink_.warn(path_ + ": one row fewer than seq_lens in every sequence: the last token has no row");
    for (auto& n : seq_lens_) --n;
  } else if (sum != n_tokens_) {
    throw UserError(path_, fmt::format("seq_lens sum to {}, but there are rows for {} tokens", sum, n_tokens_), "is --layout right?");
  }
  if (!prompt_lens_.empty() && prompt_lens_.size() != seq_lens_.size())
    throw UserError(path_, fmt::format("{} prompt_lens for {} sequences", prompt_lens_.size(), seq_lens_.size()),
                    one_sequence ? "no member is called seq_lens: --field seq_lens=NAME names yours" : "give one for every entry of seq_lens");
  for (std::size_t s = 0; s < prompt_lens_.size(); ++s) decode_only_ = decode_only_ || prompt_lens_[s] > seq_lens_[s];
  if (options_.prompt_lens == "inside" || options_.prompt_lens == "before")
    decode_only_ = options_.prompt_lens == "before";
  else if (!options_.prompt_lens.empty())
    throw UserError("--prompt-lens", fmt::format("'{}' is unknown", options_.prompt_lens), "allowed: inside, before");
  if (prompt_lens_.empty()) return;
  sink_.note(path_ + (decode_only_ ? ": prompts lie before the rows: decode-only recording, prompt length 0"
                                   : ": prompts are the first rows of their sequences"));
}

/// q, k, v belong to all attention layers; without a model their shapes describe one.
void Recording::kv_facts(SourceFacts& facts) {
  const bool latent = options_.shape && options_.shape->mla();
  if (q_ == nullptr || k_ == nullptr || (v_ == nullptr && !latent)) {
    if (q_ != nullptr || k_ != nullptr) sink_.warn(path_ + ": q, k and v are not all there: none is imported");
    q_ = k_ = v_ = nullptr;
    return;
  }
  const std::size_t token_axis = layer_first_ ? 1 : 0, layer_axis = layer_first_ ? 0 : 1;
  for (NpyArray* a : {q_, k_, v_}) {
    if (a == nullptr) continue;
    const auto& shape = a->shape();
    if ((shape.size() != 4 && !(latent && a == k_ && shape.size() == 3)) || shape[token_axis] != n_tokens_ ||
        shape[layer_axis] != q_->shape()[layer_axis]) {
      throw UserError(a->name(), fmt::format("shape {} is not [{}, layers, heads, head dimension]", a->header().shape_text(), n_tokens_));
    }
  }
  const std::uint64_t n_kv_layers = q_->shape()[layer_axis];
  for (std::uint64_t l = 0; l < n_kv_layers; ++l) facts.kv_layers.push_back(static_cast<std::uint16_t>(l));
  if (options_.shape) {
    const ModelShape& s = *options_.shape;
    const bool fits = n_kv_layers == s.n_layers() && q_->shape()[2] == s.n_heads && q_->shape()[3] == s.d_k && k_->shape().back() == s.d_k &&
                      (latent || (k_->shape()[2] == s.n_kv_heads && v_->shape()[3] == s.d_v));
    if (!fits)
      throw UserError(path_, fmt::format("q {} and k {} do not fit the model {}", q_->header().shape_text(), k_->header().shape_text(), s.name));
    return;
  }
  ModelShape shape;
  shape.layers.resize(std::max(n_kv_layers, n_layers_));
  shape.n_heads = static_cast<std::uint32_t>(q_->shape()[2]);
  shape.n_kv_heads = static_cast<std::uint32_t>(k_->shape()[2]);
  shape.d_k = static_cast<std::uint32_t>(k_->shape()[3]);
  shape.d_v = static_cast<std::uint32_t>(v_->shape()[3]);
  if (q_->shape()[3] != shape.d_k || v_->shape()[2] != shape.n_kv_heads || shape.n_kv_heads == 0 || shape.n_heads % shape.n_kv_heads != 0) {
    throw UserError(path_, fmt::format("q {}, k {} and v {} do not fit together", q_->header().shape_text(), k_->header().shape_text(),
                                       v_->header().shape_text()));
  }
  facts.shape = shape;
}

SourceFacts Recording::facts() {
  SourceFacts facts;
  facts.n_layers = static_cast<std::uint32_t>(n_layers_);
  facts.n_experts = logits_ != nullptr ? static_cast<std::uint32_t>(logits_->shape().back()) : 0;
  facts.top_k = ids_ != nullptr ? static_cast<std::uint32_t>(ids_->shape().back()) : 0;
  facts.has_logits = logits_ != nullptr;
  facts.has_weights = weights_ != nullptr || logits_ != nullptr;
  facts.has_token_ids = token_ids_ != nullptr;
  facts.layer_ids = layer_ids_;
  facts.split_known = !prompt_lens_.empty();
  kv_facts(facts);
  if (logits_ != nullptr && weights_ == nullptr && !options_.shape)
    sink_.warn(path_ + ": no weights and no model given: weights are the softmax over the chosen logits");
  return facts;
}

void Recording::note_unused() {
  std::vector<std::string> unused;
  for (const auto& [name, array] : arrays_) {
    if (!used_.contains(name)) unused.push_back(name);
  }
  if (!unused.empty()) sink_.note(fmt::format("{}: members not imported: {}", path_, fmt::join(unused, ", ")));
}

}  // namespace moekv::npz
