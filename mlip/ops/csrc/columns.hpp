// Columns: the components of one sample and channel of a tensor [N, M, C]. Kernels that treat columns alike copy some
// of them into a block [M][columns], whose rows are whole vectors, and back.
#pragma once

#include "simd.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace mlip::MLIP_ISA {

constexpr int kWide = 2;  // vectors in a row of a block, for kernels that do not say otherwise
template <class T, int kVectors = kWide>
constexpr int kColumns = kVectors * lanes<Vec<T>, T>;

/// Calls body(inside, outside, length) for stretches of the columns `first` to `first + count` that lie in one sample:
/// where they stand in a block, and in a tensor [N, rows, C].
template <class Body>
void over_stretches(int64_t first, int count, int64_t channels, int rows, const Body& body) {
  for (int done = 0; done < count;) {
    const int64_t sample = (first + done) / channels, channel = (first + done) % channels;
    const int length = static_cast<int>(std::min<int64_t>(count - done, channels - channel));
    body(done, sample * rows * channels + channel, length);
    done += length;
  }
}

/// Copies columns of a tensor [N, rows, C] into a block; its row i becomes the row place[i].
template <int kVectors = kWide, class T>
void gather(const T* from, const int* place, int rows, int64_t channels, int64_t first, int count, T* to) {
  if (channels == 1) {  // components side by side: the inner loop runs over samples
    from += first * rows;
    for (int i = 0; i < rows; ++i)
      for (int c = 0; c < count; ++c) to[place[i] * kColumns<T, kVectors> + c] = from[int64_t(c) * rows + i];
    return;
  }
  over_stretches(first, count, channels, rows, [&](int inside, int64_t outside, int length) {
    for (int i = 0; i < rows; ++i) {
      const T* source = from + outside + i * channels;
      T* target = to + place[i] * kColumns<T, kVectors> + inside;
      if (length == kColumns<T, kVectors>) std::memcpy(target, source, sizeof(T) * kColumns<T, kVectors>);
      else for (int c = 0; c < length; ++c) target[c] = source[c];
    }
  });
}

/// Copies the rows place[i] of a block into the rows i of columns of a tensor [N, rows, C].
template <int kVectors = kWide, class T>
void scatter(const T* from, const int* place, int rows, int64_t channels, int64_t first, int count, T* to) {
  if (channels == 1) {
    to += first * rows;
    for (int c = 0; c < count; ++c)
      for (int i = 0; i < rows; ++i) to[int64_t(c) * rows + i] = from[place[i] * kColumns<T, kVectors> + c];
    return;
  }
  over_stretches(first, count, channels, rows, [&](int inside, int64_t outside, int length) {
    for (int i = 0; i < rows; ++i) {
      const T* source = from + place[i] * kColumns<T, kVectors> + inside;
      T* target = to + outside + i * channels;
      if (length == kColumns<T, kVectors>) std::memcpy(target, source, sizeof(T) * kColumns<T, kVectors>);
      else for (int c = 0; c < length; ++c) target[c] = source[c];
    }
  });
}

}  // namespace mlip::MLIP_ISA
