// Readers of gzip, tar, zip and npy files: every variant that NumPy and loggers write, and damaged or hostile ones.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.hpp"
#include "io/gzip.hpp"
#include "io/npz.hpp"
#include "io/tar.hpp"
#include "support/archives.hpp"
#include "support/temp_dir.hpp"

namespace moekv {
namespace {

using ::testing::HasSubstr;
using namespace moekv::testing;  // NOLINT(google-build-using-namespace)

/// The message of the UserError that `action` throws; empty when it throws none.
template <class Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const UserError& e) {
    return e.what();
  }
  return {};
}

std::vector<std::string> lines_of(const std::string& path, std::size_t max_line_bytes = 1 << 20) {
  LineReader reader(open_byte_stream(path), max_line_bytes);
  std::vector<std::string> lines;
  for (std::string_view line; reader.next(line);) lines.emplace_back(line);
  return lines;
}

class Archive : public ::testing::Test {
 protected:
  std::string file(const std::string& name, const std::string& bytes) {
    std::string path = dir_.file(name);
    write_bytes(path, bytes);
    return path;
  }
  TempDir dir_;
};

TEST_F(Archive, LinesOfPlainAndGzipFilesAreEqual) {
  const std::string text =
      "\xEF\xBB\xBF"
      "one\r\ntwo\n\nlast without end";
  const std::vector<std::string> expected{"one", "two", "", "last without end"};
  EXPECT_EQ(lines_of(file("a.txt", text)), expected);
  EXPECT_EQ(lines_of(file("a.gz", gzipped(text))), expected);
  EXPECT_EQ(lines_of(file("b.gz", gzipped("one\ntw") + gzipped("o\n\nlast without end"))), expected);
}

