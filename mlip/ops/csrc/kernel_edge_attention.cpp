// The loops of attention over edges; see edge_attention.hpp.
#include "dual.hpp"
#include "edge_attention.hpp"
#include "exponential.hpp"
#include "trigonometry.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

namespace mlip::MLIP_ISA {

namespace {

template <class T, class V>
inline void turn(const V& phase, V& cosine, V& sine) {
  sine_cosine<T>(phase, sine, cosine);
}
template <class T, class V>
inline void turn(const Dual<V>& phase, Dual<V>& cosine, Dual<V>& sine) {
  V s, c;
  sine_cosine<T>(phase.value, s, c);
  cosine = {c, -s * phase.tangent};
  sine = {s, c * phase.tangent};
}

/// Returns e^x, and zero where that is no normal number.
template <class T, class V>
inline V decay(const V& x) {
  return x < Exponential<T>::kLow ? V{} : exponential<T>(x);
}
template <class T, class V>
inline Dual<V> decay(const Dual<V>& x) {
  const V e = decay<T>(x.value);
  return {e, e * x.tangent};
}

/// Returns the channels that begin at a place of tensors like Channels or Parts.
template <class N, class Source>
inline N load_number(const Source& source, int64_t at) {
  return make_number<N>([&](int k) { return load<typename Numbers<N>::Vector>(source.part[k] + at); });
}

/// Returns the number at a place of tensors, in all lanes.
template <class N, class Source>
inline N spread(const Source& source, int64_t at) {
  return make_number<N>([&](int k) { return broadcast<typename Numbers<N>::Vector>(source.part[k][at]); });
}

/// What a round keeps of a vector of channels of an edge: T(r) v, and for the backward pass T(r) k and exp(i phase).
template <class N, bool kBackward>
struct Kept {
  N v[2];
};
template <class N>
struct Kept<N, true> {
  N v[2], k[2], turn[2];
};

/// Edges of one receiver, as many as kGroups vectors have lanes. They are gone through head by head, in two rounds: one
/// makes the logits, for all edges at once, the other uses the weights. What the first knows of the channels is kept.
/// N is a vector or a dual number; the loops over channels take kBlocks vectors at a time.
template <class T, class N, int kBlocks, int kGroups, bool kBackward>
class Tile {
 public:
  using V = Vec<T>;
  static constexpr int kParts = Numbers<N>::kParts, kLanes = lanes<V, T>, kStep = kBlocks * kLanes;
  static constexpr int kEdges = kGroups * kLanes;

  using Kept = MLIP_ISA::Kept<N, kBackward>;

  explicit Tile(const Attention<T>& problem)
      : p(problem), kept_(new Kept[size_t(p.channels / kLanes) * kEdges]),
        bias_(new V[size_t(kParts) * p.heads * kGroups]) {}

  /// Takes edges and reads their biases.
  void take(int64_t first_edge, int64_t end) {
    first = first_edge;
    count = static_cast<int>(std::min<int64_t>(kEdges, end - first));
    groups = (count + kLanes - 1) / kLanes;
    for (int k = 0; k < kParts; ++k)
      for (int h = 0; h < p.heads; ++h) {
        T* row = reinterpret_cast<T*>(&bias_[size_t(k * p.heads + h) * kGroups]);
        const T* source = p.bias.part[k] + first * p.heads + h;
        for (int e = 0; e < count; ++e) row[e] = source[int64_t(e) * p.heads];
        for (int e = count; e < groups * kLanes; ++e) row[e] = k ? T(0) : -std::numeric_limits<T>::infinity();
      }
  }

  N channel(const Channels<const T>& source, int64_t atom, int head, int c) const {
    return load_number<N>(source, atom * source.row + int64_t(head) * 2 * p.channels + c);
  }
  N frequency(int head, int axis, int c) const {
    return load_number<N>(p.frequencies, (int64_t(head) * 3 + axis) * p.channels + c);
  }
  Kept& kept(int c, int e, int block) { return kept_[size_t(c / kLanes) * kEdges + e * kBlocks + block]; }

