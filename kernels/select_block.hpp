// Choice of the best pages of a query by score: the smallest key among them is found bit by bit, then pages above it and the first of those at it are
// written in ascending order. Equal to select::choose_pages.
#pragma once

#include "launches.hpp"
#include "rules/select/rule.hpp"

namespace moekv::kernels {

inline constexpr std::uint32_t select_words = 2 * block_threads + 4;  // of shared memory besides keys

/// Shared memory of an item whose keys lie there.
[[nodiscard]] constexpr std::uint64_t select_shared_bytes(std::uint32_t n_pages) {
  return (std::uint64_t{select_words} + n_pages + n_pages / 32) * 4;
}

template <class Block>
class SelectSteps {
 public:
  MOEKV_HD SelectSteps(Block& block, const SelectLaunch& work)
      : block_(block),
        work_(work),
        item_(work.items[block.index()]),
        above_(reinterpret_cast<std::uint32_t*>(block.shared())),
        at_(above_ + block_threads),
        totals_(at_ + block_threads),
        keys_(totals_ + 4),
        shared_(item_.n <= work.shared_pages) {}

  MOEKV_HD void run() {
    if (shared_) {
      block_.each([&](unsigned t) {
        for (std::uint32_t i = t; i < item_.n; i += block_.n_threads()) keys_[i + i / 32] = made(i);
      });
    }
    std::uint32_t threshold = 0;
    for (std::uint32_t bit = 1U << 31; bit != 0; bit >>= 1) {
      if (count_from(threshold | bit) >= item_.n_best) threshold |= bit;
    }
    const std::uint32_t room = item_.n_best - (threshold == ~0U ? 0U : count_from(threshold + 1));
    write(threshold, room);
  }

 private:
  /// 0 for the page that is set apart; every other key is larger, as that of -infinity is.
  [[nodiscard]] MOEKV_HD std::uint32_t made(std::uint32_t i) const {
    return i == item_.newest ? 0U : select::rank_key(work_.scores[item_.first + i]);
  }
  [[nodiscard]] MOEKV_HD std::uint32_t key(std::uint32_t i) const { return shared_ ? keys_[i + i / 32] : made(i); }

  /// Pages with at least this key, for every thread.
  MOEKV_HD std::uint32_t count_from(std::uint32_t key_from) {
    typename Block::template Lanes<float> n;  // exact: below 2^24
    block_.free_each([&](unsigned t) {
      std::uint32_t mine = 0;
      for (std::uint32_t i = t; i < item_.n; i += block_.n_threads()) mine += key(i) >= key_from ? 1U : 0U;
      n[t] = static_cast<float>(mine);
    });
    block_.sum(n, 32);
    block_.each([&](unsigned t) {
      if (t % 32 == 0) totals_[t / 32] = static_cast<std::uint32_t>(n[t]);
    });
    const std::uint32_t all = totals_[0] + totals_[1] + totals_[2] + totals_[3];
    block_.each([](unsigned) {});  // totals are read before they are written again
    return all;
  }

  /// Each thread has a run of pages: what lies before it says where its pages go, and whether those at the threshold still find room.
  MOEKV_HD void write(std::uint32_t threshold, std::uint32_t room) {
    const std::uint32_t run = (item_.n + block_threads - 1) / block_threads;
    const auto each_page = [&](unsigned t, auto&& f) {
      const std::uint32_t end = (t + 1) * run < item_.n ? (t + 1) * run : item_.n;
      for (std::uint32_t i = t * run; i < end; ++i) f(i, key(i));
    };
    block_.each([&](unsigned t) {
      std::uint32_t above = 0, at = 0;
      each_page(t, [&](std::uint32_t i, std::uint32_t k) {
        above += k > threshold || i == item_.newest ? 1U : 0U;
        at += k == threshold && i != item_.newest ? 1U : 0U;
      });
      above_[t] = above;
      at_[t] = at;
    });
    sum_before(above_);
    sum_before(at_);
    block_.free_each([&](unsigned t) {
      std::uint32_t above = t == 0 ? 0U : above_[t - 1], at = t == 0 ? 0U : at_[t - 1];
      each_page(t, [&](std::uint32_t i, std::uint32_t k) {
        const std::uint32_t to = above + (at < room ? at : room);
        if (k > threshold || i == item_.newest) {
          ++above;
        } else if (k == threshold) {
          if (at++ >= room) return;
        } else {
          return;
        }
        work_.chosen[item_.out + to] = i;
      });
    });
  }

  /// x[t] becomes the sum of x[0] .. x[t].
  MOEKV_HD void sum_before(std::uint32_t* x) {
    typename Block::template Lanes<std::uint32_t> before;
    for (std::uint32_t distance = 1; distance < block_threads; distance *= 2) {
      block_.each([&](unsigned t) { before[t] = t >= distance ? x[t - distance] : 0U; });
      block_.each([&](unsigned t) { x[t] += before[t]; });
    }
  }

  Block& block_;
  const SelectLaunch& work_;
  const SelectItem& item_;
  std::uint32_t *above_, *at_, *totals_, *keys_;
  bool shared_;
};

template <class Block>
MOEKV_HD void select_block(Block& block, const SelectLaunch& work) {
  SelectSteps<Block>(block, work).run();
}

}  // namespace moekv::kernels
