// Descends from the ends of a block to the positions asked for, halving the gap; see generate::BridgeNode.
#include "trace/latent_block.hpp"

#include "trace/generator_kernels.hpp"

namespace moekv {
namespace {

constexpr std::uint32_t end_offset = generate::block_tokens - 1;

}  // namespace

LatentBlock::LatentBlock() { generate::set_bridge_nodes(nodes_); }

void LatentBlock::fill(const PlaneMap& map, std::uint32_t request, std::uint32_t block_begin, std::uint32_t first, std::uint32_t last) {
  map_ = &map;
  request_ = request;
  block_begin_ = block_begin;
  first_ = first;
  last_ = last;
  stride_ = std::size_t{4} * map.n_quads;
  if (rows_.size() < stride_ * generate::block_tokens) rows_.resize(stride_ * generate::block_tokens);
  if (noise_.size() < stride_) noise_.resize(stride_);
  draw(0, 0, 0);
  if (last == 0) return;
  draw(end_offset, 0, 0);
  fill_between(0, end_offset);
}

void LatentBlock::draw(std::uint32_t offset, std::uint32_t left, std::uint32_t right) {
  float* out = rows_.data() + offset * stride_;
  float* noise = offset == 0 ? out : noise_.data();
  draw_normal_row(map_->latent_seed, Stream::kv_latent, request_, block_begin_ + offset, map_->n_quads, noise);
  if (offset == 0) return;
  const generate::BridgeNode node = nodes_[offset];
  const float* a = row(left);
  const float* b = row(right);
  for (std::size_t i = 0; i < stride_; ++i) out[i] = generate::bridge_value(node, a[i], b[i], noise[i]);
}

void LatentBlock::fill_between(std::uint32_t left, std::uint32_t right) {
  if (right - left < 2 || last_ <= left || first_ >= right) return;
  const std::uint32_t middle = (left + right) / 2;
  draw(middle, left, right);
  fill_between(left, middle);
  fill_between(middle, right);
}

}  // namespace moekv
