// A naive device, and what it computes with: arithmetic modulo 97 on whole numbers, so that every order of every
// operation gives the same elements exactly.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "device.h"
#include "trace/op.h"

using namespace knet;

// ---- elements as doubles

inline double load_element(DType t, const char* at) {
  Scalar s = load(t, at);
  return is_float(t) ? s.f : is_unsigned_int(t) ? double(s.u) : double(s.i);
}
inline void store_element(double x, DType t, char* at) {
  Scalar s;
  if (is_float(t)) s.f = x;
  else s.i = t == DType::Bool ? x != 0 : int64_t(x);
  store(s, t, at);
}
inline double rounded(double x, DType t) {
  char b[16];
  store_element(x, t, b);
  return load_element(t, b);
}
inline double apply(Op op, const double* a) {
  switch (op) {
    case Op::add: return std::fmod(a[0] + a[1], 97);
    case Op::subtract: return std::fmod(a[0] - a[1], 97);
    case Op::multiply: return std::fmod(a[0] * a[1], 97);
    case Op::divide: return std::fmod(3 * a[0] + a[1], 97);
    case Op::maximum: return std::max(a[0], a[1]);
    case Op::negative: return -a[0];
    case Op::exp: return std::fmod(a[0] * 5 + 1, 97);
    case Op::tanh: return std::fmod(a[0] * 7 + 2, 97);
    case Op::relu: return std::max(a[0], 0.0);
    case Op::less: return a[0] < a[1];
    case Op::where: return a[0] != 0 ? a[1] : a[2];
    case Op::cast: return a[0];
    default: std::printf("no arithmetic for %s\n", info(op).name); std::abort();
  }
}
inline double identity(Op op) {
  return op == Op::prod || op == Op::all ? 1 : op == Op::max ? -INFINITY : op == Op::min ? INFINITY : 0;
}
inline double fold(Op op, double a, double b) {
  switch (op) {
    case Op::sum: return a + b;
    case Op::prod: return a + b - 1;  // associative, exact, and 1 is neutral
    case Op::max: return std::max(a, b);
    case Op::min: return std::min(a, b);
    case Op::any: return a != 0 || b != 0;
    default: return a != 0 && b != 0;
  }
}

// Calls f(offset in elements, index in C order) for each element of a layout.
template <class F>
void each(const Shape& s, const int64_t* stride, F f) {
  int64_t n = s.size(), at[kMaxRank] = {};
  for (int64_t i = 0; i < n; ++i) {
    int64_t off = 0;
    for (int d = 0; d < s.rank; ++d) off += at[d] * stride[d];
    f(off, i);
    for (int d = s.rank; d-- > 0;) {
      if (++at[d] < s[d]) break;
      at[d] = 0;
    }
  }
}

using Numbers = std::vector<double>;
inline Numbers gather_layout(const Layout& l, const char* p) {
  Numbers x(size_t(l.shape.size()));
  each(l.shape, l.stride, [&](int64_t off, int64_t i) {
    x[size_t(i)] = load_element(l.dtype, p + off * int64_t(itemsize(l.dtype)));
  });
  return x;
}
inline void put(const Numbers& x, DType t, char* p) {
  for (size_t i = 0; i < x.size(); ++i) store_element(x[i], t, p + i * itemsize(t));
}

// ---- one operation, on contiguous numbers. The same function stands behind the naive Steps and direct evaluation.

struct Operand {
  Spec spec;
  Numbers x;
};
inline Numbers broadcast_numbers(const Operand& a, const Shape& to) {
  Layout l = Layout::contiguous(a.spec.dtype, a.spec.shape);
  int64_t stride[kMaxRank];
  int pad = to.rank - a.spec.shape.rank;
  for (int i = 0; i < to.rank; ++i) stride[i] = i < pad || a.spec.shape[i - pad] == 1 ? 0 : l.stride[i - pad];
  Numbers r(size_t(to.size()));
  each(to, stride, [&](int64_t off, int64_t i) { r[size_t(i)] = a.x[size_t(off)]; });
  return r;
}

