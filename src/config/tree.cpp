// Overrides, short forms and included files become one tree; names that no key has are found here.
#include "config/tree.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "config/library.hpp"
#include "config/schema.hpp"

namespace moekv {
namespace {

std::string child_path(const std::string& path, const std::string& name) { return path.empty() ? name : path + "." + name; }

/// Turns `section: value` into `section: {key: value}` where the section has a short form.
void expand_short_forms(YamlNode& node, const std::string& path) {
  if (node.kind == NodeKind::scalar && is_section(path) && !short_form(path).empty()) {
    YamlNode map;
    map.kind = NodeKind::map;
    map.at = node.at;
    map.entries.push_back({std::string(short_form(path)), node.at, node});
    node = std::move(map);
  }
  if (!is_section(path)) return;
  for (YamlEntry& entry : node.entries) expand_short_forms(entry.value, child_path(path, entry.key));
}

YamlNode empty_map(const Place& at) {
  YamlNode map;
  map.kind = NodeKind::map;
  map.at = at;
  return map;
}

/// The value replaces what the path names; null removes it.
void apply(YamlNode& root, const Assignment& assignment, std::vector<Problem>& problems) {
  const Place& at = assignment.value.at;
  YamlNode* node = &root;
  std::string_view rest = assignment.path;
  while (true) {
    const std::string name(rest.substr(0, rest.find('.')));
    const bool last = rest.size() == name.size();
    if (name.empty()) {
      problems.push_back(problem_at(at, fmt::format("'{}' is not a path of keys", assignment.path), "write section.key=value"));
      return;
    }
    if (last && assignment.value.kind == NodeKind::null) {
      std::erase_if(node->entries, [&](const YamlEntry& e) { return e.key == name; });
      return;
    }
    YamlNode* next = node->find(name);
    if (next == nullptr) {
      node->entries.push_back({name, at, empty_map(at)});
      next = &node->entries.back().value;
    }
    if (last) {
      *next = assignment.value;
      return;
    }
    if (next->kind != NodeKind::map) *next = empty_map(at);
    node = next;
    rest.remove_prefix(name.size() + 1);
  }
}

YamlNode read_included(const std::string& path, std::string_view kind, std::vector<Problem>& problems) {
  auto source = std::make_shared<TextSource>();
  source->name = path;
  source->directory = std::filesystem::path(path).parent_path().string();
  const std::size_t before = problems.size();
  std::string text;
  YamlNode root;
  if (read_text_file(path, text, problems)) root = parse_yaml(text, source, problems);
  if (root.kind != NodeKind::map && problems.size() == before)
    problems.push_back({path, "holds no mapping of keys", fmt::format("see the other files of configs/{}", kind)});
  return root;
}

/// Lays a section over the file of `kind` that its `name` names, unless the section holds `inline_key` and so stands for itself.
void include_file(YamlNode& root, const std::string& section, std::string_view kind, std::string_view inline_key, ConfigTree& tree,
                  std::vector<Problem>& problems) {
  YamlNode* node = &root;
  for (std::size_t begin = 0; begin <= section.size() && node != nullptr;) {
    const std::size_t end = std::min(section.find('.', begin), section.size());
    node = node->find(section.substr(begin, end - begin));
    begin = end + 1;
  }
  if (node == nullptr || node->kind != NodeKind::map || node->find(inline_key) != nullptr) return;
  const YamlNode* name = node->find("name");
  if (name == nullptr || name->kind != NodeKind::scalar) return;
  const auto fail = [&](std::string what, std::string suggestion) {
    problems.push_back(problem_at(name->at, fmt::format("{}.name: {}", section, what), std::move(suggestion)));
    tree.failed.insert(section);
  };
  IncludedFiles own;
  auto& files = (tree.included != nullptr ? *tree.included : own).files;
  const auto [known, unread] = files.try_emplace({std::string(kind), name->text, name->at.source->directory});
  IncludedFiles::File& file = known->second;
  if (unread) file.path = find_library_file(kind, name->text, name->at.source->directory);
  const std::string& path = file.path;
  if (path.empty()) {
    const std::vector<std::string> names = library_names(kind, name->at.source->directory);
    return fail(fmt::format("no file '{}' in configs/{}", name->text, kind), suggest_name(name->text, {names.begin(), names.end()}));
  }
  const std::size_t before = problems.size();
  if (unread) file.root = read_included(path, kind, problems);
  if (problems.size() > before) {
    files.erase(known);  // every tree says what is wrong
    tree.failed.insert(section);
    return;
  }
  YamlNode base = file.root;
  if (base.find("name") != nullptr) std::erase_if(node->entries, [](const YamlEntry& e) { return e.key == "name"; });
  expand_short_forms(base, section);
  merge_over(base, *node);
  *node = std::move(base);
}

/// What to say of a key that nobody knows: a near name of the same section, or the section where the name belongs.
std::string suggest_key(const std::string& section, const std::string& name) {
  if (section.empty() && (name == "base" || name == "axes")) return "a sweep file has it: moekv sweep runs those";
  const std::vector<std::string_view> known = names_below(section);
  if (nearest_name(name, known).empty()) {
    for (const Key& key : schema()) {
      if (key.path.ends_with("." + name)) return fmt::format("did you mean '{}'? known here: {}", key.path, join({known.begin(), known.end()}));
    }
  }
  return suggest_name(name, known);
}

void collect(const YamlNode& node, const std::string& path, ConfigTree& tree, std::vector<Problem>& problems) {
  for (const YamlEntry& entry : node.entries) {
    const std::string child = child_path(path, entry.key);
    if (is_key(child)) {
      if (entry.value.kind == NodeKind::null) {
        problems.push_back(problem_at(entry.at, fmt::format("{}: has no value", child), "give one or remove the key"));
        tree.failed.insert(child);
      } else {
        tree.given[child] = &entry.value;
      }
    } else if (!is_section(child)) {
      problems.push_back(
          problem_at(entry.at, fmt::format("unknown key '{}'{}", entry.key, path.empty() ? "" : " in " + path), suggest_key(path, entry.key)));
      const std::string_view meant = nearest_name(entry.key, names_below(path));
      if (!meant.empty()) tree.failed.insert(child_path(path, std::string(meant)));
    } else if (entry.value.kind == NodeKind::map) {
      tree.given[child] = &entry.value;
      collect(entry.value, child, tree, problems);
    } else if (entry.value.kind != NodeKind::null) {
      const std::vector<std::string_view> known = names_below(child);
      problems.push_back(problem_at(entry.value.at, fmt::format("{}: expected a mapping of keys, got {}", child, describe(entry.value)),
                                    "known here: " + join({known.begin(), known.end()})));
      tree.failed.insert(child);
    }
  }
}

}  // namespace

bool parse_override(const std::string& text, std::size_t index, Assignment& out, std::vector<Problem>& problems) {
  auto source = std::make_shared<TextSource>();
  source->name = fmt::format("<command line>:{}: {}", index + 1, text);
  source->command_line = true;
  const auto fail = [&](std::string what, std::string suggestion) {
    problems.push_back(problem_at({source, 0, 0}, std::move(what), std::move(suggestion)));
    return false;
  };
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) return fail("an override is key.path=value", "for example batch.max_num_seqs=8");
  if (equals + 1 == text.size())
    return fail(text.substr(0, equals) + ": no value after '='", "write key=null to remove a key that the file gives");
  const std::size_t before = problems.size();
  out = {text.substr(0, equals), parse_yaml(text.substr(equals + 1), source, problems), text};
  return problems.size() == before;
}

