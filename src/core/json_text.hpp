// JSON as text.
#pragma once

#include <string>

namespace moekv {

/// Bytes that are not UTF-8 are replaced: names of files and models may hold any. `indent` < 0 puts all on one line.
template <class Json>
[[nodiscard]] std::string json_text(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace moekv
