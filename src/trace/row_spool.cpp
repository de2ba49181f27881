// Rows are appended to one temporary file as they come, then scattered into a second one by their place.
#include "trace/row_spool.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/error.hpp"
#include "core/id.hpp"

namespace moekv {
namespace {

struct Key {
  std::uint32_t request, position;
  std::uint16_t layer, unused;
};

}  // namespace

RowSpool::RowSpool(std::uint32_t top_k, std::uint32_t n_logits)
    : top_k_(top_k), n_logits_(n_logits), layer_seen_(65536, false), record_(sizeof(Key) + row_bytes()) {}

void RowSpool::add(std::uint32_t request, std::uint32_t position, std::uint16_t layer, const std::uint16_t* ids, const float* weights,
                   const float* logits) {
  const Key key{request, position, layer, 0};
  std::byte* at = record_.data();
  std::memcpy(at, &key, sizeof(key));
  at += sizeof(key);
  for (std::uint32_t j = 0; j < top_k_; ++j, at += sizeof(std::uint16_t)) {
    const auto stored = static_cast<std::uint16_t>(ids[j] + 1);  // 0 = absent, so that untouched rows read as absent
    std::memcpy(at, &stored, sizeof(stored));
  }
  const std::size_t weight_bytes = top_k_ * sizeof(float), logit_bytes = n_logits_ * sizeof(float);
  if (weights != nullptr)
    std::memcpy(at, weights, weight_bytes);
  else
    std::memset(at, 0, weight_bytes);
  if (logits != nullptr)
    std::memcpy(at + weight_bytes, logits, logit_bytes);
  else
    std::memset(at + weight_bytes, 0, logit_bytes);
  arrived_.append(record_);
  if (request >= tokens_.size()) tokens_.resize(request + 1, 0);
  tokens_[request] = std::max(tokens_[request], position + 1);
  layer_seen_[layer] = true;
  ++n_added_;
}

void RowSpool::sort(const std::string& place) {
  arrived_.flush();
  std::vector<std::uint32_t> column(65536, 0);
  for (std::size_t l = 0; l < layer_seen_.size(); ++l) {
    if (!layer_seen_[l]) continue;
    column[l] = static_cast<std::uint32_t>(layers_.size());
    layers_.push_back(static_cast<std::uint16_t>(l));
  }
  std::uint64_t total = 0;
  for (const auto n : tokens_) {
    first_token_.push_back(total);
    total += n;
  }
  n_slots_ = total * layers_.size();
  if (n_slots_ > 64 * n_added_ + (1U << 20)) {
    throw UserError(place, fmt::format("{} rows leave {} places of (token, layer) empty", n_added_, n_slots_ - n_added_),
                    "are layers or requests of different recordings mixed?");
  }
  rows_ = ordered_.map(n_slots_ * (row_bytes() + 1));  // one byte per row says that it is there
  std::vector<std::byte> chunk(record_.size() * 4096);
  for (std::uint64_t done = 0; done < n_added_;) {
    const std::uint64_t n = std::min<std::uint64_t>(4096, n_added_ - done);
    arrived_.read_at(done * record_.size(), std::span(chunk).first(n * record_.size()));
    for (std::uint64_t i = 0; i < n; ++i) {
      Key key;
      std::memcpy(&key, chunk.data() + i * record_.size(), sizeof(key));
      const std::uint64_t slot = (first_token_[key.request] + key.position) * layers_.size() + column[key.layer];
      std::byte* to = rows_.data() + slot * (row_bytes() + 1);
      n_distinct_ += *to == std::byte{0} ? 1 : 0;
      *to = std::byte{1};
      std::memcpy(to + 1, chunk.data() + i * record_.size() + sizeof(Key), row_bytes());
    }
    done += n;
  }
}

void RowSpool::read(std::uint32_t request, std::uint32_t begin, std::uint32_t end, bool weights, TokenBlock& out) const {
  const std::size_t n_rows = std::size_t{end - begin} * layers_.size();
  out = TokenBlock{};
  out.n_tokens = end - begin;
  out.ids.resize(n_rows * top_k_);
  if (weights) out.weights.resize(n_rows * top_k_);
  out.logits.resize(n_rows * n_logits_);
  for (std::size_t r = 0; r < n_rows; ++r) {
    const std::byte* from = rows_.data() + ((first_token_[request] + begin) * layers_.size() + r) * (row_bytes() + 1) + 1;
    std::memcpy(out.ids.data() + r * top_k_, from, top_k_ * sizeof(std::uint16_t));
    from += top_k_ * sizeof(std::uint16_t);
    if (weights) std::memcpy(out.weights.data() + r * top_k_, from, top_k_ * sizeof(float));
    if (n_logits_ > 0) std::memcpy(out.logits.data() + r * n_logits_, from + top_k_ * sizeof(float), n_logits_ * sizeof(float));
  }
  for (auto& id : out.ids) id = static_cast<std::uint16_t>(id - 1);  // 0 becomes ExpertId::invalid
}

void RowSpool::hand_over(bool weights, std::uint16_t domain, const std::string& place, ImportSink& sink, std::span<const std::uint32_t> prompts,
                         const std::function<void(TokenBlock&)>& complete) const {
  if (missing_rows() > 0) sink.warn(fmt::format("{} rows of (token, layer) are missing; their experts are absent", missing_rows()));
  for (std::uint32_t r = 0; r < n_requests() && !sink.full(); ++r) {
    RequestInfo request;
    request.prompt_tokens = prompts.empty() ? tokens(r) : prompts[r];
    request.output_tokens = tokens(r) - request.prompt_tokens;
    request.domain = domain;
    const std::string where = fmt::format("{}: request {}", place, r);
    if (!sink.begin_request(request, where)) continue;
    for (std::uint32_t begin = 0; begin < tokens(r); begin += block_tokens) {
      TokenBlock block;
      read(r, begin, std::min(begin + block_tokens, tokens(r)), weights, block);
      if (complete) complete(block);
      sink.append(std::move(block), where);
    }
  }
}

std::uint32_t PassCounter::position(std::uint32_t request, std::uint16_t layer, std::uint64_t token, const std::string& place) {
  constexpr std::uint64_t max_jump = 65536;
  State& state = states_[std::uint64_t{request} << 16 | layer];
  if (state.started && token <= state.last) {
    state.base += state.last + 1;
    restarts_ = std::max(restarts_, ++state.restarts);
    state.started = false;
  }
  const std::uint64_t expected = state.started ? state.last + 1 : 0;
  if (token > expected + max_jump)
    throw UserError(place, fmt::format("token {} follows {}", token, state.started ? std::to_string(state.last) : "nothing"),
                    "is this the token counter?");
  gaps_ += token > expected ? 1 : 0;
  state.last = token;
  state.started = true;
  const std::uint64_t position = state.base + token;
  if (position >= 0xFFFFFFFFU) throw UserError(place, "a request has more than 2^32 tokens");
  return static_cast<std::uint32_t>(position);
}

}  // namespace moekv
