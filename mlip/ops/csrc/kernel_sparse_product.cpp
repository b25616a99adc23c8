// The loops of the sparse product; see sparse_product.hpp.
#include "columns.hpp"
#include "sparse_product.hpp"

#include <numeric>

namespace mlip::MLIP_ISA {

namespace {

constexpr int kMany = 4;  // vectors of columns that share each entry of the table

/// Multiplies kVectors vectors of columns; `stride` lies between the components of each tensor.
template <class T, int kVectors>
void multiply(const SparseProduct<T>& p, const T* x, const T* y, T* out, int64_t stride) {
  using V = Vec<T>;
  constexpr int kLanes = lanes<V, T>;
  const Entry<T>* entry = p.entries.data();
  const Run* run = p.runs.data();
  for (int k = 0; k < p.rows; ++k) {
    V sum[kVectors] = {};
    for (const Run* last = p.runs.data() + p.run_of[k + 1]; run < last; ++run) {
      V inner[kVectors] = {};
      for (const Entry<T>* end = p.entries.data() + run->end; entry < end; ++entry) {
        const T* factor = y + entry->second * stride;
        for (int u = 0; u < kVectors; ++u) inner[u] += load<V>(factor + u * kLanes) * entry->coefficient;
      }
      const T* factor = x + run->first * stride;
      for (int u = 0; u < kVectors; ++u) sum[u] += load<V>(factor + u * kLanes) * inner[u];
    }
    for (int u = 0; u < kVectors; ++u) store(out + k * stride + u * kLanes, sum[u]);
  }
}

/// Channels that fill whole vectors: the tensors are read and written where they are.
template <class T>
void multiply_rows(const SparseProduct<T>& p, int64_t sample, T* out) {
  constexpr int kLanes = lanes<Vec<T>, T>;
  const int64_t channels = p.channels;
  const T *x = p.x + sample * p.x_rows * channels, *y = p.y + sample * p.y_rows * channels;
  out += sample * p.rows * channels;
  int64_t c = 0;
  for (; c + kMany * kLanes <= channels; c += kMany * kLanes)
    multiply<T, kMany>(p, x + c, y + c, out + c, channels);
  for (; c + 2 * kLanes <= channels; c += 2 * kLanes) multiply<T, 2>(p, x + c, y + c, out + c, channels);
  for (; c < channels; c += kLanes) multiply<T, 1>(p, x + c, y + c, out + c, channels);
}

}  // namespace

template <class T>
void sparse_product(const SparseProduct<T>& p, int64_t begin, int64_t end, T* out) {
  if (p.channels % lanes<Vec<T>, T> == 0) {
    for (int64_t sample = begin; sample < end; ++sample) multiply_rows(p, sample, out);
    return;
  }
  constexpr int kBlock = kColumns<T, kMany>;
  std::vector<int> place(std::max({p.x_rows, p.y_rows, p.rows}));
  std::iota(place.begin(), place.end(), 0);
  std::vector<T> x(size_t(p.x_rows) * kBlock), y(size_t(p.y_rows) * kBlock), z(size_t(p.rows) * kBlock);
  for (int64_t first = begin * p.channels, last = end * p.channels; first < last; first += kBlock) {
    const int count = static_cast<int>(std::min<int64_t>(kBlock, last - first));
    gather<kMany>(p.x, place.data(), p.x_rows, p.channels, first, count, x.data());
    gather<kMany>(p.y, place.data(), p.y_rows, p.channels, first, count, y.data());
    multiply<T, kMany>(p, x.data(), y.data(), z.data(), kBlock);
    scatter<kMany>(z.data(), place.data(), p.rows, p.channels, first, count, out);
  }
}

template void sparse_product<float>(const SparseProduct<float>&, int64_t, int64_t, float*);
template void sparse_product<double>(const SparseProduct<double>&, int64_t, int64_t, double*);

}  // namespace mlip::MLIP_ISA
