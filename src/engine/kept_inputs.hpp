// KeptInputs: what runs over the same q, k and v would each make again: the rows of their layer steps in payload type, and the exact attention of
// their probes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/id.hpp"
#include "engine/exact.hpp"
#include "rules/codec/format.hpp"
#include "trace/kept_bytes.hpp"

namespace moekv {

/// Holds what comes first until its bytes are used up: runs ask in the same order, so making room for the latest would lose what is asked for next.
/// One for all runs whose rows are the same function of (layer, request, position), and whose softmax scale is.
class KeptInputs {
 public:
  enum class Kind : std::uint8_t { keys, queries };  // of all tokens, keys and then values; of those with queries
  struct Positions {
    std::uint32_t request, begin, end;
    friend bool operator==(const Positions&, const Positions&) = default;
  };
  struct Rows {
    Kind kind = Kind::keys;
    ElementFormat element = ElementFormat::bf16;
    LayerId layer;
    std::vector<Positions> tokens;  // in the order of the rows
    friend bool operator==(const Rows&, const Rows&) = default;
  };
  struct Query {
    LayerId layer;
    RequestId request;
    std::uint32_t position = 0;
    friend bool operator==(const Query&, const Query&) = default;
  };

  explicit KeptInputs(std::shared_ptr<KeptBytes> bytes) : bytes_(std::move(bytes)) {}
  ~KeptInputs();
  KeptInputs(const KeptInputs&) = delete;
  KeptInputs& operator=(const KeptInputs&) = delete;

  /// Null where they are not kept. What is given out stays as long as its holder wants it.
  [[nodiscard]] std::shared_ptr<const std::byte[]> find(const Rows& rows) const;
  [[nodiscard]] std::shared_ptr<const ExactResult> find(const Query& query) const;
  /// Room of `n` bytes, which the caller fills before it asks for the rows; null where there is none. They are not kept yet.
  [[nodiscard]] std::shared_ptr<std::byte[]> add(const Rows& rows, std::size_t n);
  /// Keeps the result if there is room.
  void add(const Query& query, std::shared_ptr<const ExactResult> exact);
  /// Forgets what was kept last; false where nothing is.
  bool drop_latest();

 private:
  struct RowsHash {
    std::size_t operator()(const Rows& rows) const;
  };
  struct QueryHash {
    std::size_t operator()(const Query& query) const;
  };
  /// One of the two is null.
  struct Kept {
    const Rows* rows;
    const Query* query;
    std::uint64_t bytes;
  };

  std::shared_ptr<KeptBytes> bytes_;
  std::unordered_map<Rows, std::shared_ptr<std::byte[]>, RowsHash> rows_;
  std::unordered_map<Query, std::shared_ptr<const ExactResult>, QueryHash> exact_;
  std::vector<Kept> order_;  // as they came
};

}  // namespace moekv
