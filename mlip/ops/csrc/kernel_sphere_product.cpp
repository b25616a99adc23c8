// The loops of the product on the sphere; see sphere_product.hpp.
#include "sphere_product.hpp"
#include "simd.hpp"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>
#include <vector>

namespace mlip::MLIP_ISA {

namespace {

constexpr int kWide = 2;                           // vectors of columns at a time
constexpr int kPanel = kRegisters == 32 ? 14 : 6;  // rows of a matrix at a time: their sums fit the registers
constexpr int kPoints = 96;                        // points at a time: their values fit the first cache
template <class T>
constexpr int kColumns = kWide * lanes<Vec<T>, T>;

/// What becomes of matrix times columns.
enum class Into { set, add, times, square };

/// Calls body(0), ..., body(kCount - 1) with constants, so that what they index can stay in registers from the start.
template <class Body, int... I>
[[gnu::always_inline]] inline void unrolled(std::integer_sequence<int, I...>, const Body& body) {
  (body(std::integral_constant<int, I>()), ...);
}
template <int kCount, class Body>
[[gnu::always_inline]] inline void unrolled(const Body& body) {
  unrolled(std::make_integer_sequence<int, kCount>(), body);
}

/// Multiplies a panel [inner][kRows] by `in` [inner][columns].
template <class T, int kRows, Into kInto>
void multiply(const T* panel, const T* in, int inner, T* out) {
  using V = Vec<T>;
  constexpr int kLanes = lanes<V, T>;
  V sum[kRows * kWide];
  unrolled<kRows * kWide>([&](auto k) { sum[k] = kInto == Into::add ? load<V>(out + k * kLanes) : V{}; });
  for (int i = 0; i < inner; ++i, panel += kRows, in += kColumns<T>) {
    V column[kWide];
    unrolled<kWide>([&](auto u) { column[u] = load<V>(in + u * kLanes); });
    unrolled<kRows * kWide>([&](auto k) { sum[k] += panel[k / kWide] * column[k % kWide]; });
  }
  unrolled<kRows * kWide>([&](auto k) {
    T* target = out + k * kLanes;
    if constexpr (kInto == Into::times) sum[k] *= load<V>(target);
    if constexpr (kInto == Into::square) sum[k] *= sum[k];
    store(target, sum[k]);
  });
}

template <class T>
using Multiply = void (*)(const T*, const T*, int, T*);
template <class T, Into kInto, int... I>
constexpr std::array<Multiply<T>, sizeof...(I)> multiplies(std::integer_sequence<int, I...>) {
  return {multiply<T, I + 1, kInto>...};
}

/// Returns where a part begins if `total` things are divided into about equal parts.
inline int first_of(int total, int part, int parts) { return static_cast<int>(int64_t(total) * part / parts); }

/// A matrix [rows, inner] in panels of about equal numbers of rows.
template <class T>
class Panels {
 public:
  template <class Entry>
  Panels(int rows, int inner, const Entry& entry) : rows_(rows), inner_(inner), values_(size_t(rows) * inner) {
    for (int k = 0; k < count(); ++k) {
      T* panel = values_.data() + size_t(first(k)) * inner;
      for (int i = 0; i < inner; ++i)
        for (int r = first(k); r < first(k + 1); ++r) *panel++ = entry(r, i);
    }
  }

  template <Into kInto>
  void apply(const T* in, T* out) const {
    static constexpr auto table = multiplies<T, kInto>(std::make_integer_sequence<int, kPanel>());
    for (int k = 0; k < count(); ++k)
      table[first(k + 1) - first(k) - 1](values_.data() + size_t(first(k)) * inner_, in, inner_,
                                          out + first(k) * kColumns<T>);
  }

 private:
  int count() const { return (rows_ + kPanel - 1) / kPanel; }
  int first(int panel) const { return first_of(rows_, panel, count()); }