  /// The first round for a head: makes <q, T(r) k> of the edges and, with the gradient g, <g, T(r) v>.
  void round(int64_t receiver, int head, const Channels<const T>* g) {
    for (int k = 0; k < kParts; ++k) {
      std::fill(logits_[k] + count, logits_[k] + groups * kLanes, V{});
      if (kBackward) std::fill(gains_[k] + count, gains_[k] + groups * kLanes, V{});
    }
    for (int c = 0; c < p.channels; c += kStep) channels(receiver, head, c, g);
  }

  /// Returns sums over channels for a group of edges, one in each lane; behind the last edge the logit is -inf.
  N logits(int head, int group) const {
    return make_number<N>([&](int k) {
      return lane_sums<T>(logits_[k] + group * kLanes) + bias_[size_t(k * p.heads + head) * kGroups + group];
    });
  }
  N gains(int group) const {
    return make_number<N>([&](int k) { return lane_sums<T>(gains_[k] + group * kLanes); });
  }

  const Attention<T>& p;
  int64_t first = 0;
  int count = 0, groups = 0;

 private:
  void channels(int64_t receiver, int head, int c, const Channels<const T>* gradient) {
    N w[3][kBlocks], q[2][kBlocks];
    V g[2][kBlocks];
    for (int b = 0; b < kBlocks; ++b) {
      const int at = c + b * kLanes;
      for (int axis = 0; axis < 3; ++axis) w[axis][b] = frequency(head, axis, at);
      for (int z = 0; z < 2; ++z) {
        q[z][b] = channel(p.q, receiver, head, z * p.channels + at);
        if constexpr (kBackward)
          g[z][b] = load<V>(gradient->part[0] + receiver * gradient->row + (int64_t(head) * 2 + z) * p.channels + at);
      }
    }
    const Channels<const T> keys = p.k, values = p.v;  // copies, which stores of vectors cannot change
    const auto vectors = p.vectors;
    const int64_t *sender = p.sender + first, half = p.channels, begin = int64_t(head) * 2 * half + c;
    Kept* to = &kept(c, 0, 0);
    for (int e = 0, number = count; e < number; ++e, to += kBlocks) {
      const int64_t key = sender[e] * keys.row + begin, value = sender[e] * values.row + begin, r = (first + e) * 3;
      const N x = spread<N>(vectors, r), y = spread<N>(vectors, r + 1), z = spread<N>(vectors, r + 2);
      N logit = zero<N, V>(), gain = logit;
      for (int b = 0; b < kBlocks; ++b) {
        const int64_t at = b * kLanes;
        N cosine, sine;
        turn<T>(w[0][b] * x + w[1][b] * y + w[2][b] * z, cosine, sine);
        const N k0 = load_number<N>(keys, key + at), k1 = load_number<N>(keys, key + half + at);
        const N v0 = load_number<N>(values, value + at), v1 = load_number<N>(values, value + half + at);
        const N turned0 = k0 * cosine - k1 * sine, turned1 = k0 * sine + k1 * cosine;
        logit = logit + q[0][b] * turned0 + q[1][b] * turned1;
        const N message0 = v0 * cosine - v1 * sine, message1 = v0 * sine + v1 * cosine;
        to[b].v[0] = message0, to[b].v[1] = message1;
        if constexpr (kBackward) {
          gain = gain + g[0][b] * message0 + g[1][b] * message1;
          to[b].k[0] = turned0, to[b].k[1] = turned1;
          to[b].turn[0] = cosine, to[b].turn[1] = sine;
        }
      }
      add(logits_, e, logit, c == 0);
      if constexpr (kBackward) add(gains_, e, gain, c == 0);
    }
  }

  static void add(V (*sums)[kEdges], int e, const N& n, bool first) {
    for (int k = 0; k < kParts; ++k)
      sums[k][e] = first ? Numbers<N>::part(n, k) : sums[k][e] + Numbers<N>::part(n, k);
  }

