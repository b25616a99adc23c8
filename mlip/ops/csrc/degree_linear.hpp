// Linear maps of the channels of each degree and atom: what its kernels share.
//
// A block maps the rows of one degree: row (i, m), component m of atom i, lies `fixed + per_atom * atoms + i * atom +
// m * component` numbers after the first. The matrix of a block is that of the kind of its atom. Each row is summed in
// one order wherever it stands, so that results depend neither on the number of threads nor on the other rows.
#pragma once

#include "dispatch.hpp"

#include <cstdint>

namespace mlip {

constexpr int kBlockNumbers = 12;  // of a row of the table of blocks

/// Where the rows of a block lie.
struct Place {
  int64_t fixed, per_atom, atom, component;

  int64_t first(int64_t atoms) const { return fixed + per_atom * atoms; }
};

/// One degree, in the order of the table.
struct Block {
  int64_t components, inner, columns, matrix;  // rows [inner] times a matrix [inner, columns], so far from the first
  Place x, out;
};

/// Some rows with one matrix.
template <class T>
struct RowsOf {
  int64_t count, inner, columns;
  const T* matrix;  // [inner, columns]
  const T* const* x;
  T* const* out;
};

}  // namespace mlip

MLIP_DECLARE(
  template <class T> void multiply_rows(const RowsOf<T>&);
)
