// What all reads of a case share: places, unknown fields, the throw.
#include "app/policy_case.hpp"

namespace moekv {

std::string describe(const Json& json) {
  switch (json.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "a list";
    case Json::value_t::string:
      return fmt::format("'{}'", json.get_ref<const std::string&>().substr(0, 40));
    default:
      return json.dump();
  }
}

Case::Case(const Json& object, const std::string& where) : state_(std::make_shared<State>()) {
  state_->parts.push_back({&object, where, {}});
  part_ = &state_->parts.back();
  if (object.is_object()) return;
  note(where, fmt::format("a case is an object, got {}", describe(object)), "");
  part_->object = &state_->nothing;
}

Case::Case(std::shared_ptr<State> state, const Json& object, std::string where) : state_(std::move(state)) {
  for (Part& open : state_->parts) {  // a part that is read in two places is one part
    if (open.where == where) part_ = &open;
  }
  if (part_ != nullptr) return;
  state_->parts.push_back({&object, std::move(where), {}});
  part_ = &state_->parts.back();
}

void Case::note(const std::string& path, const std::string& what, const std::string& suggestion) {
  state_->problems.push_back({path, what, suggestion});
}

void Case::complain(std::string_view name, const std::string& what, const std::string& suggestion) {
  if (name.empty()) return note(where(), what, suggestion);
  note(fmt::format("{}/{}", where(), name), fmt::format("{}: {}", name, what), suggestion);
}

const Json* Case::find(std::string_view name) {
  part_->known.emplace(name);
  const auto it = part_->object->find(std::string(name));
  return it != part_->object->end() ? &*it : nullptr;
}

bool Case::require(std::string_view name) {
  if (has(name)) return true;
  complain("", fmt::format("missing field '{}'", name));
  return false;
}

Case Case::part(std::string_view name) {
  const Json* field = find(name);
  const std::string path = fmt::format("{}/{}", where(), name);
  if (field != nullptr && !field->is_object()) complain(name, fmt::format("expected an object, got {}", describe(*field)));
  return {state_, field != nullptr && field->is_object() ? *field : state_->nothing, path};
}

YamlNode Case::node_of(const Json& json, std::string_view name) const {
  auto source = std::make_shared<TextSource>();
  source->name = fmt::format("{}/{}", where(), name);
  YamlNode node;
  node.kind = NodeKind::scalar;
  node.at.source = std::move(source);
  node.text = json.is_string() ? json.get<std::string>() : json.dump();
  return node;
}

void Case::finish() {
  for (Part& part : state_->parts) {
    const std::vector<std::string_view> known(part.known.begin(), part.known.end());
    for (const auto& [name, value] : part.object->items()) {
      if (part.known.contains(name)) continue;
      note(fmt::format("{}/{}", part.where, name), fmt::format("unknown field '{}'", name),
           known.empty() ? "it takes none" : suggest_name(name, known));
      part.known.insert(name);
    }
  }
  if (failed()) throw UserError(std::exchange(state_->problems, {}));
}

void Case::scalar(const Json& json, std::string_view name, void* to, const ValueType& type, std::string_view unit, Limits limits) {
  const bool fits = type.is_bool ? json.is_boolean() : type.is_number ? json.is_number() : json.is_string();
  if (!fits) return complain(name, fmt::format("expected {}, got {}", type.type, describe(json)));
  Complaints complaints{std::string(name), state_->problems};
  type.read(node_of(json, name), to, unit, limits, complaints);
}

void Case::set_parameters(void* rule, const std::vector<RuleParameter>& parameters) {
  for (const RuleParameter& p : parameters) {
    if (const Json* field = find(p.name)) scalar(*field, p.name, p.field(rule), *p.type, p.unit, p.limits);
  }
}

}  // namespace moekv
