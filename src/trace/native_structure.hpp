// Structural checks of a native trace: requests and their rows, shapes and types of every dataset.
#pragma once

#include <vector>

#include "core/error.hpp"
#include "trace/native_file.hpp"

namespace moekv::native {

/// Reads /requests into `trace`: lengths, arrivals and row offsets, which must be monotone and agree with the lengths.
void read_requests(NativeFile& trace);

/// What is wrong with the shapes and types of /tokens, /routing and /kv; also fills info.n_candidates, shape.softmax_scale, kv_is_bf16.
[[nodiscard]] std::vector<Problem> structure_problems(NativeFile& trace);

}  // namespace moekv::native
