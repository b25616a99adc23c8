// The operator of linear maps by degree.
#include "degree_linear.hpp"
#include "torch_shim.hpp"

#include <algorithm>
#include <vector>

namespace mlip {
namespace {

constexpr int64_t kTask = 96;            // rows of a task, which share a matrix
constexpr int64_t kLeastWork = 500000;   // multiplications that are worth a thread

/// Requires that all rows of a block lie within a tensor of so many numbers.
void check_place(const Place& p, const Block& b, int64_t width, int64_t atoms, int64_t numbers) {
  require(p.fixed >= 0 && p.per_atom >= 0 && p.atom >= 0 && p.component >= 0 &&
              p.first(atoms) + (atoms - 1) * p.atom + (b.components - 1) * p.component + width <= numbers,
          "degree_linear: a block does not lie within its tensor");
}

std::vector<Block> blocks_of(const Tensor& table, int64_t atoms, int64_t x_numbers, int64_t out_numbers,
                             int64_t matrices) {
  require(table.dtype() == aoti_torch_dtype_int64() && table.dim() == 2 && table.size(1) == kBlockNumbers,
          "degree_linear: the table must be int64 [blocks, 12]");
  const int64_t* row = table.data<int64_t>();
  std::vector<Block> blocks;
  for (int64_t i = 0; i < table.size(0); ++i, row += kBlockNumbers) {
    const Block b{row[0], row[1], row[2], row[3], {row[4], row[5], row[6], row[7]}, {row[8], row[9], row[10], row[11]}};
    require(b.components > 0 && b.inner > 0 && b.columns > 0 && b.matrix >= 0 &&
                b.matrix + b.inner * b.columns <= matrices,
            "degree_linear: a matrix does not lie within the weights");
    if (atoms > 0) {
      check_place(b.x, b, b.inner, atoms, x_numbers);
      check_place(b.out, b, b.columns, atoms, out_numbers);
    }
    blocks.push_back(b);
  }
  return blocks;
}

/// Atoms in the order of their kinds.
struct Kinds {
  std::vector<int64_t> begin, atom;

  Kinds(const Tensor& kinds, int64_t atoms, int64_t count) : begin(count + 1, 0), atom(atoms) {
    require(kinds.dtype() == aoti_torch_dtype_int64() && (kinds.numel() == atoms || kinds.numel() == 0),
            "degree_linear: kinds must be int64, one for each atom or none");
    const int64_t* kind = kinds.numel() ? kinds.data<int64_t>() : nullptr;
    for (int64_t i = 0; i < atoms; ++i) {
      const int64_t k = kind ? kind[i] : 0;
      require(k >= 0 && k < count, "degree_linear: there are no weights for the kind of an atom");
      ++begin[k + 1];
    }
    for (int64_t k = 0; k < count; ++k) begin[k + 1] += begin[k];
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for (int64_t i = 0; i < atoms; ++i) atom[next[kind ? kind[i] : 0]++] = i;
  }
};

template <class T>
void map(const std::vector<Block>& blocks, const Kinds& kinds, const T* x, const T* weights, int64_t matrices, T* out) {
  struct Task {
    const Block* block;
    int64_t kind, first, last;  // rows (atom, component) of the kind
  };
  const int64_t atoms = int64_t(kinds.atom.size());
  std::vector<Task> tasks;
  int64_t work = 0;
  for (const Block& b : blocks)
    for (size_t k = 0; k + 1 < kinds.begin.size(); ++k) {
      const int64_t rows = (kinds.begin[k + 1] - kinds.begin[k]) * b.components;
      work += rows * b.inner * b.columns;
      for (int64_t first = 0; first < rows; first += kTask)
        tasks.push_back({&b, int64_t(k), first, std::min(rows, first + kTask)});
    }
  const int64_t each = tasks.empty() ? 1 : std::max<int64_t>(1, work / int64_t(tasks.size()));
  parallel_shares(int64_t(tasks.size()), (kLeastWork + each - 1) / each, [&](int64_t begin, int64_t end) {
    const T* from[kTask];
    T* to[kTask];
    for (int64_t t = begin; t < end; ++t) {
      const Task& task = tasks[t];
      const Block& b = *task.block;
      for (int64_t row = task.first; row < task.last; ++row) {
        const int64_t i = kinds.atom[kinds.begin[task.kind] + row / b.components], m = row % b.components;
        from[row - task.first] = x + b.x.first(atoms) + i * b.x.atom + m * b.x.component;
        to[row - task.first] = out + b.out.first(atoms) + i * b.out.atom + m * b.out.component;
      }
      const RowsOf<T> rows{task.last - task.first, b.inner, b.columns, weights + task.kind * matrices + b.matrix, from, to};
      MLIP_DISPATCH(multiply_rows, rows);
    }
  });
}

void degree_linear(StableIValue* stack, uint64_t, uint64_t) {
  Tensor x(stack[0]), weights(stack[1]), transposed(stack[2]), kinds(stack[3]), table(stack[4]), back(stack[5]);
  const auto x_width = static_cast<int64_t>(stack[6]), out_width = static_cast<int64_t>(stack[7]);
  require(x_width > 0 && out_width > 0 && x.numel() % x_width == 0, "degree_linear: the width does not fit x");
  require(weights.dim() == 2 && weights.dtype() == x.dtype(),
          "degree_linear: the weights must be [kinds, numbers] in the precision of x");
  const int64_t atoms = x.numel() / x_width, matrices = weights.size(1);
  const Kinds order(kinds, atoms, weights.size(0));
  const std::vector<Block> blocks = blocks_of(table, atoms, x.numel(), atoms * out_width, matrices);
  int64_t covered = 0;
  for (const Block& b : blocks) covered += b.components * b.columns;
  for_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    Tensor out({atoms * out_width}, x.dtype());
    T* target = out.data<T>();
    if (covered != out_width) std::fill(target, target + atoms * out_width, T(0));
    map(blocks, order, x.data<T>(), weights.data<T>(), matrices, target);
    stack[0] = out.release();
  });
}

const Registration registration{
    {"degree_linear",
     "(Tensor x, Tensor weights, Tensor transposed, Tensor kinds, Tensor table, Tensor back, int x_width, "
     "int out_width) -> Tensor",
     degree_linear},
};

}  // namespace
}  // namespace mlip
