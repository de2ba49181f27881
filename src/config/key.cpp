// What all rows of the key table share: quoting, choices with a nearest name, kinds of nodes.
#include "config/key.hpp"

#include <algorithm>
#include <cctype>

namespace moekv {
namespace {

bool plain_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || std::string_view("_./-+()%").find(c) != std::string_view::npos;
}

/// Words that YAML 1.1 readers take for a boolean or null.
bool reserved(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  constexpr std::string_view words[] = {"true", "false", "yes", "no", "on", "off", "y", "n", "null", "~"};
  return std::find(std::begin(words), std::end(words), text) != std::end(words);
}

/// "-1", "-.5", "-2e3": no other text that begins with '-' is surely plain.
bool negative_number(std::string_view text) {
  const std::size_t digit = text.starts_with("-.") ? 2 : 1;
  return text.size() > digit && text.front() == '-' && std::isdigit(static_cast<unsigned char>(text[digit])) != 0;
}

}  // namespace

std::string quote(const std::string& text) {
  const bool word = !text.empty() && (std::isalpha(static_cast<unsigned char>(text.front())) != 0 || text.front() == '/' || text.front() == '_');
  if (word && !reserved(text) && std::all_of(text.begin(), text.end(), plain_character)) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (c == '\n')
      quoted += "\\n";
    else if (c == '\t')
      quoted += "\\t";
    else if (c == '\r')
      quoted += "\\r";
    else
      quoted += c;
  }
  return quoted + "\"";
}

std::string to_flow(const YamlNode& node) {
  const auto plain = [](const std::string& text) {
    return !text.empty() && !reserved(text) && std::all_of(text.begin(), text.end(), [](char c) { return plain_character(c) || c == ':'; }) &&
           text.back() != ':' && (text.front() != '-' || negative_number(text)) && text.front() != ':' && text.front() != '%';
  };
  std::string text;
  switch (node.kind) {
    case NodeKind::null:
      return "null";
    case NodeKind::scalar:
      return plain(node.text) || node.text == "true" || node.text == "false" ? node.text : quote(node.text);
    case NodeKind::sequence:
      for (const YamlNode& item : node.items) text += (text.empty() ? "" : ", ") + to_flow(item);
      return "[" + text + "]";
    case NodeKind::map:
      for (const YamlEntry& entry : node.entries) text += (text.empty() ? "" : ", ") + quote(entry.key) + ": " + to_flow(entry.value);
      return "{" + text + "}";
  }
  return text;
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

bool read_choice(const YamlNode& node, const std::vector<std::string>& names, std::size_t& index, Complaints& complain) {
  const auto it = std::find(names.begin(), names.end(), node.text);
  if (it != names.end()) {
    index = static_cast<std::size_t>(it - names.begin());
    return true;
  }
  const std::vector<std::string_view> known(names.begin(), names.end());
  complain(node.at, fmt::format("unknown value '{}'", node.text), suggest_name(node.text, known));
  return false;
}

bool expect_scalar(const YamlNode& node, std::string_view expected, Complaints& complain) {
  if (node.kind == NodeKind::scalar) return true;
  complain(node.at, fmt::format("expected {}, got {}", expected, describe(node)));
  return false;
}

Key typed_key(std::string_view path, std::string_view unit, std::string_view doc, const ValueType& type, Limits limits) {
  Key key;
  key.path = path;
  key.type = type.type;
  key.unit = unit;
  key.doc = doc;
  key.values = type.names;
  key.range = type.range(limits);
  return key;
}

Key value_key(std::string_view path, std::string_view unit, std::string_view doc, const ValueType& type, Limits limits, void* (*field)(RunSpec&)) {
  Key key = typed_key(path, unit, doc, type, limits);
  key.read = [=, &type, unit = key.unit](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    type.read(node, field(spec), unit, limits, complain);
  };
  key.write = [=, &type](const RunSpec& spec) { return type.write(field(const_cast<RunSpec&>(spec))); };
  return key;
}

}  // namespace moekv
