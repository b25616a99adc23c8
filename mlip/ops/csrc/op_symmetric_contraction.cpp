// The operators of the symmetric contraction: value, gradient, and the derivative of each along a direction.
#include "symmetric_contraction.hpp"
#include "torch_shim.hpp"

#include <algorithm>

namespace mlip {
namespace {

constexpr int64_t kSegment = 128;  // atoms of a task; a constant, so that no result depends on the number of threads

/// Takes the tables that all operators of the contraction share from the stack.
struct Tables {
  Tensor products, groups, leaves, terms, coefficients;

  explicit Tables(StableIValue* s) : products(s[0]), groups(s[1]), leaves(s[2]), terms(s[3]), coefficients(s[4]) {}

  template <class T>
  void fill(Contraction<T>& p) const {
    check();
    const int64_t* pair = products.data<int64_t>();
    const int64_t pairs = products.size(0), entries = leaves.size(0);
    for (int64_t i = 0; i < pairs; ++i)
      p.products.push_back({index(pair[2 * i], p.features), index(pair[2 * i + 1], p.features)});
    const int64_t* leaf = leaves.data<int64_t>();
    for (int64_t e = 0; e < entries; ++e) p.leaf.push_back(index(leaf[e], p.slots()));
    add_groups(p);
    add_terms(p);
    add_uses(p);
  }

 private:
  void check() const {
    for (const Tensor* t : {&products, &groups, &leaves, &terms})
      require(t->dtype() == aoti_torch_dtype_int64(), "tables of the symmetric contraction must be int64");
    require(coefficients.dtype() == aoti_torch_dtype_float64(), "coefficients must be float64");
    require(products.dim() == 2 && products.size(1) == 2 && groups.dim() == 2 && groups.size(1) == 3 &&
                leaves.dim() == 1 && terms.dim() == 2 && terms.size(1) == 2 && coefficients.dim() == 1 &&
                coefficients.size(0) == terms.size(0),
            "tables of the symmetric contraction have wrong shapes");
  }

  static int index(int64_t value, int64_t count) {
    require(value >= 0 && value < count, "a table of the symmetric contraction points nowhere");
    return static_cast<int>(value);
  }

  template <class T>
  void add_groups(Contraction<T>& p) const {
    const int64_t* row = groups.data<int64_t>();  // component, slot, last entry + 1
    int begin = 0;
    for (int64_t k = 0, number = groups.size(0); k < number; ++k, row += 3) {
      const int end = index(row[2], p.entries() + 1);
      require(begin <= end, "groups must ascend");
      p.groups.push_back({index(row[0], p.components), index(row[1], p.slots()), begin, end});
      begin = end;
    }
    require(begin == p.entries(), "every entry must belong to a group");
  }

  template <class T>
  void add_terms(Contraction<T>& p) const {
    const int64_t* row = terms.data<int64_t>();  // entry, coupling; ascending in the entry
    p.term_of.assign(p.entries() + 1, 0);
    const double* coefficient = coefficients.data<double>();
    for (int64_t t = 0, number = terms.size(0); t < number; ++t) {
      require(t == 0 || row[2 * t - 2] <= row[2 * t], "terms must ascend");
      ++p.term_of[index(row[2 * t], p.entries()) + 1];
      p.coupling.push_back(index(row[2 * t + 1], p.couplings));
      p.coefficient.push_back(static_cast<T>(coefficient[t]));
    }
    for (int e = 0; e < p.entries(); ++e) p.term_of[e + 1] += p.term_of[e];
  }

  template <class T>
  static void add_uses(Contraction<T>& p) {
    p.use_of.assign(p.slots() + 1, 0);
    for (int slot : p.leaf) ++p.use_of[slot + 1];
    for (int s = 0; s < p.slots(); ++s) p.use_of[s + 1] += p.use_of[s];
    std::vector<int> next(p.use_of.begin(), p.use_of.end() - 1);
    p.uses.resize(p.leaf.size());
    for (size_t k = 0; k < p.groups.size(); ++k)
      for (int e = p.groups[k].begin; e < p.groups[k].end; ++e)
        p.uses[next[p.leaf[e]]++] = {e, static_cast<int>(k)};
  }
};

/// Takes x, w, elements from the stack.
struct Inputs {
  Tensor x, w, elements;

