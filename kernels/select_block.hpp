// Choice of the best pages of a query by score, or of the smallest of other keys: the last word among them is found bit by bit, then those above it
// and the first of those at it are written in ascending order. Equal to select::choose_pages, and to the first of a stable sort.
#pragma once

#include "launches.hpp"
#include "rules/select/rule.hpp"

namespace moekv::kernels {

inline constexpr std::uint32_t select_words = 2 * block_threads + 4;  // of shared memory besides keys

/// Shared memory of an item whose keys lie there.
[[nodiscard]] constexpr std::uint64_t select_shared_bytes(std::uint32_t n_pages) {
  return (std::uint64_t{select_words} + n_pages + n_pages / 32) * 4;
}

/// Pages by score: the largest words win, equal ones by place. 0 for the page that is set apart; every other word is larger, as that of -infinity is.
struct ScoreWords {
  static constexpr bool has_low = false;
  const SelectLaunch& work;
  const SelectItem& item;
  [[nodiscard]] MOEKV_HD std::uint32_t high(std::uint32_t i) const { return i == item.newest ? 0U : select::rank_key(work.scores[item.first + i]); }
  [[nodiscard]] MOEKV_HD std::uint32_t low(std::uint32_t /*i*/) const { return 0; }
};
/// Keys of 64 bits as two words, the smallest first.
struct KeyWords {
  static constexpr bool has_low = true;
  const SelectLaunch& work;
  const SelectItem& item;
  [[nodiscard]] MOEKV_HD std::uint32_t high(std::uint32_t i) const { return ~static_cast<std::uint32_t>(work.keys[item.first + i] >> 32U); }
  [[nodiscard]] MOEKV_HD std::uint32_t low(std::uint32_t i) const { return ~static_cast<std::uint32_t>(work.keys[item.first + i]); }
};

template <class Block, class Words>
class SelectSteps {
 public:
  MOEKV_HD SelectSteps(Block& block, const SelectLaunch& work)
      : block_(block),
        work_(work),
        item_(work.items[block.index()]),
        words_{work, item_},
        above_(reinterpret_cast<std::uint32_t*>(block.shared())),
        at_(above_ + block_threads),
        totals_(at_ + block_threads),
        keys_(totals_ + 4),
        shared_(item_.n <= work.shared_pages) {}

  MOEKV_HD void run() {
    if (shared_) {
      block_.each([&](unsigned t) {
        for (std::uint32_t i = t; i < item_.n; i += block_.n_threads()) keys_[i + i / 32] = words_.high(i);
      });
    }
    const Bar high = find(
        item_.n_best, [&](std::uint32_t i) { return key(i); }, [](std::uint32_t) { return true; });
    Bar low{0, high.room};
    bool by_low = false;
    if constexpr (Words::has_low) {
      const auto at_high = [&](std::uint32_t i) { return key(i) == high.word; };
      by_low = high.room > 0 && count(at_high) > high.room;
      if (by_low)
        low = find(
            high.room, [&](std::uint32_t i) { return words_.low(i); }, at_high);
    }
    write(
        [&](std::uint32_t i) {
          const std::uint32_t k = key(i);
          if (k > high.word || i == item_.newest) return Side::above;
          if (k < high.word) return Side::below;
          if (!by_low) return Side::at;
          const std::uint32_t rest = words_.low(i);
          return rest == low.word ? Side::at : rest > low.word ? Side::above : Side::below;
        },
        low.room);
  }

 private:
  /// What a choice ends at: larger words are chosen, and of equal ones the first `room`.
  struct Bar {
    std::uint32_t word, room;
  };
  enum class Side : std::uint8_t { below, at, above };

  [[nodiscard]] MOEKV_HD std::uint32_t key(std::uint32_t i) const { return shared_ ? keys_[i + i / 32] : words_.high(i); }

  /// The bar over the n largest words of those pages that count.
  template <class Word, class Counts>
  [[nodiscard]] MOEKV_HD Bar find(std::uint32_t n, const Word& word, const Counts& counts) {
    Bar bar{0, 0};
    for (std::uint32_t bit = 1U << 31; bit != 0; bit >>= 1) {
      const std::uint32_t from = bar.word | bit;
      const std::uint32_t reach = count([&](std::uint32_t i) { return counts(i) && word(i) >= from; });
      if (reach >= n) bar.word = from;
      if (reach == n) return {from - 1, 0};
    }
    const std::uint32_t over = count([&](std::uint32_t i) { return counts(i) && word(i) > bar.word; });
    bar.room = n - over;
    return bar;
  }

  /// Pages that `f` is true of, for every thread.
  template <class F>
  [[nodiscard]] MOEKV_HD std::uint32_t count(const F& f) {
    typename Block::template Lanes<float> n;  // exact: below 2^24
    block_.free_each([&](unsigned t) {
      std::uint32_t mine = 0;
      for (std::uint32_t i = t; i < item_.n; i += block_.n_threads()) mine += f(i) ? 1U : 0U;
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

  /// Each thread has a run of pages: what lies before it says where its pages go, and whether those at the bar still find room.
  template <class SideOf>
  MOEKV_HD void write(const SideOf& side_of, std::uint32_t room) {
    const std::uint32_t run = (item_.n + block_threads - 1) / block_threads;
    const auto each_page = [&](unsigned t, auto&& f) {
      const std::uint32_t end = (t + 1) * run < item_.n ? (t + 1) * run : item_.n;
      for (std::uint32_t i = t * run; i < end; ++i) f(i, side_of(i));
    };
    block_.each([&](unsigned t) {
      std::uint32_t above = 0, at = 0;
      each_page(t, [&](std::uint32_t, Side side) {
        above += side == Side::above ? 1U : 0U;
        at += side == Side::at ? 1U : 0U;
      });
      above_[t] = above;
      at_[t] = at;
    });
    sum_before(above_);
    sum_before(at_);
    block_.free_each([&](unsigned t) {
      std::uint32_t above = t == 0 ? 0U : above_[t - 1], at = t == 0 ? 0U : at_[t - 1];
      each_page(t, [&](std::uint32_t i, Side side) {
        const std::uint32_t to = above + (at < room ? at : room);
        if (side == Side::below || (side == Side::at && at++ >= room)) return;
        above += side == Side::above ? 1U : 0U;
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
  Words words_;
  std::uint32_t *above_, *at_, *totals_, *keys_;
  bool shared_;
};

template <class Block>
MOEKV_HD void select_block(Block& block, const SelectLaunch& work) {
  if (work.keys != nullptr) return SelectSteps<Block, KeyWords>(block, work).run();
  SelectSteps<Block, ScoreWords>(block, work).run();
}

}  // namespace moekv::kernels
