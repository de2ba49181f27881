// Tables that pages share: one per key, kept while a block uses it, counted while it exists.
#include "device/table_store.hpp"

#include <gtest/gtest.h>

namespace moekv {
namespace {

TEST(TableStore, KeepsATableWhileABlockUsesIt) {
  TableStore store(100);
  EXPECT_TRUE(store.needed());
  store.add(7, false)[0] = std::byte{1};
  store.add(9, false)[0] = std::byte{2};
  store.assign(3, 7);
  store.assign(4, 7);
  store.assign(5, 9);
  EXPECT_EQ(store.of(3), store.of(4));
  EXPECT_EQ(store.of(5)[0], std::byte{2});
  EXPECT_EQ(store.bytes(), 200);
  store.assign(3, 9);
  EXPECT_TRUE(store.has(7));  // block 4 still uses it
  store.assign(4, 9);
  EXPECT_FALSE(store.has(7));
  EXPECT_EQ(store.bytes(), 100);
  store.add(11, false)[0] = std::byte{3};
  store.assign(3, 11);
  EXPECT_EQ(store.of(3)[0], std::byte{3});
  EXPECT_EQ(store.of(4)[0], std::byte{2});
}

TEST(TableStore, AssigningTheSameTableAgainKeepsIt) {
  TableStore store(8);
  store.add(1, false);
  store.assign(0, 1);
  store.assign(0, 1);
  EXPECT_TRUE(store.has(1));
}

TEST(TableStore, BlocksInTheHostPoolKeepTheirTable) {
  TableStore store(8);
  store.add(1, false)[0] = std::byte{5};
  store.assign(0, 1);
  store.assign(0, 1, true);  // a copy of the block, of the same number in its own pool
  store.add(2, false);
  store.assign(0, 2);
  EXPECT_TRUE(store.has(1));
  store.assign(3, 1);  // it comes back elsewhere
  EXPECT_EQ(store.of(3)[0], std::byte{5});
  store.assign(0, 2, true);
  store.assign(3, 2);
  EXPECT_FALSE(store.has(1));
}

TEST(TableStore, FixedTablesStay) {
  TableStore store(8);
  store.add(1, true);
  store.add(2, false);
  store.assign(0, 1);
  store.assign(0, 2);
  EXPECT_TRUE(store.has(1));
  EXPECT_EQ(store.bytes(), 16);
}

}  // namespace
}  // namespace moekv
