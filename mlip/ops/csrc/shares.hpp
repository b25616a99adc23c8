// How the edges of receivers are shared out to threads.
#pragma once

#include "torch_shim.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace mlip {

/// Returns bounds of shares of 0..n-1 with about equal numbers of edges, one share for each thread.
inline std::vector<int64_t> shares(const int64_t* offsets, int64_t n) {
  const int64_t edges = offsets[n], most = std::max<int64_t>(1, std::min<int64_t>(num_threads(), edges / 64));
  std::vector<int64_t> bounds{0};
  for (int64_t s = 1; s < most; ++s)
    bounds.push_back(std::max(bounds.back(), int64_t(std::lower_bound(offsets, offsets + n, edges * s / most) - offsets)));
  bounds.push_back(n);
  return bounds;
}

/// Requires that offsets of the edges of receivers run from 0 to the number of edges and ascend.
inline void check_offsets(const int64_t* offsets, int64_t receivers, int64_t edges) {
  require(offsets[0] == 0 && offsets[receivers] == edges, "offsets must run from 0 to the number of edges");
  for (int64_t i = 0; i < receivers; ++i) require(offsets[i] <= offsets[i + 1], "offsets must ascend");
}

}  // namespace mlip
