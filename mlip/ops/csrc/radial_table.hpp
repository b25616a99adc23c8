// Functions of one variable, tabulated as polynomials of degree five on intervals: what its kernels share.
//
// Points are visited interval by interval: the coefficients of some columns stay in registers for all points of an
// interval, which else would be read from memory for each point.
#pragma once

#include "dispatch.hpp"

#include <cstdint>

namespace mlip {

constexpr int kCoefficients = 6;  // of t^0..t^5

template <class T>
struct RadialTable {
  int64_t columns;
  const T *t, *coefficients;       // [points]: the fraction of the interval; [intervals, 6, columns]
  const int64_t *begin, *point;    // [groups + 1], [points]: points in the order of their intervals
  const int64_t* interval;         // [groups]
};

}  // namespace mlip

MLIP_DECLARE(
  template <class T> void table_values(const RadialTable<T>&, int64_t first, int64_t last, T* out);
  template <class T> void table_slopes(const RadialTable<T>&, const T* g, int64_t first, int64_t last, T* dt);
)
