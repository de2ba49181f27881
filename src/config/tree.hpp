// From text to one tree of keys: overrides of the command line, short forms, included model and cluster files, unknown keys.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "config/document.hpp"

namespace moekv {

/// The tree of a configuration after includes and overrides, and what stands in it.
struct ConfigTree {
  YamlNode root;
  std::string text;                              // the file as given, overrides appended as comments
  std::map<std::string, const YamlNode*> given;  // sections and keys that are present; points into root
  std::set<std::string> failed;                  // paths whose values could not be read; a section stands for all below
};

/// Reads, merges and checks names; appends every problem. Returns false where nothing can be read from the tree.
[[nodiscard]] bool read_tree(const std::string& path, const std::vector<std::string>& overrides, ConfigTree& tree, std::vector<Problem>& problems);
/// The same for text that stands in tree.text already; `source` names it in messages.
[[nodiscard]] bool parse_tree(const std::shared_ptr<TextSource>& source, const std::vector<std::string>& overrides, ConfigTree& tree,
                              std::vector<Problem>& problems);

}  // namespace moekv
