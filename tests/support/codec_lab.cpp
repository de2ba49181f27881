// Attention over stored values is computed in double precision from Backend::read_row, the backend's own from its pages.
#include "support/codec_lab.hpp"

#include <algorithm>
#include <cmath>

#include "device/fit_table.hpp"
#include "support/qkv_shapes.hpp"
#include "trace/qkv.hpp"

namespace moekv::test {
namespace {

double relative(const Matrix& a, const Matrix& b) { return (a - b).norm() / b.norm(); }

Matrix logits(const HeadRows& h, const Matrix& k) { return h.q * k.transpose() * h.scale; }

/// Causal softmax of logits.
Matrix attention(const HeadRows& h, Matrix a) {
  for (Eigen::Index i = 0; i < a.rows(); ++i) {
    const Eigen::Index n = h.positions[static_cast<std::size_t>(i)] + 1;
    const double top = a.row(i).head(n).maxCoeff();
    a.row(i).head(n) = (a.row(i).head(n).array() - top).exp();
    a.row(i).tail(a.cols() - n).setZero();
    a.row(i) /= a.row(i).sum();
  }
  return a;
}

double logit_error(const HeadRows& h, const Matrix& exact, const Matrix& stored) {
  double sum = 0;
  for (Eigen::Index i = 0; i < h.q.rows(); ++i) {
    const Eigen::Index n = h.positions[static_cast<std::size_t>(i)] + 1;
    const Eigen::ArrayXd x = exact.row(i).head(n).transpose();
    const Eigen::ArrayXd error = stored.row(i).head(n).transpose().array() - x;
    sum += (error - error.mean()).square().mean() / (x.tail(n - 4) - x.tail(n - 4).mean()).square().mean();
  }
  return std::sqrt(sum / static_cast<double>(h.q.rows()));
}

/// Pages of one head on a backend.
class Store {
 public:
  /// `formats`: by class.
  Store(const HeadRows& head, const std::vector<BlockFormat>& formats, const ClassChoice& choice, std::uint32_t raw_tokens)
      : head_(head), choice_(choice), slots_(formats.front().page_slots), used_(formats.size()) {
    BlockFormat raw = formats.front();
    raw.k = raw.v = {ElementFormat::fp32};
    const auto n_pages = static_cast<std::uint32_t>(head.k.rows()) / slots_;
    raw_ = backend_->create_pool(raw, n_pages + 1);
    for (const BlockFormat& format : formats) {
      pools_.push_back(backend_->create_pool(format, n_pages));
      if (format.k.fit == TableFit::loaded || format.v.fit == TableFit::loaded) load_tables(pools_.back(), format);
    }
    write(raw_tokens, n_pages);
  }

  [[nodiscard]] Backend& backend() { return *backend_; }
  [[nodiscard]] std::size_t n_sealed() const { return seals_.size(); }
  /// Pages of each class.
  [[nodiscard]] const std::vector<std::uint32_t>& used() const { return used_; }

  void read(Matrix& k, Matrix& v) {
    std::vector<float> k_row(static_cast<std::size_t>(k.cols())), v_row(static_cast<std::size_t>(v.cols()));
    Eigen::Index t = 0;
    for (const PageRead& page : pages_) {
      for (std::uint32_t slot = 0; slot < page.n_slots; ++slot, ++t) {
        backend_->read_row(page.block, 0, slot, k_row.data(), v_row.data());
        for (Eigen::Index c = 0; c < k.cols(); ++c) k(t, c) = static_cast<double>(k_row[static_cast<std::size_t>(c)]);
        for (Eigen::Index c = 0; c < v.cols(); ++c) v(t, c) = static_cast<double>(v_row[static_cast<std::size_t>(c)]);
      }
    }
  }

  Matrix attend() {
    const auto d = static_cast<std::uint32_t>(head_.k.cols());
    Matrix out(head_.q.rows(), head_.v.cols());
    std::vector<float> q(d), o(d);
    for (Eigen::Index i = 0; i < head_.q.rows(); ++i) {
      std::vector<PageRead> reads;
      std::uint32_t left = head_.positions[static_cast<std::size_t>(i)] + 1;
      for (const PageRead& page : pages_) {
        reads.push_back({page.block, std::min(left, page.n_slots)});
        left -= reads.back().n_slots;
        if (left == 0) break;
      }
      for (std::uint32_t c = 0; c < d; ++c) q[c] = static_cast<float>(head_.q(i, c));
      const AttendTask task{0, static_cast<std::uint32_t>(reads.size()), 0, 0, 1, 1, 0, 0};
      float m = 0, l = 0;
      backend_->attend({{&task, 1},
                        reads,
                        {},
                        reinterpret_cast<const std::byte*>(q.data()),
                        ElementFormat::fp32,
                        1,
                        d,
                        d,
                        static_cast<float>(head_.scale),
                        &m,
                        &l,
                        o.data(),
                        nullptr});
      for (std::uint32_t c = 0; c < d; ++c) out(i, c) = static_cast<double>(o[c]) / static_cast<double>(l);
    }
    return out;
  }

