// The loops of powers on the sphere; see sphere_powers.hpp.
#include "sphere_powers.hpp"
#include "sphere_transform.hpp"

namespace mlip::MLIP_ISA {

namespace {

template <class T>
struct Chunk {
  Representatives r;
  PointMatrix<T> to, back;
};

/// Returns x^n; n >= 0.
template <class V>
[[gnu::always_inline]] inline V power(V x, int n) {
  V out = V{} + 1;
  for (; n > 0; --n) out *= x;
  return out;
}

/// The values of some columns on the points of a chunk: f, its tangent, and for each order a factor or a result.
template <class T>
struct Grids {
  std::vector<T> f, tangent, orders;
  int size;  // of a grid

  Grids(const SpherePowers<T>& p, int points)
      : f(size_t(points) * kColumns<T>), tangent(p.v ? f.size() : 0), orders(f.size() * p.orders),
        size(points * kColumns<T>) {}
  T* order(int o) { return orders.data() + int64_t(o) * size; }
};

/// From class sums of f to what is projected for each order.
template <class T, int kAxes>
void raise(const SpherePowers<T>& p, int size, Grids<T>& grids) {
  using V = Vec<T>;
  constexpr int kImages = 1 << kAxes, kLanes = lanes<V, T>;
  for (int at = 0; at < size; at += kLanes) {
    V f[kImages], factor[kImages];
    load_images<kAxes>(grids.f.data() + at, size, f);
    for (int q = 0; q < kImages; ++q) factor[q] = power(f[q], p.v ? p.first - 1 : p.first);
    if (p.v) {
      V v[kImages];
      load_images<kAxes>(grids.tangent.data() + at, size, v);
      for (int q = 0; q < kImages; ++q) factor[q] *= v[q];
    }
    for (int o = 0; o < p.orders; ++o) {
      V value[kImages];
      const T scale = p.v ? T(p.first + o) : T(1);
      for (int q = 0; q < kImages; ++q) value[q] = factor[q] * scale;
      store_images<kAxes>(value, size, grids.order(o) + at);
      for (int q = 0; q < kImages; ++q) factor[q] *= f[q];
    }
  }
}

/// From class sums of f and of the gradients of each order to the derivative by f, in the place of f.
template <class T, int kAxes>
void differentiate(const SpherePowers<T>& p, int size, Grids<T>& grids) {
  using V = Vec<T>;
  constexpr int kImages = 1 << kAxes, kLanes = lanes<V, T>;
  const int lost = p.v ? 2 : 1;  // powers that differentiation takes away
  for (int at = 0; at < size; at += kLanes) {
    V f[kImages], factor[kImages], sum[kImages];
    load_images<kAxes>(grids.f.data() + at, size, f);
    for (int q = 0; q < kImages; ++q) {
      sum[q] = V{};
      factor[q] = power(f[q], p.first - lost);  // 1 where that is negative, and then counted zero times
    }
    for (int o = 0; o < p.orders; ++o) {
      const int nu = p.first + o;
      const T scale = p.v ? T(nu) * T(nu - 1) : T(nu);
      V g[kImages];
      load_images<kAxes>(grids.order(o) + at, size, g);
      for (int q = 0; q < kImages; ++q) sum[q] += g[q] * factor[q] * scale;
      if (nu - lost >= 0)
        for (int q = 0; q < kImages; ++q) factor[q] *= f[q];
    }
    if (p.v) {
      V v[kImages];
      load_images<kAxes>(grids.tangent.data() + at, size, v);
      for (int q = 0; q < kImages; ++q) sum[q] *= v[q];
    }
    store_images<kAxes>(sum, size, grids.f.data() + at);
  }
}

/// Some columns: their blocks of coefficients.
template <class T>
struct Blocks {
  const SpherePowers<T>& p;
  Order x_order, order;
  std::vector<T> x, v, by_order, result;
  int row;  // of by_order: components of one order

  explicit Blocks(const SpherePowers<T>& problem)
      : p(problem), x_order(p.parity, p.x_rows), order(p.parity, p.rows), x(size_t(p.x_rows) * kColumns<T>),
        v(p.v ? x.size() : 0), by_order(size_t(p.orders) * p.rows * kColumns<T>), result(p.g ? x.size() : 0),
        row(p.rows * kColumns<T>) {
    for (int o = 0; o < p.orders; ++o)
      for (int k = 0; k < p.rows; ++k) places_.push_back(o * p.rows + order.place[k]);
  }

  void take(int64_t first, int count) {
    gather(p.x, x_order.place.data(), p.x_rows, p.channels, first, count, x.data());
    if (p.v) gather(p.v, x_order.place.data(), p.x_rows, p.channels, first, count, v.data());
    if (p.g) gather(p.g, places_.data(), p.orders * p.rows, p.channels, first, count, by_order.data());
    else std::fill(by_order.begin(), by_order.end(), T(0));
    std::fill(result.begin(), result.end(), T(0));
  }

  void give(int64_t first, int count, T* out) const {
    if (p.g) scatter(result.data(), x_order.place.data(), p.x_rows, p.channels, first, count, out);
    else scatter(by_order.data(), places_.data(), p.orders * p.rows, p.channels, first, count, out);
  }

 private:
  std::vector<int> places_;
};

}  // namespace

template <class T>
void sphere_powers(const SpherePowers<T>& p, int64_t begin, int64_t end, T* out) {
  Blocks<T> blocks(p);
  std::vector<Chunk<T>> chunks;
  int points = 0;
  for (const Representatives& r : chunks_of(p.zero, p.representatives)) {
    chunks.push_back({r, {p.to, blocks.x_order, r}, {p.back, blocks.order, r}});
    points = std::max(points, r.points());
  }
  Grids<T> grids(p, points);
  for (int64_t first = begin; first < end; first += kColumns<T>) {
    const int count = static_cast<int>(std::min<int64_t>(kColumns<T>, end - first));
    blocks.take(first, count);
    for (const Chunk<T>& chunk : chunks) {
      const int size = chunk.r.reps() * kColumns<T>;
      chunk.to.to_points(blocks.x.data(), grids.f.data());
      if (p.v) chunk.to.to_points(blocks.v.data(), grids.tangent.data());
      for (int o = 0; p.g && o < p.orders; ++o)
        chunk.back.to_points(blocks.by_order.data() + o * blocks.row, grids.order(o));
      with_axes(chunk.r.axes(), [&](auto axes) {
        if (p.g) differentiate<T, axes>(p, size, grids);
        else raise<T, axes>(p, size, grids);
      });
      if (p.g) chunk.to.add_from_points(grids.f.data(), blocks.result.data());
      for (int o = 0; !p.g && o < p.orders; ++o)
        chunk.back.add_from_points(grids.order(o), blocks.by_order.data() + o * blocks.row);
    }
    blocks.give(first, count, out);
  }
}

template void sphere_powers<float>(const SpherePowers<float>&, int64_t, int64_t, float*);
template void sphere_powers<double>(const SpherePowers<double>&, int64_t, int64_t, double*);

}  // namespace mlip::MLIP_ISA
