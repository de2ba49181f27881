// Builds the tree from yaml-cpp's events, because its own nodes lose duplicate keys and the places of keys.
#include "config/document.hpp"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

namespace moekv {
namespace {

constexpr std::size_t max_file_bytes = std::size_t{1} << 20;
constexpr std::size_t max_depth = 64;

/// Builds the tree from yaml-cpp's events. Keys and values alternate inside a map; `pending_` holds the key that waits for its value.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::shared_ptr<const TextSource> source, std::vector<Problem>& problems) : source_(std::move(source)), problems_(problems) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++n_documents_ == 2)
      problem(mark, "a second document starts here", "one text holds one mapping: split the file, or remove a stray comma or bracket");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { leaf(mark, NodeKind::null, {}); }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t, const std::string& text) override { leaf(mark, NodeKind::scalar, text); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    const bool merge = !stack_.empty() && stack_.back().has_key && stack_.back().key == "<<";
    if (!merge) problem(mark, "aliases (*name) are not supported", "write the value again");
    leaf(mark, NodeKind::null, {});
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(mark, NodeKind::sequence);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override { open(mark, NodeKind::map); }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

  [[nodiscard]] YamlNode take() { return std::move(root_); }
  [[nodiscard]] int n_documents() const { return n_documents_; }

 private:
  struct Open {
    YamlNode node;
    bool has_key = false;
    std::string key;
    Place key_at;
    bool is_key = false;  // this collection stands where a key belongs
  };

  [[nodiscard]] Place place(const YAML::Mark& mark) const { return {source_, mark.line + 1, mark.column + 1}; }
  void problem(const YAML::Mark& mark, std::string what, std::string suggestion) {
    problems_.push_back(problem_at(place(mark), std::move(what), std::move(suggestion)));
  }

  void leaf(const YAML::Mark& mark, NodeKind kind, const std::string& text) {
    if (!stack_.empty() && stack_.back().node.kind == NodeKind::map && !stack_.back().has_key) return begin_key(mark, text);
    YamlNode node;
    node.kind = kind;
    node.text = text;
    node.at = place(mark);
    add(std::move(node));
  }

  void begin_key(const YAML::Mark& mark, const std::string& text) {
    Open& top = stack_.back();
    top.has_key = true;
    top.key = text;
    top.key_at = place(mark);
  }

  void open(const YAML::Mark& mark, NodeKind kind) {
    if (stack_.size() >= max_depth) throw YAML::ParserException(mark, fmt::format("nested more than {} levels deep", max_depth));
    Open next;
    next.node.kind = kind;
    next.node.at = place(mark);
    next.is_key = !stack_.empty() && stack_.back().node.kind == NodeKind::map && !stack_.back().has_key;
    if (next.is_key) problem(mark, "a list or mapping cannot be a key", "keys are names");
    stack_.push_back(std::move(next));
  }

  void close() {
    Open top = std::move(stack_.back());
    stack_.pop_back();
    if (top.is_key) {
      stack_.back().has_key = true;
      stack_.back().key.clear();
      stack_.back().key_at = top.node.at;
    } else {
      add(std::move(top.node));
    }
  }

  void add(YamlNode node) {
    if (stack_.empty()) {
      if (n_documents_ == 1) root_ = std::move(node);
      return;
    }
    Open& top = stack_.back();
    if (top.node.kind == NodeKind::sequence) {
      top.node.items.push_back(std::move(node));
      return;
    }
    top.has_key = false;
    add_entry(top.node, {std::move(top.key), top.key_at, std::move(node)});
  }

  void add_entry(YamlNode& map, YamlEntry entry) {
    if (entry.key == "<<") {
      problems_.push_back(problem_at(entry.at, "merge keys (<<) are not supported", "write the keys out"));
    } else if (map.find(entry.key) != nullptr) {
      const auto first = std::find_if(map.entries.begin(), map.entries.end(), [&](const YamlEntry& e) { return e.key == entry.key; });
      problems_.push_back(
          problem_at(entry.at, fmt::format("duplicate key '{}'", entry.key), fmt::format("first given in line {}; keep one", first->at.line)));
    } else {
      map.entries.push_back(std::move(entry));
    }
  }

  std::shared_ptr<const TextSource> source_;
  std::vector<Problem>& problems_;
  std::vector<Open> stack_;
  YamlNode root_;
  int n_documents_ = 0;
};

void split_lines(const std::string& text, TextSource& source) {
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    source.lines.push_back(line);
  }
}

