// moekv policy codec: what a codec stores of the rows of one page, as bytes, what comes back, and what that does to queries.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "app/policy.hpp"
#include "device/code_entropy.hpp"
#include "device/fit_table.hpp"
#include "rules/codec/catalogue.hpp"
#include "rules/codec/map.hpp"
#include "rules/codec/plane.hpp"

namespace moekv {
namespace {

constexpr std::size_t max_rows = 4096, max_channels = 4096;

/// One plane of a page outside any pool: [codes | metadata | table].
struct StoredPlane {
  PlaneFormat format;
  std::uint32_t d = 0, n = 0;
  std::vector<std::byte> codes, meta, table;

  [[nodiscard]] MapView map() const { return map_view(format, d, table.data()); }
};

/// Maps that a case brings along for codecs that load theirs.
struct GivenMap {
  Matrix<float> down, up;
  std::vector<float> bias;

  void read(Case& given, const PlaneFormat& f, std::uint32_t d) {
    if (f.fit != TableFit::loaded) return;
    for (const auto& [name, matrix] : {std::pair{"down", &down}, {"up", &up}}) {
      if (given.require(name)) *matrix = given.matrix<float>(name);
      if (!given.failed() && (matrix->n_rows != stored_width(f, d) || matrix->n_columns != d)) {
        given.complain(name, fmt::format("has {} rows of {} values, expected {} of {}", matrix->n_rows, matrix->n_columns, stored_width(f, d), d),
                       "one row per stored coordinate (params.rank)");
      }
    }
    if (f.centre && given.require("bias")) bias = given.list<float>("bias");
    if (!given.failed() && f.centre && bias.size() != d) given.complain("bias", fmt::format("has {} values, expected {}", bias.size(), d));
  }
  void write(std::byte* table) const {
    for (const auto* part : {&bias, &down.values, &up.values}) {
      for (const float x : *part) {
        store_u16(table, fp16_from_float(x));
        table += 2;
      }
    }
  }
};

StoredPlane store(const PlaneFormat& f, const Matrix<float>& values, const Matrix<float>& queries, const GivenMap& loaded) {
  StoredPlane s{f, static_cast<std::uint32_t>(values.n_columns), static_cast<std::uint32_t>(values.n_rows), {}, {}, {}};
  s.codes.resize(std::size_t{s.n} * code_bytes(f, s.d));
  s.meta.resize(plane_meta_bytes(f, s.d, s.n));
  s.table.resize(table_bytes(f, s.d));
  if (f.fit == TableFit::loaded) {
    loaded.write(s.table.data());
  } else if (f.has_table()) {
    fit_table(f, s.d, {values.values.data(), s.n, queries.values.data(), static_cast<std::uint32_t>(queries.n_rows)}, s.table.data());
  }
  const MapView map = s.map();
  std::vector<float> rows = values.values, mapped(std::size_t{s.n} * map.width);
  for (std::uint32_t t = 0; t < s.n; ++t) map_forward(map, &rows[std::size_t{t} * s.d], &mapped[std::size_t{t} * map.width]);
  encode_plane(f, mapped.data(), s.n, map.width, s.codes.data(), s.meta.data());
  return s;
}

/// Rows [n][d] as attention sees them.
std::vector<float> decoded(const StoredPlane& s) {
  const MapView map = s.map();
  std::vector<float> rows(std::size_t{s.n} * s.d), values(map.width);
  for (std::uint32_t t = 0; t < s.n; ++t) {
    decode_slot(s.format, s.codes.data(), s.meta.data(), t, map.width, values.data());
    map_back(map, values.data(), 1.0F, &rows[std::size_t{t} * s.d], s.d);
  }
  return rows;
}

Json as_rows(const std::vector<float>& values, std::uint32_t d) {
  Json rows = Json::array();
  for (std::size_t at = 0; at < values.size(); at += d) {
    Json row = Json::array();
    for (std::size_t c = 0; c < d; ++c) row.push_back(static_cast<double>(values[at + c]));
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string hex(const StoredPlane& s) {
  std::string text;
  for (const auto* part : {&s.codes, &s.meta, &s.table}) {
    for (const std::byte b : *part) text += fmt::format("{:02x}", std::to_integer<int>(b));
  }
  return text;
}

/// ||back - values|| / ||values||.
double relative_error(const std::vector<float>& values, const std::vector<float>& back) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    error += std::pow(static_cast<double>(back[i]) - static_cast<double>(values[i]), 2);
    size += std::pow(static_cast<double>(values[i]), 2);
  }
  return size > 0 ? std::sqrt(error / size) : 0.0;
}

/// Logits of one query with rows [n][d].
std::vector<double> logits_of(const float* q, const std::vector<float>& rows, std::size_t d) {
  std::vector<double> logits(rows.size() / d);
  for (std::size_t t = 0; t < logits.size(); ++t) {
    for (std::size_t c = 0; c < d; ++c) logits[t] += static_cast<double>(q[c]) * static_cast<double>(rows[t * d + c]);
    logits[t] /= std::sqrt(static_cast<double>(d));
  }
  return logits;
}

double mean(const std::vector<double>& x) { return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size()); }

std::vector<double> softmax(std::vector<double> x) {
  const double top = *std::max_element(x.begin(), x.end());
  for (double& value : x) value = std::exp(value - top);
  const double sum = std::accumulate(x.begin(), x.end(), 0.0);
  for (double& value : x) value /= sum;
  return x;
}

/// What the error of keys does to queries: to logits (rms less their mean, over the exact ones' deviation) and to softmax rows (relative).
void add_query_errors(const Matrix<float>& keys, const std::vector<float>& back, const Matrix<float>& queries, Json& out) {
  double error = 0, spread = 0, difference = 0, size = 0;
  for (std::size_t i = 0; i < queries.n_rows; ++i) {
    const std::vector<double> exact = logits_of(queries.row(i), keys.values, keys.n_columns),
                              stored = logits_of(queries.row(i), back, keys.n_columns);
    const std::vector<double> p = softmax(exact), p_stored = softmax(stored);
    const double exact_mean = mean(exact), stored_mean = mean(stored);
    for (std::size_t t = 0; t < exact.size(); ++t) {
      error += std::pow(stored[t] - stored_mean - exact[t] + exact_mean, 2);
      spread += std::pow(exact[t] - exact_mean, 2);
      difference += std::pow(p_stored[t] - p[t], 2);
      size += p[t] * p[t];
    }
  }
  out["logit_error"] = spread > 0 ? std::sqrt(error / spread) : 0.0;
  out["attention_error"] = std::sqrt(difference / size);
}

}  // namespace

