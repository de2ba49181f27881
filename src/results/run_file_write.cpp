// Writing a run: every dataset carries unit, definition, window, scope, claim class and version, taken from the record's own declaration.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <filesystem>

#include "core/error.hpp"
#include "core/number_text.hpp"
#include "io/pending_file.hpp"
#include "results/build_info.hpp"
#include "results/column_table.hpp"
#include "results/record_table.hpp"
#include "results/run_file.hpp"

namespace moekv {
namespace {

/// Writes values of the run's one point, each attached to the scale /point.
class PointWriter {
 public:
  PointWriter(h5::Group& root, const h5::Dataset& scale) : root_(&root), scale_(&scale) {}

  template <class T>
  h5::Dataset write(const std::string& name, T value) {
    auto dataset = root_->write(name, std::vector<T>{value});
    dataset.attach_scale(*scale_, 0);
    return dataset;
  }
  h5::Dataset write(const std::string& name, const std::string& text) {
    auto dataset = root_->write(name, std::vector<std::string>{valid_utf8(text)});
    dataset.attach_scale(*scale_, 0);
    return dataset;
  }

 private:
  h5::Group* root_;
  const h5::Dataset* scale_;
};

/// A parameter's text as the native type it stands for: whole number, number, truth value (uint8) or text.
h5::Dataset write_parameter(PointWriter& point, const Parameter& parameter) {
  const std::string name = "param/" + parameter.name;
  if (const auto integer = parse_whole<std::int64_t>(parameter.text)) return point.write(name, *integer);
  if (const auto real = real_of(parameter.text)) return point.write(name, *real);
  if (parameter.text == "true" || parameter.text == "false") {
    auto dataset = point.write(name, static_cast<std::uint8_t>(parameter.text == "true"));
    name_truth_values(dataset);
    return dataset;
  }
  return point.write(name, parameter.text);
}

void write_point(PointWriter& point, const RunFile& run) {
  const RunOutcome& out = run.outcome;
  const auto write = [&](const char* name, const auto& value) {
    h5::Dataset dataset = point.write(name, value);
    dataset.set("definition", point_definition(name));
    return dataset;
  };
  write("point_id", run.point.id);
  auto status = write("status", static_cast<std::uint8_t>(run.status));
  name_statuses(status);
  write("label", run.point.label);
  write("repeat", run.point.repeat);
  write("error", fmt::format("{}", fmt::join(out.violations, "\n")));
  write("attempts", static_cast<std::uint16_t>(run.point.attempts));
  auto wall = point.write("wall_time", static_cast<double>(out.wall_ns) * 1e-9);
  describe(wall, {"s", point_definition("wall_time"), "cumulative", "global", "measured"});
  write("started", run.facts.text("created"));
  write("labels", fmt::format("{}", fmt::join(out.labels, " ")));
  write("notes", fmt::format("{}", fmt::join(out.notes, "\n")));
  write("digest", to_hex(out.digest));
}

void write_metrics(h5::File& file, PointWriter& point, const std::vector<Summary>& summary) {
  file.create_group("metric");
  file.create_group("metric_numerator");
  file.create_group("metric_denominator");
  file.create_group("model");
  for (const Summary& s : summary) {
    auto value = point.write("metric/" + s.name, s.value);
    describe(value, {s.unit, s.definition, "cumulative", "global", to_string(s.claim)});
    if (std::isfinite(s.model)) {
      auto model = point.write("model/" + s.name, s.model);
      describe(model, {s.unit, model_definition, "cumulative", "global", "modelled"});
    }
    if (s.numerator == 0 && s.denominator == 0) continue;
    point.write("metric_numerator/" + s.name, s.numerator);
    point.write("metric_denominator/" + s.name, s.denominator);
  }
}

void write_records(h5::File& file, const RunOutcome& outcome) {
  h5::Group records = file.create_group("record");
  for_each_record(outcome, [&](const std::string& name, const auto& rows) {
    using Record = typename std::decay_t<decltype(rows)>::value_type;
    ColumnTable table(records, name, rows.size());
    for_each_field(Record::metrics, [&](const auto& m) {
      table.column(std::string(m.name), column_of(rows, m.member), {m.unit, m.definition, "interval", to_string(m.scope), to_string(m.claim)});
    });
  });
  std::vector<std::int64_t> first_steps(outcome.window_digests.size());
  for (std::size_t i = 0; i < first_steps.size(); ++i) first_steps[i] = steps_of_digest * static_cast<std::int64_t>(i);
  ColumnTable table(records, "digest", first_steps.size());
  write_digests(table, first_steps, outcome.window_digests);
}

void write_provenance(h5::File& file, const RunFile& run) {
  h5::Group group = file.create_group("provenance");
  write_attributes(group, run.provenance);
  write_hosts(group, run.hosts);
}

Facts root_facts(const RunSpec& spec, const RunOutcome& outcome, const Provenance& provenance) {
  const BuildInfo& build = build_info();
  Facts f;
  f.set("Conventions", "CF-1.10");
  f.set("schema", std::string(run_file_schema));
  f.set("title", spec.name);
  f.set("history", provenance.started_utc + " " + provenance.facts.text("argv"));
  f.set("created", provenance.started_utc);
  f.set("finished", utc_now());
  f.set("status", outcome.completed ? "complete" : "partial");
  f.set("n_points", std::int64_t{1});
  f.set("semantics_version", std::int64_t{semantics_version});
  f.set("moekv_version", std::string(build.version));
  f.set("git_commit", std::string(build.git_commit));
  f.set("git_dirty", std::int64_t{build.git_dirty});
  f.set("build_type", std::string(build.build_type));
  f.set("compiler", std::string(build.compiler));
  f.set("cuda_arch", std::string(build.cuda_architectures));
  f.set("backend", spec.backend);
  f.set("model", spec.model.name);
  f.set("seed", static_cast<std::int64_t>(spec.seed));
  f.set("config_path", spec.config_path);
  f.set("config_yaml", spec.config_yaml);
  f.set("config_resolved_yaml", spec.resolved_yaml);
  f.set("config_digest", spec.config_digest);
  return f;
}

}  // namespace

RunStatus status_of(const RunOutcome& outcome) {
  if (!outcome.violations.empty()) return RunStatus::failed;
  return outcome.completed ? RunStatus::ok : RunStatus::interrupted;
}

RunFile make_run_file(const RunSpec& spec, RunOutcome outcome, Provenance provenance) {
  RunFile run;
  run.facts = root_facts(spec, outcome, provenance);
  run.provenance = std::move(provenance.facts);
  run.hosts = std::move(provenance.hosts);
  run.parameters = std::move(provenance.parameters);
  run.status = status_of(outcome);
  run.point.id = spec.config_digest.substr(0, 16);
  run.outcome = std::move(outcome);
  return run;
}

void require_writable(const std::string& path, Existing existing) {
  (void)PendingFile(path);  // throws for a missing or read-only folder
  remove_leftovers(path);
  if (existing == Existing::refuse && std::filesystem::exists(path)) {
    throw UserError(path, "exists already and would be replaced", "choose another name with --out, or move the file away");
  }
}

void write_run_file(const std::string& path, const RunFile& run) {
  PendingFile pending(path);
  h5::File file = h5::File::create(pending.temporary_path());
  write_attributes(file, run.facts);
  {
    h5::Dataset scale = file.write("point", std::vector<std::int32_t>{0});
    scale.make_scale("point");
    PointWriter point(file, scale);
    write_point(point, run);
    file.create_group("param");
    for (const Parameter& parameter : run.parameters) {
      auto dataset = write_parameter(point, parameter);
      dataset.set("units", parameter.unit.empty() ? "1" : parameter.unit);
      dataset.set("definition", valid_utf8(parameter.definition));
      dataset.set("swept", static_cast<std::uint8_t>(parameter.swept));
    }
    write_metrics(file, point, run.outcome.summary);
    write_records(file, run.outcome);
    write_provenance(file, run);
  }
  file.close();
  pending.commit();
}

}  // namespace moekv
