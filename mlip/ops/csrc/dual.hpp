// Numbers with their derivative in one direction, which loops take in place of plain vectors.
#pragma once

#include "simd.hpp"

namespace mlip::MLIP_ISA {

/// A number with its derivative in one direction.
template <class V>
struct Dual {
  V value, tangent;

  // Written out because compilers copy plain structures in pieces narrower than a vector, which stalls the next load.
  Dual() {}
  Dual(V v, V t) : value(v), tangent(t) {}
  Dual(const Dual& other) : value(other.value), tangent(other.tangent) {}
  Dual& operator=(const Dual& other) {
    value = other.value;
    tangent = other.tangent;
    return *this;
  }
};

template <class V>
inline Dual<V> operator+(const Dual<V>& a, const Dual<V>& b) {
  return {a.value + b.value, a.tangent + b.tangent};
}
template <class V>
inline Dual<V> operator-(const Dual<V>& a, const Dual<V>& b) {
  return {a.value - b.value, a.tangent - b.tangent};
}
template <class V>
inline Dual<V> operator-(const Dual<V>& a, const V& b) {
  return {a.value - b, a.tangent};
}
template <class V>
inline Dual<V> operator*(const Dual<V>& a, const Dual<V>& b) {
  return {a.value * b.value, a.value * b.tangent + a.tangent * b.value};
}
template <class V>
inline Dual<V> operator*(const V& a, const Dual<V>& b) {
  return {a * b.value, a * b.tangent};
}

/// What loops ask of a number, plain or dual: its parts, value first, and the part that is wanted of a result.
template <class N>
struct Numbers {
  using Vector = N;
  static constexpr int kParts = 1;
  template <class Part>
  static N make(const Part& part) {
    return part(0);
  }
  static N part(const N& n, int) { return n; }
  static N value(const N& n) { return n; }
  static N wanted(const N& n) { return n; }
};
template <class V>
struct Numbers<Dual<V>> {
  using Vector = V;
  static constexpr int kParts = 2;
  template <class Part>
  static Dual<V> make(const Part& part) {
    return {part(0), part(1)};
  }
  static V part(const Dual<V>& n, int k) { return k ? n.tangent : n.value; }
  static V value(const Dual<V>& n) { return n.value; }
  static V wanted(const Dual<V>& n) { return n.tangent; }
};

/// Returns a number whose k-th part is part(k).
template <class N, class Part>
inline N make_number(const Part& part) {
  return Numbers<N>::make(part);
}

template <class N, class V>
inline N zero() {
  return make_number<N>([](int) { return V{}; });
}

}  // namespace mlip::MLIP_ISA
