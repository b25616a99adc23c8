// The loops of the symmetric contraction; see symmetric_contraction.hpp.
#include "simd.hpp"
#include "symmetric_contraction.hpp"

#include <algorithm>
#include <memory>

namespace mlip::MLIP_ISA {

namespace {

constexpr int kAtoms = 4;  // share each load of a coefficient

/// A number with its derivative in one direction. The loops take it in place of a plain vector.
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
inline void add(V& sum, const V& a) {
  sum += a;
}
template <class V>
inline void add(Dual<V>& sum, const Dual<V>& a) {
  sum.value += a.value;
  sum.tangent += a.tangent;
}

template <class V>
inline void add_product(V& sum, const V& a, const V& b) {
  sum += a * b;
}
template <class V>
inline void add_product(Dual<V>& sum, const Dual<V>& a, const V& b) {
  sum.value += a.value * b;
  sum.tangent += a.tangent * b;
}
template <class V>
inline void add_product(Dual<V>& sum, const Dual<V>& a, const Dual<V>& b) {
  sum.value += a.value * b.value;
  sum.tangent += a.value * b.tangent;
  sum.tangent += a.tangent * b.value;
}

template <class N>
struct Numbers {  // plain vectors
  static N make(N value, N) { return value; }
  static N wanted(const N& n) { return n; }
};
template <class V>
struct Numbers<Dual<V>> {
  static Dual<V> make(V value, V tangent) { return {value, tangent}; }
  static V wanted(const Dual<V>& n) { return n.tangent; }
};

template <class N, class V>
inline N zero() {
  return Numbers<N>::make(V{}, V{});
}

/// Loads and stores the channels of a task, which at the end of a row may be fewer than the lanes.
template <class T>
struct Channels {
  using V = Vec<T>;
  int count;

  V load_from(const T* p) const {
    if (count == lanes<V, T>) return load<V>(p);
    V v{};
    std::memcpy(&v, p, count * sizeof(T));
    return v;
  }
  template <class N>
  N load_number(const T* value, const T* tangent, int64_t at) const {
    return Numbers<N>::make(load_from(value + at), tangent ? load_from(tangent + at) : V{});
  }
  template <class N>
  void store_to(T* p, N number) const {
    const V v = Numbers<N>::wanted(number);
    if (count == lanes<V, T>) store(p, v);
    else std::memcpy(p, &v, count * sizeof(T));
  }
};

/// What a task keeps for the atoms at hand: X is the type of the features, F that of the coefficients.
template <class T, class X, class F>
struct Worker {
  using V = Vec<T>;
  template <class N>
  using Array = std::unique_ptr<N[]>;

  const Contraction<T>& p;
  const Share& share;
  const Channels<T> channels;
  const int64_t feature_row, out_row, weight_row;
  Array<F> coefficients;  // [entry]
  Array<X> pool;          // [slot][atom]
  int64_t atoms[kAtoms];
  int count = 0;  // of atoms; the places behind repeat the last one, and nothing of theirs is kept

  Worker(const Contraction<T>& problem, const Share& s)
      : p(problem), share(s), channels{std::min(lanes<V, T>, problem.channels - s.channel)},
        feature_row(int64_t(p.features) * p.channels), out_row(int64_t(p.components) * p.channels),
        weight_row(int64_t(p.couplings) * p.channels), coefficients(new F[p.entries()]),
        pool(new X[p.slots() * kAtoms]) {
    Array<F> weights(new F[p.couplings]);
    for (int k = 0; k < p.couplings; ++k)
      weights[k] = channels.template load_number<F>(p.w, p.vw,
                                                    share.element * weight_row + k * p.channels + share.channel);
    for (int e = 0; e < p.entries(); ++e) {
      F sum = zero<F, V>();
      for (int t = p.term_of[e]; t < p.term_of[e + 1]; ++t)
        add_product(sum, weights[p.coupling[t]], V{} + p.coefficient[t]);
      coefficients[e] = sum;
    }
    for (int u = 0; u < kAtoms; ++u) at(p.features)[u] = Numbers<X>::make(V{} + T(1), V{});
  }

  X* at(int slot) const { return &pool[slot * kAtoms]; }

