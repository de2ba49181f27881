// Layout checks, chunk reading and placing of values for RowReader.
#include "io/row_reader.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.hpp"
#include "io/hdf5_detail.hpp"

namespace moekv {
namespace {

constexpr std::uint64_t target_block_bytes = std::uint64_t{1} << 20;  // of contiguous datasets
constexpr const char* repack = "rewrite the file with: h5repack -f SHUF -f GZIP=4";

/// a * b, or the largest value where it overflows.
std::uint64_t times(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? ~std::uint64_t{0} : product;
}

std::uint64_t product(const h5::Dims& dims, std::size_t from) {
  std::uint64_t n = 1;
  for (std::size_t i = from; i < dims.size(); ++i) n = times(n, dims[i]);
  return n;
}

}  // namespace

RowReader::RowReader(h5::Dataset dataset, std::shared_ptr<BlockCache> cache, RowPart part, Check check)
    : dataset_(std::move(dataset)), cache_(std::move(cache)), check_(std::move(check)), dims_(dataset_.dims()), type_(dataset_.type()),
      element_bytes_(h5::element_bytes(type_)) {
  if (dims_.empty() || dims_.size() > 4) refuse(fmt::format("has {} axes, expected 1 to 4", dims_.size()), "see the trace format");
  if (element_bytes_ == 0) refuse("has an element type that no trace uses", "write little-endian numbers");
  owner_ = cache_->new_owner();
  row_bytes_ = times(product(dims_, 1), element_bytes_);
  plane_bytes_ = dims_.size() > 1 ? times(product(dims_, 2), element_bytes_) : row_bytes_;
  split_planes_ = part == RowPart::plane;
  read_layout();
  if (const std::uint64_t unit = split_planes_ ? plane_bytes_ : row_bytes_; unit > most_chunk_bytes) {
    refuse(fmt::format("has rows of {} bytes, more than the {} allowed", unit, most_chunk_bytes), "the file is damaged, or not a trace");
  }
  refuse_implausible_size();
}

void RowReader::refuse(const std::string& what, const std::string& suggestion) const { throw UserError(dataset_.where(), what, suggestion); }

void RowReader::read_layout() {
  const h5::Handle list(H5Dget_create_plist(dataset_.id()), H5Pclose);
  const H5D_layout_t layout = H5Pget_layout(list.id());
  if (H5Pget_external_count(list.id()) > 0 || (layout != H5D_CHUNKED && layout != H5D_CONTIGUOUS && layout != H5D_COMPACT)) {
    refuse("keeps its data in another file", "copy the data into the trace, for example with h5repack");
  }
  if (layout != H5D_CHUNKED) {
    split_planes_ = false;
    block_rows_ = std::max<std::uint64_t>(1, target_block_bytes / std::max<std::uint64_t>(1, row_bytes_));
    return;
  }
  std::vector<hsize_t> chunk(dims_.size());
  if (H5Pget_chunk(list.id(), static_cast<int>(chunk.size()), chunk.data()) != static_cast<int>(chunk.size())) {
    refuse("has an unreadable chunk shape: " + h5::detail::take_error(), "the file is damaged");
  }
  chunk_.assign(chunk.begin(), chunk.end());
  block_rows_ = chunk_[0];
  split_planes_ =
      split_planes_ && dims_.size() > 2 && chunk_[1] == 1 && dims_[1] > 1 && std::equal(chunk_.begin() + 2, chunk_.end(), dims_.begin() + 2);
  const std::uint64_t block_bytes = times(block_rows_, split_planes_ ? plane_bytes_ : row_bytes_);
  if (times(product(chunk_, 0), element_bytes_) > most_chunk_bytes || block_bytes > 4 * most_chunk_bytes || product(chunk_, 0) == 0) {
    refuse(fmt::format("has chunks of {} rows, {} bytes decoded; {} are allowed", block_rows_, block_bytes, most_chunk_bytes),
           "rewrite it with smaller chunks, for example h5repack -l CHUNK=...");
  }
  const int n_filters = H5Pget_nfilters(list.id());
  for (int i = 0; i < n_filters; ++i) {
    unsigned flags = 0;
    unsigned config = 0;
    std::size_t n_values = 0;
    char name[64] = "";
    const H5Z_filter_t filter = H5Pget_filter2(list.id(), static_cast<unsigned>(i), &flags, &n_values, nullptr, sizeof(name), name, &config);
    if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_FLETCHER32) {
      refuse(fmt::format("is packed with filter {} ({}); deflate, shuffle and fletcher32 are known", filter, name), repack);
    }
    filters_.push_back(filter == H5Z_FILTER_DEFLATE   ? ChunkFilter::deflate
                       : filter == H5Z_FILTER_SHUFFLE ? ChunkFilter::shuffle
                                                      : ChunkFilter::fletcher32);
  }
  if (std::count(filters_.begin(), filters_.end(), ChunkFilter::deflate) > 1 || filters_.size() > 8) refuse("is compressed more than once", repack);
}

void RowReader::refuse_implausible_size() const {
  const std::uint64_t claimed = times(dims_[0], row_bytes_);
  const std::uint64_t stored = dataset_.stored_bytes();
  const std::uint64_t slack = chunk_.empty() ? 0 : times(times(product(chunk_, 0), element_bytes_), 2);
  if (claimed > times(stored, most_inflation) && claimed - times(stored, most_inflation) > slack) {
    refuse(fmt::format("claims {} bytes but stores {}", claimed, stored), "it was not written completely, or is made to exhaust memory");
  }
}

