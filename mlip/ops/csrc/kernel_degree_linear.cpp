// The loops of linear maps by degree; see degree_linear.hpp.
#include "degree_linear.hpp"
#include "simd.hpp"

#include <algorithm>
#include <cmath>

namespace mlip::MLIP_ISA {

namespace {

constexpr int kRows = 6;                          // that share what is loaded of the matrix
constexpr int kWide = kRegisters >= 32 ? 4 : 2;   // vectors of a row; kRows * kWide sums stay in registers

/// Returns sum + a * b. Compilers may or may not round between the two where the loop around them is another, so that
/// single numbers are told; vectors are always treated alike.
template <class T>
inline T plus_product(T sum, T a, T b) {
#if defined(MLIP_AVX512) || defined(MLIP_AVX2)
  if constexpr (std::is_arithmetic_v<T>) return std::fma(a, b, sum);
#endif
  return sum + a * b;
}

/// Columns c of some rows, kWidth vectors of each.
template <int kCount, int kWidth, class V, class T>
inline void panel(const RowsOf<T>& p, int64_t first, int64_t c) {
  V sums[kCount][kWidth];
  for (int r = 0; r < kCount; ++r)
    for (int w = 0; w < kWidth; ++w) sums[r][w] = V{};
  const T* matrix = p.matrix + c;
  for (int64_t k = 0; k < p.inner; ++k, matrix += p.columns) {
    V row[kWidth];
    for (int w = 0; w < kWidth; ++w) row[w] = load<V>(matrix + w * lanes<V, T>);
    for (int r = 0; r < kCount; ++r) {
      const V x = broadcast<V>(p.x[first + r][k]);
      for (int w = 0; w < kWidth; ++w) sums[r][w] = plus_product(sums[r][w], x, row[w]);
    }
  }
  for (int r = 0; r < kCount; ++r)
    for (int w = 0; w < kWidth; ++w) store(p.out[first + r] + c + w * lanes<V, T>, sums[r][w]);
}

/// All columns of some rows.
template <int kCount, class T>
inline void all_columns(const RowsOf<T>& p, int64_t first) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  int64_t c = 0;
  for (; c + kWide * kLanes <= p.columns; c += kWide * kLanes) panel<kCount, kWide, Vec<T>>(p, first, c);
  for (; c + kLanes <= p.columns; c += kLanes) panel<kCount, 1, Vec<T>>(p, first, c);
  for (; c < p.columns; ++c) panel<kCount, 1, T>(p, first, c);
}

}  // namespace

template <class T>
void multiply_rows(const RowsOf<T>& p) {
  for (int64_t first = 0; first < p.count; first += kRows) {
    switch (std::min<int64_t>(kRows, p.count - first)) {
      case 1: all_columns<1>(p, first); break;
      case 2: all_columns<2>(p, first); break;
      case 3: all_columns<3>(p, first); break;
      case 4: all_columns<4>(p, first); break;
      case 5: all_columns<5>(p, first); break;
      default: all_columns<kRows>(p, first);
    }
  }
}

template void multiply_rows<float>(const RowsOf<float>&);
template void multiply_rows<double>(const RowsOf<double>&);

}  // namespace mlip::MLIP_ISA
