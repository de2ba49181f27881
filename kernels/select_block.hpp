// Choice of the best pages of a query by score, or of the smallest of other keys: the last word among them is found two bits at a time, then those
// above it and the first of those at it are written in ascending order. Equal to select::choose_pages, and to the first of a stable sort.
#pragma once

#include "launches.hpp"
#include "rules/select/rule.hpp"

namespace moekv::kernels {

inline constexpr std::uint32_t select_warps = select_threads / 32;                        // at most
inline constexpr std::uint32_t select_words = 2 * select_threads + 2 * 3 * select_warps;  // of shared memory besides keys
inline constexpr std::uint32_t held_words = 8192;                                         // that a block has in registers, where all fit

/// Shared memory of an item whose keys lie there.
[[nodiscard]] constexpr std::uint64_t select_shared_bytes(std::uint32_t n_pages) {
  return (std::uint64_t{select_words} + n_pages + n_pages / 32) * 4;
}

/// Pages by score: the largest words win, equal ones by place. 0 for the page that is set apart; every other word is larger, as that of -infinity is.
struct ScoreWords {
  static constexpr bool has_low = false;
  const float* scores;
  std::uint32_t newest;
  MOEKV_HD ScoreWords(const SelectLaunch& work, const SelectItem& item) : scores(work.scores + item.first), newest(item.newest) {}
  [[nodiscard]] MOEKV_HD std::uint32_t high(std::uint32_t i) const { return i == newest ? 0U : select::rank_key(scores[i]); }
  [[nodiscard]] MOEKV_HD std::uint32_t low(std::uint32_t /*i*/) const { return 0; }
};
/// Keys of 64 bits as two words, the smallest first.
struct KeyWords {
  static constexpr bool has_low = true;
  const std::uint64_t* keys;
  MOEKV_HD KeyWords(const SelectLaunch& work, const SelectItem& item) : keys(work.keys + item.first) {}
  [[nodiscard]] MOEKV_HD std::uint32_t high(std::uint32_t i) const { return ~static_cast<std::uint32_t>(keys[i] >> 32U); }
  [[nodiscard]] MOEKV_HD std::uint32_t low(std::uint32_t i) const { return ~static_cast<std::uint32_t>(keys[i]); }
};

template <class Block, class Words>
class SelectSteps {
 public:
  MOEKV_HD SelectSteps(Block& block, const SelectLaunch& work)
      : block_(block),
        work_(work),
        item_(work.items[block.index()]),
        words_(work, item_),
        above_(reinterpret_cast<std::uint32_t*>(block.shared())),
        at_(above_ + select_threads),
        totals_(at_ + select_threads),
        keys_(totals_ + 2 * 3 * select_warps),
        shared_(item_.n <= work.shared_pages),
        held_all_(item_.n <= held_words) {}

