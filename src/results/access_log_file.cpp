// Columns in large chunks: a row at a time would be ninety times slower.
#include "results/access_log_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "io/hdf5.hpp"
#include "io/pending_file.hpp"

namespace moekv {
namespace {

constexpr std::uint64_t block_rows = 1U << 16;
constexpr std::uint32_t max_tokens = 1U << 20;  // of a sampled request

struct EventRow {
  std::uint64_t step = 0;
  AccessEvent event;
};

/// A column: name, unit, what it says, and how a row's field is reached as T.
template <class T, class Row>
struct Column {
  using Value = T;
  const char* name;
  const char* definition;
  T (*get)(const Row&);
  void (*set)(Row&, T);
};

constexpr std::tuple event_columns{
    Column<std::uint64_t, EventRow>{"step", "step of the run", [](const EventRow& r) { return r.step; }, [](EventRow& r, std::uint64_t v) { r.step = v; }},
    Column<std::uint32_t, EventRow>{"shard", "shard", [](const EventRow& r) { return r.event.shard; }, [](EventRow& r, std::uint32_t v) { r.event.shard = v; }},
    Column<std::uint32_t, EventRow>{"request", "index in the trace; 4294967295: the whole shard", [](const EventRow& r) { return r.event.request; },
                                    [](EventRow& r, std::uint32_t v) { r.event.request = v; }},
    Column<std::uint16_t, EventRow>{"layer", "model layer", [](const EventRow& r) { return r.event.layer; },
                                    [](EventRow& r, std::uint16_t v) { r.event.layer = v; }},
    Column<std::uint16_t, EventRow>{"head_group", "group of KV heads", [](const EventRow& r) { return r.event.head_group; },
                                    [](EventRow& r, std::uint16_t v) { r.event.head_group = v; }},
    Column<std::uint16_t, EventRow>{"expert", "expert of the pages; 65535: pages of any", [](const EventRow& r) { return r.event.expert; },
                                    [](EventRow& r, std::uint16_t v) { r.event.expert = v; }},
    Column<std::uint8_t, EventRow>{"side", "1: raw side page of the sink tokens", [](const EventRow& r) { return r.event.side; },
                                   [](EventRow& r, std::uint8_t v) { r.event.side = v; }},
    Column<std::uint8_t, EventRow>{"kind", "0 evicted, 1 budget opened, 2 written, 3 hit, 4 miss, 5 request finished, 6 recalled from the host tier",
                                   [](const EventRow& r) { return static_cast<std::uint8_t>(r.event.kind); },
                                   [](EventRow& r, std::uint8_t v) { r.event.kind = static_cast<AccessKind>(v); }},
    Column<std::uint32_t, EventRow>{"first", "first page, counted from 0 in the full history of request, layer, head group and expert",
                                    [](const EventRow& r) { return r.event.first; }, [](EventRow& r, std::uint32_t v) { r.event.first = v; }},
    Column<std::uint32_t, EventRow>{"count", "pages; of a budget its capacity, 4294967295 for none", [](const EventRow& r) { return r.event.count; },
                                    [](EventRow& r, std::uint32_t v) { r.event.count = v; }}};

template <class T, class Row, T Row::*member>
constexpr Column<T, Row> plain(const char* name, const char* definition) {
  return {name, definition, [](const Row& r) { return r.*member; }, [](Row& r, T v) { r.*member = v; }};
}

constexpr std::tuple row_columns{
    plain<std::uint64_t, AttentionRow, &AttentionRow::step>("step", "step of the run"),
    plain<std::uint32_t, AttentionRow, &AttentionRow::request>("request", "index in the trace"),
    plain<std::uint16_t, AttentionRow, &AttentionRow::layer>("layer", "model layer"),
    plain<std::uint16_t, AttentionRow, &AttentionRow::evicts>("evicts", "1: tokens may leave after this step"),
    plain<std::uint32_t, AttentionRow, &AttentionRow::length>("length", "tokens stored after the step"),
    plain<std::uint32_t, AttentionRow, &AttentionRow::budget>("budget", "tokens that may stay"),
    plain<std::uint32_t, AttentionRow, &AttentionRow::held>("held", "tokens that the step's last query read; length where it has none"),
    plain<std::uint32_t, AttentionRow, &AttentionRow::n_cells>("n_cells", "cells of the row"),
    plain<double, AttentionRow, &AttentionRow::mass>("mass", "exact attention on keys of the step's queries, mean over heads"),
    plain<double, AttentionRow, &AttentionRow::kept>("kept", "the part on tokens that the run read"),
    plain<double, AttentionRow, &AttentionRow::residual>("residual", "the part that no cell tells")};

constexpr std::tuple cell_columns{plain<std::uint32_t, AttentionCell, &AttentionCell::position>("position", "position of the token"),
                                  plain<float, AttentionCell, &AttentionCell::mass>("mass", "attention on it, summed over the step's queries")};

/// Rows of a table, written in blocks of a chunk.
template <class Row, class Columns>
class TableWriter {
 public:
  TableWriter(h5::File& file, const std::string& name, const Columns& columns) : columns_(columns) {
    h5::Group group = file.create_group(name);
    std::apply([&](const auto&... column) { (create(group, column), ...); }, columns_);
  }
  void add(const Row& row) {
    rows_.push_back(row);
    if (rows_.size() == block_rows) flush();
  }
  void flush() {
    std::size_t i = 0;
    std::apply([&](const auto&... column) { (append(datasets_[i++], column), ...); }, columns_);
    rows_.clear();
  }

