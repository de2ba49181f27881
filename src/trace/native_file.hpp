// NativeFile: an open native trace whose structure has been checked; reader, validation, info and export stand on it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/hdf5.hpp"
#include "io/row_reader.hpp"
#include "trace/source.hpp"
#include "trace/writer.hpp"

namespace moekv::native {

/// Root attribute `order`: tokens contiguous per request, or as the engine batched them (then /tokens/request tells whose they are).
enum class TokenOrder : std::uint8_t { request, step };

/// Bytes of decoded chunks that one open trace keeps.
inline constexpr std::uint64_t default_cache_bytes = std::uint64_t{256} << 20;

struct NativeFile {
  /// Reads every attribute and /requests and checks the shape and type of every dataset. Throws one UserError with all problems found.
  explicit NativeFile(const std::string& path, std::uint64_t cache_bytes = default_cache_bytes);

  NativeFile(const NativeFile&) = delete;
  NativeFile& operator=(const NativeFile&) = delete;
  [[nodiscard]] bool has(const std::string& dataset) const { return file.has(dataset); }
  /// Rows of a dataset such as "routing/expert_ids", through the cache of this file.
  [[nodiscard]] RowReader rows(const std::string& dataset, RowPart part = RowPart::whole, RowReader::Check check = {}) const;
  /// Experts, weights and logits are checked as they are decoded, so that no reader sees a bad row.
  [[nodiscard]] RowReader checked_ids(const std::string& dataset) const;
  [[nodiscard]] RowReader checked_reals(const std::string& dataset) const;

  h5::File file;
  std::shared_ptr<BlockCache> cache;
  TraceInfo info;
  WeightKind weight_kind = WeightKind::none;
  TokenOrder order = TokenOrder::request;
  bool kv_is_bf16 = false;
  std::vector<RequestInfo> requests;
  std::vector<std::uint64_t> token_offset;  // n_requests + 1; for order step only the lengths mean something
  std::uint64_t n_tokens = 0;
};

/// XXH3-128 in hex over the file's size and bytes; of a file above 256 MiB over 256 blocks of 1 MiB spread evenly over it.
/// Read again only where size or time of writing changed.
[[nodiscard]] std::string file_digest(const std::string& path);

}  // namespace moekv::native
