// moekv list: what a configuration may name, from the same tables that read it.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "app/command.hpp"
#include "config/library.hpp"
#include "config/names.hpp"
#include "config/reader.hpp"
#include "config/rule_keys.hpp"
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

/// What an eviction rule looks at, and what it evicts where `eviction.unit` does not say.
template <class Rule>
std::string inputs_of() {
  if constexpr (requires { Rule::family; }) {
    std::vector<std::string> in;
    if (evict::needs_mass<Rule>) in.emplace_back("attention mass");
    if (evict::follows_access<Rule>) in.emplace_back("accesses");
    if (evict::needs_payload<Rule>) in.emplace_back("key and value");
    if (evict::needs_cost<Rule>) in.emplace_back("modelled time");
    if (in.empty()) in.emplace_back("nothing");
    const bool tokens = (evict::needs_mass<Rule> || evict::needs_payload<Rule>) && !evict::follows_access<Rule> && !requires { Rule::prefers_pages; };
    return fmt::format("      reads {}; unit {}{}\n", fmt::join(in, " and "), tokens ? "token" : "page",
                       evict::needs_return<Rule> || evict::places<Rule> ? "; only with action demote" : "");
  }
  return {};
}

/// Rules of a catalogue with the parameters that the key table has for the section they are chosen in.
template <class Variant>
void list_rules(std::string_view title, const std::string& section) {
  fmt::print("{}\n", title);
  for_each_rule<Variant>([&](const auto& rule) {
    fmt::print("  {:16} {}\n{}", rule.name, rule.doc, inputs_of<std::decay_t<decltype(rule)>>());
    for (const Key& key : schema()) {
      if (key.rule != rule.name || !key.path.starts_with(section + ".") || key.path.find('.', section.size() + 1) != std::string::npos) continue;
      const std::string allowed = key.values.empty() ? key.range : join(key.values);
      fmt::print("      {} = {}{}  {}\n", key.path.substr(section.size() + 1), key.write(RunSpec{}), allowed.empty() ? "" : " (" + allowed + ")",
                 key.doc);
    }
  });
}

void list_codecs() {
  list_rules<Codec>("codecs (compression.codec, or compression.k and compression.v)", "compression");
  fmt::print("  Attention reads the codes of these formats themselves, and decodes the rows of other codecs to a staging page first:\n     ");
  for_each_rule<Codec>([](const auto& codec) {
    if (reads_codes(codec.plane(Role::k, 128)) && reads_codes(codec.plane(Role::v, 128))) fmt::print(" {}", codec.name);
  });
  fmt::print("\n  PiKV's names stand for:\n     ");
  for (const RuleAlias& a : rule_aliases<Codec>) fmt::print(" {} = {};", a.alias, a.name);
  fmt::print("\n");
}

void list_layouts() {
  fmt::print("layouts (placement.layout) and their maps (placement.map, default first)\n");
  constexpr std::array<std::string_view, 5> docs{"KV stays on the home rank of its request: the baseline of every saving; map none",
                                                 "a copy under each of the token's experts (PiKV); map expert_affine, hash, pikv_xor, eplb",
                                                 "one copy by position (context parallel); map block_cyclic, hash, pikv_xor",
                                                 "KV heads divided over ranks (tensor parallel); map none",
                                                 "every rank stores everything: the paper's own baseline; map none"};
  for (std::size_t i = 0; i < docs.size(); ++i) fmt::print("  {:16} {}\n", enum_names(Layout{})[i], docs[i]);
}

using Lister = void (*)();
struct Topic {
  std::string_view name;
  Lister list;
};
constexpr std::array<Topic, 7> topics{{{"models", list_models},
                                       {"clusters", list_clusters},
                                       {"policies", [] { list_rules<EvictRule>("eviction policies (eviction.policy)", "eviction"); }},
                                       {"routers", [] { list_rules<RouteRule>("routers (routing.router)", "routing"); }},
                                       {"codecs", list_codecs},
                                       {"layouts", list_layouts},
                                       {"keys", [] { fmt::print("keys = default (type, unit)\n{}", config_help()); }}}};

ExitCode list(const std::string& what) {
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

void add_list(CLI::App& parent, Action& action) {
  auto what = std::make_shared<std::string>();
  CLI::App* command = parent.add_subcommand("list", "what a configuration may name: models, clusters, policies, routers, codecs, layouts, keys");
  command->add_option("what", *what, "models, clusters, policies, routers, codecs, layouts or keys; default: all but keys");
  command->footer("example:\n  moekv list keys | less");
  command->callback([what, &action] { action.run = [what] { return list(*what); }; });
}

}  // namespace moekv
