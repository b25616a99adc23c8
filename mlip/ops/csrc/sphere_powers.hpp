// Powers of a signal on the sphere: what their kernels share.
//
//   P[n, o, k, c] = sum_p back[p, k] f[p]^nu,   f[p] = sum_i to[p, i] x[n, i, c],   nu = first + o
// and the derivatives of F(x; G) = sum over all components of G times P: by x, along a direction v, and both. Points
// are the images of representatives under reflections (sphere_transform.hpp); columns (n, c) are treated alike.
#pragma once

#include "dispatch.hpp"

#include <cstdint>

namespace mlip {

template <class T>
struct SpherePowers {
  int64_t samples, channels;               // N, C
  int representatives, x_rows, rows;       // R, M1, M3
  int first, orders;                       // the least power; how many
  const T *x, *v, *g;                      // [N, M1, C] twice, [N, orders, M3, C]; v, g: null where not wanted
  const T *to, *back;                      // [R, M1], [R, M3]
  const int64_t *parity, *zero;            // [>= M1, M3] class of each component; [R] coordinates that are 0
};

}  // namespace mlip

// Writes P or, with v, its derivative along v, [N, orders, M3, C]; with g the derivative by x of either, [N, M1, C].
MLIP_DECLARE(
  template <class T> void sphere_powers(const SpherePowers<T>&, int64_t begin, int64_t end, T* out);
)