RowReader::Piece RowReader::piece(std::uint64_t begin, std::uint64_t end, std::uint64_t plane) {
  MOEKV_EXPECT(begin < end && end <= n_rows());
  const std::uint64_t block = begin / block_rows_;
  const std::uint64_t n_planes = split_planes_ ? dims_[1] : 1;
  const std::uint64_t index = block * n_planes + (split_planes_ ? plane : 0);
  if (index != last_index_) {
    last_ = cache_->find(owner_, index);
    if (!last_) {
      last_index_ = ~std::uint64_t{0};
      last_ = decode(block, plane);
      cache_->insert(owner_, index, last_);
    }
    last_index_ = index;
  }
  const std::uint64_t stride = split_planes_ ? plane_bytes_ : row_bytes_;
  const std::uint64_t first = begin - block * block_rows_;
  const std::byte* data = last_->bytes.get() + first * stride + (split_planes_ ? 0 : plane * plane_bytes_);
  return {data, std::min(end, (block + 1) * block_rows_) - begin, stride};
}

BlockPtr RowReader::decode(std::uint64_t block, std::uint64_t plane) {
  const std::uint64_t first = block * block_rows_;
  const std::uint64_t rows = std::min(block_rows_, n_rows() - first);
  auto decoded = std::make_shared<Block>();
  decoded->n_bytes = (chunk_.empty() ? rows : block_rows_) * (split_planes_ ? plane_bytes_ : row_bytes_);
  decoded->bytes = std::make_unique_for_overwrite<std::byte[]>(decoded->n_bytes);
  if (chunk_.empty()) {
    dataset_.read_raw_rows(first, rows, decoded->bytes.get());
  } else {
    gather(block, plane, decoded->bytes.get());
  }
  if (check_ && !split_planes_) check_(*this, first, rows, decoded->bytes.get());
  return decoded;
}

void RowReader::gather(std::uint64_t block, std::uint64_t plane, std::byte* out) {
  const std::uint64_t tile_bytes = product(chunk_, 0) * element_bytes_;
  h5::Dims offset(dims_.size(), 0);
  offset[0] = block * block_rows_;
  if (split_planes_) offset[1] = plane;
  const bool one_tile = split_planes_ || std::equal(chunk_.begin() + 1, chunk_.end(), dims_.begin() + 1);
  if (one_tile) {
    decode_tile(offset, {out, tile_bytes});
    return;
  }
  const std::uint64_t rows = std::min(block_rows_, n_rows() - offset[0]);
  tile_.resize(tile_bytes);
  for (bool more = true; more;) {
    decode_tile(offset, tile_);
    place_tile(offset, tile_.data(), rows, out);
    more = false;
    for (std::size_t axis = dims_.size(); axis-- > 1 && !more;) {  // the next chunk, last axis fastest
      offset[axis] += chunk_[axis];
      more = offset[axis] < dims_[axis];
      if (!more) offset[axis] = 0;
    }
  }
}

void RowReader::decode_tile(const h5::Dims& offset, std::span<std::byte> out) {
  const auto place = [&] { return fmt::format("the chunk of rows {}..{}", offset[0], std::min(offset[0] + block_rows_, n_rows())); };
  const std::vector<hsize_t> at(offset.begin(), offset.end());
  hsize_t n_stored = 0;
  if (H5Dget_chunk_storage_size(dataset_.id(), at.data(), &n_stored) < 0 || n_stored == 0) {
    (void)h5::detail::take_error();
    refuse(place() + " is missing", "the file was not written completely, or is damaged");
  }
  if (n_stored > out.size() + out.size() / 512 + 4096) {
    refuse(fmt::format("{} takes {} bytes for {} bytes of data", place(), n_stored, out.size()), "the file is damaged");
  }
  stored_.resize(n_stored);
  std::uint32_t skipped = 0;
  if (H5Dread_chunk(dataset_.id(), H5P_DEFAULT, at.data(), &skipped, stored_.data()) < 0) {
    refuse(fmt::format("{} cannot be read: {}", place(), h5::detail::take_error()), "the file is truncated or damaged");
  }
  const std::string problem = decode_chunk(filters_, skipped, element_bytes_, stored_, out);
  if (!problem.empty()) refuse(fmt::format("{} {}", place(), problem), "the file is damaged; copy it again from its source");
}

void RowReader::place_tile(const h5::Dims& offset, const std::byte* tile, std::uint64_t n_rows, std::byte* out) const {
  const std::size_t last = dims_.size() - 1;
  const std::uint64_t run = std::min(chunk_[last], dims_[last] - offset[last]) * element_bytes_;
  const std::uint64_t n_runs = product(chunk_, 0) / chunk_[last];
  for (std::uint64_t i = 0; i < n_runs; ++i) {
    std::uint64_t rest = i;
    std::uint64_t target = offset[last];
    std::uint64_t stride = dims_[last];
    bool inside = true;
    for (std::size_t axis = last; axis-- > 0;) {
      const std::uint64_t coordinate = rest % chunk_[axis] + (axis > 0 ? offset[axis] : 0);
      rest /= chunk_[axis];
      inside = inside && coordinate < (axis > 0 ? dims_[axis] : n_rows);
      target += coordinate * stride;
      stride *= dims_[axis];
    }
    if (inside) std::memcpy(out + target * element_bytes_, tile + i * chunk_[last] * element_bytes_, run);
  }
}

}  // namespace moekv