inline Numbers compute(Op op, const std::vector<Operand>& in, std::span<const int64_t> attrs, const Spec& out) {
  AttrReader attr{attrs};
  const Shape& shape = out.shape;
  Numbers r(size_t(shape.size()));
  Layout whole = Layout::contiguous(out.dtype, shape);
  if (info(op).kind == Kind::Elementwise) {
    std::vector<Numbers> x;
    for (auto& a : in) x.push_back(broadcast_numbers(a, shape));
    for (size_t i = 0; i < r.size(); ++i) {
      double a[3];
      for (size_t j = 0; j < x.size(); ++j) a[j] = x[j][i];
      r[i] = rounded(apply(op, a), out.dtype);
    }
    return r;
  }
  switch (op) {
    case Op::sum: case Op::prod: case Op::max: case Op::min: case Op::any: case Op::all: {
      const Shape& s = in[0].spec.shape;
      bool reduced[kMaxRank] = {};
      for (int64_t a : attr.ints()) reduced[a] = true;
      int64_t stride[kMaxRank], n = 1;
      for (int i = s.rank; i-- > 0;) {
        stride[i] = reduced[i] ? 0 : n;
        if (!reduced[i]) n *= s[i];
      }
      std::fill(r.begin(), r.end(), identity(op));
      size_t k = 0;
      each(s, stride, [&](int64_t off, int64_t) { r[size_t(off)] = fold(op, r[size_t(off)], in[0].x[k++]); });
      return r;
    }
    case Op::argmax: {
      int axis = int(attr.integer());
      const Shape& s = in[0].spec.shape;
      int64_t inner = 1, outer = 1;
      for (int i = 0; i < s.rank; ++i) (i < axis ? outer : inner) *= i == axis ? 1 : s[i];
      for (int64_t o = 0; o < outer; ++o)
        for (int64_t i = 0; i < inner; ++i) {
          int64_t best = 0;
          auto at = [&](int64_t k) { return in[0].x[size_t((o * s[axis] + k) * inner + i)]; };
          for (int64_t k = 1; k < s[axis]; ++k)
            if (at(k) > at(best)) best = k;
          r[size_t(o * inner + i)] = double(best);
        }
      return r;
    }
    case Op::copy: case Op::reshape: case Op::alias: case Op::stop: case Op::param: return in[0].x;
    case Op::broadcast_to: return broadcast_numbers(in[0], shape);
    case Op::transpose: {
      Layout l = Layout::contiguous(out.dtype, in[0].spec.shape);
      auto axes = attr.ints();
      int64_t stride[kMaxRank];
      for (int i = 0; i < shape.rank; ++i) stride[i] = l.stride[axes[size_t(i)]];
      each(shape, stride, [&](int64_t off, int64_t i) { r[size_t(i)] = in[0].x[size_t(off)]; });
      return r;
    }
    case Op::flip: case Op::slice: {
      Layout l = Layout::contiguous(out.dtype, in[0].spec.shape);
      int64_t stride[kMaxRank], start = 0;
      std::copy(l.stride, l.stride + shape.rank, stride);
      auto axes = attr.ints();
      if (op == Op::slice) attr.ints();  // lengths: in the shape
      auto steps = op == Op::slice ? attr.ints() : std::span<const int64_t>{};
      for (size_t k = 0; k < axes.size(); ++k) {
        int a = int(axes[k]);
        start += (op == Op::slice ? int64_t(in[k + 1].x[0]) : l.shape[a] - 1) * l.stride[a];
        stride[a] *= op == Op::slice ? steps[k] : -1;
      }
      each(shape, stride, [&](int64_t off, int64_t i) { r[size_t(i)] = in[0].x[size_t(start + off)]; });
      return r;
    }
    case Op::splice: {
      attr.ints();  // the shape
      auto pieces = attr.ints();
      r.clear();
      for (size_t k = 0; k < pieces.size(); k += 3) {
        const auto from = in[size_t(pieces[k])].x.begin() + pieces[k + 1];
        r.insert(r.end(), from, from + pieces[k + 2]);
      }
      return r;
    }
    case Op::slices: {
      const size_t n_axes = size_t(attrs[0]), count = size_t(shape[0]);
      Spec one = out;
      one.shape = Shape(shape.dims().subspan(1));
      r.clear();
      for (size_t k = 0; k < count; ++k) {
        std::vector<Operand> each{in[0]};
        each.insert(each.end(), in.begin() + ptrdiff_t(1 + k * n_axes), in.begin() + ptrdiff_t(1 + (k + 1) * n_axes));
        const Numbers member = compute(Op::slice, each, attrs, one);
        r.insert(r.end(), member.begin(), member.end());
      }
      return r;
    }
    case Op::slice_add: case Op::slice_update: {
      if (in[1].spec.shape.rank > shape.rank) {  // several
        const size_t n_axes = size_t(attrs[0]), count = size_t(in[1].spec.shape[0]), each = in[1].x.size() / count;
        Operand sum = in[0], v = in[1];
        v.spec.shape = Shape(in[1].spec.shape.dims().subspan(1));
        for (size_t k = 0; k < count; ++k) {
          v.x.assign(in[1].x.begin() + ptrdiff_t(k * each), in[1].x.begin() + ptrdiff_t((k + 1) * each));
          std::vector<Operand> now{sum, v};
          now.insert(now.end(), in.begin() + ptrdiff_t(2 + k * n_axes), in.begin() + ptrdiff_t(2 + (k + 1) * n_axes));
          sum.x = compute(op, now, attrs, out);
        }
        return sum.x;
      }
      auto axes = attr.ints();
      auto steps = attr.ints();
      r = in[0].x;
      int64_t stride[kMaxRank], start = 0;
      std::copy(whole.stride, whole.stride + shape.rank, stride);
      for (size_t k = 0; k < axes.size(); ++k) {
        start += int64_t(in[k + 2].x[0]) * stride[axes[k]];
        stride[axes[k]] *= steps[k];
      }
      each(in[1].spec.shape, stride, [&](int64_t off, int64_t i) {
        double& to = r[size_t(start + off)];
        to = op == Op::slice_add ? rounded(std::fmod(to + in[1].x[size_t(i)], 97), out.dtype) : in[1].x[size_t(i)];
      });
      return r;
    }
    case Op::iota:
      for (size_t i = 0; i < r.size(); ++i) r[i] = in[0].x[0] + double(i) * in[1].x[0];
      return r;
    case Op::gather: {  // along one axis, in its place
      auto axes = attr.ints();
      int axis = int(axes[0]);
      const Shape& s = in[0].spec.shape;
      int64_t inner = 1, outer = 1, n = in[1].spec.shape.size();
      for (int i = 0; i < s.rank; ++i) (i < axis ? outer : inner) *= i == axis ? 1 : s[i];
      for (int64_t o = 0; o < outer; ++o)
        for (int64_t k = 0; k < n; ++k)
          for (int64_t i = 0; i < inner; ++i) {
            int64_t at = int64_t(in[1].x[size_t(k)]);
            if (at < 0 || at >= s[axis]) throw Error(Error::Index, "[index] out of range.");
            r[size_t((o * n + k) * inner + i)] = in[0].x[size_t((o * s[axis] + at) * inner + i)];
          }
      return r;
    }
    case Op::matmul: {
      const Shape &a = in[0].spec.shape, &b = in[1].spec.shape;  // a vector is a row or a column
      const int64_t k = b[0], m = a.rank == 1 ? 1 : a[0], n = b.rank == 1 ? 1 : b[1];
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j) {
          double t = in.size() > 2 ? in[2].x[size_t(i * n + j)] : 0;
          for (int64_t l = 0; l < k; ++l) t += in[0].x[size_t(i * k + l)] * in[1].x[size_t(l * n + j)];
          r[size_t(i * n + j)] = std::fmod(t, 97);
        }
      return r;
    }
    default: std::printf("no rule for %s\n", info(op).name); std::abort();
  }
}

