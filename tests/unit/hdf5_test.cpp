// The HDF5 layer: what is written is read back, files are laid out for other readers, every misuse is one clear exception.
#include "io/hdf5.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <type_traits>

#include "core/error.hpp"
#include "io/pending_file.hpp"
#include "support/temp_dir.hpp"

namespace moekv {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

static_assert(!std::is_copy_constructible_v<h5::Dataset> && std::is_nothrow_move_constructible_v<h5::Dataset>);

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "no exception";
}

class Hdf5 : public ::testing::Test {
 protected:
  TempDir dir;
  std::string path = dir.file("a.h5");
};

TEST_F(Hdf5, AttributesRoundTrip) {
  {
    auto file = h5::File::create(path);
    file.set("text", "grüße, 専門家");
    file.set("empty", "");
    file.set("long", std::string(300'000, 'x'));
    file.set("version", std::vector<std::int32_t>{1, 0});
    file.set("names", std::vector<std::string>{"a", "", "c d"});
    file.set("count", std::int64_t{-7});
    file.set("ratio", 0.25F);
    for (int i = 0; i < 20; ++i) file.set(std::string(1, static_cast<char>(97 + i)), i);  // beyond eight, attributes move to dense storage
    file.set("d", "replaced");
    file.close();
  }
  const auto file = h5::File::open(path);
  EXPECT_EQ(file.text("text"), "grüße, 専門家");
  EXPECT_EQ(file.text("empty"), "");
  EXPECT_EQ(file.text("long").size(), 300'000U);
  EXPECT_THAT(file.integers("version"), ElementsAre(1, 0));
  EXPECT_THAT(file.texts("names"), ElementsAre("a", "", "c d"));
  EXPECT_EQ(file.number<std::int64_t>("count"), -7);
  EXPECT_EQ(file.number<float>("ratio"), 0.25F);
  EXPECT_EQ(file.number<std::uint16_t>("t"), 19);
  EXPECT_EQ(file.text("d"), "replaced");
  EXPECT_EQ(file.attribute_names().front(), "text");
  EXPECT_EQ(file.attribute_type("version"), h5::Type::i32);
  EXPECT_EQ(file.attribute_type("nothing"), h5::Type::other);
}

TEST_F(Hdf5, AttributesOfTheWrongKindAreRefusedByName) {
  {
    auto file = h5::File::create(path);
    file.set("text", "x");
    file.set("count", -7);
    file.set("ratio", 0.5);
    file.set("two", std::vector<int>{1, 2});
  }
  const auto file = h5::File::open(path);
  EXPECT_THAT(message_of([&] { (void)file.number<int>("missing"); }), HasSubstr("attribute 'missing' is missing"));
  EXPECT_THAT(message_of([&] { (void)file.number<int>("text"); }), HasSubstr("attribute 'text' must be an integer"));
  EXPECT_THAT(message_of([&] { (void)file.number<int>("ratio"); }), HasSubstr("attribute 'ratio' must be an integer"));
  EXPECT_THAT(message_of([&] { (void)file.number<std::uint16_t>("count"); }), HasSubstr("is -7, outside 0..65535"));
  EXPECT_THAT(message_of([&] { (void)file.number<int>("two"); }), HasSubstr("must be one integer, not 2"));
  EXPECT_THAT(message_of([&] { (void)file.text("count"); }), HasSubstr("must be text"));
  EXPECT_THROW((void)file.text("count"), UserError);
}

TEST_F(Hdf5, DatasetsRoundTripInEveryTypeAndStorage) {
  const std::vector<std::uint16_t> ids{1, 2, 3, 65535, 5, 6};
  const std::vector<h5::Half> halves{{0x3C00}, {0xC000}, {0x0001}};
  {
    auto file = h5::File::create(path);
    file.write("plain", std::span<const std::uint16_t>(ids), {3, 2});
    file.write("deep/packed", std::span<const std::uint16_t>(ids), {3, 2},
               {.chunk = {2, 2}, .extendable = true, .deflate_level = 4, .shuffle = true, .fletcher32 = true});
    file.write("halves", halves);
    file.write("scalar", 2.5);
    file.write("label", std::string_view("one"));
    file.write("labels", std::vector<std::string>{"α", "beta"});
    file.write("none", std::vector<std::int64_t>{});
    file.close();
  }
  const auto file = h5::File::open(path);
  EXPECT_THAT(file.names(), ElementsAre("plain", "deep", "halves", "scalar", "label", "labels", "none"));
  EXPECT_EQ(file.dataset("plain").read<std::uint16_t>(), ids);
  const auto packed = file.group("deep").dataset("packed");
  EXPECT_EQ(packed.name(), "/deep/packed");
  EXPECT_EQ(packed.read<std::uint16_t>(), ids);
  EXPECT_EQ(packed.type(), h5::Type::u16);
  std::vector<std::uint32_t> wide(2);
  packed.read_rows(1, 1, wide.data());
  EXPECT_THAT(wide, ElementsAre(3, 65535));
  EXPECT_EQ(file.dataset("halves").type(), h5::Type::f16);
  EXPECT_EQ(file.dataset("halves").read<h5::Half>()[1].bits, 0xC000);
  EXPECT_EQ(file.dataset("halves").read<float>()[2], std::ldexp(1.0F, -24));
  EXPECT_EQ(file.dataset("scalar").read<double>()[0], 2.5);
  EXPECT_THAT(file.dataset("label").read_texts(), ElementsAre("one"));
  EXPECT_THAT(file.dataset("labels").read_texts(), ElementsAre("α", "beta"));
  EXPECT_TRUE(file.dataset("none").read<std::int64_t>().empty());
  EXPECT_TRUE(file.has("deep/packed"));
  EXPECT_FALSE(file.has("deep/other") || file.has("other/packed"));
}

TEST_F(Hdf5, AppendingRowsEqualsWritingThemAtOnce) {
  std::vector<std::int32_t> all;
  {
    auto file = h5::File::create(path);
    auto grown = file.create_dataset("grown", h5::Type::i32, {0, 3}, {.chunk = {7, 3}, .extendable = true, .deflate_level = 1});
    for (int n = 0; n < 20; ++n) {
      std::vector<std::int32_t> rows;
      for (int i = 0; i < 3 * n; ++i) rows.push_back(static_cast<std::int32_t>(all.size()) + i);
      grown.append(std::span<const std::int32_t>(rows));
      all.insert(all.end(), rows.begin(), rows.end());
    }
    auto texts = file.create_dataset("texts", h5::Type::text, {0}, {.chunk = {4}, .extendable = true});
    texts.append_texts({"a", "b"});
    texts.append_texts({"c"});
    EXPECT_THAT(message_of([&] { grown.append(std::span<const std::int32_t>(all).first(2)); }), HasSubstr("2 values are not whole rows of 3"));
  }
  const auto file = h5::File::open(path);
  EXPECT_EQ(file.dataset("grown").read<std::int32_t>(), all);
  EXPECT_THAT(file.dataset("texts").read_texts(), ElementsAre("a", "b", "c"));
  EXPECT_THAT(message_of([&] { (void)file.dataset("grown").read<std::int32_t>(64); }), HasSubstr("more than the 64 bytes allowed"));
}

TEST_F(Hdf5, ScalesNameTheAxes) {
  {
    auto file = h5::File::create(path);
    auto rank = file.write("rank", std::vector<std::int32_t>{0, 1});
    rank.make_scale("rank");
    auto bytes = file.write("bytes", std::vector<double>{1, 2});
    bytes.attach_scale(rank, 0);
    bytes.set("units", "byte");
    EXPECT_THAT(message_of([&] { bytes.attach_scale(rank, 0); }), HasSubstr("/bytes: has a scale already"));
    file.close();
  }
  const auto file = h5::File::open(path);
  EXPECT_EQ(file.dataset("rank").text("CLASS"), "DIMENSION_SCALE");
  EXPECT_EQ(file.dataset("rank").text("NAME"), "rank");
  EXPECT_TRUE(file.dataset("bytes").has_attribute("DIMENSION_LIST"));
  EXPECT_TRUE(file.dataset("rank").has_attribute("REFERENCE_LIST"));
}

TEST_F(Hdf5, TextsLongerThanATransferBufferComeBack) {
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < 5000; ++i) texts.push_back(std::string(i % 50, 'x') + std::to_string(i));
  {
    auto file = h5::File::create(path);
    file.write("texts", texts);
    file.close();
  }
  EXPECT_EQ(h5::File::open(path).dataset("texts").read_texts(), texts);
}

TEST_F(Hdf5, WhatIsNotAFileSaysWhy) {
  const auto open = [](const std::string& p) { return message_of([&] { (void)h5::File::open(p); }); };
  EXPECT_THAT(open(dir.file("missing.h5")), HasSubstr("No such file"));
  EXPECT_THAT(open(dir.path()), HasSubstr("not a regular file"));
  std::ofstream(path) << "";
  EXPECT_THAT(open(path), HasSubstr("is empty"));
  std::ofstream(path) << "just text";
  EXPECT_THAT(open(path), HasSubstr("is not an HDF5 file"));
  EXPECT_THROW((void)h5::File::create(dir.file("no/such/folder/a.h5")), UserError);
}

TEST_F(Hdf5, ForeignFilesReadWithinLimits) {
  {
    auto file = h5::File::create(path);
    file.set("longest", std::string(4095, 'x'));
    file.write("texts", std::vector<std::string>{"a", "bc"});
    file.write("values", std::vector<int>{1, 2, 3});
  }
  const auto file = h5::File::open(path, h5::Access::foreign);
  EXPECT_EQ(file.text("longest").size(), 4095U);
  EXPECT_THAT(file.dataset("texts").read_texts(), ElementsAre("a", "bc"));
  EXPECT_THAT(file.dataset("values").read<int>(), ElementsAre(1, 2, 3));
  const std::string longer = dir.file("longer.h5");
  h5::File::create(longer).set("longest", std::string(5000, 'x'));
  EXPECT_THAT(message_of([&] { (void)h5::File::open(longer, h5::Access::foreign).text("longest"); }),
              HasSubstr("cannot read attribute 'longest': damaged or unreadable bytes"));
}

TEST_F(Hdf5, MissingAndMistakenNamesAreSaid) {
  {
    auto file = h5::File::create(path);
    file.write("a", std::vector<int>{1});
  }
  const auto file = h5::File::open(path);
  EXPECT_THAT(message_of([&] { (void)file.dataset("b"); }), HasSubstr("'b' is missing"));
  EXPECT_THAT(message_of([&] { (void)file.dataset("a/b"); }), HasSubstr("cannot"));
  EXPECT_THAT(message_of([&] { (void)file.group("a"); }), HasSubstr("cannot open group 'a'"));
}

TEST_F(Hdf5, PendingFileAppearsWholeOrNotAtAll) {
  {
    PendingFile pending(path);
    std::ofstream(pending.temporary_path()) << "half";
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  PendingFile pending(path);
  std::ofstream(pending.temporary_path()) << "whole";
  EXPECT_FALSE(std::filesystem::exists(path));
  pending.commit();
  EXPECT_EQ(std::filesystem::file_size(path), 5U);
  EXPECT_THROW(PendingFile(dir.file("no/folder/x")), UserError);
  EXPECT_THAT(message_of([&] { PendingFile a(path); }), HasSubstr("exists and is no HDF5 file"));
  const PendingFile text(path, FileKind::other);
  const std::string empty = dir.file("empty"), result = dir.file("result.h5");
  std::ofstream(empty).close();
  (void)h5::File::create(result);
  const PendingFile b(empty), c(result);
}

}  // namespace
}  // namespace moekv
