// The symmetric contraction as a sparse polynomial: what its kernels share.
//
// The pool of an atom holds its features x_i, the number 1 and some products x_i x_j, each in a slot. For a component m
//   out[m, c] = sum over groups (m, G) of pool[G, c] * sum over entries of the group of f[entry, c] pool[leaf, c],
// which takes one multiplication per entry for polynomials up to degree four. The coefficients f[entry, c] =
// sum_k basis[entry, k] w[z, k, c] belong to an element z and are made once for many of its atoms.
#pragma once

#include "dispatch.hpp"

#include <cstdint>
#include <vector>

namespace mlip {

struct Product {
  int first, second;  // features; the product i has the slot features + 1 + i
};

/// Consecutive entries with the same component of the result and the same factor G.
struct Group {
  int component, slot;
  int begin, end;  // entries
};

/// An entry as the derivative by its leaf sees it.
struct Use {
  int entry, group;
};

template <class T>
struct Contraction {
  int64_t atoms, elements;
  int channels, features, components, couplings;
  std::vector<Product> products;
  std::vector<Group> groups;  // every entry belongs to one
  std::vector<int> leaf;      // slot of each entry
  std::vector<int> use_of;    // uses of the slot s: use_of[s] to use_of[s + 1]
  std::vector<Use> uses;
  std::vector<int> term_of;  // terms of the entry e: term_of[e] to term_of[e + 1]
  std::vector<int> coupling;
  std::vector<T> coefficient;
  std::vector<int64_t> order;  // atoms by element, in the order given within an element
  const T *x, *w, *g;          // [atoms, features, channels], [elements, couplings, channels], as out; g may be null
  bool dual;                   // whether the derivative along (vx, vw) is wanted instead of the value
  const T *vx, *vw;            // null: zero

  int slots() const { return features + 1 + static_cast<int>(products.size()); }
  int entries() const { return static_cast<int>(leaf.size()); }
};

/// The work of one task: some atoms of one element, and as many channels as a vector has lanes.
struct Share {
  int64_t element, begin, end;  // of `order`
  int channel;
};

}  // namespace mlip

MLIP_DECLARE(
  template <class T> void contraction_lanes(int* count);
  template <class T> void contract(const Contraction<T>&, const Share&, T* out);
  template <class T> void contract_backward(const Contraction<T>&, const Share&, T* dx, T* dw);
)
