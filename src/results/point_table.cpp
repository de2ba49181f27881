// Reads whatever stands along the dimension `point`, and prints it as CSV or JSON.
#include "results/point_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "core/error.hpp"
#include "core/json_text.hpp"
#include "core/number_text.hpp"
#include "results/run_file.hpp"

namespace moekv {
namespace {

std::string attribute(const h5::Dataset& dataset, const std::string& name) {
  return dataset.attribute_type(name) == h5::Type::text ? dataset.text(name) : std::string();
}

bool is_real(h5::Type type) { return type == h5::Type::f16 || type == h5::Type::f32 || type == h5::Type::f64; }
bool is_integer(h5::Type type) { return type != h5::Type::text && type != h5::Type::other && !is_real(type); }

[[noreturn]] void refuse_damaged(const h5::Dataset& dataset, const std::string& what) {
  throw UserError(dataset.where(), "is damaged: " + what, "write the file anew with moekv run, sweep or merge");
}

/// A column has one value per row of its table.
void require_rows(const h5::Dataset& dataset, std::uint64_t rows) {
  if (dataset.dims().size() != 1) refuse_damaged(dataset, fmt::format("it has {} dimensions, not one", dataset.dims().size()));
  if (dataset.n_rows() != rows) refuse_damaged(dataset, fmt::format("it has {} rows, its table {}", dataset.n_rows(), rows));
  if (dataset.type() == h5::Type::other) refuse_damaged(dataset, "its values are neither numbers nor text");
}

/// Columns whose type every reader relies on; the others may be numbers or text.
void require_type(const h5::Dataset& dataset, std::string_view group, std::string_view name) {
  const h5::Type type = dataset.type();
  const auto is_one_of = [&](std::initializer_list<std::string_view> names) { return std::find(names.begin(), names.end(), name) != names.end(); };
  if (group.starts_with("metric") && type == h5::Type::text) refuse_damaged(dataset, "a metric is a number, not text");
  if (!group.empty()) return;
  if (is_one_of({"point", "status", "repeat", "attempts"}) && !is_integer(type)) refuse_damaged(dataset, "its values are no whole numbers");
  if (is_one_of({"point_id", "label", "lists", "error", "started", "labels", "notes", "digest"}) && type != h5::Type::text)
    refuse_damaged(dataset, "its values are no text");
}

/// Values of any one-dimensional dataset as text, missing numbers as empty.
std::vector<std::string> texts_of(const h5::Dataset& dataset, std::vector<double>* numbers) {
  std::vector<std::string> texts;
  if (dataset.type() == h5::Type::text) return dataset.read_texts();
  if (is_real(dataset.type())) {
    for (const double v : dataset.read<double>()) texts.push_back(std::isnan(v) ? std::string() : fmt::format("{}", v));
  } else {
    for (const std::int64_t v : dataset.read<std::int64_t>()) texts.push_back(fmt::format("{}", v));
  }
  if (numbers != nullptr) *numbers = dataset.read<double>();
  return texts;
}

/// Statuses as words. Repeats count from 0.
void check_values(const h5::Dataset& dataset, PointColumn& column) {
  if (!column.group.empty()) return;
  if (column.name == "repeat" && std::any_of(column.numbers.begin(), column.numbers.end(), [](double n) { return n < 0; }))
    refuse_damaged(dataset, "a repeat is below 0");
  if (column.name != "status") return;
  for (std::size_t i = 0; i < column.texts.size(); ++i) {
    const double status = column.numbers[i];
    if (status < 0 || status >= static_cast<double>(std::size(run_status_names))) refuse_damaged(dataset, fmt::format("{} is no status", status));
    column.texts[i] = std::string(run_status_names[static_cast<std::size_t>(status)]);
  }
  column.numeric = column.whole = false;
}

PointColumn read_column(const h5::Group& parent, const std::string& group, const std::string& name, std::size_t n_points) {
  const h5::Dataset dataset = parent.dataset(name);
  require_rows(dataset, n_points);
  require_type(dataset, group, name);
  PointColumn column{group,
                     name,
                     attribute(dataset, "units"),
                     attribute(dataset, "claim_class"),
                     attribute(dataset, "definition"),
                     false,
                     dataset.type() != h5::Type::text,
                     {},
                     {},
                     is_integer(dataset.type())};
  column.swept = dataset.attribute_type("swept") != h5::Type::other && dataset.number<std::int32_t>("swept") != 0;
  column.texts = texts_of(dataset, column.numeric ? &column.numbers : nullptr);
  check_values(dataset, column);
  return column;
}

h5::File open_result(const std::string& path) {
  if (!std::filesystem::exists(path)) throw UserError(path, "does not exist", "name a file that 'moekv run' or 'moekv merge' wrote");
  h5::File file = h5::File::open(path);
  if (file.attribute_type("schema") != h5::Type::text || file.text("schema") != run_file_schema)
    throw UserError(path, "is not a result file", fmt::format("expected schema {}", run_file_schema));
  return file;
}

PointList read_list(const h5::Group& group, std::size_t n_points) {
  PointList list;
  list.sweep_yaml = group.attribute_type("sweep_yaml") == h5::Type::text ? group.text("sweep_yaml") : "";
  const h5::Dataset rows = group.dataset("point");
  require_rows(rows, rows.n_rows());
  if (!is_integer(rows.type())) refuse_damaged(rows, "its values are no whole numbers");
  for (const std::int64_t point : rows.read<std::int64_t>()) {
    if (point < 0 || static_cast<std::uint64_t>(point) >= n_points) refuse_damaged(rows, fmt::format("{} is no point", point));
    list.points.push_back(static_cast<std::size_t>(point));
  }
  for (const char* name : {"label", "repeat"}) list.columns.push_back(read_column(group, "", name, list.points.size()));
  const h5::Group settings = group.group("setting");
  for (const std::string& name : settings.names()) list.columns.push_back(read_column(settings, "setting", name, list.points.size()));
  return list;
}

/// Quoted where it must be; lines of a text become one, so that a row is a line.
std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted.push_back('"');
    quoted.push_back(c == '\n' || c == '\r' ? ' ' : c);
  }
  quoted.push_back('"');
  return quoted;
}