  int rows_, inner_;
  std::vector<T> values_;
};

/// The three matrices for some of the points.
template <class T>
struct Chunk {
  Panels<T> to_x, to_y, back;
  Chunk(const SphereProduct<T>& p, int begin, int end)
      : to_x(end - begin, p.x_rows, [&](int r, int i) { return p.to_x[int64_t(begin + r) * p.x_rows + i]; }),
        to_y(end - begin, p.y_rows, [&](int r, int i) { return p.to_y[int64_t(begin + r) * p.y_rows + i]; }),
        back(p.rows, end - begin, [&](int r, int i) { return p.back[int64_t(begin + i) * p.rows + r]; }) {}
};

/// Calls body(inside, outside, length) for stretches of the columns `first` to `first + count` that lie in one sample:
/// where they stand among the columns at hand, and in a tensor [N, rows, C].
template <class Body>
void over_stretches(int64_t first, int count, int64_t channels, int rows, const Body& body) {
  for (int done = 0; done < count;) {
    const int64_t sample = (first + done) / channels, channel = (first + done) % channels;
    const int length = static_cast<int>(std::min<int64_t>(count - done, channels - channel));
    body(done, sample * rows * channels + channel, length);
    done += length;
  }
}

template <class T>
void gather(const T* from, int rows, int64_t channels, int64_t first, int count, T* to) {
  over_stretches(first, count, channels, rows, [&](int inside, int64_t outside, int length) {
    for (int i = 0; i < rows; ++i) {
      const T* source = from + outside + i * channels;
      T* target = to + i * kColumns<T> + inside;
      if (length == kColumns<T>) std::memcpy(target, source, sizeof(T) * kColumns<T>);
      else for (int c = 0; c < length; ++c) target[c] = source[c];
    }
  });
}

template <class T>
void scatter(const T* from, int rows, int64_t channels, int64_t first, int count, T* to) {
  over_stretches(first, count, channels, rows, [&](int inside, int64_t outside, int length) {
    for (int i = 0; i < rows; ++i) {
      const T* source = from + i * kColumns<T> + inside;
      T* target = to + outside + i * channels;
      if (length == kColumns<T>) std::memcpy(target, source, sizeof(T) * kColumns<T>);
      else for (int c = 0; c < length; ++c) target[c] = source[c];
    }
  });
}

}  // namespace

template <class T>
void sphere_product(const SphereProduct<T>& p, int64_t begin, int64_t end, T* out) {
  const bool square = p.x == p.y && p.to_x == p.to_y && p.x_rows == p.y_rows;
  const int chunk_count = (p.points + kPoints - 1) / kPoints;
  std::vector<Chunk<T>> chunks;
  for (int k = 0; k < chunk_count; ++k)
    chunks.emplace_back(p, first_of(p.points, k, chunk_count), first_of(p.points, k + 1, chunk_count));
  std::vector<T> x(size_t(p.x_rows) * kColumns<T>), y(size_t(p.y_rows) * kColumns<T>);
  std::vector<T> grid(kPoints * kColumns<T>), sums(size_t(p.rows) * kColumns<T>);
  for (int64_t first = begin; first < end; first += kColumns<T>) {
    const int count = static_cast<int>(std::min<int64_t>(kColumns<T>, end - first));
    gather(p.x, p.x_rows, p.channels, first, count, x.data());
    if (!square) gather(p.y, p.y_rows, p.channels, first, count, y.data());
    std::fill(sums.begin(), sums.end(), T(0));
    for (const Chunk<T>& chunk : chunks) {
      if (square) {
        chunk.to_x.template apply<Into::square>(x.data(), grid.data());
      } else {
        chunk.to_x.template apply<Into::set>(x.data(), grid.data());
        chunk.to_y.template apply<Into::times>(y.data(), grid.data());
      }
      chunk.back.template apply<Into::add>(grid.data(), sums.data());
    }
    scatter(sums.data(), p.rows, p.channels, first, count, out);
  }
}

template void sphere_product<float>(const SphereProduct<float>&, int64_t, int64_t, float*);
template void sphere_product<double>(const SphereProduct<double>&, int64_t, int64_t, double*);

}  // namespace mlip::MLIP_ISA
