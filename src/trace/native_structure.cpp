// What a native trace must look like before a row is read, and the checks of each block as it is decoded.
#include "trace/native_structure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "core/error.hpp"
#include "trace/native_format.hpp"

namespace moekv::native {
namespace {

/// A column of /requests as T; `fallback` for all where the column is optional and absent.
template <class T>
std::vector<T> request_column(const NativeFile& trace, const std::string& name, std::uint64_t n, const T* fallback = nullptr) {
  const std::string path = "requests/" + name;
  if (fallback != nullptr && !trace.has(path)) return std::vector<T>(n, *fallback);
  RowReader rows = trace.rows(path);
  if (rows.dims().size() != 1 || rows.type() != h5::type_of<T>()) {
    throw UserError(
        rows.dataset().where(),
        fmt::format("has {} axes of {}, expected one of {}", rows.dims().size(), h5::to_string(rows.type()), h5::to_string(h5::type_of<T>())),
        "write the column with the type of the format");
  }
  if (rows.n_rows() != n)
    throw UserError(rows.dataset().where(), fmt::format("has {} rows, expected {}", rows.n_rows(), n),
                    "one row per request (token_offset: one more)");
  std::vector<T> values(n);
  if (n > 0) rows.read(0, n, values.data());
  return values;
}

void check_offsets(const NativeFile& trace) {
  const std::string where = trace.info.path + ":/requests/token_offset";
  const auto& offset = trace.token_offset;
  if (offset[0] != 0) throw UserError(where, fmt::format("begins with {}, not 0", offset[0]), "it is the running sum of the requests' tokens");
  for (std::size_t r = 0; r + 1 < offset.size(); ++r) {
    if (offset[r + 1] < offset[r]) {
      throw UserError(where, fmt::format("row {}: {} after {}: not monotone", r + 1, offset[r + 1], offset[r]),
                      "it is the running sum of the requests' tokens");
    }
    const RequestInfo& q = trace.requests[r];
    const std::uint64_t tokens = std::uint64_t{q.prompt_tokens} + q.output_tokens;
    if (offset[r + 1] - offset[r] != tokens || tokens == 0 || tokens > 0xFFFFFFFFU) {
      throw UserError(
          where,
          fmt::format("request {} has {} rows, but prompt_len {} + output_len {}", r, offset[r + 1] - offset[r], q.prompt_tokens, q.output_tokens),
          "a request has one row per token, at least one");
    }
  }
}

struct Expectation {
  std::string dataset;
  std::vector<h5::Type> types;
  h5::Dims dims;
  RowPart part = RowPart::whole;
};

void check_dataset(const NativeFile& trace, const Expectation& want, std::vector<Problem>& problems) {
  try {
    const RowReader rows = trace.rows(want.dataset, want.part);
    if (std::find(want.types.begin(), want.types.end(), rows.type()) == want.types.end()) {
      std::string types;
      for (const auto type : want.types) types += (types.empty() ? "" : " or ") + std::string(h5::to_string(type));
      problems.push_back({rows.dataset().where(), fmt::format("has type {}, expected {}", h5::to_string(rows.type()), types),
                          "write it with the type of the format"});
    }
    if (rows.dims() != want.dims) {
      problems.push_back({rows.dataset().where(),
                          fmt::format("has shape [{}], expected [{}]", fmt::join(rows.dims(), ", "), fmt::join(want.dims, ", ")),
                          "tokens x layers x values, as /requests and /model say"});
    }
  } catch (const UserError& e) {
    problems.insert(problems.end(), e.problems().begin(), e.problems().end());
  }
}

std::vector<Expectation> expected_datasets(const NativeFile& trace) {
  using h5::Type;
  const TraceInfo& t = trace.info;
  const std::uint64_t n = t.has_routing() ? trace.n_tokens : 0;
  const std::uint64_t layers = t.moe_layers.size();
  const std::vector<Type> id_types = ids_fit_byte(t.n_experts) ? std::vector<Type>{Type::u8, Type::u16} : std::vector<Type>{Type::u16};
  std::vector<Expectation> all = {{"tokens/position", {Type::u32}, {n}}, {"tokens/phase", {Type::u8}, {n}}};
  if (t.has_routing()) all.push_back({"routing/expert_ids", id_types, {n, layers, t.top_k}});
  if (trace.has("tokens/token_id")) all.push_back({"tokens/token_id", {Type::i32}, {n}});
  if (trace.order == TokenOrder::step) all.push_back({"tokens/request", {Type::u32}, {n}});
  if (t.level >= RoutingLevel::weights) all.push_back({"routing/weights", {Type::f16}, {n, layers, t.top_k}});
  if (t.level == RoutingLevel::candidates) {
    all.push_back({"routing/cand_ids", id_types, {n, layers, t.n_candidates}});
    all.push_back({"routing/cand_logit", {Type::f16}, {n, layers, t.n_candidates}});
    all.push_back({"routing/lse", {Type::f32}, {n, layers}});
  }
  if (t.level == RoutingLevel::logits) all.push_back({"routing/logits", {Type::f16}, {n, layers, t.n_experts}});
  if (t.kv_layers.empty()) return all;
  const ModelShape& s = t.shape;
  const std::uint64_t kv_layers = t.kv_layers.size();
  const std::vector<Type> kv_types = {trace.kv_is_bf16 ? Type::u16 : Type::f16};
  all.push_back({"kv/q", kv_types, {n, kv_layers, s.n_heads, s.d_k}, RowPart::plane});
  if (s.mla()) {
    all.push_back({"kv/ckv", kv_types, {n, kv_layers, s.latent.d_c}, RowPart::plane});
    if (s.latent.d_rope > 0) all.push_back({"kv/kpe", kv_types, {n, kv_layers, s.latent.d_rope}, RowPart::plane});
  } else {
    all.push_back({"kv/k", kv_types, {n, kv_layers, s.n_kv_heads, s.d_k}, RowPart::plane});
    all.push_back({"kv/v", kv_types, {n, kv_layers, s.n_kv_heads, s.d_v}, RowPart::plane});
  }
  return all;
}

void read_kv_facts(NativeFile& trace, std::vector<Problem>& problems) {
  const h5::Group kv = trace.file.group("kv");
  const ModelShape& s = trace.info.shape;
  if (s.n_heads == 0 || s.n_kv_heads == 0 || s.d_k == 0 || s.d_v == 0) {
    problems.push_back(
        {trace.info.path + ":/model", "has no n_heads, n_kv_heads, head_dim_k and head_dim_v for the recorded q, k, v", "add these attributes"});
  }
  if (kv.has_attribute("scale")) trace.info.shape.softmax_scale = kv.number<double>("scale");
  if (!std::isfinite(trace.info.shape.softmax_scale) || trace.info.shape.softmax_scale < 0) {
    problems.push_back({kv.where(), "attribute 'scale' is not a finite positive number", "0 stands for 1/sqrt(head dimension)"});
  }
  if (kv.has_attribute("rope_applied") && kv.number<std::uint8_t>("rope_applied") != 1) {
    problems.push_back({kv.where(), "attribute 'rope_applied' is not 1", "store q and k after the rotation"});
  }
  trace.kv_is_bf16 = kv.has("q") && kv.dataset("q").type() == h5::Type::u16;
}

template <class Id>
void check_choices(const RowReader& rows, const TraceInfo& info, std::uint64_t first, std::uint64_t n, const std::byte* bytes) {
  const std::uint64_t layers = rows.dims()[1];
  const std::uint64_t k = rows.dims()[2];
  const Id* ids = reinterpret_cast<const Id*>(bytes);
  for (std::uint64_t i = 0; i < n * layers; ++i, ids += k) {
    const std::span<const Id> choice(ids, k);
    const ChoiceFault fault = fault_of(choice, info.n_experts);
    if (fault == ChoiceFault::none) continue;
    throw UserError(
        rows.dataset().where(),
        fmt::format("token row {} layer {}: {{{}}}: {}", first + i / layers, info.moe_layers[i % layers], fmt::join(choice, ", "),
                    fault == ChoiceFault::repeated ? "an expert occurs twice" : fmt::format("an expert is not below n_experts = {}", info.n_experts)),
        "list all bad rows with: moekv trace info --check");
  }
}

}  // namespace

void read_requests(NativeFile& trace) {
  const std::uint64_t n = trace.file.dataset("requests/prompt_len").n_rows();
  if (n == 0 || n > most_requests) {
    throw UserError(trace.info.path + ":/requests/prompt_len", fmt::format("has {} requests", n), fmt::format("1..{} are allowed", most_requests));
  }
  const std::int64_t no_arrival = -1;
  const std::int32_t no_session = -1;
  const std::uint16_t first_domain = 0;
  const auto prompt = request_column<std::uint32_t>(trace, "prompt_len", n);
  const auto output = request_column<std::uint32_t>(trace, "output_len", n);
  trace.token_offset = request_column<std::uint64_t>(trace, "token_offset", n + 1);
  const auto arrival = request_column<std::int64_t>(trace, "arrival_ns", n, &no_arrival);
  const auto session = request_column<std::int32_t>(trace, "session", n, &no_session);
  const auto domain = request_column<std::uint16_t>(trace, "domain", n, &first_domain);
  const auto bad = std::find_if(arrival.begin(), arrival.end(), [](std::int64_t t) { return t < -1; });
  if (bad != arrival.end()) {
    throw UserError(trace.info.path + ":/requests/arrival_ns", fmt::format("request {} arrives at {}", bad - arrival.begin(), *bad),
                    "times are nanoseconds from the first arrival, -1 where unknown");
  }
  trace.requests.resize(n);
  for (std::uint64_t r = 0; r < n; ++r) trace.requests[r] = {arrival[r], prompt[r], output[r], session[r], domain[r]};
  check_offsets(trace);
  trace.n_tokens = trace.token_offset.back();
}

std::vector<Problem> structure_problems(NativeFile& trace) {
  std::vector<Problem> problems;
  try {
    if (trace.info.level == RoutingLevel::candidates) {
      const h5::Dims dims = trace.file.dataset("routing/cand_ids").dims();
      trace.info.n_candidates = dims.size() == 3 ? static_cast<std::uint32_t>(std::min<std::uint64_t>(dims[2], most_experts)) : 0;
      if (trace.info.n_candidates < trace.info.top_k) {
        problems.push_back({trace.info.path + ":/routing/cand_ids", fmt::format("lists {} candidates, fewer than top_k", trace.info.n_candidates),
                            "list at least the chosen"});
      }
    }
    if (!trace.info.kv_layers.empty()) read_kv_facts(trace, problems);
  } catch (const UserError& e) {
    problems.insert(problems.end(), e.problems().begin(), e.problems().end());
  }
  for (const Expectation& want : expected_datasets(trace)) check_dataset(trace, want, problems);
  return problems;
}

RowReader NativeFile::checked_ids(const std::string& dataset) const {
  return rows(dataset, RowPart::whole, [&t = info](const RowReader& reader, std::uint64_t first, std::uint64_t n, const std::byte* bytes) {
    reader.type() == h5::Type::u8 ? check_choices<std::uint8_t>(reader, t, first, n, bytes)
                                  : check_choices<std::uint16_t>(reader, t, first, n, bytes);
  });
}

RowReader NativeFile::checked_reals(const std::string& dataset) const {
  const std::uint16_t least_bad = dataset == "routing/weights" ? 0x8001U : 0xFFFFU;  // weights may be -0, but not below
  return rows(dataset, RowPart::whole, [least_bad](const RowReader& reader, std::uint64_t first, std::uint64_t n, const std::byte* bytes) {
    const std::uint64_t per_row = reader.row_bytes() / sizeof(std::uint16_t);
    const auto* values = reinterpret_cast<const std::uint16_t*>(bytes);
    for (std::uint64_t i = 0; i < n * per_row; ++i) {
      if (!is_infinite_or_nan(values[i]) && values[i] < least_bad) continue;
      throw UserError(reader.dataset().where(),
                      fmt::format("token row {}: a value is {}", first + i / per_row, is_infinite_or_nan(values[i]) ? "not finite" : "negative"),
                      "list all bad rows with: moekv trace info --check");
    }
  });
}

}  // namespace moekv::native