/// yaml-cpp blames the wrong thing where a tab indents; -1 when no line is indented by one.
int tab_line(const TextSource& source) {
  for (std::size_t i = 0; i < source.lines.size(); ++i) {
    const std::size_t first = source.lines[i].find_first_not_of(" \t");
    if (first != std::string::npos && source.lines[i].substr(0, first).find('\t') != std::string::npos) return static_cast<int>(i) + 1;
  }
  return -1;
}

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const {
  const auto it = std::find_if(entries.begin(), entries.end(), [&](const YamlEntry& e) { return e.key == key; });
  return it == entries.end() ? nullptr : &it->value;
}

YamlNode* YamlNode::find(std::string_view key) { return const_cast<YamlNode*>(std::as_const(*this).find(key)); }

Problem problem_at(const Place& place, std::string what, std::string suggestion) {
  if (!place.source) return {{}, std::move(what), std::move(suggestion)};
  const TextSource& source = *place.source;
  if (source.command_line || place.line == 0) return {source.name, std::move(what), std::move(suggestion)};
  Problem problem{fmt::format("{}:{}:{}", source.name, place.line, place.column), std::move(what), std::move(suggestion)};
  if (static_cast<std::size_t>(place.line) <= source.lines.size()) {
    const std::string& line = source.lines[static_cast<std::size_t>(place.line) - 1];
    std::string indent = line.substr(0, std::min(line.size(), static_cast<std::size_t>(place.column) - 1));
    for (char& c : indent) c = c == '\t' ? '\t' : ' ';
    problem.excerpt = fmt::format("{:5} | {}\n      | {}^", place.line, line.substr(0, 160), indent.substr(0, 160));
  }
  return problem;
}

std::string describe(const YamlNode& node) {
  switch (node.kind) {
    case NodeKind::map:
      return "a mapping";
    case NodeKind::sequence:
      return "a list";
    case NodeKind::scalar:
      return fmt::format("'{}'", node.text.substr(0, 60));
    default:
      return "nothing";
  }
}

YamlNode parse_yaml(const std::string& text, const std::shared_ptr<TextSource>& source, std::vector<Problem>& problems) {
  split_lines(text, *source);
  TreeBuilder builder(source, problems);
  const std::size_t before = problems.size();
  try {
    std::istringstream in(text);
    YAML::Parser parser(in);
    while (builder.n_documents() < 2 && parser.HandleNextDocument(builder)) {  // behind a stray comma there is a next one for ever
    }
  } catch (const YAML::Exception& e) {
    problems.resize(before);  // what else was found may follow from the broken syntax
    if (const int line = tab_line(*source); line > 0) {
      problems.push_back(problem_at({source, line, 1}, "a tab indents this line", "YAML indents with spaces only"));
    } else {
      const bool placed = e.mark.line >= 0 && e.mark.column >= 0;
      problems.push_back(problem_at({source, placed ? e.mark.line + 1 : 0, placed ? e.mark.column + 1 : 0}, "not valid YAML: " + e.msg,
                                    "check indentation, brackets and quotes from this line upwards"));
    }
    return {};
  }
  return builder.take();
}

bool read_text_file(const std::string& path, std::string& text, std::vector<Problem>& problems) {
  const auto fail = [&](std::string what, std::string suggestion) {
    problems.push_back({path, std::move(what), std::move(suggestion)});
    return false;
  };
  std::error_code ec;
  if (!std::filesystem::exists(path, ec)) return fail("no such file", "check the path");
  if (!std::filesystem::is_regular_file(path, ec)) return fail("not a regular file", "name a YAML file");
  if (std::filesystem::file_size(path, ec) > max_file_bytes)
    return fail("larger than 1 MiB", "a configuration is a few kilobytes of YAML; is this a trace?");
  std::ifstream in(path, std::ios::binary);
  text.assign(std::istreambuf_iterator<char>(in), {});
  if (!in) return fail("cannot be read", "check its permissions");
  const auto binary =
      std::find_if(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 32 && c != '\n' && c != '\r' && c != '\t'; });
  if (binary != text.end()) return fail(fmt::format("holds a control character at byte {}", binary - text.begin()), "a configuration is UTF-8 text");
  return true;
}

void merge_over(YamlNode& base, const YamlNode& over) {
  if (base.kind != NodeKind::map || over.kind != NodeKind::map) {
    base = over;
    return;
  }
  for (const YamlEntry& entry : over.entries) {
    if (YamlNode* existing = base.find(entry.key)) {
      merge_over(*existing, entry.value);
    } else {
      base.entries.push_back(entry);
    }
  }
}

}  // namespace moekv
