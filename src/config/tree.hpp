// From text to one tree of keys: overrides of the command line, short forms, included model and cluster files, unknown keys.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "config/document.hpp"

namespace moekv {

/// Model and cluster files that trees with a common origin include, as they were first read.
struct IncludedFiles {
  struct File {
    std::string path;  // empty: there is none
    YamlNode root;
  };
  std::map<std::array<std::string, 3>, File> files;  // by kind, name and the directory where the name stands
};

/// The tree of a configuration after includes and overrides, and what stands in it.
struct ConfigTree {
  YamlNode root;
  std::string text;                              // the file as given, overrides appended as comments
  std::map<std::string, const YamlNode*> given;  // sections and keys that are present; points into root
  std::set<std::string> failed;                  // paths whose values could not be read; a section stands for all below
  std::shared_ptr<IncludedFiles> included;       // of all copies of this tree; null: every copy reads its files itself
};

/// One value to be laid over a configuration; null removes the key. The value knows where it was written.
struct Assignment {
  std::string path;  // "eviction.policy"
  YamlNode value;
  std::string text;  // "eviction.policy=lru"
};
/// Reads "key.path=value", the `index`-th of the command line (from 0). Returns whether it could be read; appends problems.
[[nodiscard]] bool parse_override(const std::string& text, std::size_t index, Assignment& out, std::vector<Problem>& problems);
/// The same for all of a command line; those that cannot be read are left out.
[[nodiscard]] std::vector<Assignment> parse_overrides(const std::vector<std::string>& texts, std::vector<Problem>& problems);

/// Reads the file into tree.text and tree.root, without includes and without checks of names. Returns false where nothing can be read.
[[nodiscard]] bool read_root(const std::string& path, ConfigTree& tree, std::vector<Problem>& problems);
/// Lays the values over tree.root in their order, includes model and cluster files, and finds what is given; once per tree.
void complete_tree(const std::vector<Assignment>& values, ConfigTree& tree, std::vector<Problem>& problems);

/// Reads, merges and checks names; appends every problem. Returns false where nothing can be read from the tree.
[[nodiscard]] bool read_tree(const std::string& path, const std::vector<std::string>& overrides, ConfigTree& tree, std::vector<Problem>& problems);
/// The same for text that stands in tree.text already; `source` names it in messages.
[[nodiscard]] bool parse_tree(const std::shared_ptr<TextSource>& source, const std::vector<std::string>& overrides, ConfigTree& tree,
                              std::vector<Problem>& problems);

}  // namespace moekv