  /// Fills the pool with the atoms from `first` on.
  void take(int64_t first) {
    count = static_cast<int>(std::min<int64_t>(kAtoms, share.end - first));
    for (int u = 0; u < kAtoms; ++u) atoms[u] = p.order[first + std::min(u, count - 1)];
    for (int i = 0; i < p.features; ++i)
      for (int u = 0; u < kAtoms; ++u)
        at(i)[u] = channels.template load_number<X>(p.x, p.vx,
                                                    atoms[u] * feature_row + i * p.channels + share.channel);
    X* slot = at(p.features + 1);
    for (const Product& pair : p.products) {
      for (int u = 0; u < kAtoms; ++u) {
        slot[u] = zero<X, V>();
        add_product(slot[u], at(pair.first)[u], at(pair.second)[u]);
      }
      slot += kAtoms;
    }
  }

  /// The sums over the entries of a group.
  void inner(const Group& group, X* sums) const {
    X sum[kAtoms];
    for (X& s : sum) s = zero<X, V>();
    for (int e = group.begin; e < group.end; ++e) {
      const F& f = coefficients[e];
      const X* leaf = at(p.leaf[e]);
      for (int u = 0; u < kAtoms; ++u) add_product(sum[u], leaf[u], f);
    }
    for (int u = 0; u < kAtoms; ++u) sums[u] = sum[u];
  }

  template <class N>
  void store_rows(const N* from, int rows, int64_t row_size, T* to) const {
    for (int u = 0; u < count; ++u)
      for (int i = 0; i < rows; ++i)
        channels.store_to(to + atoms[u] * row_size + i * p.channels + share.channel, from[i * kAtoms + u]);
  }
};

template <class T, class X, class F>
void forward(const Contraction<T>& p, const Share& share, T* out) {
  using V = Vec<T>;
  Worker<T, X, F> worker(p, share);
  std::unique_ptr<X[]> values(new X[p.components * kAtoms]);
  for (int64_t first = share.begin; first < share.end; first += kAtoms) {
    worker.take(first);
    std::fill(&values[0], &values[p.components * kAtoms], zero<X, V>());
    for (const Group& group : p.groups) {
      X sums[kAtoms];
      worker.inner(group, sums);
      for (int u = 0; u < kAtoms; ++u)
        add_product(values[group.component * kAtoms + u], sums[u], worker.at(group.slot)[u]);
    }
    worker.store_rows(&values[0], p.components, worker.out_row, out);
  }
}

/// The reverse sweep: derivatives by the pool, from there by the features, and by the coefficients.
template <class T, class X, class F>
struct Reverse {
  using V = Vec<T>;
  const Contraction<T>& p;
  Worker<T, X, F> worker;
  std::unique_ptr<V[]> gradient;      // [component][atom]
  std::unique_ptr<X[]> scaled;        // [group][atom]: gradient times the factor G
  std::unique_ptr<X[]> by_pool;       // [slot][atom]
  std::unique_ptr<X[]> by_coefficient;  // [entry], summed over the atoms of the task

  Reverse(const Contraction<T>& problem, const Share& share)
      : p(problem), worker(problem, share), gradient(new V[p.components * kAtoms]),
        scaled(new X[p.groups.size() * kAtoms]), by_pool(new X[p.slots() * kAtoms]),
        by_coefficient(new X[p.entries()]) {
    std::fill(&by_coefficient[0], &by_coefficient[p.entries()], zero<X, V>());
  }

  void take(int64_t first) {
    worker.take(first);
    for (int m = 0; m < p.components; ++m)
      for (int u = 0; u < kAtoms; ++u)
        gradient[m * kAtoms + u] =
            u < worker.count ? worker.channels.load_from(p.g + worker.atoms[u] * worker.out_row + m * p.channels +
                                                         worker.share.channel)
                             : V{};
    for (size_t k = 0; k < p.groups.size(); ++k)
      for (int u = 0; u < kAtoms; ++u) {
        X& target = scaled[k * kAtoms + u];
        target = zero<X, V>();
        add_product(target, worker.at(p.groups[k].slot)[u], gradient[p.groups[k].component * kAtoms + u]);
      }
  }