 private:
  template <class C>
  void create(h5::Group& group, const C& column) {
    datasets_.push_back(group.create_dataset(column.name, h5::type_of<typename C::Value>(), {0}, {{block_rows}, true, 1, true, false}));
    datasets_.back().set("units", "1");
    datasets_.back().set("definition", column.definition);
  }
  template <class C>
  void append(h5::Dataset& dataset, const C& column) {
    std::vector<typename C::Value> values;
    values.reserve(rows_.size());
    for (const Row& row : rows_) values.push_back(column.get(row));
    dataset.append(std::span<const typename C::Value>(values));
  }
  const Columns& columns_;
  std::vector<h5::Dataset> datasets_;
  std::vector<Row> rows_;
};

/// Calls f(row) for every row of a table.
template <class Row, class Columns, class F>
void read_table(const h5::Group& group, const Columns& columns, F&& f) {
  std::vector<h5::Dataset> datasets;
  std::apply([&](const auto&... column) { (datasets.push_back(group.dataset(column.name)), ...); }, columns);
  const std::uint64_t n = datasets.front().n_rows();
  for (const h5::Dataset& d : datasets) {
    if (d.dims().size() != 1 || d.n_rows() != n) throw UserError(d.where(), fmt::format("has not the {} rows of its table", n), "the file is damaged");
  }
  std::vector<Row> rows;
  for (std::uint64_t begin = 0; begin < n; begin += block_rows) {
    rows.assign(std::min(block_rows, n - begin), Row{});
    std::size_t i = 0;
    const auto fill = [&](const auto& column) {
      std::vector<typename std::decay_t<decltype(column)>::Value> values(rows.size());
      datasets[i++].read_rows(begin, rows.size(), values.data());
      for (std::size_t r = 0; r < rows.size(); ++r) column.set(rows[r], values[r]);
    };
    std::apply([&](const auto&... column) { (fill(column), ...); }, columns);
    for (const Row& row : rows) f(row);
  }
}

}  // namespace

struct AccessLogWriter::File {
  explicit File(const std::string& path) : pending(path), file(h5::File::create(pending.temporary_path())), events(file, "event", event_columns) {}
  PendingFile pending;
  h5::File file;
  TableWriter<EventRow, decltype(event_columns)> events;
  std::optional<TableWriter<AttentionRow, decltype(row_columns)>> rows;
  std::optional<TableWriter<AttentionCell, decltype(cell_columns)>> cells;
};

AccessLogWriter::AccessLogWriter(const std::string& path) : file_(std::make_unique<File>(path)) {}
AccessLogWriter::~AccessLogWriter() = default;

void AccessLogWriter::add(std::uint64_t step, std::span<const AccessEvent> events) {
  for (const AccessEvent& event : events) file_->events.add({step, event});
}

void AccessLogWriter::add(std::span<const AttentionRow> rows, std::span<const AttentionCell> cells) {
  if (!file_->rows) {
    file_->rows.emplace(file_->file, "attention", row_columns);
    file_->cells.emplace(file_->file, "attention_cell", cell_columns);
  }
  for (const AttentionRow& row : rows) file_->rows->add(row);
  for (const AttentionCell& cell : cells) file_->cells->add(cell);
}

void AccessLogWriter::finish(const Facts& facts) {
  file_->events.flush();
  if (file_->rows) {
    file_->rows->flush();
    file_->cells->flush();
  }
  write_attributes(file_->file, facts);
  file_->file.set("schema", access_log_schema);
  file_->file.close();
  file_->pending.commit();
}

struct AccessLogFile::File {
  explicit File(const std::string& path) : file(h5::File::open(path, h5::Access::foreign)) {}
  h5::File file;
};

AccessLogFile::AccessLogFile(const std::string& path) : path_(path) {
  if (!std::filesystem::exists(path)) throw UserError(path, "does not exist", "name an access log that 'moekv run --access-log' wrote");
  file_ = std::make_unique<File>(path);
  facts_ = read_attributes(file_->file);
  if (facts_.text("schema") == access_log_schema) return;
  throw UserError(path, fmt::format("is not an access log: attribute 'schema' is '{}'", facts_.text("schema")),
                  "make one with moekv run CONFIG --access-log FILE");
}

AccessLogFile::~AccessLogFile() = default;

bool AccessLogFile::has_attention() const { return file_->file.has("attention"); }

void AccessLogFile::for_each_event(const std::function<void(std::uint64_t, const AccessEvent&)>& f) const {
  read_table<EventRow>(file_->file.group("event"), event_columns, [&](const EventRow& row) {
    if (row.event.kind > AccessKind::recalled)
      throw UserError(path_ + ":/event/kind", fmt::format("{} is no kind of event", static_cast<int>(row.event.kind)), "the file is damaged");
    f(row.step, row.event);
  });
}

void AccessLogFile::for_each_history(const std::function<void(const AttentionHistory&)>& f) const {
  std::vector<AttentionCell> cells;
  read_table<AttentionCell>(file_->file.group("attention_cell"), cell_columns, [&](const AttentionCell& cell) { cells.push_back(cell); });
  std::map<std::pair<std::uint32_t, std::uint16_t>, AttentionHistory> histories;
  std::size_t first = 0;
  const auto damaged = [&](const char* what) { throw UserError(path_ + ":/attention", what, "the file is damaged"); };
  read_table<AttentionRow>(file_->file.group("attention"), row_columns, [&](const AttentionRow& row) {
    AttentionHistory& h = histories[{row.request, row.layer}];
    if (row.n_cells > cells.size() - first) damaged("rows have more cells than the file");
    if (!h.rows.empty() && row.length < h.rows.back().length) damaged("lengths descend");
    if (row.length > max_tokens) damaged("a length is out of range");
    h.rows.push_back(row);
    h.cells.emplace_back(cells.begin() + static_cast<std::ptrdiff_t>(first), cells.begin() + static_cast<std::ptrdiff_t>(first + row.n_cells));
    first += row.n_cells;
  });
  for (const auto& [pair, history] : histories) f(history);
}

}  // namespace moekv