  std::unique_ptr<Kept[]> kept_;
  std::unique_ptr<V[]> bias_;  // [part][head][group]
  V logits_[kParts][kEdges], gains_[kParts][kEdges];
};

/// Numbers of the edges of a tile, one for each.
template <class T, class N, int kEdges>
struct Row {
  using V = Vec<T>;
  static constexpr int kParts = Numbers<N>::kParts;
  T part[kParts][kEdges];

  void set(int group, const N& n) {
    for (int k = 0; k < kParts; ++k) store(part[k] + group * lanes<V, T>, Numbers<N>::part(n, k));
  }
  N operator[](int e) const {
    return make_number<N>([&](int k) { return broadcast<V>(part[k][e]); });
  }
};

/// Returns the sum over the lanes, in all lanes.
template <class T, class N>
inline N total(const N& n) {
  return make_number<N>([&](int k) { return lane_total<T>(Numbers<N>::part(n, k)); });
}

/// Returns the sum over the channels of a head of an atom of the products of two of its numbers.
template <class N, class Tile, class T>
inline N product(const Tile& tile, const Channels<const T>& a, const Channels<const T>& b, int64_t atom, int head) {
  N sum = zero<N, Vec<T>>();
  for (int c = 0; c < 2 * tile.p.channels; c += Tile::kLanes)
    sum = sum + tile.channel(a, atom, head, c) * tile.channel(b, atom, head, c);
  return total<T>(sum);
}

// ---- forward --------------------------------------------------------------------------------------------------------

/// The softmax is made while edges are gone through: sums belong to weights exp(l - top), where top is the largest logit
/// so far, and shrink when that grows. It is a constant: the result does not depend on it.
template <class T, class N, int kBlocks>
class Forward {
  using V = Vec<T>;
  using Edges = Tile<T, N, kBlocks, 4, false>;
  static constexpr int kLanes = Edges::kLanes, kParts = Edges::kParts;

 public:
  Forward(const Attention<T>& problem, const Attended<T>& result)
      : p(problem), to(result), tile_(problem), top_(new V[p.heads]), mass_(new N[p.heads]),
        sums_(new N[size_t(p.heads) * vectors()]) {}

  void receiver(int64_t i) {
    for (int h = 0; h < p.heads; ++h) begin(i, h);
    for (int64_t e = p.offsets[i]; e < p.offsets[i + 1]; e += Edges::kEdges) {
      tile_.take(e, p.offsets[i + 1]);
      for (int h = 0; h < p.heads; ++h) {
        tile_.round(i, h, nullptr);
        const V scale = weigh(h);
        for (int c = 0; c < p.channels; c += Edges::kStep) collect(h, c, scale);
      }
    }
    for (int h = 0; h < p.heads; ++h) end(i, h);
  }

 private:
  int vectors() const { return 2 * p.channels / kLanes; }
  N* sums(int head) { return &sums_[size_t(head) * vectors()]; }

  /// The atom itself is the first to be attended to.
  void begin(int64_t i, int h) {
    const N own = product<N>(tile_, p.q, p.k, i, h);
    top_[h] = Numbers<N>::value(own);
    const N alone = decay<T>(own - top_[h]);
    V first{};
    first[0] = 1;
    mass_[h] = first * alone;
    for (int u = 0; u < vectors(); ++u) sums(h)[u] = tile_.channel(p.v, i, h, u * kLanes) * alone;
  }

  /// Makes the weights of the edges; returns by what earlier sums shrink.
  V weigh(int h) {
    N logits[4];
    V most = top_[h];
    for (int g = 0; g < tile_.groups; ++g) {
      logits[g] = tile_.logits(h, g);
      const V value = Numbers<N>::value(logits[g]);
      most = value > most ? value : most;
    }
    most = lane_largest<T>(most);
    const V scale = decay<T>(top_[h] - most);
    top_[h] = most;
    N mass = scale * mass_[h];
    for (int g = 0; g < tile_.groups; ++g) {
      const N weight = decay<T>(logits[g] - most);
      mass = mass + weight;
      weights_.set(g, weight);
    }
    mass_[h] = mass;
    return scale;
  }

