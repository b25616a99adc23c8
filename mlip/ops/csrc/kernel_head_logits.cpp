// The loops of the logits of attention heads; see attention_activation.hpp.
#include "attention_activation.hpp"
#include "exponential.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace mlip::MLIP_ISA {

namespace {

/// The channels of all heads of an edge, each filled up with zeros to whole vectors. Every step is taken for all heads,
/// so that the processor has independent sums to work on.
template <class T>
class Heads {
 public:
  using V = Vec<T>;
  static constexpr int kLanes = lanes<V, T>;

  explicit Heads(const HeadLogits<T>& p)
      : p_(p), size_((p.channels + kLanes - 1) / kLanes * kLanes), weight_(padded(p.weight, 1)),
        bias_(padded(p.bias, 1)), dot_(padded(p.dot, p.heads)), inside_(size_), x_(dot_.size()), y_(dot_.size()),
        scale_(p.heads), sum_(p.heads), along_(p.heads) {
    std::fill_n(inside_.begin(), p.channels, T(1));
  }

  /// Normalises the channels of an edge.
  void take(int64_t edge) {
    const T* alpha = p_.alpha + edge * p_.stride;
    over_heads([&](int head, T* x, T*) {
      V sum{};
      for (int c = 0; c < size_; c += kLanes) {
        const V value = channels(alpha + int64_t(head) * p_.channels, c);
        sum += value;
        store(x + c, value);
      }
      sum_[head] = lane_total<T>(sum)[0];
    });
    over_heads([&](int head, T* x, T*) {
      const V mean = V{} + sum_[head] / T(p_.channels);
      V squares{};
      for (int c = 0; c < size_; c += kLanes) {
        const V value = (load<V>(x + c) - mean) * at(inside_, c);
        squares += value * value;
        store(x + c, value);
      }
      scale_[head] = 1 / std::sqrt(lane_total<T>(squares)[0] / T(p_.channels) + p_.eps);
    });
    over_heads([&](int head, T* x, T* y) {
      const V scale = V{} + scale_[head];
      for (int c = 0; c < size_; c += kLanes) {
        const V value = load<V>(x + c) * scale;
        store(x + c, value);
        store(y + c, value * at(weight_, c) + at(bias_, c));
      }
    });
  }

  void logits(T* out) {
    over_heads([&](int head, T*, T* y) {
      V sum{};
      for (int c = 0; c < size_; c += kLanes) {
        const V value = load<V>(y + c);
        sum += (T(0.2) + T(0.8) * sigmoid<T>(value)) * value * at(dot_, head * size_ + c);
      }
      out[head] = lane_total<T>(sum)[0];
    });
  }

  /// Writes the derivative by the channels of what has the derivatives g [H] by the logits.
  void differentiate(const T* g, T* out) {
    over_heads([&](int head, T* x, T* y) {
      V sum{}, along{};
      for (int c = 0; c < size_; c += kLanes) {
        const V value = load<V>(y + c), slope = T(0.2) + T(0.8) * silu_slope(value, sigmoid<T>(value));
        const V by_x = g[head] * slope * at(dot_, head * size_ + c) * at(weight_, c);
        sum += by_x;
        along += by_x * load<V>(x + c);
        store(y + c, by_x);
      }
      sum_[head] = lane_total<T>(sum)[0] / T(p_.channels);
      along_[head] = lane_total<T>(along)[0] / T(p_.channels);
    });
    over_heads([&](int head, T* x, T* by_x) {
      const V mean = V{} + sum_[head], along = V{} + along_[head], scale = V{} + scale_[head];
      T* target = out + int64_t(head) * p_.channels;
      for (int c = 0; c < size_; c += kLanes) {
        const V value = scale * (load<V>(by_x + c) - mean - along * load<V>(x + c));
        if (c + kLanes <= p_.channels) store(target + c, value);
        else std::memcpy(target + c, &value, sizeof(T) * (p_.channels - c));
      }
    });
  }

 private:
  static V at(const std::vector<T>& row, int c) { return load<V>(row.data() + c); }

  /// Returns channels of a head from c on, and zeros behind the last.
  V channels(const T* head, int c) const {
    if (c + kLanes <= p_.channels) return load<V>(head + c);
    V out{};
    std::memcpy(&out, head + c, sizeof(T) * (p_.channels - c));
    return out;
  }

  /// Calls body(head, x, y).
  template <class Body>
  void over_heads(const Body& body) {
    for (int h = 0; h < p_.heads; ++h) body(h, x_.data() + int64_t(h) * size_, y_.data() + int64_t(h) * size_);
  }

  std::vector<T> padded(const T* rows, int count) const {
    std::vector<T> out(size_t(count) * size_);
    for (int i = 0; i < count; ++i)
      std::copy_n(rows + int64_t(i) * p_.channels, p_.channels, out.begin() + int64_t(i) * size_);
    return out;
  }

  const HeadLogits<T>& p_;
  int size_;
  std::vector<T> weight_, bias_, dot_, inside_, x_, y_, scale_, sum_, along_;
};

}  // namespace

template <class T>
void head_logits(const HeadLogits<T>& p, int64_t begin, int64_t end, T* out) {
  Heads<T> heads(p);
  for (int64_t e = begin; e < end; ++e) {
    heads.take(e);
    heads.logits(out + e * p.heads);
  }
}

template <class T>
void head_logits_backward(const HeadLogits<T>& p, int64_t begin, int64_t end, const T* g, T* dalpha, int64_t stride) {
  Heads<T> heads(p);
  for (int64_t e = begin; e < end; ++e) {
    heads.take(e);
    heads.differentiate(g + e * p.heads, dalpha + e * stride);
  }
}

template void head_logits<float>(const HeadLogits<float>&, int64_t, int64_t, float*);
template void head_logits<double>(const HeadLogits<double>&, int64_t, int64_t, double*);
template void head_logits_backward<float>(const HeadLogits<float>&, int64_t, int64_t, const float*, float*, int64_t);
template void head_logits_backward<double>(const HeadLogits<double>&, int64_t, int64_t, const double*, double*,
                                           int64_t);

}  // namespace mlip::MLIP_ISA
