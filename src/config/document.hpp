// YAML text as a tree that keeps every place: duplicate keys, merge keys and aliases, which yaml-cpp lets pass, are problems here.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.hpp"

namespace moekv {

/// Where text came from: a file, or one override of the command line (whose name is "<command line>:n: key=value").
struct TextSource {
  std::string name;
  std::vector<std::string> lines;
  std::string directory;  // relative paths in the text start here; empty = the current directory
  bool command_line = false;
};

/// Line and column count from 1; 0 = the whole source.
struct Place {
  std::shared_ptr<const TextSource> source;
  int line = 0, column = 0;
};

enum class NodeKind { null, scalar, sequence, map };

struct YamlEntry;
struct YamlNode {
  NodeKind kind = NodeKind::null;
  Place at;
  std::string text;                // scalar
  std::vector<YamlNode> items;     // sequence
  std::vector<YamlEntry> entries;  // map, in the order of the file

  [[nodiscard]] const YamlNode* find(std::string_view key) const;
  [[nodiscard]] YamlNode* find(std::string_view key);
};
struct YamlEntry {
  std::string key;
  Place at;
  YamlNode value;
};

/// A problem at a place, with the source line and a caret beneath.
[[nodiscard]] Problem problem_at(const Place& place, std::string what, std::string suggestion = {});

/// "a mapping", "a list", "nothing" or "'text'", for messages.
[[nodiscard]] std::string describe(const YamlNode& node);

/// Parses text that must hold one document. Appends every problem; the tree is what could be read (null when nothing could).
[[nodiscard]] YamlNode parse_yaml(const std::string& text, const std::shared_ptr<TextSource>& source, std::vector<Problem>& problems);

/// Reads a file of at most 1 MiB; a problem where it cannot be read or is not text. Returns whether `text` is usable.
[[nodiscard]] bool read_text_file(const std::string& path, std::string& text, std::vector<Problem>& problems);

/// Lays `over` on `base`: maps are merged key by key, anything else is replaced.
void merge_over(YamlNode& base, const YamlNode& over);

}  // namespace moekv
