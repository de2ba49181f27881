// Collects the columns of all points and writes them: rows of records one point after another, scalars along the dimension `point`.
#include "results/merged_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "core/number_text.hpp"
#include "io/pending_file.hpp"
#include "results/column_table.hpp"
#include "results/merged_columns.hpp"
#include "results/shared_settings.hpp"

namespace moekv {
namespace {

class MergedWriter {
 public:
  /// `index`: what the rows of the group's columns are.
  MergedWriter(h5::Group& group, const std::vector<std::int32_t>& index) : group_(group), n_(index.size()), scale_(make_scale(index)) {}

  template <class T>
  h5::Dataset column(const std::string& name, const std::vector<T>& values, std::string_view definition) {
    auto dataset = group_.write(name, values);
    return finish(std::move(dataset), definition);
  }
  h5::Dataset column(const std::string& name, const std::vector<std::string>& texts, std::string_view definition) {
    std::vector<std::string> clean;
    for (const std::string& text : texts) clean.push_back(valid_utf8(text));
    return finish(group_.write(name, clean), definition);
  }

  /// As the native type that every value of the column has: whole numbers, numbers (NaN where missing), truth values or text. Whole numbers that no
  /// double holds stay exact.
  h5::Dataset column(const std::string& name, const TextColumn& column);

 private:
  h5::Dataset make_scale(const std::vector<std::int32_t>& index) {
    auto scale = group_.write("point", index);
    scale.make_scale("point");
    return scale;
  }
  h5::Dataset finish(h5::Dataset dataset, std::string_view definition) {
    dataset.attach_scale(scale_, 0);
    dataset.set("definition", definition);
    return dataset;
  }

