// The one table of every configuration key. It drives parsing, unknown-key detection, help, the canonical resolved text and the digest.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "config/key.hpp"

namespace moekv {

/// Every key, in canonical order; a parameter that several rules have stands once per rule.
[[nodiscard]] const std::vector<Key>& schema();

/// True for "eviction", "eviction.protect", ...: a mapping that holds keys. "" is the document.
[[nodiscard]] bool is_section(std::string_view path);
/// True where a key (of any rule) has this path.
[[nodiscard]] bool is_key(std::string_view path);
/// Names directly below a section, without repetition.
[[nodiscard]] std::vector<std::string_view> names_below(std::string_view section);
/// The key that a section means when it is written as a plain value (`model: X` is `model: {name: X}`); empty when it has none.
[[nodiscard]] std::string_view short_form(std::string_view section);

struct ResolvedText {
  std::string yaml;    // canonical, every key that applies, defaults included; reading it back gives the same specification
  std::string digest;  // XXH3-128 (hex) of what decides: `yaml` without labels, backend, transport, threads and graphs, with file names for paths
};
[[nodiscard]] ResolvedText resolve(const RunSpec& spec);
/// One key of a specification with its value, for result files.
struct KeyValue {
  std::string path, value, unit, doc;
};
/// Those whose path begins with one of `prefixes`.
[[nodiscard]] std::vector<KeyValue> resolved_keys(const RunSpec& spec, std::initializer_list<std::string_view> prefixes = {""});
/// Every key with type, unit, default, allowed values and meaning, for `moekv list keys`.
[[nodiscard]] std::string config_help();

// The parts of the table, one function per file.
void add_general_keys(std::vector<Key>& keys);
void add_model_keys(std::vector<Key>& keys);
void add_trace_keys(std::vector<Key>& keys);
void add_cluster_keys(std::vector<Key>& keys);
void add_cache_keys(std::vector<Key>& keys);
void add_load_keys(std::vector<Key>& keys);

}  // namespace moekv
