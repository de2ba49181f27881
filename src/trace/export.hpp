// Writes a trace in forms that other tools read: NumPy arrays, or one JSON line per token and layer.
#pragma once

#include <string>

#include "trace/source.hpp"

namespace moekv {

/// An .npz: ids [T, L, K] (u1 or u2; the largest value is an absent expert), weights [T, L, K] f2, logits [T, L, E] f2 from level candidates
/// on (-inf where unlisted), seq_lens, prompt_lens, arrival_ns, moe_layer_ids. Tokens of a request are contiguous. Streams; appears whole.
void export_npz(TraceSource& trace, const std::string& path);

/// Lines as vLLM's route logger writes them: a meta line, then {type, req_id, token_idx, layer, topk_ids, topk_weights}; absent is -1.
void export_jsonl(TraceSource& trace, const std::string& path);

}  // namespace moekv