std::vector<Assignment> parse_overrides(const std::vector<std::string>& texts, std::vector<Problem>& problems) {
  std::vector<Assignment> values;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    Assignment value;
    if (parse_override(texts[i], i, value, problems)) values.push_back(std::move(value));
  }
  return values;
}

namespace {

bool parse_root(const std::shared_ptr<TextSource>& source, ConfigTree& tree, std::vector<Problem>& problems) {
  const std::size_t before = problems.size();
  tree.root = parse_yaml(tree.text, source, problems);
  if (tree.root.kind == NodeKind::map) return true;
  if (problems.size() == before) {
    problems.push_back(problem_at({source, tree.root.kind == NodeKind::null ? 0 : 1, 1},
                                  fmt::format("expected a mapping of keys, got {}", describe(tree.root)),
                                  "a configuration is lines of 'section: ...'; start from configs/quickstart.yaml"));
  }
  return false;
}

}  // namespace

bool read_root(const std::string& path, ConfigTree& tree, std::vector<Problem>& problems) {
  auto source = std::make_shared<TextSource>();
  source->name = path;
  source->directory = std::filesystem::path(path).parent_path().string();
  return read_text_file(path, tree.text, problems) && parse_root(source, tree, problems);
}

void complete_tree(const std::vector<Assignment>& values, ConfigTree& tree, std::vector<Problem>& problems) {
  expand_short_forms(tree.root, "");
  for (const Assignment& value : values) {
    apply(tree.root, value, problems);
    expand_short_forms(tree.root, "");
    if (!tree.text.empty() && tree.text.back() != '\n') tree.text += '\n';
    tree.text += "# override: " + value.text + "\n";
  }
  include_file(tree.root, "model", "models", "layers", tree, problems);
  include_file(tree.root, "cluster.network", "clusters", "source", tree, problems);
  collect(tree.root, "", tree, problems);
}

bool read_tree(const std::string& path, const std::vector<std::string>& overrides, ConfigTree& tree, std::vector<Problem>& problems) {
  if (!read_root(path, tree, problems)) return false;
  complete_tree(parse_overrides(overrides, problems), tree, problems);
  return true;
}

bool parse_tree(const std::shared_ptr<TextSource>& source, const std::vector<std::string>& overrides, ConfigTree& tree,
                std::vector<Problem>& problems) {
  if (!parse_root(source, tree, problems)) return false;
  complete_tree(parse_overrides(overrides, problems), tree, problems);
  return true;
}

}  // namespace moekv
