// Keeps the name of the current phase beside the profiler's ranges.
#include "device/profile.hpp"

#include <utility>

namespace moekv {
namespace {

const char*& phase() {
  static const char* name = "none";
  return name;
}

}  // namespace

PhaseRange::PhaseRange(const char* name) : outer_(std::exchange(phase(), name)) { push_range(name); }

PhaseRange::~PhaseRange() {
  pop_range();
  phase() = outer_;
}

void PhaseRange::next(const char* name) {
  pop_range();
  push_range(name);
  phase() = name;
}

const char* current_phase() { return phase(); }

}  // namespace moekv
