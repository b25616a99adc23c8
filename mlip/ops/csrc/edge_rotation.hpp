// Rotations into the frames of edges and back as trilinear forms: what their kernels share.
//
// To edges, with D the packed matrix of the edge e, R its row of weights, j its sender or its receiver:
//   out[e, k, c] = R[l(k), c] sum_m D[k, m] x[j, l m, c], channels of senders first, then those of receivers.
// From edges, for the receiver i, a = weights[e, head of c]:
//   out[i, l m, c] = sum_e f_l sum_k D[k, m] a v[e, k, c].
// The matrix of each degree is a small dense block; its columns are known at compile time (degrees 0..6, a plain loop
// beyond), and rows and channels are loops. Threads share out edges, receivers or, where edges add to the same rows of
// dx, channels: each row and channel is summed by one thread in the order of the edges.
#pragma once

#include "dispatch.hpp"

#include <cstdint>
#include <vector>

namespace mlip {

constexpr int kMostDegrees = 24;  // the largest degree

/// The block of one degree in the packed matrix of an edge.
struct Block {
  int l, columns;
  int component;           // of the first column among the components of an atom
  int entry;               // of the first entry in the packed matrix, row by row
  double scale;            // f_l
  std::vector<int> place;  // of each row among the kept components
};

struct Frame {
  int components, kept, entries;  // S, K, Q
  std::vector<Block> blocks;
};

template <class T>
struct ToEdges {
  const Frame* frame;
  int64_t atoms, edges, rows, channels;       // rows of x, of D, of the weights; channels of x
  const T *x, *wigner, *radial, *g;           // g: the gradient of out; null where it is not an argument
  const int64_t *sender, *receiver, *row;     // [edges]
};

/// Where the derivatives go; null where one is not wanted.
template <class T>
struct ToEdgesGradients {
  T *x, *wigner, *radial;  // x is added to, the matrices are overwritten
  bool by_row;             // add to the rows of the weights; else each edge overwrites a row of its own
};

template <class T>
struct FromEdges {
  const Frame* frame;
  int64_t receivers, edges, channels, heads;
  const T *values, *wigner, *weights, *g;
  const int64_t* offsets;  // [receivers + 1]
};

template <class T>
struct FromEdgesGradients {
  T *values, *wigner, *weights;
};

}  // namespace mlip

MLIP_DECLARE(
  template <class T> void to_edges(const ToEdges<T>&, int64_t begin, int64_t end, T* out);
  template <class T> void to_edges_backward(const ToEdges<T>&, int64_t first, int64_t last, const ToEdgesGradients<T>&);
  template <class T> void from_edges(const FromEdges<T>&, int64_t begin, int64_t end, T* out);
  template <class T> void from_edges_backward(const FromEdges<T>&, int64_t begin, int64_t end,
                                              const FromEdgesGradients<T>&);
)