// ---- the naive device

struct NaiveStep final : Step {
  Op op;
  std::vector<Layout> out, in;
  std::vector<int64_t> attrs;
  void run(char* const* to, const char* const* from, char* scratch) const override {
    if (scratch_bytes) std::memset(scratch, 0x3c, scratch_bytes);
    std::vector<Operand> x;
    for (size_t i = 0; i < in.size(); ++i) {
      Spec s;
      s.dtype = in[i].dtype;
      s.shape = in[i].shape;
      x.push_back({s, gather_layout(in[i], from[i])});
    }
    Spec s;
    s.dtype = out[0].dtype;
    s.shape = out[0].shape;
    put(compute(op, x, attrs, s), s.dtype, to[0]);
  }
  bool decides(int i) const override { return op == Op::gather && i == 1; }
  void check(const char* const* from) const override {
    for (double at : gather_layout(in[1], from[1]))
      if (at < 0 || at >= double(in[0].shape[int(attrs[1])])) throw Error(Error::Index, "[index] out of range.");
  }
  bool may_alias(int, int i) const override {
    return ((op == Op::slice_add || op == Op::slice_update) && i == 0) || (op == Op::matmul && i == 2);
  }
};

// Each instruction over the whole space at once, reading inputs from memory when it needs them and storing results
// as soon as they are there: the least forgiving order that a device may choose.
struct NaiveTile final : Step {
  TileProgram p;
  static int64_t offset_of(const TileProgram& p, Reg cls, const int64_t* stride, const int64_t* at) {
    int64_t off = 0;
    if (cls != Reg::Scalar)
      for (int d = 0; d < (cls == Reg::Row ? p.split : p.dims.rank); ++d) off += at[d] * stride[d];
    return off;
  }
  void run(char* const* to, const char* const* from, char*) const override {
    const size_t n_in = p.inputs.size();
    int64_t n = p.dims.size(), rows = 1;
    for (int i = 0; i < p.split; ++i) rows *= p.dims[i];
    int64_t row = rows ? n / rows : 0;
    std::vector<Numbers> reg(n_in + p.instrs.size(), Numbers(size_t(n)));  // every class spread over the space
    auto points = [&](auto f) {
      int64_t at[kMaxRank] = {};
      for (int64_t i = 0; i < n; ++i) {
        f(i, at);
        for (int d = p.dims.rank; d-- > 0;) {
          if (++at[d] < p.dims[d]) break;
          at[d] = 0;
        }
      }
    };
    auto fetch = [&](uint16_t r) {
      if (r >= n_in) return;
      const auto& in = p.inputs[r];
      points([&](int64_t i, const int64_t* at) {
        int64_t off = offset_of(p, in.cls, in.stride, at) * int64_t(itemsize(in.dtype));
        reg[r][size_t(i)] = load_element(in.dtype, from[r] + off);
      });
    };
    auto class_of = [&](uint16_t r) { return r < n_in ? p.inputs[r].cls : p.instrs[r - n_in].cls; };
    auto put_out = [&](size_t k) {
      const auto& o = p.outputs[k];
      size_t item = itemsize(o.dtype);
      if (o.what == TileProgram::Output::Store) {
        points([&](int64_t i, const int64_t* at) {
          int64_t off = offset_of(p, class_of(o.reg), o.stride, at) * int64_t(item);
          store_element(reg[o.reg][size_t(i)], o.dtype, to[k] + off);
        });
        return;
      }
      fetch(o.reg);
      const bool some = o.what == TileProgram::Output::ReduceSome;
      int64_t cells = o.what == TileProgram::Output::ReduceAll ? 1 : row;
      if (some) {
        cells = 1;
        for (int d = 0; d < p.dims.rank; ++d) cells *= o.stride[d] ? p.dims[d] : 1;
      }
      Numbers sum(size_t(cells), identity(o.reduce));
      points([&](int64_t i, const int64_t* at) {
        double& to = sum[size_t(some ? offset_of(p, Reg::Full, o.stride, at) : i % cells)];
        to = fold(o.reduce, to, reg[o.reg][size_t(i)]);
      });
      put(sum, o.dtype, to[k]);
    };
    for (size_t k = 0; k < p.instrs.size(); ++k) {
      const auto& in = p.instrs[k];
      Numbers& r = reg[n_in + k];
      for (int j = 0; j < in.n_src; ++j) {
        fetch(in.src[j]);
        if (in.what == TileProgram::Instr::Map && class_of(in.src[j]) > in.cls) std::abort();
      }
      if (in.what == TileProgram::Instr::Map) {
        for (int64_t i = 0; i < n; ++i) {
          double a[3];
          for (int j = 0; j < in.n_src; ++j) a[j] = reg[in.src[j]][size_t(i)];
          r[size_t(i)] = rounded(apply(in.op, a), in.to);
        }
      } else {
        if (class_of(in.src[0]) != Reg::Full || in.cls != Reg::Row) std::abort();
        for (int64_t a = 0; a < rows; ++a) {
          double s = identity(in.op);
          for (int64_t i = 0; i < row; ++i) s = fold(in.op, s, reg[in.src[0]][size_t(a * row + i)]);
          for (int64_t i = 0; i < row; ++i) r[size_t(a * row + i)] = s;
        }
      }
      for (size_t o = 0; o < p.outputs.size(); ++o)
        if (p.outputs[o].reg == n_in + k && p.outputs[o].what == TileProgram::Output::Store) put_out(o);
    }
    for (size_t o = 0; o < p.outputs.size(); ++o)
      if (p.outputs[o].what != TileProgram::Output::Store) put_out(o);
  }
  bool may_alias(int, int) const override { return true; }
};

struct NaiveDevice final : Device {
  bool only_contiguous = true;
  bool accepts(Op op, int, const Layout&, uint32_t) const override {
    return !only_contiguous || info(op).kind == Kind::Reduce;
  }
  std::shared_ptr<const Step> step(Op op, std::span<const Layout> out, std::span<const Layout> in,
                                   std::span<const int64_t> attrs) override {
    auto s = std::make_shared<NaiveStep>();
    s->op = op;
    s->out.assign(out.begin(), out.end());
    s->in.assign(in.begin(), in.end());
    s->attrs.assign(attrs.begin(), attrs.end());
    if (op == Op::matmul) s->scratch_bytes = 200;
    s->cost_ns = cost_ns;
    return s;
  }
  std::shared_ptr<const Step> tile(const TileProgram& p) override {
    auto s = std::make_shared<NaiveTile>();
    s->p = p;
    s->program = std::make_shared<const TileProgram>(p);
    return s;
  }
  int64_t max_row() const override { return longest_row; }
  void* allocate(size_t) override { return nullptr; }
  void release(void*, size_t) override {}
  MemoryStats memory() const override { return {}; }
  void trim() override {}
  int64_t longest_row = 12;
  double cost_ns = 0;  // of a Step of its own
};
