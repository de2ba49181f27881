// PiKV's names of compressors and the codecs that do what they describe. Its own classes store nothing smaller than their input.
#pragma once

#include <array>
#include <string_view>

namespace moekv {

/// Another name of a rule.
struct RuleAlias {
  std::string_view alias, name;
};

inline constexpr std::array<RuleAlias, 20> codec_aliases{{
    {"LoRACompressor", "lora"},
    {"LoRAPlusPlusCompressor", "lora++"},
    {"LoRAPlusCompressor", "lora++"},
    {"SVDCompressor", "lowrank.pca"},
    {"svd", "lowrank.pca"},
    {"PyramidCompressor", "pyramid_res"},
    {"PyramidKVCompressor", "pyramid_res"},
    {"pyramid", "pyramid_res"},
    {"pyramidkv", "pyramid_res"},
    {"ChunkKVCompressor", "block_pca"},
    {"chunkkv", "block_pca"},
    {"FastVCompressor", "chan_prune.crop"},
    {"fastv", "chan_prune.crop"},
    {"PruningCompressor", "chan_prune.magnitude"},
    {"prune", "chan_prune.magnitude"},
    {"DistillationCompressor", "ae_loaded"},
    {"distill", "ae_loaded"},
    {"PiKVCompressor", "adaptive"},
    {"QuantizedCompressor", "int8_token.asym"},
    {"quantized", "int8_token.asym"},
}};

}  // namespace moekv