Json decide_codec(Case& given) {
  const Json* name = given.find("codec");
  if (name != nullptr && *name == "pyramid_budget") return decide_pyramid_budget(given);
  if (name != nullptr && *name == "chunk_retain") return decide_chunk_retain(given);
  const auto codec = given.rule<Codec>("codec");
  const auto role = given.value_or<Role>("role", Role::k);
  given.require("values");
  const auto values = given.matrix<float>("values"), queries = given.matrix<float>("queries");
  if (!given.failed() && (values.n_rows == 0 || values.n_columns == 0 || values.n_rows > max_rows || values.n_columns > max_channels)) {
    given.complain("values", fmt::format("{} rows of {} values", values.n_rows, values.n_columns),
                   fmt::format("give 1 to {} tokens of 1 to {} channels", max_rows, max_channels));
  }
  if (!given.failed() && queries.n_rows > 0 && queries.n_columns != values.n_columns) {
    given.complain("queries", fmt::format("has {} channels, values have {}", queries.n_columns, values.n_columns));
  }
  const auto d = static_cast<std::uint32_t>(values.n_columns);
  const PlaneFormat format = plane_of(codec, role, d);
  GivenMap loaded;
  if (!given.failed()) loaded.read(given, format, d);
  given.finish();
  const StoredPlane s = store(format, values, queries, loaded);
  const std::vector<float> back = decoded(s);
  CodeCounts counts;
  count_codes(s.format, s.codes.data(), s.n, s.map().width, counts);
  Json out;
  out["codec"] = std::visit([](const auto& c) { return std::string(c.name); }, codec);
  out["bytes_hex"] = hex(s);
  out["stored_bytes"] = s.codes.size() + s.meta.size() + s.table.size();
  out["code_bytes"] = s.codes.size();
  out["meta_bytes"] = s.meta.size();
  out["table_bytes"] = s.table.size();
  out["code_entropy_bits"] = entropy_bits(counts);
  out["relative_error"] = relative_error(values.values, back);
  if (role == Role::k && queries.n_rows > 0) add_query_errors(values, back, queries, out);
  out["decoded"] = as_rows(back, d);
  return out;
}

}  // namespace moekv
