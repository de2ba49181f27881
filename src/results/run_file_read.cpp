// Reading a run back: each column goes into the record field of its name; what does not fit is an error that names file and dataset.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/error.hpp"
#include "results/record_table.hpp"
#include "results/run_file.hpp"

namespace moekv {
namespace {

/// Lines of a text, without the last empty one.
std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

/// The one value of a dataset with a point dimension.
template <class T>
T read_point(const h5::Group& group, const std::string& name) {
  const h5::Dataset dataset = group.dataset(name);
  const auto values = dataset.read<T>(64);
  if (values.size() != 1) throw UserError(dataset.where(), "holds several points", "this command reads the file of one run");
  return values.front();
}
std::string read_point_text(const h5::Group& group, const std::string& name) {
  const h5::Dataset dataset = group.dataset(name);
  const auto values = dataset.read_texts(2);
  if (values.size() != 1) throw UserError(dataset.where(), "holds several points", "this command reads the file of one run");
  return values.front();
}

Digest128 parse_digest(const std::string& hex, const std::string& where) {
  const bool valid = hex.size() == 32 && std::all_of(hex.begin(), hex.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
  if (!valid) throw UserError(where, fmt::format("'{}' is no digest of 32 hexadecimal digits", hex.substr(0, 40)));
  return {std::stoull(hex.substr(0, 16), nullptr, 16), std::stoull(hex.substr(16), nullptr, 16)};
}

ClaimClass parse_claim(const std::string& name, const std::string& where) {
  for (const ClaimClass claim : {ClaimClass::counted, ClaimClass::measured, ClaimClass::modelled, ClaimClass::derived}) {
    if (name == to_string(claim)) return claim;
  }
  throw UserError(where, fmt::format("claim_class '{}' is unknown", name), "known: counted, measured, modelled, derived");
}

/// Rows of a table of `row_bytes` each; refused above 2 GiB so that a hostile size cannot exhaust memory.
std::size_t checked_rows(const h5::Dataset& dataset, std::size_t row_bytes) {
  const std::uint64_t rows = dataset.n_rows();
  if (rows > (std::uint64_t{1} << 31) / row_bytes) throw UserError(dataset.where(), fmt::format("has {} rows, more than fit in 2 GiB", rows));
  return rows;
}

template <class Record>
void read_columns(const h5::Group& group, const std::string& kind, std::vector<Record>& rows, std::vector<std::string>& missing) {
  rows.resize(checked_rows(group.dataset("row"), sizeof(Record)));
  for_each_field(Record::metrics, [&](const auto& m) {
    const std::string name(m.name);
    if (!group.has(name)) {
      missing.push_back(kind + "/" + name);
      return;
    }
    const h5::Dataset dataset = group.dataset(name);
    if (dataset.dims().size() != 1 || dataset.n_rows() != rows.size()) {
      throw UserError(dataset.where(), fmt::format("has not the {} rows of its table", rows.size()), "the file is damaged");
    }
    using T = std::decay_t<decltype(rows.front().*m.member)>;
    const auto values = dataset.read<T>();
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i].*m.member = values[i];
  });
}

void read_records(const h5::Group& records, RunFile& run) {
  for_each_record(run.outcome, [&](const std::string& name, auto& rows) {
    if (records.has(name)) {
      read_columns(records.group(name), name, rows, run.missing);
    } else {
      run.missing.push_back(name);
    }
  });
  const h5::Dataset digests = records.dataset("digest/digest");
  for (const std::string& hex : digests.read_texts()) run.outcome.window_digests.push_back(parse_digest(hex, digests.where()));
}

void read_summary(const h5::File& file, std::vector<Summary>& summary) {
  const h5::Group values = file.group("metric"), numerators = file.group("metric_numerator"), denominators = file.group("metric_denominator");
  std::optional<h5::Group> models;  // files of older builds have none
  if (file.has("model")) models = file.group("model");
  for (const std::string& name : values.names()) {
    const h5::Dataset dataset = values.dataset(name);
    Summary s{name, dataset.text("units"), dataset.text("definition"), parse_claim(dataset.text("claim_class"), dataset.where())};
    s.value = read_point<double>(values, name);
    if (numerators.has(name) && denominators.has(name)) {
      s.numerator = read_point<double>(numerators, name);
      s.denominator = read_point<double>(denominators, name);
    }
    if (models && models->has(name)) s.model = read_point<double>(*models, name);
    summary.push_back(std::move(s));
  }
}

void read_parameters(const h5::Group& group, std::vector<Parameter>& parameters) {
  for (const std::string& name : group.names()) {
    const h5::Dataset dataset = group.dataset(name);
    Parameter p{name, "", dataset.text("units"), dataset.text("definition"), dataset.has_attribute("swept") && dataset.number<std::uint8_t>("swept") != 0};
    switch (dataset.type()) {
      case h5::Type::text:
        p.text = read_point_text(group, name);
        break;
      case h5::Type::u8:
        p.text = read_point<std::uint8_t>(group, name) != 0 ? "true" : "false";
        break;
      case h5::Type::f64:
        p.text = fmt::format("{}", read_point<double>(group, name));
        break;
      default:
        p.text = fmt::format("{}", read_point<std::int64_t>(group, name));
    }
    parameters.push_back(std::move(p));
  }
}

template <class T>
std::vector<T> read_values(const h5::Dataset& dataset) {
  if constexpr (std::is_same_v<T, std::string>) {
    return dataset.read_texts();
  } else {
    return dataset.read<T>();
  }
}

void read_hosts(const h5::Group& group, std::vector<HostFacts>& hosts) {
  hosts.resize(checked_rows(group.dataset("host"), sizeof(HostFacts)));
  for_each_field(HostFacts::fields, [&](const auto& field) {
    const h5::Dataset dataset = group.dataset(std::string(field.name));
    const auto values = read_values<std::decay_t<decltype(hosts.front().*field.member)>>(dataset);
    if (values.size() != hosts.size()) throw UserError(dataset.where(), "has another length than 'host'", "the file is damaged");
    for (std::size_t i = 0; i < hosts.size(); ++i) hosts[i].*field.member = values[i];
  });
}

void read_point_values(const h5::File& file, RunFile& run) {
  RunOutcome& out = run.outcome;
  const auto status = read_point<std::uint8_t>(file, "status");
  if (status >= std::size(run_status_names)) throw UserError(file.path() + ":/status", fmt::format("{} is no status", status), "the file is damaged");
  run.status = static_cast<RunStatus>(status);
  run.point.id = read_point_text(file, "point_id");
  if (file.has("label")) run.point.label = read_point_text(file, "label");
  if (file.has("repeat")) run.point.repeat = read_point<std::int64_t>(file, "repeat");
  run.point.attempts = read_point<std::uint16_t>(file, "attempts");
  out.completed = run.facts.text("status") == "complete";
  out.violations = split(read_point_text(file, "error"), '\n');
  out.labels = split(read_point_text(file, "labels"), ' ');
  out.notes = split(read_point_text(file, "notes"), '\n');
  out.digest = parse_digest(read_point_text(file, "digest"), file.path() + ":/digest");
  out.wall_ns = static_cast<std::int64_t>(read_point<double>(file, "wall_time") * 1e9 + 0.5);
}

}  // namespace

std::string RunFile::parameter(std::string_view name) const {
  const auto it = std::find_if(parameters.begin(), parameters.end(), [&](const Parameter& p) { return p.name == name; });
  return it == parameters.end() ? std::string() : it->text;
}

RunFile read_run_file(const std::string& path) {
  if (!std::filesystem::exists(path)) throw UserError(path, "does not exist", "name a result file that 'moekv run' wrote");
  const h5::File file = h5::File::open(path);
  RunFile run;
  run.path = path;
  run.facts = read_attributes(file);
  if (run.facts.text("schema") != run_file_schema) {
    throw UserError(path, fmt::format("is not a result file: attribute 'schema' is '{}'", run.facts.text("schema")),
                    fmt::format("expected '{}'; a trace is read by 'moekv trace info'", run_file_schema));
  }
  if (const std::size_t n = file.dataset("point").n_rows(); n != 1)
    throw UserError(path, fmt::format("holds {} points, not one", n), "name the result of one run, or the folder of the sweep and a point of it");
  read_point_values(file, run);
  read_parameters(file.group("param"), run.parameters);
  read_summary(file, run.outcome.summary);
  run.has_records = file.has("record");
  if (run.has_records) read_records(file.group("record"), run);
  run.provenance = read_attributes(file.group("provenance"));
  read_hosts(file.group("provenance/host"), run.hosts);
  return run;
}

}  // namespace moekv
