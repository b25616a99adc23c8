// What Python asks the library when it loads it, and the choice of the instruction set.
#include "dispatch.hpp"
#include "torch_shim.hpp"

#include <cstdlib>
#include <cstring>

namespace mlip {

static Isa detect() {
  Isa best = Isa::generic;
#if defined(MLIP_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::avx2;
  if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    best = Isa::avx512;
  const char* wish = std::getenv("MLIP_ISA");  // for tests: a lower one than the best
  if (wish && !std::strcmp(wish, "generic")) best = Isa::generic;
  if (wish && !std::strcmp(wish, "avx2") && best == Isa::avx512) best = Isa::avx2;
#endif
  return best;
}

Isa isa() {
  static const Isa found = detect();
  return found;
}

}  // namespace mlip

#define MLIP_EXPORT __attribute__((visibility("default")))

extern "C" {
MLIP_EXPORT int mlip_ops_interface() { return mlip::all_registered ? MLIP_INTERFACE : -1; }
MLIP_EXPORT const char* mlip_ops_isa() {
  switch (mlip::isa()) {
    case mlip::Isa::avx512: return "avx512";
    case mlip::Isa::avx2: return "avx2";
    default: return "generic";
  }
}
}
