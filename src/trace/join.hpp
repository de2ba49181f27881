// Joining: routing rows of recorded sequences under the arrivals and lengths of a request trace, and longer sequences made of short ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trace/source.hpp"

namespace moekv {

struct JoinOptions {
  std::string routing;           // native trace with rows
  std::string requests;          // request trace, native or any importer's format; empty for concatenation
  std::uint64_t seed = 1;        // of the choice and order of recordings
  std::uint32_t n_requests = 0;  // concatenation: number of sequences; join: at most so many requests (0 = all)
  std::uint32_t n_tokens = 0;    // concatenation: tokens of each; join: longer requests are cut to this (0 = never)
  double prompt_share = -1.0;    // concatenation: share of prompt tokens; below 0 = that of the recordings (0 for decode-only ones)
  std::string generator;         // stored in the trace
};

struct JoinReport {
  std::uint64_t requests = 0, tokens = 0;
  std::uint64_t exact = 0, cut = 0, continued = 0;  // requests by how recordings filled them
  std::vector<std::string> notes;
};

/// Part of a new sequence: the first n_tokens of recording `donor`.
struct Piece {
  std::uint32_t donor = 0, n_tokens = 0;
};

/// Recordings that fill `n_tokens`: one of exactly that length, else the beginning of a longer one, else several in a row with the last
/// one cut. A pure function of (lengths, n_tokens, seed, request); `lengths` of all recordings, each > 0.
[[nodiscard]] std::vector<Piece> fill_request(const std::vector<std::uint32_t>& lengths, std::uint32_t n_tokens, std::uint64_t seed,
                                              std::uint32_t request);
/// Recordings in an order shuffled by seed, again and again, cut into sequences of n_tokens; each begins with a whole recording.
[[nodiscard]] std::vector<std::vector<Piece>> concatenate(const std::vector<std::uint32_t>& lengths, std::uint32_t n_requests, std::uint32_t n_tokens,
                                                          std::uint64_t seed);

/// Writes the joined trace to `out` in constant memory (besides a few words per request and piece). Positions restart at 0 in every new
/// sequence; recorded q, k, v, candidates and token ids are left out, said in the notes and the import log. UserError for bad input.
JoinReport join_requests(const JoinOptions& options, const std::string& out);
JoinReport concat_recordings(const JoinOptions& options, const std::string& out);

}  // namespace moekv