  h5::Group& group_;
  std::size_t n_;
  h5::Dataset scale_;
};

h5::Dataset MergedWriter::column(const std::string& name, const TextColumn& column) {
  std::vector<std::int64_t> integers(n_, 0);
  std::vector<double> reals(n_, std::numeric_limits<double>::quiet_NaN());
  std::vector<std::uint8_t> flags(n_, 0);
  std::vector<std::string> texts(n_);
  bool integer = true, real = true, flag = true;
  for (std::size_t i = 0; i < n_; ++i) {
    if (!column.values[i]) {
      integer = flag = false;
      continue;
    }
    const std::string& text = texts[i] = *column.values[i];
    const auto whole = parse_whole<std::int64_t>(text);
    const auto number = real_of(text);
    integers[i] = whole.value_or(0);
    reals[i] = number.value_or(reals[i]);
    flags[i] = text == "true" ? 1 : 0;
    integer = integer && whole.has_value();
    real = real && number.has_value();
    flag = flag && (text == "true" || text == "false");
  }
  if (integer) return this->column(name, integers, column.definition);
  if (real) return this->column(name, reals, column.definition);
  if (!flag) return this->column(name, texts, column.definition);
  auto dataset = this->column(name, flags, column.definition);
  name_truth_values(dataset);
  return dataset;
}

template <class T, class Get>
std::vector<T> column_values(const std::vector<MergedPoint>& points, Get&& get) {
  std::vector<T> out;
  for (const MergedPoint& point : points) out.push_back(get(point));
  return out;
}

/// By point the numbers of the lists that name it, separated by blanks.
std::vector<std::string> list_numbers(const std::vector<MergedPoint>& points, const std::vector<SweepList>& sweeps) {
  std::map<std::string, std::string> numbers;
  for (std::size_t number = 0; number < sweeps.size(); ++number) {
    for (const ListedPoint& point : sweeps[number].points) numbers[point.id] += fmt::format("{}{}", numbers[point.id].empty() ? "" : " ", number);
  }
  return column_values<std::string>(points, [&](const MergedPoint& p) { return numbers[p.info.id]; });
}

/// Whether it must be told which points are of which sweep: there are several, or points of none.
bool has_lists(const std::vector<MergedPoint>& points, const std::vector<SweepList>& sweeps) {
  if (sweeps.size() != 1) return sweeps.size() > 1;
  const std::vector<ListedPoint>& listed = sweeps.front().points;
  return std::any_of(points.begin(), points.end(), [&](const MergedPoint& p) {
    return std::find_if(listed.begin(), listed.end(), [&](const ListedPoint& l) { return l.id == p.info.id; }) == listed.end();
  });
}

void write_points(MergedWriter& writer, const std::vector<MergedPoint>& points, const std::vector<SweepList>& sweeps, const Collected& all) {
  using Text = std::string;
  writer.column("point_id", column_values<Text>(points, [](const MergedPoint& p) { return p.info.id; }), point_definition("point_id"));
  writer.column("label", column_values<Text>(points, [](const MergedPoint& p) { return p.info.label; }), point_definition("label"));
  writer.column("repeat", column_values<std::int64_t>(points, [](const MergedPoint& p) { return p.info.repeat; }), point_definition("repeat"));
  if (has_lists(points, sweeps))
    writer.column("lists", list_numbers(points, sweeps), "numbers of the sweeps' lists that name the point; comparisons stay within a list");
  auto status = writer.column("status", column_values<std::uint8_t>(points, [](const MergedPoint& p) { return static_cast<std::uint8_t>(p.status); }),
                              point_definition("status"));
  name_statuses(status);
  writer.column("error", column_values<Text>(points, [](const MergedPoint& p) { return p.reason; }), point_definition("error"));
  writer.column("attempts", column_values<std::uint16_t>(points, [](const MergedPoint& p) { return static_cast<std::uint16_t>(p.info.attempts); }),
                point_definition("attempts"));
  auto wall =
      writer.column("wall_time", column_values<double>(points, [](const MergedPoint& p) { return p.seconds; }), point_definition("wall_time"));
  describe(wall, {"s", point_definition("wall_time"), "cumulative", "global", "measured"});
  writer.column("started", column_values<Text>(points, [](const MergedPoint& p) { return p.started; }), point_definition("started"));
  writer.column("labels", all.labels, point_definition("labels"));
  writer.column("notes", all.notes, point_definition("notes"));
  writer.column("digest", all.digests, point_definition("digest"));
}

void write_values(h5::File& file, MergedWriter& writer, Collected& all) {
  file.create_group("setting");
  for (const TextColumn& column : all.settings.list()) writer.column("setting/" + column.name, column).set("units", "1");
  file.create_group("param");
  for (const TextColumn& column : all.parameters.list()) {
    auto dataset = writer.column("param/" + column.name, column);
    dataset.set("units", column.unit.empty() ? "1" : column.unit);
    dataset.set("swept", static_cast<std::uint8_t>(column.swept));
  }
  for (const char* group : {"metric", "metric_numerator", "metric_denominator", "model"}) file.create_group(group);
  for (const MetricColumn& m : all.metrics.list()) {
    auto dataset = writer.column("metric/" + m.about.name, m.value, m.about.definition);
    describe(dataset, {m.about.unit, m.about.definition, "cumulative", "global", to_string(m.about.claim)});
    if (m.predicted) {
      auto model = writer.column("model/" + m.about.name, m.model, model_definition);
      describe(model, {m.about.unit, model_definition, "cumulative", "global", "modelled"});
    }
    if (!m.ratio) continue;
    writer.column("metric_numerator/" + m.about.name, m.numerator, "numerator of the metric");
    writer.column("metric_denominator/" + m.about.name, m.denominator, "denominator of the metric");
  }
}

void write_records(h5::File& file, Collected& all) {
  h5::Group group = file.create_group("record");
  const About index{"1", "index of the row's point", "interval", "global", "counted"};
  for_each_record(all.records, [&](const std::string& kind, const auto& rows) {
    using Record = typename std::decay_t<decltype(rows)>::value_type;
    ColumnTable table(group, kind, rows.size());
    table.column("point_index", all.row_points[kind], index);
    for_each_field(Record::metrics, [&](const auto& m) {
      table.column(std::string(m.name), column_of(rows, m.member), {m.unit, m.definition, "interval", to_string(m.scope), to_string(m.claim)});
    });
  });
  const std::vector<std::int32_t>& points = all.row_points["digest"];
  std::vector<std::int64_t> first_steps;
  for (std::size_t i = 0; i < points.size(); ++i)
    first_steps.push_back(i > 0 && points[i] == points[i - 1] ? first_steps.back() + steps_of_digest : 0);
  ColumnTable table(group, "digest", points.size());
  table.column("point_index", points, index);
  write_digests(table, first_steps, all.records.window_digests);
}

/// What several sweeps call their points, each in its own order and words.
void write_lists(h5::File& file, const std::vector<MergedPoint>& points, const std::vector<SweepList>& sweeps) {
  std::map<std::string, std::int32_t> places;
  for (std::size_t i = 0; i < points.size(); ++i) places[points[i].info.id] = static_cast<std::int32_t>(i);
  for (std::size_t number = 0; number < sweeps.size(); ++number) {
    const SweepList& sweep = sweeps[number];
    std::vector<std::int32_t> index;
    std::vector<std::string> labels;
    std::vector<std::int64_t> repeats;
    Collected given(sweep.points.size());
    for (const ListedPoint& point : sweep.points) {
      for (const auto& [key, value] : point.settings) given.add_setting(index.size(), key, value);
      index.push_back(places.at(point.id));
      labels.push_back(point.label);
      repeats.push_back(point.repeat);
    }
    h5::Group group = file.create_group(fmt::format("list/{}", number));
    group.set("sweep_name", valid_utf8(sweep.name));
    group.set("sweep_yaml", valid_utf8(sweep.sweep_yaml));
    MergedWriter writer(group, index);
    writer.column("label", labels, point_definition("label"));
    writer.column("repeat", repeats, point_definition("repeat"));
    group.create_group("setting");
    for (const TextColumn& column : given.settings.list()) writer.column("setting/" + column.name, column).set("units", "1");
  }
}

/// Facts that all points with a result share become attributes, the others columns.
void write_facts(h5::File& file, MergedWriter& writer, Collected& all) {
  h5::Group provenance = file.create_group("provenance");
  provenance.create_group("point");
  const std::set<std::string> own{"/schema", "/Conventions", "/n_points", "/status", "/title", "/created", "/finished"};
  for (const TextColumn& column : all.facts.list()) {
    if (own.contains(column.name)) continue;
    std::set<std::optional<std::string>> values(column.values.begin(), column.values.end());
    if (values.size() > 1) values.erase(std::nullopt);
    const std::size_t slash = column.name.find('/');
    const std::string name = column.name.substr(slash + 1);
    if (values.size() == 1) {
      Facts one;
      one.set(name, all.native.at(column.name));
      write_attributes(slash == 0 ? static_cast<h5::Object&>(file) : provenance, one);
    } else {
      writer.column("provenance/point/" + name, column).set("units", "1");
    }
  }
  write_hosts(provenance, all.hosts);
}

/// The first or last of a fact of all points.
std::string extreme(Collected& all, const std::string& name, bool last) {
  std::string out;
  for (const TextColumn& column : all.facts.list()) {
    if (column.name != name) continue;
    for (const auto& value : column.values) {
      if (value && (out.empty() || (last ? *value > out : *value < out))) out = *value;
    }
  }
  return out;
}

Facts root_facts(Collected& all, const std::vector<MergedPoint>& points, const std::vector<SweepList>& sweeps) {
  std::vector<std::string> names, yamls;
  for (const SweepList& list : sweeps) {
    if (std::find(names.begin(), names.end(), list.name) == names.end()) names.push_back(list.name);
    if (std::find(yamls.begin(), yamls.end(), list.sweep_yaml) == yamls.end()) yamls.push_back(list.sweep_yaml);
  }
  std::sort(names.begin(), names.end());
  std::sort(yamls.begin(), yamls.end());
  const bool complete =
      std::all_of(points.begin(), points.end(), [](const MergedPoint& p) { return p.status == RunStatus::ok || p.status == RunStatus::failed; });
  Facts f;
  f.set("Conventions", "CF-1.10");
  f.set("schema", std::string(run_file_schema));
  f.set("title", names.empty() ? "several runs" : fmt::format("{}", fmt::join(names, ", ")));
  f.set("sweep_name", fmt::format("{}", fmt::join(names, ", ")));
  f.set("sweep_yaml", fmt::format("{}", fmt::join(yamls, "\n---\n")));
  f.set("created", extreme(all, "/created", false));
  f.set("finished", extreme(all, "/finished", true));
  f.set("status", complete ? "complete" : "partial");
  f.set("n_points", static_cast<std::int64_t>(points.size()));
  return f;
}

}  // namespace

void write_merged_file(const std::string& out, std::vector<MergedPoint> points, const std::vector<SweepList>& sweeps, MergedRecords records) {
  Collected all(points.size());
  SharedSettings shared(sweeps);
  for (std::size_t i = 0; i < points.size(); ++i) {
    MergedPoint& point = points[i];
    for (const auto& [key, value] : point.settings) all.add_setting(i, key, value);
    if (!point.place.found()) continue;
    RunFile run = read_result(point.place);
    shared.look_at(i, point, run);
    point.started = run.facts.text("created");
    point.seconds = static_cast<double>(run.outcome.wall_ns) * 1e-9;
    if (point.reason.empty()) point.reason = fmt::format("{}", fmt::join(run.outcome.violations, "\n"));
    all.add(i, std::move(run), records == MergedRecords::keep);
  }
  shared.fill(points, all);
  PendingFile pending(out);
  h5::File file = h5::File::create(pending.temporary_path());
  write_attributes(file, root_facts(all, points, sweeps));
  {
    std::vector<std::int32_t> index(points.size());
    std::iota(index.begin(), index.end(), 0);
    MergedWriter writer(file, index);
    write_points(writer, points, sweeps, all);
    write_values(file, writer, all);
    if (records == MergedRecords::keep) write_records(file, all);
    if (has_lists(points, sweeps)) write_lists(file, points, sweeps);
    write_facts(file, writer, all);
  }
  file.close();
  pending.commit();
}

}  // namespace moekv