  explicit Inputs(StableIValue* s) : x(s[0]), w(s[1]), elements(s[2]) {}

  template <class T>
  Contraction<T> problem(const Tables& tables, int64_t components) const {
    check();
    Contraction<T> p{};
    p.atoms = x.size(0);
    p.elements = w.size(0);
    p.channels = narrow(x.size(2));
    p.features = narrow(x.size(1));
    p.couplings = narrow(w.size(1));
    p.components = narrow(components);
    for (int64_t rows : {x.size(1), w.size(1), components}) narrow(rows * p.channels);
    p.x = x.data<T>();
    p.w = w.data<T>();
    tables.fill(p);
    return p;
  }

  /// Checks a gradient of the result.
  void check(const Tensor& g) const {
    check();
    require(g.dim() == 3 && g.size(0) == x.size(0) && g.size(2) == x.size(2) && g.dtype() == x.dtype(),
            "symmetric_contraction: the gradient does not fit the features");
  }

 private:
  void check() const {
    require(elements.dtype() == aoti_torch_dtype_int64(), "symmetric_contraction: elements must be int64");
    require(x.dim() == 3 && w.dim() == 3 && elements.dim() == 1 && elements.size(0) == x.size(0) &&
                x.size(2) == w.size(2) && x.dtype() == w.dtype(),
            "symmetric_contraction: tensors do not fit each other");
  }
};

/// Takes the direction (vx, vw) from the stack; an empty tensor is zero.
struct Direction {
  Tensor vx, vw;

  explicit Direction(StableIValue* s) : vx(s[0]), vw(s[1]) {}

