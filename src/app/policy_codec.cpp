// moekv policy codec: what a codec stores of the rows of one page, as bytes, what comes back, and what that does to queries.
#include <cmath>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "app/policy.hpp"
#include "device/code_entropy.hpp"
#include "device/fit_table.hpp"
#include "device/plane_errors.hpp"
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
  /// The table of a format, which may take the first rows only.
  void write(const PlaneFormat& f, std::uint32_t d, std::byte* table) const {
    const std::size_t n = std::size_t{stored_width(f, d)} * d;
    for (const auto part : {std::span(bias), std::span(down.values).first(n), std::span(up.values).first(n)}) {
      for (const float x : part) {
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
    loaded.write(f, s.d, s.table.data());
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

PlaneErrors errors_of(const Matrix<float>& values, const std::vector<float>& back) {
  PlaneErrors errors;
  errors.add(values.values, back, static_cast<std::uint32_t>(values.n_columns));
  return errors;
}

/// The class that a page of these rows gets.
std::uint32_t class_of(const Codec& codec, Role role, const Matrix<float>& values, const Matrix<float>& queries, const GivenMap& loaded,
                       double importance) {
  const ClassChoice choice = choice_of(codec);
  if (choice.by == ChooseBy::importance) return class_of_importance(choice, importance);
  std::uint32_t c = 0;
  while (c + 1 < classes_of(codec)) {
    const StoredPlane s = store(plane_of(codec, role, static_cast<std::uint32_t>(values.n_columns), c), values, queries, loaded);
    if (!needs_larger_class(choice, errors_of(values, decoded(s)).to_spread())) break;
    ++c;
  }
  return c;
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

/// What is stored of rows, what comes back, and what that does to queries.
Json described(const StoredPlane& s, const Matrix<float>& values, Role role, const Matrix<float>& queries) {
  const std::vector<float> back = decoded(s);
  CodeCounts counts;
  count_codes(s.format, s.codes.data(), s.n, s.map().width, counts);
  Json out;
  out["bytes_hex"] = hex(s);
  out["stored_bytes"] = s.codes.size() + s.meta.size() + s.table.size();
  out["code_bytes"] = s.codes.size();
  out["meta_bytes"] = s.meta.size();
  out["table_bytes"] = s.table.size();
  out["code_entropy_bits"] = entropy_bits(counts);
  out["relative_error"] = errors_of(values, back).relative();
  if (role == Role::k && queries.n_rows > 0) {
    QueryErrors errors;
    for (std::size_t i = 0; i < queries.n_rows; ++i) errors.add(queries.row(i), values.values, back, s.d, 1.0 / std::sqrt(static_cast<double>(s.d)));
    out["logit_error"] = errors.logit_error();
    out["attention_error"] = errors.attention_error();
  }
  out["decoded"] = as_rows(back, s.d);
  return out;
}

}  // namespace

Json decide_codec(Case& given) {
  const Json* name = given.find("codec");
  if (name != nullptr && *name == "pyramid_budget") return decide_pyramid_budget(given);
  if (name != nullptr && *name == "chunk_retain") return decide_chunk_retain(given);
  const auto codec = given.rule<Codec>("codec");
  const auto role = given.value_or<Role>("role", Role::k);
  if (const auto* parts = std::get_if<codec::Parts>(&codec)) {
    parts->check(role, [&](std::string_view parameter, std::string_view what, std::string_view advice) {
      given.complain("params/" + std::string(parameter), std::string(what), std::string(advice));
    });
  }
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
  GivenMap loaded;
  if (!given.failed()) loaded.read(given, plane_of(codec, role, d), d);
  const bool by_importance = choice_of(codec).by == ChooseBy::importance;
  // As exact as the thresholds it is compared with.
  const double importance = by_importance ? double{given.value_or("importance", static_cast<float>(unknown_importance), {0.0, 1.0})} : unknown_importance;
  given.finish();
  const std::uint32_t page_class = class_of(codec, role, values, queries, loaded, importance);
  Json out = described(store(plane_of(codec, role, d, page_class), values, queries, loaded), values, role, queries);
  out["codec"] = rule_name(codec);
  if (classes_of(codec) > 1) out["class"] = class_name(codec, page_class);
  return out;
}

}  // namespace moekv
