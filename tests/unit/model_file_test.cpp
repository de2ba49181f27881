// Bad model and token files: each is refused with the place and the reason, whatever is wrong with it.
#include "model/model_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include "core/error.hpp"
#include "model/decoder.hpp"
#include "model/token_source.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

namespace moekv {
namespace {

using ::testing::HasSubstr;

/// Reads the whole file as a run does; the text of the refusal, empty where there is none.
std::string refusal(const std::string& path) {
  try {
    const ModelFile file(path);
    (void)Decoder(file);
    return {};
  } catch (const UserError& e) {
    return e.what();
  }
}

struct Damage {
  std::string name, expected;
  std::function<void(h5::File&)> change;
};

std::vector<Damage> damages() {
  const auto replace = [](const char* name, const h5::Dims& dims, float value = 0.5F) {
    return [=](h5::File& f) {
      f.remove(name);
      std::uint64_t n = 1;
      for (const std::uint64_t d : dims) n *= d;
      f.write(name, std::span<const float>(std::vector<float>(n, value)), dims);
    };
  };
  return {
      {"no format", "is no model file", [](h5::File& f) { f.set("format", "something"); }},
      {"another version", "'format_version' is 2, allowed: 1..1", [](h5::File& f) { f.set("format_version", 2); }},
      {"unknown attribute", "unknown attribute 'rope_thetta'", [](h5::File& f) { f.set("rope_thetta", 1e4); }},
      {"attribute of another type", "hidden", [](h5::File& f) { f.set("hidden", "many"); }},
      {"unknown choice", "'gate_score' is 'tanh'", [](h5::File& f) { f.set("gate_score", "tanh"); }},
      {"empty choice", "'gate_score' is ''", [](h5::File& f) { f.set("gate_score", ""); }},
      {"too many heads", "'n_heads' is 5000", [](h5::File& f) { f.set("n_heads", 5000); }},
      {"negative size", "'vocab' is -3", [](h5::File& f) { f.set("vocab", -3); }},
      {"heads do not divide", "3 KV heads do not divide 4", [](h5::File& f) { f.set("n_kv_heads", 3); }},
      {"odd rotary part", "rope_dim 7 is no even number", [](h5::File& f) { f.set("rope_dim", 7); }},
      {"yarn without slow channels", "yarn_beta_slow > 0",
       [](h5::File& f) {
         f.set("rope_scaling", "yarn");
         f.set("yarn_factor", 4.0);
         f.set("yarn_original_tokens", 16);
         f.set("yarn_beta_slow", 0.0);
       }},
      {"yarn that is not chosen", "attribute 'yarn_factor' says nothing without rope_scaling = yarn", [](h5::File& f) { f.set("yarn_factor", 4.0); }},
      {"clamp that is not chosen", "attribute 'swiglu_limit' says nothing without activation", [](h5::File& f) { f.set("swiglu_limit", 7.0); }},
      {"attribute of the layers", ":/layers: error: attribute 'window_tokens' says", [](h5::File& f) { f.group("layers").set("window_tokens", 9); }},
      {"attribute of an attention", "layers/0/attn: error: attribute 'rope' says", [](h5::File& f) { f.group("layers/0/attn").set("rope", 0); }},
      {"encoding of floats", "embed: error: attribute 'encoding' says", [](h5::File& f) { f.dataset("embed").set("encoding", "bf16"); }},
      {"empty group", "layers/1/moe: error: unknown group", [](h5::File& f) { f.create_group("layers/1/moe"); }},
      {"name that a terminal obeys", "unknown attribute 'a\\n\\x1b[2Jb'", [](h5::File& f) { f.set("a\n\x1b[2Jb", 1); }},
      {"more experts than there are", "cannot choose 7 of 6", [](h5::File& f) { f.set("top_k", 7); }},
      {"another number of layers", "layers/3: error: group is missing", [](h5::File& f) { f.set("n_layers", 4); }},
      {"a layer too many", "unknown dataset", [](h5::File& f) { f.set("n_layers", 2); }},
      {"missing dataset", "layers/1/attn/o: error: dataset is missing", [](h5::File& f) { f.remove("layers/1/attn/o"); }},
      {"misspelt dataset", "q_biass: error: unknown dataset", [](h5::File& f) { f.write("layers/0/attn/q_biass", std::vector<float>(48)); }},
      {"another shape", "expected [24, 48]", replace("layers/1/attn/o", {48, 24})},
      {"two axes too few", "expected [6, 10, 24]", replace("layers/2/ffn/experts_up", {1440})},
      {"half of the head norms", "has only some of", [](h5::File& f) { f.write("layers/0/attn/q_norm", std::vector<float>(12, 1)); }},
      {"sinks of one layer", "some layers have attention sinks", [](h5::File& f) { f.write("layers/0/attn/sinks", std::vector<float>(4, 1)); }},
      {"integers", "has elements of type i32",
       [](h5::File& f) {
         f.remove("norm");
         f.write("norm", std::vector<std::int32_t>(24, 1));
       }},
      {"u16 without encoding", "encoding",
       [](h5::File& f) {
         f.remove("norm");
         f.write("norm", std::vector<std::uint16_t>(24, 1));
       }},
      {"not a number", "values that are not finite", replace("norm", {24}, std::numeric_limits<float>::quiet_NaN())},
      {"infinite", "values that are not finite", replace("layers/1/ffn/router", {6, 24}, std::numeric_limits<float>::infinity())},
      {"an ocean of nothing", "holds no data",
       [](h5::File& f) {
         f.remove("embed");
         h5::Storage storage;
         storage.chunk = {1, 24};
         f.create_dataset("embed", h5::Type::f32, {19, 24}, storage);
       }},
      {"a group for a dataset", "norm",
       [](h5::File& f) {
         f.remove("norm");
         f.create_group("norm");
       }},
      {"no experts at all", "no layer has a router",
       [](h5::File& f) {
         for (const char* l : {"0", "1", "2"}) {
           const std::string at = std::string("layers/") + l + "/ffn/";
           for (const char* name : {"router", "experts_gate", "experts_up", "experts_down"}) f.remove(at + name);
           f.write(at + "gate", std::span<const float>(std::vector<float>(240, 1)), {10, 24});
           f.write(at + "up", std::span<const float>(std::vector<float>(240, 1)), {10, 24});
           f.write(at + "down", std::span<const float>(std::vector<float>(240, 1)), {24, 10});
         }
       }},
  };
}

TEST(ModelFile, DamageIsToldWithItsPlace) {
  const TempDir folder;
  const std::string path = folder.file("model.h5");
  testing::write_tiny_model(path, {});
  ASSERT_EQ(refusal(path), "");
  for (const Damage& d : damages()) {
    SCOPED_TRACE(d.name);
    testing::write_tiny_model(path, {});
    {
      h5::File file = h5::File::open(path, h5::Access::update);
      d.change(file);
      file.close();
    }
    EXPECT_THAT(refusal(path), HasSubstr(d.expected));
    EXPECT_THAT(refusal(path), HasSubstr(path));
  }
}

TEST(ModelFile, ACutFileIsRefusedWhereverTheCutIs) {
  const TempDir folder;
  const std::string whole = folder.file("model.h5"), cut = folder.file("cut.h5");
  testing::write_tiny_model(whole, {});
  const auto size = std::filesystem::file_size(whole);
  for (std::uintmax_t n = 0; n < size; n += size / 23) {
    std::filesystem::copy_file(whole, cut, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(cut, n);
    EXPECT_NE(refusal(cut), "") << n << " of " << size << " bytes";
  }
  EXPECT_THAT(refusal(folder.file("absent.h5")), HasSubstr("absent.h5"));
}

/// The refusal of a token file with these arrays.
std::string tokens_refusal(const std::function<void(h5::File&)>& fill) {
  const TempDir folder;
  testing::write_tiny_model(folder.file("model.h5"), {});
  h5::File file = h5::File::create(folder.file("tokens.h5"));
  fill(file);
  file.close();
  try {
    DecoderSpec spec = ModelFile(folder.file("model.h5")).spec();
    spec.max_positions = 8;
    (void)TokenSource(folder.file("tokens.h5"), 0, spec);
    return {};
  } catch (const UserError& e) {
    return e.what();
  }
}

TEST(TokenFile, DamageIsToldWithItsPlace) {
  using Ints = std::vector<std::int32_t>;
  const auto rows = [](h5::File& f, const char* name, const Ints& values, const h5::Dims& dims) {
    f.write(name, std::span<const std::int32_t>(values), dims);
  };
  EXPECT_EQ(tokens_refusal([&](h5::File& f) { rows(f, "token_ids", Ints(6, 3), {2, 3}); }), "");
  EXPECT_THAT(tokens_refusal([&](h5::File& f) { rows(f, "tokens", Ints(6, 3), {2, 3}); }), HasSubstr("has no array token_ids"));
  EXPECT_THAT(tokens_refusal([&](h5::File& f) {
                rows(f, "token_ids", Ints(6, 19), {2, 3});
              }),
              HasSubstr("token 19 is not in the model's vocabulary of 19"));
  EXPECT_THAT(tokens_refusal([&](h5::File& f) { rows(f, "token_ids", Ints(6, -1), {2, 3}); }), HasSubstr("token -1"));
  EXPECT_THAT(tokens_refusal([&](h5::File& f) { rows(f, "token_ids", Ints(2, 1), {2, 1}); }), HasSubstr("has no token to predict"));
  EXPECT_THAT(tokens_refusal([&](h5::File& f) { rows(f, "token_ids", Ints(10, 1), {1, 10}); }), HasSubstr("9 positions, the model knows 8"));
  EXPECT_THAT(tokens_refusal([&](h5::File& f) { rows(f, "token_ids", Ints(8, 1), {2, 2, 2}); }), HasSubstr("has 3 axes"));
  EXPECT_THAT(tokens_refusal([&](h5::File& f) { f.write("token_ids", std::vector<float>(4, 1)); }), HasSubstr("not a dataset of whole numbers"));
  const auto with = [&](const char* name, const Ints& values) {
    return tokens_refusal([&](h5::File& f) {
      rows(f, "token_ids", Ints(6, 3), {6});
      f.write(name, values);
    });
  };
  EXPECT_EQ(with("seq_lens", {2, 4}), "");
  EXPECT_THAT(with("seq_lens", {2, 3}), HasSubstr("seq_lens sum to 5"));
  EXPECT_THAT(with("seq_lens", {2, 5}), HasSubstr("seq_lens[1] is 5, there are 4"));
  EXPECT_THAT(with("seq_lens", {-2, 8}), HasSubstr("seq_lens[0] is -2"));
  EXPECT_THAT(with("next_token_ids", {1, 2}), HasSubstr("differ in shape"));
}

TEST(TokenFile, TargetsFollowTheirTokens) {
  const TempDir folder;
  testing::write_tiny_model(folder.file("model.h5"), {});
  const DecoderSpec spec = ModelFile(folder.file("model.h5")).spec();
  h5::File file = h5::File::create(folder.file("tokens.h5"));
  file.write("token_ids", std::vector<std::int32_t>{1, 2, 3, 4, 5});
  file.write("seq_lens", std::vector<std::int32_t>{3, 2});
  file.close();
  const TokenSource tokens(folder.file("tokens.h5"), 0, spec);
  ASSERT_EQ(tokens.n_requests(), 2U);
  using Tokens = std::vector<std::uint32_t>;
  const auto all = [](std::span<const std::uint32_t> s) { return Tokens(s.begin(), s.end()); };
  EXPECT_EQ(all(tokens.inputs(RequestId(0))), (Tokens{1, 2}));
  EXPECT_EQ(all(tokens.targets(RequestId(0))), (Tokens{2, 3}));
  EXPECT_EQ(all(tokens.inputs(RequestId(1))), (Tokens{4}));
  EXPECT_EQ(all(tokens.targets(RequestId(1))), (Tokens{5}));
  EXPECT_EQ(tokens.request(RequestId(0)).prompt_tokens, 1U);
  EXPECT_EQ(tokens.request(RequestId(0)).output_tokens, 1U);
  h5::File given = h5::File::open(folder.file("tokens.h5"), h5::Access::update);
  given.write("next_token_ids", std::vector<std::int32_t>{6, 7, 8, 9, 10});
  given.close();
  const TokenSource own(folder.file("tokens.h5"), 0, spec);
  EXPECT_EQ(all(own.inputs(RequestId(0))), (Tokens{1, 2, 3}));
  EXPECT_EQ(all(own.targets(RequestId(0))), (Tokens{6, 7, 8}));
  EXPECT_EQ(all(own.inputs(RequestId(1))), (Tokens{4, 5}));
  EXPECT_EQ(all(own.targets(RequestId(1))), (Tokens{9, 10}));
  EXPECT_EQ(own.request(RequestId(0)).prompt_tokens, 2U);
  EXPECT_EQ(own.request(RequestId(0)).output_tokens, 1U);
}

}  // namespace
}  // namespace moekv
