// Combinations of keys that make no run: each with its reason and what to do instead.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "config/tree.hpp"
#include "engine/run_spec.hpp"

namespace moekv {

struct ValidateInput {
  const RunSpec& spec;     // after defaults
  const ConfigTree& tree;  // what was given, where, and what failed to be read
  const std::string& path;
  int n_processes;
};

/// Appends every bad combination. A combination with a key that could not be read is not judged.
void validate(const ValidateInput& input, std::vector<Problem>& problems);

/// Appends problems of combinations at the place of the first of their keys that is given.
class Checks {
 public:
  Checks(const ValidateInput& input, std::vector<Problem>& problems) : input_(input), problems_(problems) {}
  [[nodiscard]] const RunSpec& spec() const { return input_.spec; }
  [[nodiscard]] int n_processes() const { return input_.n_processes; }
  [[nodiscard]] bool given(const std::string& path) const { return input_.tree.given.contains(path); }
  /// Says that `keys` do not go together; the first names the problem.
  void refuse(std::initializer_list<const char*> keys, const std::string& what, std::string suggestion);

 private:
  [[nodiscard]] bool failed(const std::string& key) const;

  const ValidateInput& input_;
  std::vector<Problem>& problems_;
};

// The parts, one function per subject.
void check_model(Checks& checks);
void check_trace(Checks& checks);
/// A model in the loop: its tokens, its shape, and what has no meaning with it.
void check_score(Checks& checks);
void check_placement(Checks& checks);
void check_pages(Checks& checks);
void check_select(Checks& checks);
void check_routing(Checks& checks);
void check_eviction(Checks& checks);
void check_allocator(Checks& checks);
/// Action demote moves whole pages and needs accesses that leave some of them alone; some policies need it.
void check_action(Checks& checks);
void check_compression(Checks& checks);
void check_load(Checks& checks);
void check_backend(Checks& checks);

/// Whether the chosen eviction rule or access source needs attention mass, and so payload.
[[nodiscard]] bool needs_mass(const RunSpec& spec);
/// Whether the chosen router needs gate logits.
[[nodiscard]] bool needs_logits(const RunSpec& spec);
/// Slots of a page after defaults.
[[nodiscard]] std::uint32_t page_slots(const RunSpec& spec);

}  // namespace moekv
