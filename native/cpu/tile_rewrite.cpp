#include "cpu/tile_rewrite.h"

#include <algorithm>
#include <numeric>

namespace knet::cpu::tile {
namespace {

// Operands that repeat so many times are seen as one number a row where a program has no rows of its own.
constexpr int64_t kWideRow = 256;

Reg class_of(const TileProgram& p, uint16_t r) {
  return r < p.inputs.size() ? p.inputs[r].cls : p.instrs[r - p.inputs.size()].cls;
}

}  // namespace

TileProgram with_rows(TileProgram p) {
  bool has_rows = p.split != 0;
  for (auto& i : p.inputs) has_rows |= i.cls == Reg::Row;
  for (auto& i : p.instrs) has_rows |= i.cls == Reg::Row;
  for (auto& o : p.outputs) has_rows |= o.what == TileProgram::Output::ReduceCols;
  if (has_rows) return p;
  auto same_from = [&](const TileProgram::Input& in) {
    int k = p.dims.rank;
    while (k > 0 && in.stride[k - 1] == 0) --k;
    return k;
  };
  auto row_of = [&](int split) {
    int64_t n = 1;
    for (int i = split; i < p.dims.rank; ++i) n *= p.dims[i];
    return n;
  };
  for (auto& in : p.inputs)
    if (in.cls == Reg::Full)
      if (int k = same_from(in); k > p.split && row_of(k) >= kWideRow) p.split = k;
  if (p.split == 0) return p;
  std::vector<bool> ends(p.inputs.size() + p.instrs.size());
  for (auto& o : p.outputs) ends[o.reg] = true;
  for (size_t i = 0; i < p.inputs.size(); ++i)
    if (auto& in = p.inputs[i]; in.cls == Reg::Full && !ends[i] && same_from(in) <= p.split) in.cls = Reg::Row;
  for (size_t i = 0; i < p.instrs.size(); ++i) {
    auto& in = p.instrs[i];
    Reg most = Reg::Scalar;
    for (int k = 0; k < in.n_src; ++k) most = std::max(most, class_of(p, in.src[k]));
    if (in.cls == Reg::Full && most == Reg::Row && !ends[p.inputs.size() + i]) in.cls = Reg::Row;
  }
  return p;
}

TileProgram in_stages(TileProgram p) {
  const size_t n_in = p.inputs.size(), n = p.instrs.size();
  // Twice the stage; one more for what goes over the elements.
  std::vector<int> when(n_in + n, 0), order(n);
  for (size_t i = 0; i < n; ++i) {
    const auto& in = p.instrs[i];
    int& w = when[n_in + i];
    for (int k = 0; k < in.n_src; ++k) {
      const uint16_t r = in.src[k];
      const bool sum = r >= n_in && p.instrs[r - n_in].what == TileProgram::Instr::RowReduce;
      w = std::max(w, sum ? when[r] + 1 : when[r]);
    }
    if (in.cls == Reg::Full || in.what == TileProgram::Instr::RowReduce) w |= 1;
    else if (in.cls == Reg::Row) w = (w + 1) & ~1;
  }
  std::iota(order.begin(), order.end(), 0);
  auto earlier = [&](int a, int b) { return when[n_in + size_t(a)] < when[n_in + size_t(b)]; };
  std::stable_sort(order.begin(), order.end(), earlier);
  std::vector<uint16_t> now(n_in + n);
  std::iota(now.begin(), now.end(), uint16_t(0));
  std::vector<TileProgram::Instr> instrs;
  for (int i : order) {
    now[n_in + size_t(i)] = uint16_t(n_in + instrs.size());
    instrs.push_back(p.instrs[size_t(i)]);
    for (int k = 0; k < instrs.back().n_src; ++k) instrs.back().src[k] = now[instrs.back().src[k]];
  }
  p.instrs = std::move(instrs);
  for (auto& o : p.outputs) o.reg = now[o.reg];
  return p;
}

Summand summand(const TileProgram& p, size_t sum, std::vector<bool>& needless) {
  const size_t n_in = p.inputs.size();
  const auto& reduce = p.instrs[sum];
  Summand s{reduce.src[0], reduce.src[0]};
  if (reduce.op != Op::sum || !is_float(reduce.dtype)) return s;
  auto made_for_this = [&](uint16_t r, Op op) {
    if (r < n_in || p.instrs[r - n_in].op != op || p.instrs[r - n_in].what != TileProgram::Instr::Map) return false;
    int readers = 0;
    for (const auto& in : p.instrs) readers += int(std::count(in.src, in.src + in.n_src, r));
    for (const auto& o : p.outputs) readers += o.reg == r;
    return readers == 1;
  };
  auto peel = [&](uint16_t& r) {
    for (; made_for_this(r, Op::negative); r = p.instrs[r - n_in].src[0]) {
      needless[r - n_in] = true;
      s.negative = !s.negative;
    }
  };
  peel(s.a);
  s.b = s.a;
  const bool square = made_for_this(s.a, Op::square);
  if (!square && !made_for_this(s.a, Op::multiply)) return s;
  const auto& product = p.instrs[s.a - n_in];
  const uint16_t b = product.src[square ? 0 : 1];
  if (class_of(p, product.src[0]) != Reg::Full || class_of(p, b) != Reg::Full) return s;
  needless[s.a - n_in] = true;
  s.product = true;
  s.a = product.src[0];
  s.b = b;
  peel(s.a);
  peel(s.b);
  return s;
}

}  // namespace knet::cpu::tile
