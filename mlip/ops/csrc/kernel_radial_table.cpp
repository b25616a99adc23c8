// The loops of tabulated functions; see radial_table.hpp.
#include "radial_table.hpp"
#include "simd.hpp"

#include <type_traits>
#include <vector>

namespace mlip::MLIP_ISA {

namespace {

// Several vectors of columns at a time: a row of the output or of the gradient is read in longer pieces.
constexpr int kWide = kRegisters / (kCoefficients + 2);

template <class T, class V, int W>
inline void values(const RadialTable<T>& p, const T* row, int64_t begin, int64_t end, int64_t c, T* out) {
  constexpr int kLanes = lanes<V, T>;
  V a[kCoefficients][W];
  for (int k = 0; k < kCoefficients; ++k)
    for (int u = 0; u < W; ++u) a[k][u] = load<V>(row + k * p.columns + c + u * kLanes);
  for (int64_t n = begin; n < end; ++n) {
    const int64_t point = p.point[n];
    const T t = p.t[point];
    for (int u = 0; u < W; ++u) {
      V v = a[kCoefficients - 1][u];
      for (int k = kCoefficients - 2; k >= 0; --k) v = v * t + a[k][u];
      store(out + point * p.columns + c + u * kLanes, v);
    }
  }
}

/// Adds g p'(t) of some columns to the sums of the points, which are vectors of partial sums.
template <class T, class V, int W>
inline void slopes(const RadialTable<T>& p, const T* row, const T* g, int64_t begin, int64_t end, int64_t c, T* sums) {
  constexpr int kLanes = lanes<V, T>;
  V a[kCoefficients][W];
  for (int k = 1; k < kCoefficients; ++k)
    for (int u = 0; u < W; ++u) a[k][u] = load<V>(row + k * p.columns + c + u * kLanes) * T(k);
  for (int64_t n = begin; n < end; ++n) {
    const int64_t point = p.point[n];
    const T t = p.t[point], *gradient = g + point * p.columns + c;
    T* sum = sums + (n - begin) * lanes<Vec<T>, T>;
    V total = load<V>(sum);
    for (int u = 0; u < W; ++u) {
      V v = a[kCoefficients - 1][u];
      for (int k = kCoefficients - 2; k >= 1; --k) v = v * t + a[k][u];
      total += v * load<V>(gradient + u * kLanes);
    }
    store(sum, total);
  }
}

/// Calls body(c, V(), width) for groups of vectors, then single ones, then the columns that are left.
template <class T, class Body>
inline void over_columns(int64_t columns, const Body& body) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  int64_t c = 0;
  for (; c + kWide * kLanes <= columns; c += kWide * kLanes)
    body(c, Vec<T>(), std::integral_constant<int, kWide>());
  for (; c + kLanes <= columns; c += kLanes) body(c, Vec<T>(), std::integral_constant<int, 1>());
  for (; c < columns; ++c) body(c, T(), std::integral_constant<int, 1>());
}

}  // namespace

template <class T>
void table_values(const RadialTable<T>& p, int64_t first, int64_t last, T* out) {
  for (int64_t group = first; group < last; ++group) {
    const T* row = p.coefficients + p.interval[group] * kCoefficients * p.columns;
    over_columns<T>(p.columns, [&](int64_t c, auto v, auto width) {
      values<T, decltype(v), decltype(width)::value>(p, row, p.begin[group], p.begin[group + 1], c, out);
    });
  }
}

template <class T>
void table_slopes(const RadialTable<T>& p, const T* g, int64_t first, int64_t last, T* dt) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  std::vector<T> sums;
  for (int64_t group = first; group < last; ++group) {
    const int64_t begin = p.begin[group], end = p.begin[group + 1];
    const T* row = p.coefficients + p.interval[group] * kCoefficients * p.columns;
    sums.assign((end - begin) * kLanes, T(0));
    over_columns<T>(p.columns, [&](int64_t c, auto v, auto width) {
      slopes<T, decltype(v), decltype(width)::value>(p, row, g, begin, end, c, sums.data());
    });
    for (int64_t n = begin; n < end; ++n) {
      T total = 0;
      for (int k = 0; k < kLanes; ++k) total += sums[(n - begin) * kLanes + k];
      dt[p.point[n]] = total;
    }
  }
}

#define INSTANTIATE(T)                                                       \
  template void table_values<T>(const RadialTable<T>&, int64_t, int64_t, T*); \
  template void table_slopes<T>(const RadialTable<T>&, const T*, int64_t, int64_t, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace mlip::MLIP_ISA
