// The assembled table, and what is made from it: sections, the resolved text, the digest, the help.
#include "config/schema.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "trace/native_file.hpp"

namespace moekv {

const std::vector<Key>& schema() {
  static const std::vector<Key> table = [] {
    std::vector<Key> keys;
    add_general_keys(keys);
    add_model_keys(keys);
    add_trace_keys(keys);
    add_cluster_keys(keys);
    add_cache_keys(keys);
    add_load_keys(keys);
    return keys;
  }();
  return table;
}

bool is_section(std::string_view path) {
  static const std::set<std::string_view> sections = [] {
    std::set<std::string_view> all{""};
    for (const Key& key : schema()) {
      const std::string_view whole = key.path;
      for (std::size_t dot = whole.find('.'); dot != std::string_view::npos; dot = whole.find('.', dot + 1)) all.insert(whole.substr(0, dot));
    }
    return all;
  }();
  return sections.contains(path);
}

bool is_key(std::string_view path) {
  static const std::set<std::string_view> keys = [] {
    std::set<std::string_view> all;
    for (const Key& key : schema()) all.insert(key.path);
    return all;
  }();
  return keys.contains(path);
}

std::vector<std::string_view> names_below(std::string_view section) {
  const std::string prefix = section.empty() ? std::string() : std::string(section) + ".";
  std::vector<std::string_view> names;
  for (const Key& key : schema()) {
    if (!key.path.starts_with(prefix)) continue;
    const std::string_view rest = std::string_view(key.path).substr(prefix.size());
    const std::string_view name = rest.substr(0, rest.find('.'));
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

std::string_view short_form(std::string_view section) {
  constexpr std::pair<std::string_view, std::string_view> forms[] = {
      {"model", "name"},        {"cluster.network", "name"},    {"routing", "router"},      {"eviction", "policy"},
      {"compression", "codec"}, {"eviction.allocator", "name"}, {"compression.k", "codec"}, {"compression.v", "codec"},
      {"trace", "path"},        {"trace.synthetic", "preset"}};
  for (const auto& [name, key] : forms) {
    if (name == section) return key;
  }
  return {};
}

namespace {

/// Writes the rows as nested block mappings; opens a section where the path leaves the previous row's.
class BlockWriter {
 public:
  void add(std::string_view path, std::string_view value) {
    std::size_t depth = 0, begin = 0;
    for (std::size_t end = path.find('.'); end != std::string_view::npos; end = path.find('.', begin)) {
      const std::string_view section = path.substr(begin, end - begin);
      if (depth == open_.size() || open_[depth] != section) {
        open_.resize(depth);
        open_.push_back(section);
        text_.append(2 * depth, ' ').append(section).append(":\n");
      }
      depth += 1;
      begin = end + 1;
    }
    open_.resize(depth);
    text_.append(2 * depth, ' ').append(path.substr(begin)).append(": ").append(value) += '\n';
  }
  [[nodiscard]] std::string take() { return std::move(text_); }

 private:
  std::vector<std::string_view> open_;
  std::string text_;
};

bool applies(const Key& key, const RunSpec& spec) {
  if (!key.written || !key.active(spec)) return false;
  if (key.type == "path" && key.write(spec) == "\"\"") return false;
  const bool in_loop = !spec.model.path.empty();
  if (!in_loop && (key.path.starts_with("score.") || key.path == "trace.prompt_tokens")) return false;
  const bool synthetic = spec.trace.path.empty() && !in_loop;
  return synthetic || !key.path.starts_with("trace.synthetic.");
}

std::string wrap_values(const Key& key) {
  std::string text = key.type;
  if (!key.values.empty()) text = join(key.values);
  if (!key.range.empty()) text += ", " + key.range;
  if (!key.unit.empty() && key.unit != "1") text += ", " + key.unit;
  return text;
}

/// A file by its name and what is in it, wherever it lies.
std::string name_and_content(const std::string& path) {
  const std::string name = std::filesystem::path(path).filename().string();
  std::error_code absent;
  return std::filesystem::is_regular_file(path, absent) ? name + " " + native::file_digest(path) : name;
}

}  // namespace

ResolvedText resolve(const RunSpec& spec) {
  BlockWriter writer;
  std::string decides = fmt::format("semantics_version: {}\n", semantics_version);
  for (const Key& key : schema()) {
    if (!applies(key, spec)) continue;
    const std::string value = key.write(spec);
    writer.add(key.path, value);
    if (key.decides) decides.append(key.path).append(": ").append(key.type == "path" ? name_and_content(value) : value) += '\n';
  }
  const XXH128_hash_t hash = XXH3_128bits(decides.data(), decides.size());
  return {writer.take(), fmt::format("{:016x}{:016x}", hash.high64, hash.low64)};
}

std::vector<KeyValue> resolved_keys(const RunSpec& spec, std::initializer_list<std::string_view> prefixes) {
  std::vector<KeyValue> values;
  for (const Key& key : schema()) {
    const auto begins = [&](std::string_view prefix) { return key.path.starts_with(prefix); };
    if (std::any_of(prefixes.begin(), prefixes.end(), begins) && applies(key, spec)) values.push_back({key.path, key.write(spec), key.unit, key.doc});
  }
  return values;
}

std::string config_help() {
  std::string text;
  std::string_view section = "?";
  const RunSpec untouched;
  for (const Key& key : schema()) {
    const std::string_view own = std::string_view(key.path).substr(0, key.path.find('.'));
    if (own != section && key.path.find('.') != std::string::npos) text += fmt::format("\n{}:\n", own);
    section = key.path.find('.') != std::string::npos ? own : std::string_view();
    const std::string standard = key.write(untouched);
    const bool none = standard.empty() || standard == "\"\"" || standard == "[]";
    text += fmt::format("  {} = {}   ({})\n      {}{}\n", key.path, none ? std::string_view("-") : std::string_view(standard), wrap_values(key),
                        key.rule.empty() ? "" : "[" + key.rule + "] ", key.doc);
  }
  return text;
}

}  // namespace moekv
