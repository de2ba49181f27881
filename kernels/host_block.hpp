// HostBlock: a copy of one block in host memory with the table it shares, as the host's own code takes it.
#pragma once

#include <cstddef>
#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "device/page_pool.hpp"
#include "device/table_store.hpp"

namespace moekv::kernels {

class HostBlock {
 public:
  /// `tables`: what the block shares; empty where the format has none.
  HostBlock(const BlockFormat& format, std::vector<std::byte> bytes, std::span<const std::byte> tables)
      : bytes_(std::move(bytes)), tables_(std::make_unique<TableStore>(format.shared_bytes())) {
    if (tables_->needed() && !tables.empty()) {
      std::copy(tables.begin(), tables.end(), tables_->add(0, true));
      tables_->assign(0, 0);
    }
    view_ = {bytes_.data(), format.block_bytes(), format.head_bytes(), format, tables_.get()};
  }
  /// The pool whose block 0 this is.
  [[nodiscard]] const PoolView& view() const { return view_; }
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
  std::unique_ptr<TableStore> tables_;
  PoolView view_{};
};

}  // namespace moekv::kernels