  void collect(int h, int c, V scale) {
    N sum[2][kBlocks];
    N* all = sums(h) + c / kLanes;
    const int half = p.channels / kLanes;
    for (int z = 0; z < 2; ++z)
      for (int b = 0; b < kBlocks; ++b) sum[z][b] = scale * all[z * half + b];
    const auto* kept = &tile_.kept(c, 0, 0);
    for (int e = 0; e < tile_.count; ++e, kept += kBlocks) {
      const N weight = weights_[e];
      for (int b = 0; b < kBlocks; ++b)
        for (int z = 0; z < 2; ++z) sum[z][b] = sum[z][b] + weight * kept[b].v[z];
    }
    for (int z = 0; z < 2; ++z)
      for (int b = 0; b < kBlocks; ++b) all[z * half + b] = sum[z][b];
  }

  void end(int64_t i, int h) {
    const N mass = total<T>(mass_[h]);
    const V value = Numbers<N>::value(mass), inverse = T(1) / value;
    V slope{};
    if constexpr (kParts == 2) slope = mass.tangent * inverse;
    for (int u = 0; u < vectors(); ++u) {
      const int64_t at = i * to.out.row + (int64_t(h) * vectors() + u) * kLanes;
      const V out = Numbers<N>::value(sums(h)[u]) * inverse;
      store(to.out.part[0] + at, out);
      if constexpr (kParts == 2) store(to.out.part[1] + at, sums(h)[u].tangent * inverse - out * slope);
    }
    to.lse.part[0][i * p.heads + h] = top_[h][0] + std::log(value[0]);
    if constexpr (kParts == 2) to.lse.part[1][i * p.heads + h] = slope[0];
  }

  const Attention<T>& p;
  const Attended<T>& to;
  Edges tile_;
  Row<T, N, Edges::kEdges> weights_;
  std::unique_ptr<V[]> top_;   // [head]
  std::unique_ptr<N[]> mass_;  // [head], the sum of the weights is that over the lanes
  std::unique_ptr<N[]> sums_;  // [head][vector of channels]
};

// ---- backward -------------------------------------------------------------------------------------------------------

/// With delta = <g, out> the derivative by a logit is a (<g, T(r) v> - delta), so that one pass over the edges suffices.
template <class T, class N, int kBlocks>
class Backward {
  using V = Vec<T>;
  using Edges = Tile<T, N, kBlocks, 2, true>;
  static constexpr int kLanes = Edges::kLanes, kParts = Edges::kParts;

 public:
  Backward(const Attention<T>& problem, const AttentionGradients<T>& gradients)
      : p(problem), d(gradients), tile_(problem), lse_(new N[p.heads]), delta_(new N[p.heads]) {}

  void receiver(int64_t i) {
    for (int h = 0; h < p.heads; ++h) begin(i, h);
    for (int64_t e = p.offsets[i]; e < p.offsets[i + 1]; e += Edges::kEdges) {
      tile_.take(e, p.offsets[i + 1]);
      std::fill_n(by_vectors_, tile_.groups * kLanes * 3, V{});
      for (int h = 0; h < p.heads; ++h) {
        tile_.round(i, h, &d.g);
        weigh(h);
        finish(i, h);
      }
      if (d.vectors) store_by_vectors();
    }
  }

 private:
  /// Returns where the channels of a head of an atom begin in a tensor without gaps.
  int64_t place(int64_t atom, int head) const { return (atom * p.heads + head) * 2 * p.channels; }
  V gradient(int64_t i, int h, int c) const { return load<V>(d.g.part[0] + i * d.g.row + int64_t(h) * 2 * p.channels + c); }

