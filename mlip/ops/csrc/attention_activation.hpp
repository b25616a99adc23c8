// What an attention layer does to an edge between its two linear maps, forward and backward: what the kernels share.
//
//   swiglu:       P[e, k, c] = sum_p back[p, k] (sum_i to[p, i] a[e, i, c]) (sum_i to[p, i] b[e, i, c]),
//                 out[e, k, c] = P[e, k, c] sigmoid(gate[e, c]), plus s1 sigmoid(s1) s2 for k = 0
//   head_logits:  y = the layer norm of the channels of one head, times a weight, plus a bias;
//                 out[e, h] = sum_a dot[h, a] (0.2 + 0.8 sigmoid(y)) y
// The halves of the channels of `hidden` are a and b, those of `scalars` are s1 and s2. Points come as representatives
// (sphere_transform.hpp). Scalars, gates, the channels of heads and their derivatives are ranges of columns of wider
// matrices. Each number is summed in one order wherever it stands, so that results do not depend on the threads.
#pragma once

#include "dispatch.hpp"

#include <cstdint>

namespace mlip {

/// A tensor [E, rows, C] in memory: distances between edges and between rows; channels are neighbours.
template <class T>
struct Slab {
  T* data;
  int64_t edge, row;
};

template <class T>
struct Swiglu {
  int64_t edges, channels;                     // E, C
  int representatives, rows;                   // R, K
  Slab<const T> a, b, s1, s2, gate;            // [E, K, C] twice, [E, 1, C] thrice
  const T *to, *back;                          // [R, K]
  const int64_t *parity, *zero;                // [>= K] class of each component; [R] coordinates that are 0
};

template <class T>
struct SwigluGradients {
  Slab<const T> g;                             // [E, K, C], by the result
  Slab<T> a, b, s1, s2, gate;                  // where the others go
};

template <class T>
struct HeadLogits {
  int64_t edges;
  int heads, channels;                         // H, A
  const T* alpha;                              // [E, H * A]
  int64_t stride;                              // between its rows
  const T *weight, *bias, *dot;                // [A], [A], [H, A]
  T eps;                                       // of the layer norm
};

}  // namespace mlip

MLIP_DECLARE(
  template <class T> void swiglu(const Swiglu<T>&, int64_t begin, int64_t end, const Slab<T>& out);
  template <class T> void swiglu_backward(const Swiglu<T>&, int64_t begin, int64_t end, const SwigluGradients<T>&);
  template <class T> void head_logits(const HeadLogits<T>&, int64_t begin, int64_t end, T* out);
  template <class T> void head_logits_backward(const HeadLogits<T>&, int64_t begin, int64_t end, const T* g, T* dalpha,
                                               int64_t stride);
)