  MOEKV_HD void run() {
    block_.each([&](unsigned t) {
      if (held_all_) {
        each_held(t, [&](std::uint32_t i, std::uint32_t& word) { word = i < item_.n ? words_.high(i) : 0; });
        if (shared_) each_held(t, [&](std::uint32_t i, std::uint32_t& word) { put(i, word); });
      } else if (shared_) {
        for (std::uint32_t i = t; i < item_.n; i += block_.n_threads()) put(i, words_.high(i));
      }
    });
    const Bar high = find(item_.n_best, [](std::uint32_t, std::uint32_t word) { return word; });
    Bar low{0, high.room};
    bool by_low = false;
    if constexpr (Words::has_low) {
      const auto at_high = [&](std::uint32_t i, std::uint32_t word) { return i < item_.n && word == high.word; };
      by_low = high.room > 0 &&
               count([&](std::uint32_t i, std::uint32_t word, Counts& mine) { mine.of[0] += at_high(i, word) ? 1U : 0U; }).of[0] > high.room;
      if (by_low) low = find(high.room, [&](std::uint32_t i, std::uint32_t word) { return at_high(i, word) ? words_.low(i) : 0U; });
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

  MOEKV_HD void put(std::uint32_t i, std::uint32_t word) {
    if (i < item_.n) keys_[i + i / 32] = word;
  }

  /// f(i, word) for every word that a thread holds; some lie beyond the last page.
  template <class F>
  MOEKV_HD void each_held(unsigned t, F&& f) {
    constexpr std::uint32_t step = 8;
    for (std::uint32_t first = 0; first < held; first += step) {
      if (first * block_.n_threads() >= item_.n) break;
      for (std::uint32_t j = first; j < first + step; ++j) f(t + j * block_.n_threads(), held_[t][j]);
    }
  }

  /// The bar over the n largest of word(i, high word); 0 counts for nothing.
  template <class Word>
  [[nodiscard]] MOEKV_HD Bar find(std::uint32_t n, const Word& word) {
    Bar bar{0, 0};
    for (std::uint32_t bit = 1U << 30; bit != 0; bit >>= 2) {
      const std::uint32_t from[3] = {bar.word | bit, bar.word | 2 * bit, bar.word | 3 * bit};
      const Counts reach = count([&](std::uint32_t i, std::uint32_t high, Counts& mine) {
        const std::uint32_t w = word(i, high);
        for (std::uint32_t b = 0; b < 3; ++b) mine.of[b] += w >= from[b] ? 1U : 0U;
      });
      for (std::uint32_t b = 0; b < 3; ++b) {
        if (reach.of[b] >= n) bar.word = from[b];
        if (reach.of[b] == n) return {from[b] - 1, 0};
      }
    }
    const Counts over = count([&](std::uint32_t i, std::uint32_t high, Counts& mine) { mine.of[0] += word(i, high) > bar.word ? 1U : 0U; });
    bar.room = n - over.of[0];
    return bar;
  }

  /// Sums over the block of what f(i, high word, mine) adds up.
  struct Counts {
    std::uint32_t of[3];
  };
  template <class F>
  [[nodiscard]] MOEKV_HD Counts count(const F& f) {
    typename Block::template Lanes<std::uint32_t> n[3];
    block_.free_each([&](unsigned t) {
      Counts mine{{0, 0, 0}};
      if (held_all_) {
        each_held(t, [&](std::uint32_t i, std::uint32_t word) { f(i, word, mine); });
      } else {
        for (std::uint32_t i = t; i < item_.n; i += block_.n_threads()) f(i, key(i), mine);
      }
      for (std::uint32_t b = 0; b < 3; ++b) n[b][t] = mine.of[b];
    });
    std::uint32_t* totals = totals_ + n_counts_ % 2 * 3 * select_warps;  // those of the count before may still be read
    n_counts_ += 1;
    for (auto& of : n) block_.sum_of_warp(of);
    block_.each([&](unsigned t) {
      if (t % 32 == 0)
        for (std::uint32_t b = 0; b < 3; ++b) totals[b * select_warps + t / 32] = n[b][t];
    });
    Counts all{};
    for (std::uint32_t b = 0; b < 3; ++b)
      for (std::uint32_t w = 0; w < block_.n_threads() / 32; ++w) all.of[b] += totals[b * select_warps + w];
    return all;
  }

  /// Each thread has a run of pages: what lies before it says where its pages go, and whether those at the bar still find room.
  template <class SideOf>
  MOEKV_HD void write(const SideOf& side_of, std::uint32_t room) {
    const std::uint32_t run = (item_.n + block_.n_threads() - 1) / block_.n_threads();
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
    for (std::uint32_t distance = 1; distance < block_.n_threads(); distance *= 2) {
      block_.each([&](unsigned t) { before[t] = t >= distance ? x[t - distance] : 0U; });
      block_.each([&](unsigned t) { x[t] += before[t]; });
    }
  }

  Block& block_;
  const SelectLaunch& work_;
  const SelectItem item_;
  const Words words_;
  std::uint32_t *above_, *at_, *totals_, *keys_;
  bool shared_, held_all_;
  std::uint32_t n_counts_ = 0;
  static constexpr std::uint32_t held = held_words / Block::n_threads();
  typename Block::template Lanes<std::uint32_t[held]> held_;
};

template <class Block>
MOEKV_HD void select_block(Block& block, const SelectLaunch& work) {
  if (work.keys != nullptr) return SelectSteps<Block, KeyWords>(block, work).run();
  SelectSteps<Block, ScoreWords>(block, work).run();
}

}  // namespace moekv::kernels