  void begin(int64_t i, int h) {
    N gain = zero<N, V>(), delta = gain;
    for (int c = 0; c < 2 * p.channels; c += kLanes) {
      gain = gain + gradient(i, h, c) * tile_.channel(p.v, i, h, c);
      delta = delta + gradient(i, h, c) * tile_.channel(d.out, i, h, c);
    }
    delta_[h] = total<T>(delta);
    lse_[h] = spread<N>(d.lse, i * p.heads + h);
    if (!d.q) return;
    const N weight = decay<T>(product<N>(tile_, p.q, p.k, i, h) - lse_[h]);
    const N slope = weight * (total<T>(gain) - delta_[h]);
    for (int c = 0; c < 2 * p.channels; c += kLanes) {
      const int64_t at = place(i, h) + c;
      store(d.q + at, Numbers<N>::wanted(slope * tile_.channel(p.k, i, h, c)));
      add(d.k + at, slope * tile_.channel(p.q, i, h, c));
      add(d.v + at, gradient(i, h, c) * weight);
    }
  }

  /// Makes the weights of the edges and the derivatives by their logits.
  void weigh(int h) {
    for (int g = 0; g < tile_.groups; ++g) {
      const N weight = decay<T>(tile_.logits(h, g) - lse_[h]);
      weights_.set(g, weight);
      slopes_.set(g, weight * (tile_.gains(g) - delta_[h]));
    }
    if (!d.bias) return;
    for (int e = 0; e < tile_.count; ++e) d.bias[(tile_.first + e) * p.heads + h] = slopes_.part[kParts - 1][e];
  }

  /// The second round for a head.
  void finish(int64_t i, int h) {
    const bool atoms = d.q, frequencies = d.frequencies;
    for (int c = 0; c < p.channels; c += Edges::kStep) {
      if (atoms && frequencies) channels<true, true>(i, h, c);
      else if (atoms) channels<true, false>(i, h, c);
      else if (frequencies) channels<false, true>(i, h, c);
      else channels<false, false>(i, h, c);
    }
  }

  template <bool kAtoms, bool kFrequencies>
  void channels(int64_t i, int h, int c) {
    N w[3][kBlocks], q[2][kBlocks];
    V g[2][kBlocks], by_q[2][kBlocks], by_w[3][kBlocks];
    for (int b = 0; b < kBlocks; ++b) {
      const int at = c + b * kLanes;
      for (int axis = 0; axis < 3; ++axis) w[axis][b] = tile_.frequency(h, axis, at), by_w[axis][b] = V{};
      for (int z = 0; z < 2; ++z) {
        q[z][b] = tile_.channel(p.q, i, h, z * p.channels + at);
        g[z][b] = gradient(i, h, z * p.channels + at);
        by_q[z][b] = V{};
      }
    }
    const auto vectors = p.vectors;  // copies, which stores of vectors cannot change
    const int64_t *sender = p.sender + tile_.first, first = tile_.first * 3, half = p.channels;
    const int64_t row = 2 * half * p.heads;
    T *by_k = kAtoms ? d.k + place(0, h) + c : nullptr, *by_v = kAtoms ? d.v + place(0, h) + c : nullptr;
    const auto* kept = &tile_.kept(c, 0, 0);
    for (int e = 0, count = tile_.count; e < count; ++e, kept += kBlocks) {
      const N slope = slopes_[e], weight = weights_[e];
      V by_r[3] = {};
      for (int b = 0; b < kBlocks; ++b) {
        const N q0 = q[0][b] * slope, q1 = q[1][b] * slope, g0 = g[0][b] * weight, g1 = g[1][b] * weight;
        const N k0 = kept[b].k[0], k1 = kept[b].k[1];
        if constexpr (kAtoms) {
          const N cosine = kept[b].turn[0], sine = kept[b].turn[1];
          const int64_t at = sender[e] * row + b * kLanes;
          add(by_k + at, q0 * cosine + q1 * sine);
          add(by_k + at + half, q1 * cosine - q0 * sine);
          add(by_v + at, g0 * cosine + g1 * sine);
          add(by_v + at + half, g1 * cosine - g0 * sine);
          by_q[0][b] += Numbers<N>::wanted(slope * k0);
          by_q[1][b] += Numbers<N>::wanted(slope * k1);
        }
        const N by_phase = q1 * k0 - q0 * k1 + g1 * kept[b].v[0] - g0 * kept[b].v[1];
        for (int axis = 0; axis < 3; ++axis) {
          by_r[axis] += Numbers<N>::wanted(by_phase * w[axis][b]);
          if constexpr (kFrequencies)
            by_w[axis][b] += Numbers<N>::wanted(by_phase * spread<N>(vectors, first + e * 3 + axis));
        }
      }
      for (int axis = 0; axis < 3; ++axis) by_vectors_[e * 3 + axis] += by_r[axis];
    }
    for (int b = 0; b < kBlocks; ++b) {
      const int at = c + b * kLanes;
      for (int z = 0; z < 2 && kAtoms; ++z) add_part(d.q + place(i, h) + z * p.channels + at, by_q[z][b]);
      for (int axis = 0; axis < 3 && kFrequencies; ++axis)
        add_part(d.frequencies + (int64_t(h) * 3 + axis) * p.channels + at, by_w[axis][b]);
    }
  }

