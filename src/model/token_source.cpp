// Reads token files: arrays of NumPy or datasets of HDF5, rectangular or with the lengths of their sequences.
#include "model/token_source.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>

#include "core/error.hpp"
#include "io/npz.hpp"
#include "trace/native_file.hpp"

namespace moekv {
namespace {

constexpr std::uint64_t most_tokens = 1U << 28;
constexpr const char* see_tokens = "configs/models/README.md describes token files";

struct IntArray {
  std::vector<std::uint64_t> shape;
  std::vector<std::int64_t> values;
};

struct Arrays {
  std::optional<IntArray> tokens, targets, lengths;
};

void check_size(const std::string& where, const std::vector<std::uint64_t>& shape) {
  std::uint64_t n = 1;
  for (const std::uint64_t d : shape) n = d > most_tokens ? most_tokens + 1 : std::min(n * d, most_tokens + 1);
  if (shape.empty() || shape.size() > 2 || n > most_tokens)
    throw UserError(where, fmt::format("has {} axes and {} values", shape.size(), n), fmt::format("at most 2 axes and {} values", most_tokens));
}

std::optional<IntArray> take(NpyArrays& arrays, const std::string& path, const std::string& name) {
  const auto it = arrays.find(name);
  if (it == arrays.end()) return std::nullopt;
  check_size(path + ":" + name, it->second.shape());
  if (!it->second.is_integer()) throw UserError(path + ":" + name, "is not an array of whole numbers", see_tokens);
  IntArray out{it->second.shape(), {}};
  if (out.shape[0] > 0) it->second.read_ints(0, 0, out.shape[0], out.values);
  return out;
}

std::optional<IntArray> take(const h5::File& file, const std::string& name) {
  if (!file.has(name)) return std::nullopt;
  const h5::Dataset dataset = file.dataset(name);
  check_size(dataset.where(), dataset.dims());
  if (dataset.type() >= h5::Type::f16) throw UserError(dataset.where(), "is not a dataset of whole numbers", see_tokens);
  return IntArray{dataset.dims(), dataset.read<std::int64_t>(most_tokens * 8)};
}

Arrays read_arrays(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw UserError(path, "cannot be read", "check trace.tokens");
  std::string head(8, '\0');
  in.read(head.data(), static_cast<std::streamsize>(head.size()));
  Arrays out;
  if (looks_like_npy(head) || looks_like_zip(head)) {
    NpyArrays arrays = open_arrays(path);
    const std::string tokens = arrays.size() == 1 && looks_like_npy(head) ? arrays.begin()->first : "token_ids";
    out = {take(arrays, path, tokens), take(arrays, path, "next_token_ids"), take(arrays, path, "seq_lens")};
  } else {
    const h5::File file = h5::File::open(path, h5::Access::foreign);
    out = {take(file, "token_ids"), take(file, "next_token_ids"), take(file, "seq_lens")};
  }
  if (!out.tokens) throw UserError(path, "has no array token_ids", see_tokens);
  if (out.targets && out.targets->shape != out.tokens->shape) throw UserError(path, "token_ids and next_token_ids differ in shape", see_tokens);
  return out;
}

/// [begin, end) of every sequence in the values of token_ids.
std::vector<std::pair<std::size_t, std::size_t>> ranges_of(const std::string& path, const Arrays& a) {
  const std::vector<std::uint64_t>& shape = a.tokens->shape;
  std::vector<std::pair<std::size_t, std::size_t>> out;
  if (shape.size() == 1 && !a.lengths) return {{0, shape[0]}};
  if (!a.lengths) {
    for (std::size_t s = 0; s < shape[0]; ++s) out.emplace_back(s * shape[1], (s + 1) * shape[1]);
    return out;
  }
  const std::vector<std::int64_t>& lengths = a.lengths->values;
  const bool flat = shape.size() == 1;
  if (!flat && lengths.size() != shape[0])
    throw UserError(path, fmt::format("seq_lens has {} values for {} sequences", lengths.size(), shape[0]), see_tokens);
  std::size_t at = 0;
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    const std::size_t begin = flat ? at : s * shape[1], room = flat ? shape[0] - at : shape[1];
    if (lengths[s] < 0 || static_cast<std::uint64_t>(lengths[s]) > room)
      throw UserError(path, fmt::format("seq_lens[{}] is {}, there are {} tokens left", s, lengths[s], room), see_tokens);
    at += static_cast<std::size_t>(lengths[s]);
    out.emplace_back(begin, begin + static_cast<std::size_t>(lengths[s]));
  }
  if (flat && at != shape[0]) throw UserError(path, fmt::format("seq_lens sum to {}, token_ids has {} values", at, shape[0]), see_tokens);
  return out;
}

std::uint32_t checked(const std::string& path, std::int64_t token, std::uint32_t vocab) {
  if (token >= 0 && token < vocab) return static_cast<std::uint32_t>(token);
  throw UserError(path, fmt::format("token {} is not in the model's vocabulary of {}", token, vocab), "use the tokens of the model's own tokenizer");
}

}  // namespace

TokenSource::TokenSource(const std::string& path, std::uint32_t prompt_tokens, const DecoderSpec& model) : prompt_tokens_(prompt_tokens), begin_{0} {
  const Arrays arrays = read_arrays(path);
  const bool shifted = !arrays.targets;
  const std::vector<std::int64_t>& values = arrays.tokens->values;
  for (const auto& [begin, end] : ranges_of(path, arrays)) {
    const std::size_t last = shifted && end > begin ? end - 1 : end;
    if (model.max_positions > 0 && last - begin > model.max_positions)
      throw UserError(path, fmt::format("a sequence has {} positions, the model knows {}", last - begin, model.max_positions), "cut the sequences");
    for (std::size_t i = begin; i < last; ++i) {
      inputs_.push_back(checked(path, values[i], model.vocab));
      targets_.push_back(checked(path, shifted ? values[i + 1] : arrays.targets->values[i], model.vocab));
    }
    if (last > begin) begin_.push_back(inputs_.size());
  }
  if (inputs_.empty()) throw UserError(path, "has no token to predict", "sequences need two tokens, or next_token_ids");
  info_.path = path;
  info_.model_name = model.name;
  info_.digest = native::file_digest(path);
  info_.level = RoutingLevel::logits;
  info_.n_experts = model.gate.n_experts;
  info_.top_k = model.gate.top_k;
  info_.shape = shape_of(model, {});
  for (std::size_t l = 0; l < model.layers.size(); ++l) {
    if (model.layers[l].moe) info_.moe_layers.push_back(static_cast<std::uint16_t>(l));
  }
}

RequestInfo TokenSource::request(RequestId r) const {
  const auto n = static_cast<std::uint32_t>(inputs(r).size());
  RequestInfo info;
  info.prompt_tokens = prompt_tokens_ > 0 ? std::min(prompt_tokens_, n) : (n + 1) / 2;
  info.output_tokens = n - info.prompt_tokens;
  return info;
}

void TokenSource::read(RequestId, std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t, WantLogits, RoutingRows&) {
  throw UserError(info_.path, "is a token file: its routing is known only while the model runs", "use moekv score");
}

}  // namespace moekv