std::string csv_text(const std::vector<std::string>& heads, const std::vector<const std::vector<std::string>*>& columns, std::size_t n_rows) {
  std::string out;
  const auto row = [&](auto&& cell) {
    for (std::size_t c = 0; c < columns.size(); ++c) {
      if (c > 0) out.push_back(',');
      out.append(csv_cell(cell(c)));
    }
    out.push_back('\n');
  };
  row([&](std::size_t c) { return heads[c]; });
  for (std::size_t i = 0; i < n_rows; ++i) row([&](std::size_t c) { return (*columns[c])[i]; });
  return out;
}

/// The columns of a table of points: identity, what was varied, parameters where asked for, metrics.
std::vector<const PointColumn*> chosen_columns(const PointTable& table, Parameters parameters) {
  std::vector<const PointColumn*> out;
  const auto add = [&](auto&& wanted) {
    for (const PointColumn& column : table.columns) {
      if (wanted(column)) out.push_back(&column);
    }
  };
  add([](const PointColumn& c) { return c.group.empty() && c.name != "point" && c.name != "notes"; });
  add([](const PointColumn& c) { return c.group == "setting"; });
  add([&](const PointColumn& c) {
    return c.group == "param" && (parameters == Parameters::all || c.swept) &&
           (parameters == Parameters::all || table.find("setting", c.name) == nullptr);
  });
  add([](const PointColumn& c) { return c.group == "metric"; });
  return out;
}

}  // namespace

const PointColumn* PointTable::find(std::string_view group, std::string_view name) const {
  const auto it = std::find_if(columns.begin(), columns.end(), [&](const PointColumn& c) { return c.group == group && c.name == name; });
  return it == columns.end() ? nullptr : &*it;
}

