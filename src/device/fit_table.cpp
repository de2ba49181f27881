// Covariances in double precision; principal axes by Eigen, with the sign that makes their largest component positive.
#include "device/fit_table.hpp"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.hpp"
#include "device/fit_codebook.hpp"
#include "rules/codec/element.hpp"

namespace moekv {
namespace {

using Matrix = Eigen::MatrixXd;
using Vector = Eigen::VectorXd;

Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> as_matrix(const float* x, std::uint32_t n, std::uint32_t d) {
  return {x, static_cast<Eigen::Index>(n), static_cast<Eigen::Index>(d)};
}

/// A value as the table keeps it.
double stored(double x) { return static_cast<double>(float_from_fp16(fp16_from_float(static_cast<float>(x)))); }

void store_row(std::byte* table, const Vector& row) {
  for (Eigen::Index i = 0; i < row.size(); ++i) store_u16(table + 2 * i, fp16_from_float(static_cast<float>(row(i))));
}
void store_rows(std::byte* table, const Matrix& rows) {
  for (Eigen::Index i = 0; i < rows.rows(); ++i) store_row(table + 2 * i * rows.cols(), rows.row(i).transpose());
}

/// Eigenvectors of a symmetric matrix as rows, largest eigenvalue first.
Matrix leading_axes(const Matrix& symmetric, std::uint32_t rank) {
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(symmetric);
  Matrix axes = solver.eigenvectors().rightCols(rank).rowwise().reverse().transpose();
  for (Eigen::Index i = 0; i < axes.rows(); ++i) {
    Eigen::Index largest = 0;
    axes.row(i).cwiseAbs().maxCoeff(&largest);
    if (axes(i, largest) < 0) axes.row(i) *= -1.0;
  }
  return axes;
}

/// The `width` channels with the largest scores, ascending; ties to the lower channel.
void store_channels(std::byte* table, const Vector& score, std::uint32_t width) {
  std::vector<std::uint16_t> order(static_cast<std::size_t>(score.size()));
  std::iota(order.begin(), order.end(), std::uint16_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::uint16_t a, std::uint16_t b) { return score(a) > score(b); });
  std::sort(order.begin(), order.begin() + width);
  for (std::uint32_t i = 0; i < width; ++i) store_u16(table + 2 * std::size_t{i}, order[i]);
}

void fit_select(const PlaneFormat& f, const Matrix& x, const TableSamples& s, std::byte* table) {
  const auto d = static_cast<std::uint32_t>(x.cols());
  Vector score = x.array().square().colwise().mean().matrix().transpose();
  if (f.fit == TableFit::crop) score = -Vector::LinSpaced(d, 0, d - 1);
  if (f.fit == TableFit::think && s.n_queries > 0) {
    score.array() *= as_matrix(s.queries, s.n_queries, d).cast<double>().array().square().colwise().mean().transpose();
  }
  store_channels(table, score, stored_width(f, d));
}

/// Logits q.k of all pairs are met best by the leading axes of the keys as the queries' second moment C = L L^T sees them:
/// z = W^T L^T k, q' = W^T L^-1 q with W the leading eigenvectors of L^T E[k k^T] L.
void fit_kq(const PlaneFormat& f, const Matrix& x, const TableSamples& s, std::byte* table) {
  const auto d = static_cast<std::uint32_t>(x.cols());
  Matrix moment = Matrix::Identity(d, d);
  if (s.n_queries > 0) {
    const Matrix q = as_matrix(s.queries, s.n_queries, d).cast<double>();
    moment = q.transpose() * q / static_cast<double>(s.n_queries);
    moment.diagonal().array() += 1e-3 * moment.trace() / d;  // fewer queries than channels leave it singular
  }
  const Matrix lower = moment.llt().matrixL();
  const Matrix axes = leading_axes(lower.transpose() * (x.transpose() * x) * lower, stored_width(f, d));
  Matrix down = axes * lower.transpose();
  Matrix back = lower.triangularView<Eigen::Lower>().solve<Eigen::OnTheRight>(axes);
  for (Eigen::Index i = 0; i < down.rows(); ++i) {  // both within the range of fp16
    const double size = down.row(i).norm();
    down.row(i) /= size;
    back.row(i) *= size;
  }
  store_rows(table, down);
  store_rows(table + 2 * down.size(), back);
}

/// SmoothAttention: largest |x| of each channel to the power alpha, a pair's larger one for both. A channel of zeros keeps its size; what fp16 cannot
/// hold is as far as it goes.
void fit_smooth(const PlaneFormat& f, const Matrix& x, const TableSamples& s, std::byte* table) {
  Vector size = x.array().abs().colwise().maxCoeff().matrix().transpose();
  const Eigen::Index first = s.first_rotated, half = (x.cols() - first) / 2;
  for (Eigen::Index i = first; f.fit == TableFit::smooth_pairs && i < first + half; ++i) size(i) = size(i + half) = std::max(size(i), size(i + half));
  store_row(table, size.unaryExpr([&](double a) { return a > 0 ? std::clamp(std::pow(a, static_cast<double>(f.alpha)), 0x1p-14, 65504.0) : 1.0; }));
}

}  // namespace

void fit_table(const PlaneFormat& f, std::uint32_t d, const TableSamples& s, std::byte* table) {
  MOEKV_EXPECT(s.n_rows > 0 && f.fit != TableFit::loaded);
  Matrix x = as_matrix(s.rows, s.n_rows, d).cast<double>().array().isFinite().select(as_matrix(s.rows, s.n_rows, d).cast<double>(), 0.0);
  if (f.centre) {
    const Vector mean = x.colwise().mean().transpose().unaryExpr([](double v) { return stored(v); });
    x.rowwise() -= mean.transpose();
    store_row(table, mean);
    table += 2 * std::size_t{d};
  }
  if (f.map == MapKind::select) fit_select(f, x, s, table);
  if (f.map == MapKind::diag) fit_smooth(f, x, s, table);
  if (f.map == MapKind::codebook) {
    const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows = x.cast<float>();
    fit_codebook(rows.data(), s.n_rows, d, stored_width(f, d), table);
  }
  if (f.map != MapKind::basis) return;
  if (f.fit == TableFit::kq_svd) {
    fit_kq(f, x, s, table);
  } else {
    store_rows(table, leading_axes(x.transpose() * x, stored_width(f, d)));
  }
}

}  // namespace moekv