 private:
  void append(BlockRef block, std::uint32_t slot, Eigen::Index t) {
    std::vector<float> k(static_cast<std::size_t>(head_.k.cols())), v(static_cast<std::size_t>(head_.v.cols()));
    for (std::size_t c = 0; c < k.size(); ++c) k[c] = static_cast<float>(head_.k(t, static_cast<Eigen::Index>(c)));
    for (std::size_t c = 0; c < v.size(); ++c) v[c] = static_cast<float>(head_.v(t, static_cast<Eigen::Index>(c)));
    const AppendOp op{block, slot, reinterpret_cast<const std::byte*>(k.data()), reinterpret_cast<const std::byte*>(v.data())};
    backend_->append({&op, 1});
  }

  /// What a trained file would hold at best: the principal axes, down and up, with a zero bias.
  void load_tables(PoolId pool, const BlockFormat& sealed) {
    std::vector<std::byte> tables(sealed.shared_bytes());
    std::size_t at = 0;
    for (const auto& [plane, rows] : {std::pair{sealed.k, &head_.k}, {sealed.v, &head_.v}}) {
      if (plane.fit != TableFit::loaded) continue;
      const auto d = static_cast<std::uint32_t>(rows->cols());
      if (plane.centre) at += 2 * std::size_t{d};
      PlaneFormat axes = plane;
      axes.centre = false;
      axes.fit = TableFit::pca;
      const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> x = rows->cast<float>();
      for (int copy = 0; copy < 2; ++copy, at += table_bytes(axes, d)) {
        fit_table(axes, d, {x.data(), static_cast<std::uint32_t>(x.rows()), nullptr, 0}, &tables[at]);
      }
    }
    backend_->set_tables(pool, 7, tables);
  }

  /// Class of a page by its error; where attention decides, which there is none of here, pages take turns.
  std::uint32_t class_of(SealOp op) {
    if (choice_.by == ChooseBy::importance) return op.from.index % static_cast<std::uint32_t>(pools_.size());
    std::uint32_t c = 0;
    for (; c + 1 < pools_.size(); ++c) {
      op.to.pool = pools_[c];
      SealAudit audit;
      backend_->audit({&op, 1}, AuditOf::trial, static_cast<float>(head_.scale), &audit);
      if (!needs_larger_class(choice_, audit.spread_error)) break;
    }
    return c;
  }

  void write(std::uint32_t raw_tokens, std::uint32_t n_pages) {
    Eigen::Index t = 0;
    if (raw_tokens > 0) {
      for (std::uint32_t slot = 0; slot < raw_tokens; ++slot) append({raw_, n_pages}, slot, t++);
      pages_.push_back({{raw_, n_pages}, raw_tokens});
    }
    const auto d = static_cast<std::uint32_t>(head_.q.cols());
    for (Eigen::Index i = 0; i < head_.q.rows(); ++i) {
      for (std::uint32_t c = 0; c < d; ++c) queries_.push_back(static_cast<float>(head_.q(i, c)));
    }
    for (std::uint32_t page = 0; page < n_pages; ++page) {
      std::uint32_t n = 0;
      while (n < slots_ && t < head_.k.rows()) append({raw_, page}, n++, t++);
      if (n == 0) break;
      const std::uint32_t n_q = std::min<std::uint32_t>(32, static_cast<std::uint32_t>(head_.q.rows()));
      const std::size_t stride = d * sizeof(float);
      const auto* last = reinterpret_cast<const std::byte*>(queries_.data()) + (static_cast<std::size_t>(head_.q.rows()) - n_q) * stride;
      SealOp op{{raw_, page}, {pools_[0], 0}, n, 7, last, stride, n_q, 1};
      const std::uint32_t c = class_of(op);
      op.to = {pools_[c], used_[c]++};
      seals_.push_back(op);
      pages_.push_back({op.to, n});
    }
    backend_->seal(seals_);
  }

