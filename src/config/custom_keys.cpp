// Readers and writers of paths, lists of layers and budgets, whose values are more than one scalar.
#include "config/custom_keys.hpp"

#include <algorithm>
#include <filesystem>

namespace moekv {

Key path_key(std::string path, std::string doc, std::string& (*access)(RunSpec&)) {
  Key key;
  key.path = std::move(path);
  key.type = "path";
  key.doc = std::move(doc);
  key.read = [access](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    if (!expect_scalar(node, "a path", complain)) return;
    if (node.text.empty()) return complain(node.at, "the path is empty");
    const std::filesystem::path base = node.at.source->directory;
    access(spec) = std::filesystem::absolute(base / node.text).lexically_normal().string();
  };
  key.write = [access](const RunSpec& spec) { return quote(access(const_cast<RunSpec&>(spec))); };
  return key;
}

namespace {

/// "7", "4-7" or "4-20/2".
bool read_layer_range(const YamlNode& node, std::uint32_t limit, std::vector<std::uint16_t>& out, Complaints& complain) {
  if (!expect_scalar(node, "a layer or a range such as 4-7", complain)) return false;
  const std::size_t slash = node.text.find('/');
  const std::string range = node.text.substr(0, slash);
  const std::size_t dash = range.find('-');
  const auto first = parse_unsigned(range.substr(0, dash), "");
  const auto last = dash == std::string::npos ? first : parse_unsigned(range.substr(dash + 1), "");
  const auto stride = slash == std::string::npos ? Parsed<std::uint64_t>{1, {}} : parse_unsigned(node.text.substr(slash + 1), "");
  if (!first.ok() || !last.ok() || !stride.ok() || stride.value == 0 || last.value < first.value) {
    complain(node.at, fmt::format("'{}' is not a layer or a range of layers", node.text), "write 5, 4-7 or 4-20/2 (first-last/stride)");
    return false;
  }
  if (last.value >= limit) {
    complain(node.at, fmt::format("layer {} does not exist", last.value), fmt::format("layers are 0..{}", limit - 1));
    return false;
  }
  for (std::uint64_t l = first.value; l <= last.value; l += std::min<std::uint64_t>(stride.value, limit))
    out.push_back(static_cast<std::uint16_t>(l));
  return true;
}

}  // namespace

bool read_layers(const YamlNode& node, std::uint32_t limit, std::vector<std::uint16_t>& out, Complaints& complain) {
  std::vector<std::uint16_t> layers;
  if (node.kind != NodeKind::sequence) {
    if (!read_layer_range(node, limit, layers, complain)) return false;
  }
  for (const YamlNode& item : node.items) {
    if (!read_layer_range(item, limit, layers, complain)) return false;
  }
  std::sort(layers.begin(), layers.end());
  if (const auto twice = std::adjacent_find(layers.begin(), layers.end()); twice != layers.end()) {
    complain(node.at, fmt::format("layer {} is listed twice", *twice), "list every layer once");
    return false;
  }
  out = std::move(layers);
  return true;
}

std::string write_layers(const std::vector<std::uint16_t>& layers) {
  std::string text;
  for (std::size_t i = 0; i < layers.size();) {
    std::size_t end = i + 1;
    while (end < layers.size() && layers[end] == layers[end - 1] + 1) ++end;
    text += text.empty() ? "" : ", ";
    text += end - i > 2 ? fmt::format("{}-{}", layers[i], layers[end - 1]) : fmt::format("{}", layers[i]);
    i = end - i > 2 ? end : i + 1;
  }
  return "[" + text + "]";
}

namespace {

constexpr std::string_view budget_help = "write 25%, {fraction: 1/4}, {tokens: 1024}, {pages: 64}, {bytes: 2GiB} or unlimited";

void read_budget_fraction(const YamlNode& node, BudgetSpec& budget, Complaints& complain) {
  if (!expect_scalar(node, "a fraction", complain)) return;
  const auto ratio = parse_ratio(node.text);
  if (!ratio.ok()) return complain(node.at, ratio.error, std::string(budget_help));
  if (ratio.value.numerator == 0)
    return complain(node.at, fmt::format("a budget of {} keeps nothing", node.text), "give a fraction above 0 and up to 1");
  if (ratio.value.numerator > ratio.value.denominator)
    return complain(node.at, fmt::format("fraction {} is more than everything", node.text), "give a fraction above 0 and up to 1");
  if (ratio.value.denominator > 1000000000) return complain(node.at, fmt::format("fraction {} is finer than 1e-9", node.text), "use fewer digits");
  budget = {BudgetKind::fraction, 0, ratio.value.numerator, ratio.value.denominator};
}

void read_budget_map(const YamlNode& node, BudgetSpec& budget, Complaints& complain) {
  if (node.entries.size() != 1)
    return complain(node.at, fmt::format("a budget has exactly one of fraction, tokens, pages, bytes; here are {}", node.entries.size()),
                    std::string(budget_help));
  const YamlEntry& entry = node.entries.front();
  if (entry.key == "fraction") return read_budget_fraction(entry.value, budget, complain);
  constexpr std::pair<std::string_view, BudgetKind> kinds[] = {
      {"tokens", BudgetKind::tokens}, {"pages", BudgetKind::pages}, {"bytes", BudgetKind::bytes}};
  for (const auto& [name, kind] : kinds) {
    if (name != entry.key) continue;
    std::uint64_t amount = 0;
    read_value(entry.value, amount, kind == BudgetKind::bytes ? "byte" : std::string(name), Limits{1, 1e18}, complain);
    if (amount > 0) budget = {kind, amount, 1, 1};
    return;
  }
  complain(entry.at, fmt::format("unknown kind of budget '{}'", entry.key), suggest_name(entry.key, {"fraction", "tokens", "pages", "bytes"}));
}

}  // namespace

Key budget_key() {
  Key key;
  key.path = "eviction.budget";
  key.type = "budget";
  key.doc = std::string(
                "resident set of each layer and head group of a request (scope request), over all shards, or of a shard, protection included; "
                "tokens count under each of their experts, a fraction is of prompt and output, rounded to the nearest; ") +
            std::string(budget_help);
  key.read = [](const YamlNode& node, RunSpec& spec, Complaints& complain) {
    BudgetSpec& budget = spec.eviction.budget;
    if (node.kind == NodeKind::map) return read_budget_map(node, budget, complain);
    if (!expect_scalar(node, "a budget", complain)) return;
    if (node.text == "unlimited") {
      budget = {};
    } else if (parse_unsigned(node.text, "byte").ok() && node.text != "0") {
      complain(node.at, fmt::format("'{}' does not say of what", node.text), std::string(budget_help));
    } else {
      read_budget_fraction(node, budget, complain);
    }
  };
  key.write = [](const RunSpec& spec) -> std::string {
    const BudgetSpec& b = spec.eviction.budget;
    switch (b.kind) {
      case BudgetKind::fraction:
        return fmt::format("{{fraction: {}/{}}}", b.numerator, b.denominator);
      case BudgetKind::tokens:
        return fmt::format("{{tokens: {}}}", b.amount);
      case BudgetKind::pages:
        return fmt::format("{{pages: {}}}", b.amount);
      case BudgetKind::bytes:
        return fmt::format("{{bytes: {}}}", b.amount);
      default:
        return "unlimited";
    }
  };
  return key;
}

}  // namespace moekv
