// Attention over edges with rotary phases: what its operators and kernels share.
//
// For each head, with T(r) the multiplication of complex channels by exp(i w.r): logits l_e = <q_i, T(r_e) k_j> + b_e and
// l_i = <q_i, k_i>, and out_i = sum over the edges of exp(l_e - L_i) T(r_e) v_j, plus exp(l_i - L_i) v_i, where L_i is the
// logarithm of the sum of all exp(l). The same loops run on numbers and on dual numbers, whose tangents are derivatives
// along one direction of all arguments.
#pragma once

#include "dispatch.hpp"

#include <cstdint>

namespace mlip {

/// Values and, of dual numbers, tangents.
template <class T>
struct Parts {
  T* part[2];
};

/// The channels of the heads of atoms: the head h of the atom i begins at i * row + h * 2 * channels, real parts first.
template <class T>
struct Channels {
  T* part[2];
  int64_t row;
};

template <class T>
struct Attention {
  int64_t atoms, edges;
  int heads, channels;  // channels: complex ones of a head, filled up with zeros to whole vectors
  bool dual;
  Channels<const T> q, k, v;
  Parts<const T> vectors, bias, frequencies;  // [edges, 3], [edges, heads], [heads, 3, channels]
  const int64_t *sender, *offsets;
};

/// What the forward pass writes: out, without gaps between rows, and L [atoms, heads].
template <class T>
struct Attended {
  Channels<T> out;
  Parts<T> lse;
};

/// What the backward pass reads and writes. Of dual numbers the tangents are written. No gaps between the rows of q, k
/// and v. Those of k and v, and the frequencies, are added to; so are those of q, k, v and vectors wanted together.
template <class T>
struct AttentionGradients {
  Channels<const T> g;  // a plain number
  Channels<const T> out;
  Parts<const T> lse;
  T *q, *k, *v;    // null: none is wanted
  T* vectors;      // [edges, 3]; null: not wanted
  T* bias;         // [edges, heads]; null: not wanted
  T* frequencies;  // [heads, 3, channels]; null: not wanted
};

}  // namespace mlip

MLIP_DECLARE(
  template <class T> void attention_lanes(int* count);
  template <class T> void attend(const Attention<T>&, int64_t begin, int64_t end, const Attended<T>&);
  template <class T> void attend_backward(const Attention<T>&, int64_t begin, int64_t end, const AttentionGradients<T>&);
)
