// moekv policy: decisions of single rules for given inputs, as JSON in and JSON out, so that anyone can check them by hand.
#include "app/policy.hpp"

#include <fmt/format.h>

#include <array>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>

#include "app/command.hpp"
#include "core/json_text.hpp"

namespace moekv {
namespace {

struct Kind {
  const char* name;
  const char* doc;
  Json (*decide)(Case&);
  const char* example;
};
constexpr std::array<Kind, 5> kinds{{
    {"codec", "what a codec stores of the rows of a page, and what comes back", decide_codec,
     R"({"codec":"int4_token","role":"k","values":[[-1,-0.5,0,0.6,1.1,1.5,2.75,0.25]]})"},
    {"evict", "hits, victims and scores of an eviction rule or bound; capacities of an allocator", decide_evict,
     R"({"rule":"lru","capacity":3,"accesses":["A","B","C","A","D"]})"},
    {"place", "shards of entries, or a placement of experts from loads", decide_place,
     R"({"map":"pikv_xor","params":{"n_tok":6,"n_exp":6,"shards":8},"entries":[[0,0],[1,0]]})"},
    {"route", "experts and weights of tokens", decide_route,
     R"({"rule":"load_balance","params":{"alpha":1},"k":1,"logits":[[1,0.9]],"state":{"load":[0.7,0.3]}})"},
    {"select", "pages that a query reads, from their keys or the bounds of their keys", decide_select,
     R"({"rule":"quest","params":{"budget_pages":2},"page_slots":2,"keys":[[1,0],[0,1],[2,1],[-1,-1],[0,-1]],"query":[1,-2]})"},
}};

constexpr std::size_t max_input_bytes = std::size_t{1} << 28;
constexpr int max_depth = 64;

std::string read_all(std::istream& in, const std::string& name) {
  std::string text;
  std::array<char, 65536> block{};
  while (in.read(block.data(), block.size()) || in.gcount() > 0) {
    text.append(block.data(), static_cast<std::size_t>(in.gcount()));
    if (text.size() > max_input_bytes) throw UserError(name, fmt::format("more than {} bytes", max_input_bytes), "give fewer cases at once");
  }
  return text;
}

/// Parses JSON; a name given twice in one object is a problem, as is nesting deeper than any case needs.
Json parse(const std::string& text, const std::string& name) {
  std::vector<std::set<std::string>> open;
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > max_depth) throw UserError(name, fmt::format("nested more than {} levels deep", max_depth));
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key && !open.back().insert(parsed.get<std::string>()).second) {
      throw UserError(name, fmt::format("field '{}' is given twice in one object", parsed.get<std::string>()), "keep one");
    }
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const Json::exception& e) {
    const std::string what = e.what();
    throw UserError(name, "not JSON: " + what.substr(what.find("] ") == std::string::npos ? 0 : what.find("] ") + 2),
                    "give one case ({...}) or a list of cases ([{...}, ...])");
  }
}

ExitCode run_policy(const Kind& kind, const std::string& path) {
  const bool standard = path.empty() || path == "-";
  const std::string name = standard ? "<stdin>" : path;
  std::ifstream file;
  if (!standard) {
    file.open(path, std::ios::binary);
    if (!file) throw UserError(path, "no such file", "check the path");
  }
  const Json input = parse(read_all(standard ? std::cin : file, name), name);
  const Json single = input.is_array() ? Json() : Json::array({input});
  const Json& cases = input.is_array() ? input : single;
  std::vector<std::string> decisions;
  std::vector<Problem> problems;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    try {
      Case given(cases[i], input.is_array() ? fmt::format("{}#/{}", name, i) : name + "#");
      const Json decision = kind.decide(given);
      given.finish();
      decisions.push_back(json_text(decision));
    } catch (const UserError& e) {
      problems.insert(problems.end(), e.problems().begin(), e.problems().end());
    }
  }
  if (!problems.empty()) throw UserError(std::move(problems));
  if (!input.is_array()) {
    fmt::print("{}\n", decisions.front());
  } else {
    fmt::print("[{}{}\n]\n", decisions.empty() ? "" : "\n  ", fmt::join(decisions, ",\n  "));
  }
  return ExitCode::ok;
}

}  // namespace

void add_policy(Command& parent, Action& action) {
  Command* policy = parent.add_subcommand("policy", "decide JSON cases with the rules of a replay and print the decisions as JSON");
  policy->require_subcommand(1);
  for (const Kind& kind : kinds) {
    auto path = std::make_shared<std::string>();
    Command* command = policy->add_subcommand(kind.name, kind.doc);
    command->add_option("file", *path, "one case or a list of cases; default: standard input");
    command->footer(
        fmt::format("example:\n  echo '{}' | moekv policy {}\nMore cases stand in tests/vectors/{}.", kind.example, kind.name, kind.name));
    command->callback([&kind, path, &action] { action.run = [&kind, path] { return run_policy(kind, *path); }; });
  }
}

}  // namespace moekv