TEST_F(Archive, LongLinesAreReadUpToTheLimit) {
  const std::string line(700'000, 'x');
  EXPECT_EQ(lines_of(file("long.txt", line + "\nb\n"), 800'000), (std::vector<std::string>{line, "b"}));
  EXPECT_THAT(message_of([&] { lines_of(file("long.txt", "a\n" + line), 600'000); }),
              HasSubstr("long.txt:2: error: line is longer than 600000 bytes"));
}

TEST_F(Archive, DamagedGzipIsRefused) {
  std::string random;
  for (std::int64_t i = 0; i < 100'000; ++i) random += static_cast<char>('a' + (i * i) % 23);
  const std::string bytes = gzipped(random);
  EXPECT_THAT(message_of([&] { lines_of(file("cut.gz", bytes.substr(0, bytes.size() / 2))); }), HasSubstr("ends in the middle"));
  std::string flipped = bytes;
  flipped[bytes.size() - 6] = static_cast<char>(flipped[bytes.size() - 6] ^ 1);
  EXPECT_THAT(message_of([&] { lines_of(file("crc.gz", flipped)); }), HasSubstr("damaged gzip data"));
  EXPECT_THAT(message_of([&] { (void)open_byte_stream("/nowhere/x.gz"); }), HasSubstr("/nowhere/x.gz: error: cannot be opened"));
}

TEST_F(Archive, GzipBombIsRefused) {
  const std::string path = file("bomb.gz", gzipped(std::string(8 << 20, '\0')));
  const auto stream = open_byte_stream(path, {.free_bytes = 1 << 20, .max_ratio = 100});
  std::vector<std::byte> out(8 << 20);
  EXPECT_THAT(message_of([&] { stream->read(out); }), HasSubstr("expands to more than 100 times"));
}

TEST_F(Archive, TarMembersComeInOrderAndMayBeSkipped) {
  const std::string bytes = tarred({{"d/a.txt", std::string(1000, 'a')}, {"d/b.txt", ""}, {"d/c.txt", "ccc"}});
  EXPECT_TRUE(looks_like_tar(bytes));
  TarReader tar(open_byte_stream(file("t.tar.gz", gzipped(bytes))));
  EXPECT_EQ(tar.next()->name, "d/a.txt");
  EXPECT_EQ(tar.next()->size_bytes, 0U);
  EXPECT_EQ(tar.next()->name, "d/c.txt");
  std::array<std::byte, 10> out{};
  EXPECT_EQ(tar.read(out), 3U);
  EXPECT_EQ(out[2], std::byte{'c'});
  EXPECT_FALSE(tar.next().has_value());
}

TEST_F(Archive, DamagedTarIsRefused) {
  const std::string bytes = tarred({{"a", std::string(2000, 'a')}, {"b", "b"}});
  TarReader cut(open_byte_stream(file("cut.tar", bytes.substr(0, 1500))));
  cut.next();
  EXPECT_THAT(message_of([&] { cut.next(); }), HasSubstr("ends in the middle of member 'a'"));
  std::string damaged = bytes;
  damaged[512 + 2048 + 5] = 'x';
  TarReader reader(open_byte_stream(file("bad.tar", damaged)));
  reader.next();
  EXPECT_THAT(message_of([&] { reader.next(); }), HasSubstr("damaged tar header after member 'a'"));
}

TEST_F(Archive, ArraysOfEveryTypeAreRead) {
  const auto floats = [&](const std::string& bytes) {
    NpyArray array(open_file_source(file("x.npy", bytes)));
    std::vector<float> out;
    array.read_floats(0, 0, array.shape()[0], out);
    return out;
  };
  EXPECT_EQ(floats(npy("<f4", "(2,)", raw_bytes<float>({1.5F, -2.0F}))), (std::vector<float>{1.5F, -2.0F}));
  EXPECT_EQ(floats(npy("<f8", "(2,)", raw_bytes<double>({1.5, -2.0}), false, 2)), (std::vector<float>{1.5F, -2.0F}));
  // f16: 1, -2, largest, smallest subnormal, infinity
  EXPECT_EQ(floats(npy("<f2", "(5,)", raw_bytes<std::uint16_t>({0x3C00, 0xC000, 0x7BFF, 0x0001, 0x7C00}))),
            (std::vector<float>{1.0F, -2.0F, 65504.0F, 0x1p-24F, std::numeric_limits<float>::infinity()}));
  const auto ints = [&](const std::string& bytes) {
    NpyArray array(open_file_source(file("x.npy", bytes)));
    std::vector<std::int64_t> out;
    array.read_ints(0, 0, array.shape()[0], out);
    return out;
  };
  EXPECT_EQ(ints(npy("|u1", "(2,)", raw_bytes<std::uint8_t>({7, 255}))), (std::vector<std::int64_t>{7, 255}));
  EXPECT_EQ(ints(npy("|i1", "(2,)", raw_bytes<std::int8_t>({7, -1}))), (std::vector<std::int64_t>{7, -1}));
  EXPECT_EQ(ints(npy("<i2", "(2,)", raw_bytes<std::int16_t>({300, -1}))), (std::vector<std::int64_t>{300, -1}));
  EXPECT_EQ(ints(npy("<u4", "(1,)", raw_bytes<std::uint32_t>({4000000000U}))), (std::vector<std::int64_t>{4000000000}));
  EXPECT_EQ(ints(npy("<i8", "(1,)", raw_bytes<std::int64_t>({-5}))), (std::vector<std::int64_t>{-5}));
  EXPECT_EQ(ints(npy("|b1", "(2,)", raw_bytes<std::uint8_t>({0, 1}))), (std::vector<std::int64_t>{0, 1}));
  NpyArray text(open_file_source(file("s.npy", npy("<U2", "(2,)", raw_bytes<std::uint32_t>({'a', 0x20AC, 'b', 0})))));
  EXPECT_EQ(text.read_strings(), (std::vector<std::string>{"a\xE2\x82\xAC", "b"}));
}

/// Every slab of every axis and memory order against direct indexing.
TEST_F(Archive, SlabsOfBothMemoryOrdersAgreeWithIndexing) {
  constexpr std::uint64_t n0 = 3, n1 = 4, n2 = 5;
  const auto value = [](std::uint64_t a, std::uint64_t b, std::uint64_t c) { return static_cast<std::int32_t>(100 * a + 10 * b + c); };
  std::vector<std::int32_t> c_order(n0 * n1 * n2), f_order(n0 * n1 * n2);
  for (std::uint64_t a = 0; a < n0; ++a)
    for (std::uint64_t b = 0; b < n1; ++b)
      for (std::uint64_t c = 0; c < n2; ++c) {
        c_order[(a * n1 + b) * n2 + c] = value(a, b, c);
        f_order[a + n0 * (b + n1 * c)] = value(a, b, c);
      }
  for (const bool fortran : {false, true}) {
    const std::string bytes = npy("<i4", "(3, 4, 5)", raw_bytes(fortran ? f_order : c_order), fortran);
    for (const ZipMethod method : {ZipMethod::stored, ZipMethod::deflated}) {
      auto arrays = open_arrays(file("a.npz", zipped({{"x.npy", bytes}}, method, fortran)));
      NpyArray& array = arrays.at("x");
      std::vector<std::int64_t> out;
      array.read_ints(0, 1, 3, out);
      for (std::uint64_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], value(1 + i / 20, i / 5 % 4, i % 5));
      array.read_ints(1, 1, 4, out);  // [3][n0][n2]
      for (std::uint64_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], value(i / 5 % 3, 1 + i / 15, i % 5));
      array.read_ints(2, 0, 2, out);  // [2][n0][n1]
      for (std::uint64_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], value(i / 4 % 3, i % 4, i / 12));
    }
  }
}

TEST_F(Archive, UnusableArraysAreRefusedWithTheReason) {
  const auto problem = [&](const std::string& bytes) { return message_of([&] { (void)open_arrays(file("bad.npy", bytes)); }); };
  EXPECT_THAT(problem(npy(">i4", "(1,)", "abcd")), HasSubstr("big-endian array (>i4)"));
  EXPECT_THAT(problem(npy("|O", "(1,)", "abcdefgh")), HasSubstr("object array"));
  EXPECT_THAT(problem(npy("<c8", "(1,)", "abcdefgh")), HasSubstr("element type '<c8' is not supported"));
  EXPECT_THAT(problem(npy("<i4", "(3,)", "abcd")), HasSubstr("needs 12 bytes, the file has 4"));
  EXPECT_THAT(problem(npy("<i4", "(4294967296, 4294967296, 4)", "abcd")), HasSubstr("too large"));
  EXPECT_THAT(problem("not an array at all"), HasSubstr("is not a NumPy array"));
  EXPECT_THAT(problem(""), HasSubstr("error:"));
}

TEST_F(Archive, DamagedZipIsRefused) {
  std::string data;
  for (int i = 0; i < 5000; ++i) data += static_cast<char>((i * 7919) % 251);
  const std::string array = npy("|u1", "(5000,)", data);
  for (const ZipMethod method : {ZipMethod::stored, ZipMethod::deflated}) {
    const std::string good = zipped({{"ids.npy", array}}, method);
    EXPECT_THAT(message_of([&] { (void)open_arrays(file("cut.npz", good.substr(0, good.size() - 30))); }), HasSubstr("directory is missing"));
    std::string flipped = good;
    flipped[good.size() / 2] = static_cast<char>(flipped[good.size() / 2] ^ 0x40);
    EXPECT_THAT(message_of([&] {
                  auto arrays = open_arrays(file("flip.npz", flipped));
                  std::vector<std::int64_t> out;
                  arrays.at("ids").read_ints(0, 0, 5000, out);
                }),
                HasSubstr("flip.npz:ids.npy"));
  }
}

TEST_F(Archive, ZipBombIsRefusedBeforeItIsOpened) {
  const std::string path = file("bomb.npz", zipped({{"x.npy", std::string(4 << 20, '\0')}}, ZipMethod::deflated));
  EXPECT_THAT(message_of([&] { ZipArchive archive(path, {.free_bytes = 1 << 20, .max_ratio = 100}); }),
              HasSubstr("would expand to more than 100 times"));
}

}  // namespace
}  // namespace moekv
