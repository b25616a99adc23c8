// Real spherical harmonics of directions and their derivatives: what the kernels share.
//
// With (x, y, z) = r / |r| and N_lm the scaled derivatives of Legendre polynomials,
//   Y[l*l+l+m] = N_lm(y) C_m(x, z),   Y[l*l+l-m] = N_lm(y) S_m(x, z),   C_m + i S_m = (z + i x)^m,
// polynomials without singular directions. Their gradients are made of the same polynomials:
//   dN_lm/dy = slope_lm N_l,m+1,   d(C_m + i S_m)/dz = m (C_m-1 + i S_m-1),   d/dx = i d/dz.
#pragma once

#include "dispatch.hpp"

#include <cmath>
#include <cstdint>
#include <vector>

namespace mlip {

template <class T>
struct Harmonics {
  int lmax;
  const T *vectors, *tangents;  // [E, 3]; where there are tangents, the result is the derivative along them
  const T* g;                   // [E, (lmax+1)^2]: the gradient of Y; null where it is not an argument
  // Coefficients of N_lm = rise (y N_l-1,m - fall N_l-2,m), of N_mm (in `rise`), and of dN_lm/dy; see place().
  std::vector<T> rise, fall, slope;

  explicit Harmonics(int degree) : lmax(degree) {
    for (auto* table : {&rise, &fall, &slope}) table->assign(size(), T(0));
    double diagonal = 1;
    for (int m = 0; m <= lmax; ++m) {
      if (m > 0) diagonal *= std::sqrt((2 * m + 1) / (m == 1 ? 1.0 : 2.0 * m));
      for (int l = m; l <= lmax; ++l) {
        const double ll = double(l) * l, mm = double(m) * m, below = double(l - 1) * (l - 1);
        rise[place(l, m)] = static_cast<T>(l == m ? diagonal : std::sqrt((4 * ll - 1) / (ll - mm)));
        fall[place(l, m)] = static_cast<T>(l > m + 1 ? std::sqrt((below - mm) / (4 * below - 1)) : 0.0);
        slope[place(l, m)] = static_cast<T>(std::sqrt((l - m) * (l + m + 1.0) / (m == 0 ? 2 : 1)));
      }
    }
  }

  /// Where (l, m) lies in a table; m is from 0 to l.
  int place(int l, int m) const { return m * (lmax + 1) + l; }
  int size() const { return (lmax + 1) * (lmax + 1); }
};

}  // namespace mlip

MLIP_DECLARE(
  template <class T> void harmonics(const Harmonics<T>&, int64_t begin, int64_t end, T* out);
  template <class T> void harmonics_backward(const Harmonics<T>&, int64_t begin, int64_t end, T* out);
)
