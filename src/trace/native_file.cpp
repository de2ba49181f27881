// Attributes, model and requests of a native trace; collects every structural problem before it refuses.
#include "trace/native_file.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>

#include "core/error.hpp"
#include "trace/native_format.hpp"
#include "trace/native_structure.hpp"

namespace moekv::native {
namespace {

/// Runs a step that may find the file bad and keeps its problems; true where it succeeded.
template <class F>
bool attempt(std::vector<Problem>& problems, F&& step) {
  try {
    step();
    return true;
  } catch (const UserError& e) {
    problems.insert(problems.end(), e.problems().begin(), e.problems().end());
    return false;
  }
}

template <std::size_t N>
std::size_t index_of(const h5::Object& object, const char* attribute, const std::array<std::string_view, N>& names) {
  const std::string text = object.text(attribute);
  const auto it = std::find(names.begin(), names.end(), text);
  if (it == names.end()) {
    throw UserError(object.where(), fmt::format("attribute '{}' is '{}'", attribute, text), suggest_name(text, {names.begin(), names.end()}));
  }
  return static_cast<std::size_t>(it - names.begin());
}

std::string text_or_empty(const h5::Object& object, const char* name) { return object.has_attribute(name) ? object.text(name) : std::string(); }

template <class T>
void read_optional(const h5::Object& object, const char* name, T& value) {
  if (object.has_attribute(name)) value = object.number<T>(name);
}

void require_format(const h5::File& file) {
  const std::string found = text_or_empty(file, "format");
  if (found != format_name) {
    throw UserError(file.path(), found.empty() ? "has no attribute 'format'" : fmt::format("is of format '{}'", found),
                    fmt::format("a trace says format '{}'; convert other files with: moekv trace import", format_name));
  }
  const auto version = file.integers("version");
  if (version.size() != 2 || version[0] != format_major) {
    throw UserError(file.path(), fmt::format("is of trace version [{}]", fmt::join(version, ", ")),
                    fmt::format("this program reads version {}.x", format_major));
  }
}

void read_root(const h5::File& file, NativeFile& out) {
  TraceInfo& t = out.info;
  t.model_name = text_or_empty(file, "model_name");
  t.workload = text_or_empty(file, "workload");
  t.source = text_or_empty(file, "source");
  t.source_uri = text_or_empty(file, "source_uri");
  t.license = text_or_empty(file, "license");
  const auto level = file.number<std::int32_t>("routing_level");
  if (level < 0 || level > 3)
    throw UserError(file.path(), fmt::format("attribute 'routing_level' is {}", level), "0 ids, 1 weights, 2 candidates, 3 logits");
  t.level = static_cast<RoutingLevel>(level);
  out.weight_kind = static_cast<WeightKind>(index_of(file, "weight_kind", weight_kinds));
  out.order = static_cast<TokenOrder>(index_of(file, "order", token_orders));
  std::uint8_t pseudo = 0;
  std::uint8_t joined = 0;
  read_optional(file, "pseudo_logits", pseudo);
  read_optional(file, "joined", joined);
  t.pseudo_logits = pseudo != 0;
  t.joined = joined != 0;
}

/// Layer numbers of `dataset`, which must ascend below `limit`.
std::vector<std::uint16_t> read_layers(const h5::Dataset& dataset, std::uint32_t limit) {
  if (dataset.type() == h5::Type::other || dataset.type() == h5::Type::text)
    throw UserError(dataset.where(), "must hold integers", "i16 layer numbers");
  const auto numbers = dataset.read<std::int64_t>(most_layers * sizeof(std::int64_t));
  std::vector<std::uint16_t> layers;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (numbers[i] < 0 || numbers[i] >= limit || (i > 0 && numbers[i] <= numbers[i - 1])) {
      throw UserError(dataset.where(), fmt::format("[{}] does not ascend below {}", fmt::join(numbers, ", "), limit), "list each model layer once");
    }
    layers.push_back(static_cast<std::uint16_t>(numbers[i]));
  }
  if (layers.empty()) throw UserError(dataset.where(), "is empty", "a trace has at least one layer");
  return layers;
}

void read_gate(const h5::Group& model, TraceInfo& t) {
  GateShape& gate = t.shape.gate;
  t.n_experts = model.number<std::uint32_t>("n_experts");
  t.top_k = model.number<std::uint32_t>("top_k");
  if (t.n_experts < 1 || t.n_experts > most_experts) {
    throw UserError(model.where(), fmt::format("attribute 'n_experts' is {}", t.n_experts), fmt::format("1..{}", most_experts));
  }
  if (t.top_k < 1 || t.top_k > most_top_k || t.top_k > t.n_experts) {
    throw UserError(model.where(), fmt::format("attribute 'top_k' is {}", t.top_k),
                    fmt::format("1..{}, at most n_experts = {}", most_top_k, t.n_experts));
  }
  gate.n_experts = t.n_experts;
  gate.top_k = t.top_k;
  read_optional(model, "n_shared", gate.n_shared);
  read_optional(model, "n_group", gate.n_group);
  read_optional(model, "topk_group", gate.topk_group);
  read_optional(model, "scale", gate.scale);
  std::uint8_t renormalise = gate.renormalise ? 1 : 0;
  read_optional(model, "norm_topk", renormalise);
  gate.renormalise = renormalise != 0;
  if (model.has_attribute("score_func")) gate.score = static_cast<ScoreFunction>(index_of(model, "score_func", score_functions));
  if (model.has_attribute("softmax_order")) gate.order = static_cast<ScoreOrder>(index_of(model, "softmax_order", score_orders));
}

void read_attention(const h5::Group& model, ModelShape& shape) {
  read_optional(model, "hidden", shape.hidden);
  read_optional(model, "n_heads", shape.n_heads);
  read_optional(model, "n_kv_heads", shape.n_kv_heads);
  read_optional(model, "head_dim_k", shape.d_k);
  read_optional(model, "head_dim_v", shape.d_v);
  read_optional(model, "rope_theta", shape.rope_theta);
  if (!model.has_attribute("attn") || index_of(model, "attn", attention_kinds) == 0) return;
  read_optional(model, "kv_lora_rank", shape.latent.d_c);
  read_optional(model, "rope_dim", shape.latent.d_rope);
  const bool known = shape.latent.d_c > 0;
  if (known && (shape.d_k != shape.latent.d_c + shape.latent.d_rope || shape.d_v != shape.latent.d_c)) {
    throw UserError(model.where(),
                    fmt::format("head_dim_k {} and head_dim_v {} do not fit kv_lora_rank {} and rope_dim {}", shape.d_k, shape.d_v, shape.latent.d_c,
                                shape.latent.d_rope),
                    "for attn 'mla' head_dim_k = kv_lora_rank + rope_dim and head_dim_v = kv_lora_rank");
  }
}

void read_model(const h5::Group& model, TraceInfo& t) {
  std::vector<Problem> problems;
  std::uint32_t n_layers = 0;
  const bool routed = model.dataset("moe_layer_ids").n_rows() > 0;
  if (routed) attempt(problems, [&] { read_gate(model, t); });
  attempt(problems, [&] { read_attention(model, t.shape); });
  attempt(problems, [&] { read_optional(model, "n_layers", n_layers); });
  if (n_layers > most_layers)
    problems.push_back({model.where(), fmt::format("attribute 'n_layers' is {}", n_layers), fmt::format("at most {}", most_layers)});
  if (routed)
    attempt(problems,
            [&] { t.moe_layers = read_layers(model.dataset("moe_layer_ids"), n_layers > 0 && n_layers <= most_layers ? n_layers : most_layers); });
  if (!problems.empty()) throw UserError(std::move(problems));
  t.shape.name = t.model_name;
  t.shape.layers.assign(n_layers, LayerShape{.moe = false});
  for (const auto layer : t.moe_layers) {
    if (layer < n_layers) t.shape.layers[layer].moe = true;
  }
}

}  // namespace

