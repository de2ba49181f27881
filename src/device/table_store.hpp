// TableStore: the tables (centres, channel numbers, bases) that blocks of one pool share, each kept while a block uses it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace moekv {

class StateStream;

class TableStore {
 public:
  /// `bytes`: of one table (BlockFormat::shared_bytes); 0: the pool needs none.
  explicit TableStore(std::uint64_t bytes) : table_bytes_(bytes) {}

  [[nodiscard]] bool needed() const { return table_bytes_ > 0; }
  [[nodiscard]] bool has(std::uint64_t key) const { return index_.contains(key); }
  /// Adds a zeroed table and returns its memory. A `fixed` one stays for good.
  std::byte* add(std::uint64_t key, bool fixed);
  /// Lets `block` use the table of `key`, which exists; the one it used before goes when nobody uses it any more. `away`: a block of the host pool.
  void assign(std::uint32_t block, std::uint64_t key, bool away = false);
  /// Table of a block that was assigned one.
  [[nodiscard]] const std::byte* of(std::uint32_t block) const { return tables_[of_block_[block]].bytes.data(); }
  /// Number of that table, and of the table of `key`: below the largest number of tables that there ever were at once. Numbers are used again.
  [[nodiscard]] std::uint32_t number_of(std::uint32_t block) const { return of_block_[block]; }
  [[nodiscard]] std::uint32_t number(std::uint64_t key) const { return index_.at(key); }
  void transfer(StateStream& stream);
  /// Bytes of all tables that exist.
  [[nodiscard]] std::int64_t bytes() const { return static_cast<std::int64_t>(index_.size() * table_bytes_); }

 private:
  static constexpr std::uint32_t none = 0xFFFFFFFFU;
  struct Table {
    std::vector<std::byte> bytes;
    std::uint64_t key = 0;
    std::uint32_t users = 0;
    bool fixed = false;

    void transfer(StateStream& stream);
  };

  std::uint64_t table_bytes_;
  std::vector<Table> tables_;
  std::vector<std::uint32_t> free_;
  std::vector<std::uint32_t> of_block_, of_away_;
  std::unordered_map<std::uint64_t, std::uint32_t> index_;
};

}  // namespace moekv