  template <class T>
  void set(Contraction<T>& p, const Inputs& in) const {
    for (const auto& [tangent, tensor] : {std::pair{&vx, &in.x}, std::pair{&vw, &in.w}})
      require(tangent->dtype() == tensor->dtype() && (tangent->numel() == 0 || tangent->shape() == tensor->shape()),
              "symmetric_contraction: a direction does not fit its tensor");
    p.dual = true;
    p.vx = vx.numel() ? vx.data<T>() : nullptr;
    p.vw = vw.numel() ? vw.data<T>() : nullptr;
  }
};

/// Sorts the atoms by element and returns the tasks: at most `longest` atoms of an element and one vector of channels.
template <class T>
std::vector<Share> shares(Contraction<T>& p, const int64_t* elements, int64_t longest) {
  std::vector<int64_t> offsets(p.elements + 1, 0);
  for (int64_t n = 0; n < p.atoms; ++n) {
    require(elements[n] >= 0 && elements[n] < p.elements, "symmetric_contraction: an element has no weights");
    ++offsets[elements[n] + 1];
  }
  for (int64_t z = 0; z < p.elements; ++z) offsets[z + 1] += offsets[z];
  std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
  p.order.resize(p.atoms);
  for (int64_t n = 0; n < p.atoms; ++n) p.order[next[elements[n]]++] = n;
  int lanes = 1;
  MLIP_DISPATCH(contraction_lanes<T>, &lanes);
  std::vector<Share> out;
  for (int64_t z = 0; z < p.elements; ++z)
    for (int64_t begin = offsets[z]; begin < offsets[z + 1]; begin += longest)
      for (int c = 0; c < p.channels; c += lanes)
        out.push_back({z, begin, std::min(begin + longest, offsets[z + 1]), c});
  return out;
}

template <class T>
StableIValue value(Contraction<T>& p, const Inputs& in) {
  Tensor out({p.atoms, p.components, p.channels}, in.x.dtype());
  T* target = out.data<T>();
  const auto tasks = shares(p, in.elements.data<int64_t>(), kSegment);
  parallel(int64_t(tasks.size()), [&](int64_t i) { MLIP_DISPATCH(contract, p, tasks[i], target); });
  return out.release();
}

template <class T>
void gradients(Contraction<T>& p, const Inputs& in, const Tensor& g, int64_t which, StableIValue* stack) {
  require(which >= 1 && which <= 3, "symmetric_contraction_backward: which must be 1, 2 or 3");
  const bool by_x = which & 1, by_w = which & 2;
  p.g = g.data<T>();
  Tensor dx(by_x ? in.x.shape() : std::vector<int64_t>{0}, in.x.dtype());
  Tensor dw(by_w ? in.w.shape() : std::vector<int64_t>{0}, in.w.dtype());
  T *dx_data = by_x ? dx.data<T>() : nullptr, *dw_data = by_w ? dw.data<T>() : nullptr;
  if (by_w) std::fill(dw_data, dw_data + dw.numel(), T(0));  // elements without atoms
  const auto tasks = shares(p, in.elements.data<int64_t>(), by_w ? std::max<int64_t>(p.atoms, 1) : kSegment);
  parallel(int64_t(tasks.size()), [&](int64_t i) { MLIP_DISPATCH(contract_backward, p, tasks[i], dx_data, dw_data); });
  stack[0] = dx.release();
  stack[1] = dw.release();
}

void symmetric_contraction(StableIValue* stack, uint64_t, uint64_t) {
  const Inputs in(stack);
  const auto components = static_cast<int64_t>(stack[3]);
  const Tables tables(stack + 4);
  for_dtype(in.x, [&](auto zero) {
    auto p = in.problem<decltype(zero)>(tables, components);
    stack[0] = value(p, in);
  });
}

void symmetric_contraction_jvp(StableIValue* stack, uint64_t, uint64_t) {
  const Inputs in(stack);
  const Direction direction(stack + 3);
  const auto components = static_cast<int64_t>(stack[5]);
  const Tables tables(stack + 6);
  for_dtype(in.x, [&](auto zero) {
    auto p = in.problem<decltype(zero)>(tables, components);
    direction.set(p, in);
    stack[0] = value(p, in);
  });
}

void symmetric_contraction_backward(StableIValue* stack, uint64_t, uint64_t) {
  const Inputs in(stack);
  const Tensor g(stack[3]);
  const auto which = static_cast<int64_t>(stack[4]);
  const Tables tables(stack + 5);
  in.check(g);
  for_dtype(in.x, [&](auto zero) {
    auto p = in.problem<decltype(zero)>(tables, g.size(1));
    gradients(p, in, g, which, stack);
  });
}

void symmetric_contraction_backward_jvp(StableIValue* stack, uint64_t, uint64_t) {
  const Inputs in(stack);
  const Tensor g(stack[3]);
  const Direction direction(stack + 4);
  const auto which = static_cast<int64_t>(stack[6]);
  const Tables tables(stack + 7);
  in.check(g);
  for_dtype(in.x, [&](auto zero) {
    auto p = in.problem<decltype(zero)>(tables, g.size(1));
    direction.set(p, in);
    gradients(p, in, g, which, stack);
  });
}

#define MLIP_TABLES "Tensor products, Tensor groups, Tensor leaves, Tensor terms, Tensor coefficients)"

const Registration registration{
    {"symmetric_contraction", "(Tensor x, Tensor w, Tensor elements, int components, " MLIP_TABLES " -> Tensor",
     symmetric_contraction},
    {"symmetric_contraction_jvp",
     "(Tensor x, Tensor w, Tensor elements, Tensor vx, Tensor vw, int components, " MLIP_TABLES " -> Tensor",
     symmetric_contraction_jvp},
    {"symmetric_contraction_backward",
     "(Tensor x, Tensor w, Tensor elements, Tensor g, int which, " MLIP_TABLES " -> (Tensor, Tensor)",
     symmetric_contraction_backward},
    {"symmetric_contraction_backward_jvp",
     "(Tensor x, Tensor w, Tensor elements, Tensor g, Tensor vx, Tensor vw, int which, " MLIP_TABLES
     " -> (Tensor, Tensor)",
     symmetric_contraction_backward_jvp},
};

}  // namespace
}  // namespace mlip