  const HeadRows& head_;
  ClassChoice choice_;
  std::uint32_t slots_;
  std::vector<std::uint32_t> used_;
  std::unique_ptr<Backend> backend_ = make_host_backend(1);
  PoolId raw_;
  std::vector<PoolId> pools_;
  std::vector<float> queries_;
  std::vector<SealOp> seals_;
  std::vector<PageRead> pages_;
};

/// The backend's attention over these keys and values in fp32 pages.
Matrix attend_raw(const HeadRows& head, const Matrix& k, const Matrix& v, BlockFormat format) {
  format.k = format.v = {ElementFormat::fp32};
  HeadRows rows = head;
  rows.k = k;
  rows.v = v;
  return Store(rows, {format}, {}, 0).attend();
}

}  // namespace

HeadRows generated_head(const std::string& preset, std::uint64_t seed, std::uint32_t d, std::uint32_t tokens, std::uint32_t n_queries) {
  const ModelShape shape = gqa_shape(1, 1, d);
  const auto source = make_qkv_generator({.preset = preset, .seed = seed}, shape);
  std::vector<float> k(std::size_t{tokens} * d), v(k.size()), q(d);
  source->keys_values(LayerId(1), RequestId(3), 0, tokens, {}, k.data(), v.data());
  using FloatRows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  HeadRows h{Eigen::Map<FloatRows>(k.data(), tokens, d).cast<double>(),
             Eigen::Map<FloatRows>(v.data(), tokens, d).cast<double>(),
             Matrix(n_queries, d),
             {},
             1.0 / std::sqrt(d),
             shape.rope_theta,
             {},
             {},
             {}};
  for (std::uint32_t i = 0; i < n_queries; ++i) {
    h.positions.push_back(tokens / 2 + (i + 1) * (tokens / 2) / n_queries - 1);
    source->queries(LayerId(1), RequestId(3), h.positions[i], h.positions[i] + 1, {}, q.data());
    for (std::uint32_t c = 0; c < d; ++c) h.q(i, c) = static_cast<double>(q[c]);
  }
  h.exact_logits = logits(h, h.k);
  h.exact_attention = attention(h, h.exact_logits);
  h.exact_out = h.exact_attention * h.v;
  return h;
}

Matrix rotated(const Matrix& x, double theta, Turn turn) {
  Matrix rows = x;
  const Eigen::Index half = rows.cols() / 2;
  Eigen::ArrayXd speed(half);
  for (Eigen::Index i = 0; i < half; ++i) speed(i) = std::pow(theta, -static_cast<double>(i) / static_cast<double>(half));
  for (Eigen::Index t = 0; t < rows.rows(); ++t) {
    for (Eigen::Index i = 0; i < half; ++i) {
      const double angle = static_cast<double>(turn == Turn::forward ? t : -t) * speed(i), cosine = std::cos(angle), sine = std::sin(angle);
      const double first = rows(t, i), second = rows(t, i + half);
      rows(t, i) = first * cosine - second * sine;
      rows(t, i + half) = first * sine + second * cosine;
    }
  }
  return rows;
}

CodecErrors measure_codec(const HeadRows& head, const Codec& k, const Codec& v, std::uint32_t slots, std::uint32_t raw_tokens, StoredKeys keys) {
  const bool pre_rope = keys == StoredKeys::pre_rope;
  const auto d = static_cast<std::uint32_t>(head.k.cols());
  std::vector<BlockFormat> formats;
  for (std::uint32_t c = 0; c < std::max(classes_of(k), classes_of(v)); ++c)
    formats.push_back({plane_of(k, Role::k, d, c), plane_of(v, Role::v, d, c), slots, 1, d, d, false});
  HeadRows given = head;
  if (pre_rope) given.k = rotated(head.k, head.rope_theta, Turn::back);
  Store store(given, formats, classes_of(k) > 1 ? choice_of(k) : choice_of(v), raw_tokens);
  Matrix k_stored(head.k.rows(), d), v_stored(head.v.rows(), d);
  store.read(k_stored, v_stored);
  if (pre_rope) k_stored = rotated(k_stored, head.rope_theta, Turn::forward);
  const Matrix stored_logits = logits(head, k_stored), stored = attention(head, stored_logits);
  const Matrix out = pre_rope ? attend_raw(head, k_stored, v_stored, formats.front()) : store.attend();
  CodecErrors e;
  e.rel_k = relative(k_stored, head.k);
  e.rel_v = relative(v_stored, head.v);
  e.logit = logit_error(head, head.exact_logits, stored_logits);
  e.attention = relative(stored, head.exact_attention);
  e.out = relative(out, head.exact_out);
  e.fold = relative(out, stored * v_stored);
  const BackendMemory memory = store.backend().memory();
  BlockFormat raw = formats.front();
  raw.k = raw.v = {ElementFormat::fp32};
  e.raw_bytes = store.n_sealed() * raw.block_bytes();
  e.allocated_bytes = memory.pool_bytes + memory.table_bytes - static_cast<std::int64_t>(e.raw_bytes + (raw_tokens > 0 ? raw.block_bytes() : 0));
  e.pages = store.used();
  for (std::size_t c = 0; c < formats.size(); ++c) {
    e.table_bytes += formats[c].shared_bytes() * (formats[c].k.fit == TableFit::loaded || e.pages[c] > 0 ? 1 : 0);
    e.stored_bytes += e.pages[c] * formats[c].block_bytes();
    e.code_bytes += e.pages[c] * formats[c].block_code_bytes();
  }
  return e;
}

}  // namespace moekv::test
