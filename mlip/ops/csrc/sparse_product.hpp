// The sparse product: what its kernels share.
//
//   out[n, k, c] = sum over the entries (k, i, j) of coefficient * x[n, i, c] * y[n, j, c]
// Entries are sorted by k, then by i: for each k the terms x_i * (sum over j of coefficient * y_j) are added up, one
// multiplication for an entry and one for a pair (k, i). The table is read once for many columns (n, c).
#pragma once

#include "dispatch.hpp"

#include <cstdint>
#include <vector>

namespace mlip {

/// The entries of one k and i: those before `end`, from the end of the run before.
struct Run {
  int first;  // i
  int end;
};

template <class T>
struct Entry {
  int second;  // j
  T coefficient;
};

template <class T>
struct SparseProduct {
  int64_t samples, channels;  // N, C
  int x_rows, y_rows, rows;   // M1, M2, M3
  const T *x, *y;             // [N, M1, C], [N, M2, C]
  std::vector<int> run_of;    // runs of k: run_of[k] to run_of[k + 1]
  std::vector<Run> runs;
  std::vector<Entry<T>> entries;
};

}  // namespace mlip

MLIP_DECLARE(
  template <class T> void sparse_product(const SparseProduct<T>&, int64_t begin, int64_t end, T* out);
)
