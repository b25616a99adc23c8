// The product of two signals on the sphere: what its kernels share.
//
//   out[n, k, c] = sum_p back[p, k] (sum_i to_x[p, i] x[n, i, c]) (sum_j to_y[p, j] y[n, j, c])
// The points p are the images of representatives r under reflections; see sphere_transform.hpp. The pairs (n, c) are
// columns. Some columns at a time go from coefficients to points and back, so that values on the points stay in the
// first cache. Each column is summed in one order wherever it stands, so that results depend neither on the number of
// threads nor on the other columns.
#pragma once

#include "dispatch.hpp"

#include <cstdint>

namespace mlip {

template <class T>
struct SphereProduct {
  int64_t samples, channels;                   // N, C
  int representatives, x_rows, y_rows, rows;   // R, M1, M2, M3
  const T *x, *y;                              // [N, M1, C], [N, M2, C]
  const T *to_x, *to_y, *back;                 // [R, M1], [R, M2], [R, M3]
  const int64_t *parity, *zero;                // [>= M1, M2, M3] class of each component; [R] coordinates that are 0
};

}  // namespace mlip

MLIP_DECLARE(
  template <class T> void sphere_product(const SphereProduct<T>&, int64_t begin, int64_t end, T* out);
)