namespace {

std::string digest_of_content(const std::string& path) {
  constexpr std::uint64_t block = 1U << 20;
  constexpr std::uint64_t most_blocks = 256;
  const std::uint64_t size = std::filesystem::file_size(path);
  const std::uint64_t n_blocks = std::min(most_blocks, (size + block - 1) / block);
  std::ifstream in(path, std::ios::binary);
  std::vector<char> buffer(block);
  XXH3_state_t* state = XXH3_createState();
  XXH3_128bits_reset(state);
  XXH3_128bits_update(state, &size, sizeof(size));
  for (std::uint64_t i = 0; i < n_blocks; ++i) {
    const std::uint64_t at = n_blocks < most_blocks ? i * block : (size - block) / (most_blocks - 1) * i;
    in.seekg(static_cast<std::streamoff>(at));
    in.read(buffer.data(), static_cast<std::streamsize>(std::min(block, size - at)));
    XXH3_128bits_update(state, buffer.data(), static_cast<std::size_t>(in.gcount()));
    in.clear();
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(state);
  XXH3_freeState(state);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace

std::string file_digest(const std::string& path) {
  struct Known {
    std::uint64_t size;
    std::filesystem::file_time_type written;
    std::string digest;
  };
  static std::map<std::string, Known> known;  // a sweep asks for the same few files once a point
  static std::mutex guard;
  const std::lock_guard lock(guard);
  const std::uint64_t size = std::filesystem::file_size(path);
  const auto written = std::filesystem::last_write_time(path);
  const auto it = known.find(path);
  if (it != known.end() && it->second.size == size && it->second.written == written) return it->second.digest;
  return known.insert_or_assign(path, Known{size, written, digest_of_content(path)}).first->second.digest;
}

NativeFile::NativeFile(const std::string& path, std::uint64_t cache_bytes)
    : file(h5::File::open(path, h5::Access::foreign)), cache(std::make_shared<BlockCache>(cache_bytes)) {
  require_format(file);
  info.path = path;
  info.digest = file_digest(path);
  std::vector<Problem> problems;
  const bool root_read = attempt(problems, [&] { read_root(file, *this); });
  const bool model_read = attempt(problems, [&] { read_model(file.group("model"), info); });
  const bool requests_read = attempt(problems, [&] { read_requests(*this); });
  if (root_read && model_read && requests_read) {
    attempt(problems, [&] {
      if (file.has("kv")) info.kv_layers = read_layers(file.dataset("kv/layer_ids"), info.shape.n_layers() > 0 ? info.shape.n_layers() : most_layers);
    });
    const auto found = structure_problems(*this);
    problems.insert(problems.end(), found.begin(), found.end());
  }
  if (!problems.empty()) throw UserError(std::move(problems));
}

RowReader NativeFile::rows(const std::string& dataset, RowPart part, RowReader::Check check) const {
  return {file.dataset(dataset), cache, part, std::move(check)};
}

}  // namespace moekv::native
