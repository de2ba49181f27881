// Facts as a list, and their way to attributes and back.
#include "results/facts.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace moekv {
namespace {

/// Length of the UTF-8 sequence that starts with `lead`, 0 for a byte that cannot start one.
std::size_t sequence_length(unsigned char lead) {
  if (lead == 0) return 0;
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead < 0xE0) return 2;
  if (lead >= 0xE0 && lead < 0xF0) return 3;
  return lead >= 0xF0 && lead < 0xF5 ? 4 : 0;
}

}  // namespace

void Facts::set(std::string name, FactValue value) {
  const auto it = std::find_if(list_.begin(), list_.end(), [&](const Fact& f) { return f.name == name; });
  if (it != list_.end()) {
    it->value = std::move(value);
  } else {
    list_.push_back({std::move(name), std::move(value)});
  }
}

const FactValue* Facts::find(std::string_view name) const {
  const auto it = std::find_if(list_.begin(), list_.end(), [&](const Fact& f) { return f.name == name; });
  return it == list_.end() ? nullptr : &it->value;
}

std::string Facts::text(std::string_view name) const {
  const FactValue* value = find(name);
  if (value == nullptr) return {};
  if (const auto* list = std::get_if<std::vector<std::string>>(value)) return fmt::format("{}", fmt::join(*list, " "));
  if (const auto* text = std::get_if<std::string>(value)) return *text;
  if (const auto* real = std::get_if<double>(value)) return fmt::format("{}", *real);
  return fmt::format("{}", std::get<std::int64_t>(*value));
}

std::int64_t Facts::integer(std::string_view name, std::int64_t otherwise) const {
  const FactValue* value = find(name);
  const auto* number = value == nullptr ? nullptr : std::get_if<std::int64_t>(value);
  return number == nullptr ? otherwise : *number;
}

std::string valid_utf8(std::string_view text) {
  std::string out(text);
  for (std::size_t i = 0; i < out.size();) {
    const std::size_t length = sequence_length(static_cast<unsigned char>(out[i]));
    bool valid = length > 0 && i + length <= out.size();
    for (std::size_t j = 1; valid && j < length; ++j) valid = (static_cast<unsigned char>(out[i + j]) & 0xC0U) == 0x80U;
    if (!valid) out[i] = '?';
    i += valid ? length : 1;
  }
  return out;
}

void write_attributes(h5::Object& object, const Facts& facts) {
  for (const Fact& fact : facts.list()) {
    if (const auto* integer = std::get_if<std::int64_t>(&fact.value)) object.set(fact.name, *integer);
    if (const auto* real = std::get_if<double>(&fact.value)) object.set(fact.name, *real);
    if (const auto* text = std::get_if<std::string>(&fact.value)) object.set(fact.name, valid_utf8(*text));
    if (const auto* list = std::get_if<std::vector<std::string>>(&fact.value)) {
      std::vector<std::string> clean;
      for (const std::string& text : *list) clean.push_back(valid_utf8(text));
      if (!clean.empty()) object.set(fact.name, clean);
    }
  }
}

Facts read_attributes(const h5::Object& object) {
  Facts facts;
  for (const std::string& name : object.attribute_names()) {
    const h5::Type type = object.attribute_type(name);
    if (type == h5::Type::text) {
      auto texts = object.texts(name);
      if (texts.size() == 1) {
        facts.set(name, std::move(texts.front()));
      } else {
        facts.set(name, std::move(texts));
      }
    } else if (type == h5::Type::f32 || type == h5::Type::f64) {
      const auto values = object.reals(name);
      if (values.size() == 1) facts.set(name, values.front());
    } else if (type != h5::Type::other) {
      const auto values = object.integers(name);
      if (values.size() == 1) facts.set(name, values.front());
    }
  }
  return facts;
}

}  // namespace moekv