const PointColumn* PointList::find(std::string_view name) const {
  const auto it = std::find_if(columns.begin(), columns.end(), [&](const PointColumn& c) { return c.name == name; });
  return it == columns.end() ? nullptr : &*it;
}

std::size_t count_points(const std::string& path) { return open_result(path).dataset("point").n_rows(); }

PointTable read_point_table(const std::string& path) {
  const h5::File file = open_result(path);
  PointTable table;
  table.title = file.text("title");
  if (file.attribute_type("sweep_yaml") == h5::Type::text) table.sweep_yaml = file.text("sweep_yaml");
  table.n_points = file.dataset("point").n_rows();
  for (const std::string& name : file.names()) {
    if (!file.is_group(name)) table.columns.push_back(read_column(file, "", name, table.n_points));
  }
  for (const char* group : {"setting", "param", "metric", "metric_numerator", "metric_denominator"}) {
    if (!file.has(group)) continue;
    const h5::Group members = file.group(group);
    for (const std::string& name : members.names()) table.columns.push_back(read_column(members, group, name, table.n_points));
  }
  if (file.has("list")) {
    const h5::Group lists = file.group("list");
    for (const std::string& name : lists.names()) table.lists.push_back(read_list(lists.group(name), table.n_points));
  }
  for (const char* name : {"point_id", "status"}) {
    if (table.find("", name) == nullptr) throw UserError(path, fmt::format("is damaged: column '{}' is missing", name), "write the file anew");
  }
  return table;
}

std::string to_csv(const PointTable& table, Parameters parameters) {
  std::vector<std::string> heads;
  std::vector<const std::vector<std::string>*> columns;
  std::set<std::string> used;
  for (const PointColumn* column : chosen_columns(table, parameters)) {
    heads.push_back(used.insert(column->name).second ? column->name : column->group + "/" + column->name);
    columns.push_back(&column->texts);
  }
  return csv_text(heads, columns, table.n_points);
}

std::string to_json(const PointTable& table, Parameters parameters) {
  using OrderedJson = nlohmann::ordered_json;
  OrderedJson rows = OrderedJson::array();
  const auto columns = chosen_columns(table, parameters);
  for (std::size_t i = 0; i < table.n_points; ++i) {
    OrderedJson row = OrderedJson::object();
    for (const PointColumn* column : columns) {
      OrderedJson& place = column->group.empty() ? row[column->name] : row[column->group][column->name];
      if (!column->numeric)
        place = column->texts[i];
      else if (const auto whole = parse_whole<std::int64_t>(column->texts[i]); column->whole && whole)
        place = *whole;
      else
        place = std::isfinite(column->numbers[i]) ? OrderedJson(column->numbers[i]) : OrderedJson(nullptr);
    }
    rows.push_back(std::move(row));
  }
  return json_text(rows, 1);
}

std::string record_csv(const std::string& path, const std::string& kind) {
  const h5::File file = open_result(path);
  if (!file.has("record") || !file.has("record/" + kind)) {
    std::vector<std::string> kinds;
    if (file.has("record")) kinds = file.group("record").names();
    throw UserError(path, fmt::format("has no record '{}'", kind), suggest_name(kind, {kinds.begin(), kinds.end()}));
  }
  const h5::Group group = file.group("record/" + kind);
  std::vector<std::string> heads;
  std::vector<std::vector<std::string>> values;
  for (const std::string& name : group.names()) {
    if (name == "row") continue;
    const h5::Dataset dataset = group.dataset(name);
    require_rows(dataset, group.dataset("row").n_rows());
    if (dataset.type() == h5::Type::text && name != "digest") refuse_damaged(dataset, "its values are text, not numbers");
    heads.push_back(name);
    values.push_back(texts_of(dataset, nullptr));
  }
  std::vector<const std::vector<std::string>*> columns;
  for (const auto& column : values) columns.push_back(&column);
  return csv_text(heads, columns, values.empty() ? 0 : values.front().size());
}

}  // namespace moekv
