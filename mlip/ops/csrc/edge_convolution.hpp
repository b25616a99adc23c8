// The edge convolution as a trilinear form T(h, Y, w; g): what its kernels share.
//
// For the path p = (l1, l2, l3) and the edge e from j to i,
//   out[i, s(p), m3, c] += w[k(e), v(p), c] * sum_m1 M[e, p, m1, m3] h[j, l1 m1, c],
//   M[e, p, m1, m3] = sum_m2 CG Y[e, l2 m2].
// Paths may share a weight v and a place s among the messages of their degree.
// M is made for some edges at a time from a table of Clebsch-Gordan coefficients; the loops over channels see small
// dense matrices whose sizes are known at compile time. Threads share out the receivers. Each row of out is summed by
// one thread in the order of the edges; dh, which many receivers add to, is summed for each thread and then over threads.
#pragma once

#include "dispatch.hpp"

#include <cstdint>
#include <vector>

namespace mlip {

constexpr int kTile = 8;  // edges for which M is made at a time

/// One path: where its data lie. Offsets count components, not bytes.
struct Path {
  int l1, l3;
  int matrix;       // of M among those of an edge
  int64_t weight;   // of its row of weights in w
  bool first;       // whether no path before shares that row
  int64_t feature;  // l1 * l1 * channels
  int64_t out;      // of the first row of its degree and place: out_row = out + receiver * receiver_stride + m3 * stride
  int64_t receiver_stride, stride;
};

/// One product CG * Y that enters M.
struct Term {
  int matrix, harmonic;
  double coefficient;
};

template <class T>
struct Convolution {
  int64_t atoms, receivers, edges, rows;  // rows of h, of out, of Y, of w
  int channels, features, harmonics;      // channels; components of h and of Y
  int matrices;                           // entries of M of one edge
  int64_t weight_row, out_row;            // numbers of one row of w; of all messages of one receiver
  std::vector<Path> paths;
  std::vector<Term> terms;                // ascending in `matrix`
  const T *h, *y, *w, *g;                 // g: the gradient of out; null where it is not an argument
  const int64_t *sender, *offsets, *row;  // [edges], [receivers + 1], [edges]: the row of w of each edge
};

/// Where the derivatives go; null where one is not wanted.
template <class T>
struct Gradients {
  T *h, *y, *w;           // rows of h are added to; those of y are overwritten
  const uint8_t* action;  // [edges]: 0 leave the edge out, 1 overwrite its row of w, 2 add to it
};

}  // namespace mlip

MLIP_DECLARE(
  template <class T> void convolve(const Convolution<T>&, int64_t begin, int64_t end, T* out);
  template <class T> void convolve_backward(const Convolution<T>&, int64_t begin, int64_t end, const Gradients<T>&);
)