  void store_by_vectors() {
    T* target = d.vectors + tile_.first * 3;
    for (int k = 0; k < 3 * tile_.count; k += kLanes) {
      const V sums = lane_sums<T>(by_vectors_ + k);
      if (k + kLanes <= 3 * tile_.count) store(target + k, sums);
      else std::memcpy(target + k, &sums, sizeof(T) * (3 * tile_.count - k));
    }
  }

  static void add_part(T* target, V part) { store(target, load<V>(target) + part); }
  static void add(T* target, const N& n) { add_part(target, Numbers<N>::wanted(n)); }

  const Attention<T>& p;
  const AttentionGradients<T>& d;
  Edges tile_;
  Row<T, N, Edges::kEdges> weights_, slopes_;
  std::unique_ptr<N[]> lse_, delta_;  // [head]
  V by_vectors_[Edges::kEdges * 3];
};

/// Runs the loops for a range of receivers: two vectors of channels at a time where registers allow it.
template <template <class, class, int> class Pass, class T, class N, class Target>
void run(const Attention<T>& p, int64_t begin, int64_t end, const Target& target) {
  const bool two = kRegisters >= 32 && p.channels / lanes<Vec<T>, T> % 2 == 0;
  if (two) {
    Pass<T, N, kRegisters >= 32 ? 2 : 1> pass(p, target);
    for (int64_t i = begin; i < end; ++i) pass.receiver(i);
  } else {
    Pass<T, N, 1> pass(p, target);
    for (int64_t i = begin; i < end; ++i) pass.receiver(i);
  }
}

}  // namespace

template <class T>
void attention_lanes(int* count) {
  *count = lanes<Vec<T>, T>;
}

template <class T>
void attend(const Attention<T>& p, int64_t begin, int64_t end, const Attended<T>& to) {
  if (p.dual) run<Forward, T, Dual<Vec<T>>>(p, begin, end, to);
  else run<Forward, T, Vec<T>>(p, begin, end, to);
}

template <class T>
void attend_backward(const Attention<T>& p, int64_t begin, int64_t end, const AttentionGradients<T>& d) {
  if (p.dual) run<Backward, T, Dual<Vec<T>>>(p, begin, end, d);
  else run<Backward, T, Vec<T>>(p, begin, end, d);
}

#define INSTANTIATE(T)                                                                        \
  template void attention_lanes<T>(int*);                                                     \
  template void attend<T>(const Attention<T>&, int64_t, int64_t, const Attended<T>&);         \
  template void attend_backward<T>(const Attention<T>&, int64_t, int64_t, const AttentionGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace mlip::MLIP_ISA