  void by_features(T* dx) {
    std::fill(&by_pool[0], &by_pool[p.slots() * kAtoms], zero<X, V>());
    for (const Group& group : p.groups) {
      X sums[kAtoms];
      worker.inner(group, sums);
      for (int u = 0; u < kAtoms; ++u)
        add_product(by_pool[group.slot * kAtoms + u], sums[u], gradient[group.component * kAtoms + u]);
    }
    for (int slot = 0; slot < p.slots(); ++slot) add_uses(slot);
    for (size_t i = 0; i < p.products.size(); ++i) {
      const Product pair = p.products[i];
      const X* by_product = &by_pool[(p.features + 1 + i) * kAtoms];
      for (int u = 0; u < kAtoms; ++u) {
        add_product(by_pool[pair.first * kAtoms + u], by_product[u], worker.at(pair.second)[u]);
        add_product(by_pool[pair.second * kAtoms + u], by_product[u], worker.at(pair.first)[u]);
      }
    }
    worker.store_rows(&by_pool[0], p.features, worker.feature_row, dx);
  }

  /// Adds what the entries with this leaf give.
  void add_uses(int slot) {
    X sum[kAtoms];
    for (X& s : sum) s = zero<X, V>();
    for (int i = p.use_of[slot]; i < p.use_of[slot + 1]; ++i) {
      const F& f = worker.coefficients[p.uses[i].entry];
      const X* factor = &scaled[p.uses[i].group * kAtoms];
      for (int u = 0; u < kAtoms; ++u) add_product(sum[u], factor[u], f);
    }
    for (int u = 0; u < kAtoms; ++u) add(by_pool[slot * kAtoms + u], sum[u]);
  }

  void by_coefficients() {
    for (size_t k = 0; k < p.groups.size(); ++k) {
      X factor[kAtoms];
      std::copy(&scaled[k * kAtoms], &scaled[(k + 1) * kAtoms], factor);
      for (int e = p.groups[k].begin; e < p.groups[k].end; ++e) {
        X sum = by_coefficient[e];
        for (int u = 0; u < kAtoms; ++u) add_product(sum, factor[u], worker.at(p.leaf[e])[u]);
        by_coefficient[e] = sum;
      }
    }
  }

  void store_by_weights(T* dw) const {
    std::unique_ptr<X[]> by_weight(new X[p.couplings]);
    std::fill(&by_weight[0], &by_weight[p.couplings], zero<X, V>());
    for (int e = 0; e < p.entries(); ++e)
      for (int t = p.term_of[e]; t < p.term_of[e + 1]; ++t)
        add_product(by_weight[p.coupling[t]], by_coefficient[e], V{} + p.coefficient[t]);
    for (int k = 0; k < p.couplings; ++k)
      worker.channels.store_to(dw + worker.share.element * worker.weight_row + k * p.channels + worker.share.channel,
                               by_weight[k]);
  }
};

template <class T, class X, class F>
void backward(const Contraction<T>& p, const Share& share, T* dx, T* dw) {
  Reverse<T, X, F> reverse(p, share);
  for (int64_t first = share.begin; first < share.end; first += kAtoms) {
    reverse.take(first);
    if (dx) reverse.by_features(dx);
    if (dw) reverse.by_coefficients();
  }
  if (dw) reverse.store_by_weights(dw);
}

}  // namespace

template <class T>
void contraction_lanes(int* count) {
  *count = lanes<Vec<T>, T>;
}

template <class T>
void contract(const Contraction<T>& p, const Share& share, T* out) {
  using V = Vec<T>;
  if (!p.dual) forward<T, V, V>(p, share, out);
  else if (!p.vw) forward<T, Dual<V>, V>(p, share, out);
  else forward<T, Dual<V>, Dual<V>>(p, share, out);
}

template <class T>
void contract_backward(const Contraction<T>& p, const Share& share, T* dx, T* dw) {
  using V = Vec<T>;
  if (!p.dual) backward<T, V, V>(p, share, dx, dw);
  else if (!p.vw) backward<T, Dual<V>, V>(p, share, dx, dw);
  else backward<T, Dual<V>, Dual<V>>(p, share, dx, dw);
}

#define INSTANTIATE(T)                                                   \
  template void contraction_lanes<T>(int*);                              \
  template void contract<T>(const Contraction<T>&, const Share&, T*);    \
  template void contract_backward<T>(const Contraction<T>&, const Share&, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace mlip::MLIP_ISA
