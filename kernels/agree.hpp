// What processes of a job must agree on before they begin: nobody waits for a process that has left.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "comm/transport.hpp"
#include "core/error.hpp"

namespace moekv::kernels {

inline std::string text_of(const std::vector<std::byte>& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
inline std::vector<std::byte> bytes_of(const std::string& text) {
  return {std::as_bytes(std::span(text)).begin(), std::as_bytes(std::span(text)).end()};
}

/// Collective. First text that is not empty, of the lowest process, on every process.
inline std::string first_text(Transport& job, const std::string& mine) {
  std::vector<std::byte> first;
  for (const auto& text : job.gather(bytes_of(mine))) {
    if (first.empty()) first = text;
  }
  job.broadcast(first);
  return text_of(first);
}

/// Collective. One line of every process, in their order, on every process.
inline std::vector<std::string> all_lines(Transport& job, const std::string& mine) {
  std::string joined;
  for (const auto& line : job.gather(bytes_of(mine))) joined += text_of(line) + "\n";
  std::vector<std::byte> bytes = bytes_of(joined);
  job.broadcast(bytes);
  std::vector<std::string> lines;
  for (std::string rest = text_of(bytes); !rest.empty(); rest.erase(0, rest.find('\n') + 1)) lines.push_back(rest.substr(0, rest.find('\n')));
  return lines;
}

/// Collective. Throws DeviceMissing on every process where one has a reason why it cannot take part.
inline void require_all(Transport& job, const std::string& missing) {
  if (const std::string first = first_text(job, missing); !first.empty()) throw DeviceMissing(first);
}

}  // namespace moekv::kernels
