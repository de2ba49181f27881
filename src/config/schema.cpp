// The assembled table, and what is made from it: sections, the resolved text, the digest, the help.
#include "config/schema.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <set>

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
      {"model", "name"},          {"cluster.network", "name"}, {"routing", "router"}, {"eviction", "policy"},       {"compression", "codec"},
      {"eviction.allocator", "name"},
      {"compression.k", "codec"}, {"compression.v", "codec"},  {"trace", "path"},     {"trace.synthetic", "preset"}};
  for (const auto& [name, key] : forms) {
    if (name == section) return key;
  }
  return {};
}

namespace {

/// Writes the rows as nested block mappings; opens a section where the path leaves the previous row's.
class BlockWriter {
 public:
  void add(const std::string& path, const std::string& value) {
    std::vector<std::string> parts;
    for (std::size_t begin = 0; begin <= path.size();) {
      const std::size_t end = std::min(path.find('.', begin), path.size());
      parts.push_back(path.substr(begin, end - begin));
      begin = end + 1;
    }
    std::size_t common = 0;
    while (common + 1 < parts.size() && common < open_.size() && open_[common] == parts[common]) ++common;
    open_.resize(common);
    for (; common + 1 < parts.size(); ++common) {
      text_ += fmt::format("{:{}}{}:\n", "", 2 * common, parts[common]);
      open_.push_back(parts[common]);
    }
    text_ += fmt::format("{:{}}{}: {}\n", "", 2 * common, parts.back(), value);
  }
  [[nodiscard]] std::string take() { return std::move(text_); }

 private:
  std::vector<std::string> open_;
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

}  // namespace

std::string resolved_yaml(const RunSpec& spec) {
  BlockWriter writer;
  for (const Key& key : schema()) {
    if (applies(key, spec)) writer.add(key.path, key.write(spec));
  }
  return writer.take();
}

std::vector<KeyValue> resolved_keys(const RunSpec& spec) {
  std::vector<KeyValue> values;
  for (const Key& key : schema()) {
    if (applies(key, spec)) values.push_back({key.path, key.write(spec), key.unit, key.doc});
  }
  return values;
}

std::string config_digest(const RunSpec& spec) {
  std::string text = fmt::format("semantics_version: {}\n", semantics_version);
  for (const Key& key : schema()) {
    if (!key.decides || !applies(key, spec)) continue;
    std::string value = key.write(spec);
    if (key.type == "path") value = std::filesystem::path(value).filename().string();
    text += key.path + ": " + value + "\n";
  }
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
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
