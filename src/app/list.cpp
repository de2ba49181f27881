// moekv list: what a configuration may name, from the same tables that read it.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "app/command.hpp"
#include "app/rule_table.hpp"
#include "config/library.hpp"
#include "config/names.hpp"
#include "config/reader.hpp"
#include "config/schema.hpp"

namespace moekv {
namespace {

void list_models() {
  fmt::print("models (model: NAME)\n  {:20} {:>7} {:>6} {:>14} {:>9} {:>9} {:>14}\n", "name", "layers", "MoE", "heads/kv/d", "E/top-k", "hidden",
             "KV KiB/token");
  for (const std::string& name : library_names("models")) {
    const ModelShape m = read_model(name);
    const auto count = [&](auto test) { return std::count_if(m.layers.begin(), m.layers.end(), test); };
    const auto holding = count([](const LayerShape& l) { return l.attention != AttentionKind::none; });
    const std::string heads =
        m.mla() ? fmt::format("{}/MLA/{}+{}", m.n_heads, m.latent.d_c, m.latent.d_rope) : fmt::format("{}/{}/{}", m.n_heads, m.n_kv_heads, m.d_k);
    const double kib = static_cast<double>(holding) * m.n_kv_heads * m.values_per_entry_head() * 2 / 1024;
    fmt::print("  {:20} {:>7} {:>6} {:>14} {:>9} {:>9} {:>14.1f}\n", name, m.n_layers(), count([](const LayerShape& l) { return l.moe; }), heads,
               fmt::format("{}/{}", m.gate.n_experts, m.gate.top_k), m.hidden, kib);
  }
  fmt::print("  KV KiB/token: bf16, all layers that hold KV\n");
}

void list_clusters() {
  fmt::print("clusters (cluster.network: NAME), modelled\n");
  for (const std::string& name : library_names("clusters")) {
    const ClusterModel c = read_cluster(name);
    fmt::print("  {}: {} ranks a node; inside {} us + {} GB/s, between {} us + {} GB/s; host link {} us + {} GB/s; memory {} GB/s\n      {}\n",
               name, c.ranks_per_node,
               c.intra_node.alpha_us, c.intra_node.bandwidth_gb_s, c.inter_node.alpha_us, c.inter_node.bandwidth_gb_s, c.host_link.alpha_us,
               c.host_link.bandwidth_gb_s, c.memory_bandwidth_gb_s,
               c.source);
  }
}

/// Rules of a catalogue with the parameters that the key table has for the section they are chosen in.
template <class Variant>
void list_rules(std::string_view title, const std::string& section) {
  fmt::print("{}\n", title);
  for (const RuleRow& row : rule_rows<Variant>(section)) {
    fmt::print("  {:16} {}\n", row.text.name, row.text.doc);
    fmt::print("      {}", row.use.reads.empty() ? "" : fmt::format("reads {}; unit {}; ", row.use.reads, row.use.unit));
    if (!row.use.note.empty()) fmt::print("{}; ", row.use.note);
    fmt::print("from {}\n", row.text.source.empty() ? "?" : row.text.source);
    for (const Key* key : row.parameters) {
      const std::string allowed = key->values.empty() ? key->range : join(key->values);
      fmt::print("      {}{}  {}\n", parameter_default(*key), allowed.empty() ? "" : " (" + allowed + ")", key->doc);
    }
  }
}

void list_codecs() {
  list_rules<Codec>("codecs (compression.codec, or compression.k and compression.v)", "compression");
  fmt::print("  Attention reads the codes of these formats themselves (also of parts that are one of them), and decodes other rows to a staging page first:\n"
      "     ");
  for (const Codec& codec : default_rules<Codec>()) {
    if (reads_codes(plane_of(codec, Role::k, 128)) && reads_codes(plane_of(codec, Role::v, 128))) fmt::print(" {}", rule_name(codec));
  }
  fmt::print(
      "\n  Selectors, which multiply a codec's compression (moekv policy codec):\n"
      "      pyramid_budget: entries kept per layer, falling linearly (PyramidKV, arXiv 2406.02069); window = 8, capacity = 512, beta = 20\n"
      "      chunk_retain: the chunks with the highest mean scores (ChunkKV, arXiv 2502.00299); chunk = 10, ratio = 0.5; in a replay pages are the\n"
      "        chunks: eviction.policy chunk_retain\n");
  fmt::print("  PiKV's names stand for:\n     ");
  for (const RuleAlias& a : rule_aliases<Codec>) fmt::print(" {} = {};", a.alias, a.name);
  fmt::print("\n");
}

struct NamedLine {
  std::string_view name, doc;
};
constexpr std::array<NamedLine, 5> layout_lines{{
    {"local", "KV stays on the home rank of its request: the baseline of every saving; map none"},
    {"expert", "a copy under each of the token's experts (PiKV); map expert_affine, hash, pikv_xor, eplb"},
    {"token", "one copy by position (context parallel); map block_cyclic, hash, pikv_xor"},
    {"head", "KV heads divided over ranks (tensor parallel); map none"},
    {"replicated", "every rank stores everything: the paper's own baseline; map none"},
}};
constexpr std::array<NamedLine, 5> map_lines{{
    {"pikv_xor", "shard (t mod n_tok) xor (e mod n_exp), out of range where a modulus is no power of two unless folded (PiKV); n_tok, n_exp, fold"},
    {"expert_affine", "each shard holds a run of experts (expert parallelism)"},
    {"hash", "layout expert: shard by hash of the expert; token: of request and position"},
    {"block_cyclic", "whole pages of positions in turn, from an offset of the request's"},
    {"eplb", "experts with replicas, placed by their loads (DeepSeek EPLB); replicas, load, load_path"},
}};

void list_layouts() {
  fmt::print("layouts (placement.layout) and their maps (placement.map, default first)\n");
  for (const NamedLine& line : layout_lines) fmt::print("  {:16} {}\n", line.name, line.doc);
  fmt::print("maps (placement.map)\n");
  for (const NamedLine& line : map_lines) fmt::print("  {:16} {}\n", line.name, line.doc);
}

/// Text in a cell of a Markdown table.
std::string cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

template <class Variant>
void markdown_rules(std::string_view title, const std::string& section) {
  fmt::print("\n**{}**\n\n| name | what it does | reads | parameters | from |\n|---|---|---|---|---|\n", title);
  for (const RuleRow& row : rule_rows<Variant>(section)) {
    std::vector<std::string> parameters;
    for (const Key* key : row.parameters) parameters.push_back(parameter_default(*key));
    fmt::print("| `{}` | {}{} | {}, per {} | {} | {} |\n", row.text.name, cell(row.text.doc), row.use.note.empty() ? "" : "; " + row.use.note,
               row.use.reads, row.use.unit, fmt::join(parameters, ", "), cell(row.text.source));
  }
}

void markdown_lines(std::string_view title, std::span<const NamedLine> lines) {
  fmt::print("\n**{}**\n\n| name | what it does |\n|---|---|\n", title);
  for (const NamedLine& line : lines) fmt::print("| `{}` | {} |\n", line.name, cell(line.doc));
}

/// What README.md shows.
void list_markdown() {
  fmt::print("Written by `moekv list --markdown`.\n");
  markdown_rules<RouteRule>("Routers (`routing.router`)", "routing");
  markdown_rules<EvictRule>("Eviction policies (`eviction.policy`)", "eviction");
  markdown_rules<Allocator>("Budget allocators (`eviction.allocator`)", "eviction.allocator");
  markdown_rules<SelectRule>("Read-set rules (`read.select`)", "read");
  markdown_rules<Codec>("Codecs (`compression.codec`)", "compression");
  markdown_lines("Layouts (`placement.layout`)", layout_lines);
  markdown_lines("Maps (`placement.map`)", map_lines);
}

using Lister = void (*)();
struct Topic {
  std::string_view name;
  Lister list;
};
constexpr std::array<Topic, 9> topics{{{"models", list_models},
                                       {"clusters", list_clusters},
                                       {"policies", [] { list_rules<EvictRule>("eviction policies (eviction.policy)", "eviction"); }},
                                       {"allocators", [] { list_rules<Allocator>("budget allocators (eviction.allocator)", "eviction.allocator"); }},
                                       {"routers", [] { list_rules<RouteRule>("routers (routing.router)", "routing"); }},
                                       {"selects", [] { list_rules<SelectRule>("read-set rules (read.select)", "read"); }},
                                       {"codecs", list_codecs},
                                       {"layouts", list_layouts},
                                       {"keys", [] { fmt::print("keys = default (type, unit)\n{}", config_help()); }}}};

ExitCode list(const std::string& what, bool markdown) {
  if (markdown) {
    list_markdown();
    return ExitCode::ok;
  }
  std::vector<std::string_view> known;
  for (const Topic& topic : topics) known.push_back(topic.name);
  if (!what.empty() && std::find(known.begin(), known.end(), what) == known.end()) {
    throw UserError("<command line>", fmt::format("nothing to list is called '{}'", what), suggest_name(what, known));
  }
  bool between = false;
  for (const Topic& topic : topics) {
    if (what.empty() ? topic.name == "keys" : topic.name != what) continue;
    if (between) fmt::print("\n");
    topic.list();
    between = true;
  }
  return ExitCode::ok;
}

}  // namespace

void add_list(Command& parent, Action& action) {
  auto what = std::make_shared<std::string>();
  auto markdown = std::make_shared<bool>(false);
  Command* command = parent.add_subcommand("list", "what a configuration may name: models, clusters, rules of every kind, codecs, layouts, keys");
  Option* topic = command->add_option("what", *what,
                                           "models, clusters, policies, allocators, routers, selects, codecs, layouts or keys; default: all but keys");
  command->add_flag("--markdown", *markdown, "the tables of README.md: routers, policies, allocators, read sets, codecs, layouts, maps")->excludes(topic);
  command->footer("example:\n  moekv list keys | less");
  command->callback([what, markdown, &action] { action.run = [what, markdown] { return list(*what, *markdown); }; });
}

}  // namespace moekv
