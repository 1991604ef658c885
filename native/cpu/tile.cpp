// Prepares a tile program: how its space is cut into tiles and tasks, which loop serves each instruction, and where in
// the arena each register lies.
#include "cpu/tile.h"

#include <algorithm>

#include "cpu/tile_pick.h"
#include "cpu/tile_step.h"

namespace knet::cpu {
namespace {

using namespace tile;

// Elements of a tile. Measured (benchmarks/tile_bench.cpp, Sapphire Rapids, AVX-512, a busy machine) with 512, 1024,
// 2048, 4096, 8192: four operations on 1e6 floats 475, 491, 509, 585, 663 us (one loop by hand 426); LSTM cell 128x256
// 130, 136, 148, 165, 170 us; softmax 128x1000 100, 100, 94, 94, 101 us.
constexpr int64_t kTile = 1024;
// Softmax of 64 rows of 16000: 0.86 ns an element, of 128 rows of 1000: 0.76; the registers still lie in L2.
constexpr int64_t kMaxRow = 16384;
// A row operand meets a full one row by row from this row length on; below, it is spread over a register first.
constexpr int64_t kLongRow = 32;
// Operands that repeat so many times are seen as one number a row where a program has no rows of its own.
constexpr int64_t kWideRow = 256;
// Tasks: at most this many (each has its own partial results), none shorter than this.
constexpr int64_t kMaxTasks = 64;
// A kernel of so many operations computes for so long that the processor's own prefetching stops in between; it
// fetches ahead by itself what is too large for a cache.
constexpr size_t kMinAhead = 6;
constexpr int64_t kAheadBytes = 1 << 20;
constexpr double kTaskNs = 4e3;

// A program without rows, with those in which operands are the same along the last dimensions (a number for each channel
// of an image): such operands are then one number a row, and what is made of them alone is computed once a row.
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
  auto class_of = [&](uint16_t r) {
    return r < p.inputs.size() ? p.inputs[r].cls : p.instrs[r - p.inputs.size()].cls;
  };
  for (size_t i = 0; i < p.instrs.size(); ++i) {
    auto& in = p.instrs[i];
    Reg most = Reg::Scalar;
    for (int k = 0; k < in.n_src; ++k) most = std::max(most, class_of(in.src[k]));
    if (in.cls == Reg::Full && most == Reg::Row && !ends[p.inputs.size() + i]) in.cls = Reg::Row;
  }
  return p;
}

class Builder {
 public:
  explicit Builder(const TileProgram& p) : p_(with_rows(p)), step_(std::make_unique<TileStep>()) {}

  std::unique_ptr<Step> build() {
    geometry();
    inputs();
    choose_direct_outputs();
    for (size_t i = 0; i < p_.instrs.size(); ++i) instruction(i);
    outputs();
    allocate();
    tasks();
    describe();
    return std::move(step_);
  }

 private:
  struct Value {   // a register of the program, or a temporary
    Slot slot = kNone;
    Reg cls;
    DType dtype;
    bool persistent = false;  // lives through the whole task
    bool placed = false;      // not in the arena: an operand, or an output written in place
    int first = 0, last = -1; // body instructions
    Slot spread = kNone;      // the same, spread over a full register
  };

  int64_t full() const { return step_->tile_rows * step_->tile_cols; }

  Walk walk_of(const int64_t* stride, Reg cls) const {
    int n = cls == Reg::Full ? p_.dims.rank : p_.split;
    return Walk(p_.dims.dim, stride, n);
  }

  void geometry() {
    TileStep& s = *step_;
    bool has_rows = false, whole_rows = false;
    for (auto& i : p_.inputs) has_rows |= i.cls == Reg::Row;
    for (auto& i : p_.instrs) {
      has_rows |= i.cls == Reg::Row;
      whole_rows |= i.what == TileProgram::Instr::RowReduce;
    }
    for (auto& o : p_.outputs) has_rows |= o.what == TileProgram::Output::ReduceCols;
    int64_t n = p_.dims.size();
    if (has_rows) {
      for (int i = 0; i < p_.dims.rank; ++i) (i < p_.split ? s.rows : s.cols) *= p_.dims[i];
    } else {
      s.cols = n;
      // A tile of whole periods lets a repeated row be laid out once per task; a long one is read in place, by columns.
      for (auto& i : p_.inputs) {
        if (i.cls != Reg::Full || n == 0) continue;
        Walk w = walk_of(i.stride, Reg::Full);
        int64_t period = w.period();
        if (period > 1 && (period <= kTile || w.is_repeated_row())) {
          s.rows = n / period;
          s.cols = period;
          break;
        }
      }
    }
    if (s.cols > kTile && !whole_rows) {
      s.segments = (s.cols + kTile - 1) / kTile;
      s.tile_cols = ((s.cols + s.segments - 1) / s.segments + 63) / 64 * 64;  // of about the same length
      s.tiles = s.rows * s.segments;
    } else {
      s.tile_cols = s.cols;
      s.tile_rows = std::clamp<int64_t>(kTile / std::max<int64_t>(1, s.cols), 1, std::max<int64_t>(1, s.rows));
      s.tiles = (s.rows + s.tile_rows - 1) / s.tile_rows;
      if (s.cols == 0 && !has_rows) s.tiles = 0;
    }
    has_rows_ = has_rows;
  }

  Slot new_slot() {
    if (n_slots_ >= kNone) throw Error(Error::Runtime, "[tile] the program has too many registers. Please report it.");
    return Slot(n_slots_++);
  }

  void inputs() {
    for (size_t i = 0; i < p_.inputs.size(); ++i) {
      const auto& in = p_.inputs[i];
      Value v{.slot = new_slot(), .cls = in.cls, .dtype = in.dtype};
      auto item = uint32_t(itemsize(in.dtype));
      auto operand = uint16_t(i);
      step_->in_item.push_back(item);
      step_->read.push_back(-2);
      if (in.cls == Reg::Scalar) {
        step_->fixed.push_back({v.slot, operand});
        v.placed = true;
      } else {
        bool row = in.cls == Reg::Row;
        Walk w = walk_of(in.stride, in.cls);
        int64_t period = w.period(), tile = row ? step_->tile_rows : full();
        if (w.contiguous()) {
          step_->moving.push_back({row ? Moving::Row : Moving::Full, false, v.slot, operand, item});
          v.placed = true;
          if (!row) step_->read.back() = -1;
        } else if (!row && step_->segments > 1 && w.is_repeated_row() && w.dim[1] == step_->cols) {
          step_->moving.push_back({Moving::Col, false, v.slot, operand, item});
          v.placed = true;
        } else if (period && step_->segments == 1 && tile % period == 0) {
          step_->once.push_back({w, row, v.slot, operand, item});
          v.persistent = true;
        } else {
          step_->gathers.push_back({w, row, v.slot, operand, item});
        }
      }
      values_.push_back(v);
    }
  }

  // An output that is a register made by an instruction is written there at once.
  void choose_direct_outputs() {
    direct_.assign(p_.instrs.size(), -1);
    step_->written.assign(p_.outputs.size(), -1);
    for (size_t k = 0; k < p_.outputs.size(); ++k) {
      const auto& o = p_.outputs[k];
      step_->out_item.push_back(itemsize(o.dtype));
      if (o.what != TileProgram::Output::Store) continue;
      Reg cls = o.reg < p_.inputs.size() ? p_.inputs[o.reg].cls : p_.instrs[o.reg - p_.inputs.size()].cls;
      if (cls == Reg::Scalar || !walk_of(o.stride, cls).contiguous()) continue;
      if (cls == Reg::Full) step_->written[k] = int(p_.instrs.size() + k);
      if (o.reg < p_.inputs.size()) continue;
      size_t i = o.reg - p_.inputs.size();
      if (direct_[i] >= 0) continue;
      direct_[i] = int(k);
      if (cls == Reg::Full) step_->written[k] = int(i);
    }
  }

  void note_read(uint16_t reg, size_t when) {
    if (reg < step_->read.size() && step_->read[reg] > -2) step_->read[reg] = std::max(step_->read[reg], int(when));
  }

  Slot temporary(Reg cls, DType t, bool persistent) {
    Value v{.slot = new_slot(), .cls = cls, .dtype = t, .persistent = persistent};
    v.first = int(step_->body.size());
    temporaries_.push_back(v);
    return v.slot;
  }

  // Source `reg` as a register of class `cls`: scalars are laid out once per task, rows once per tile.
  Slot as(uint16_t reg, Reg cls) {
    Value& v = values_[reg];
    if (v.cls == cls) return v.slot;
    if (cls == Reg::Full && v.spread != kNone) return v.spread;
    bool scalar = v.cls == Reg::Scalar;
    Slot to = temporary(cls, v.dtype, scalar);
    Code c{.what = scalar ? Code::Fill : Code::Spread, .n_src = 1, .dst = to, .src = {v.slot, v.slot, v.slot, v.slot}};
    c.item = uint32_t(itemsize(v.dtype));
    c.count = cls == Reg::Full ? full() : step_->tile_rows;
    (scalar ? step_->prologue : step_->body).push_back(c);
    if (cls == Reg::Full) values_[reg].spread = to;
    return to;
  }

  void instruction(size_t i) {
    const auto& in = p_.instrs[i];
    for (int k = 0; k < in.n_src; ++k) note_read(in.src[k], i);
    Value v{.slot = new_slot(), .cls = in.cls, .dtype = in.to};
    Code c{.what = Code::Flat, .n_src = in.n_src, .dst = v.slot, .src = {}};
    c.item = uint32_t(itemsize(in.to));
    if (in.what == TileProgram::Instr::RowReduce) {
      c.what = Code::Fold;
      c.fold = &loops_of(in.op, in.dtype);
      c.map = map_of(Op::cast, DType(c.fold->acc), in.to);
      c.src[0] = as(in.src[0], Reg::Full);
      c.acc = temporary(Reg::Row, DType::F64, false);
      cost_ += element_ns(Op::cast, in.dtype, in.dtype);
    } else if (in.cls == Reg::Scalar) {
      c.what = Code::One;
      c.map = map_of(in.op, in.dtype, in.to);
      for (int k = 0; k < in.n_src; ++k) c.src[k] = values_[in.src[k]].slot;
      v.persistent = true;
    } else {
      map(in, c);
      if (in.cls == Reg::Full) cost_ += element_ns(in.op, in.dtype, in.to);
    }
    for (int k = c.what == Code::Fold ? 1 : c.n_src; k < 4; ++k) c.src[k] = c.src[0];
    v.first = int(step_->body.size());
    if (direct_[i] >= 0 && in.cls != Reg::Scalar) {
      const auto what = in.cls == Reg::Row ? Moving::Row : Moving::Full;
      step_->moving.push_back({what, true, v.slot, uint16_t(direct_[i]), c.item});
      v.placed = true;
    }
    (c.what == Code::One ? step_->prologue : step_->body).push_back(c);
    values_.push_back(v);
  }

  void map(const TileProgram::Instr& in, Code& c) {
    c.what = in.cls == Reg::Row ? Code::Row : Code::Flat;
    if (in.n_src == 2 && (in.dtype == DType::F32 || in.dtype == DType::F64)) {
      const int wide = in.dtype == DType::F64;
      const MapRow& row = map_row(in.op, in.dtype);
      for (int k = 0; k < 2; ++k) {
        Reg one = values_[in.src[k]].cls, other = values_[in.src[1 - k]].cls;
        Map f = k == 0 ? row.first_scalar[wide] : row.second_scalar[wide];
        bool scalar = one == Reg::Scalar && other == in.cls;
        bool by_row = one == Reg::Row && other == Reg::Full && step_->tile_cols >= kLongRow;
        if (!f || !(scalar || by_row)) continue;
        if (by_row) {
          c.what = Code::ByRow;
          c.row_src = uint8_t(k);
          c.src_item = uint32_t(itemsize(in.dtype));
        }
        c.map = f;
        c.src[0] = values_[in.src[0]].slot;
        c.src[1] = values_[in.src[1]].slot;
        return;
      }
    }
    c.map = map_of(in.op, in.dtype, in.to);
    for (int k = 0; k < in.n_src; ++k) c.src[k] = as(in.src[k], in.cls);
  }

  void outputs() {
    TileStep& s = *step_;
    for (size_t k = 0; k < p_.outputs.size(); ++k) {
      const auto& o = p_.outputs[k];
      note_read(o.reg, p_.instrs.size() + k);
      const Reg cls = values_[o.reg].cls;
      const DType dtype = values_[o.reg].dtype;
      Result r{};
      r.out = uint16_t(k);
      r.item = uint32_t(itemsize(dtype));
      r.slot = values_[o.reg].slot;
      if (o.what == TileProgram::Output::Store) {
        stores_rows_ |= cls == Reg::Row;
        if (o.reg >= p_.inputs.size() && direct_[o.reg - p_.inputs.size()] == int(k)) continue;
        if (cls == Reg::Scalar) {
          r.what = Result::One;
        } else {
          r.walk = walk_of(o.stride, cls);
          bool flat = r.walk.contiguous();
          if (cls == Reg::Full) r.what = flat ? Result::Copy : Result::Scatter;
          else r.what = flat ? Result::CopyRow : Result::ScatterRow;
          cost_ += cls == Reg::Full ? (flat ? 0.1 : 0.5) : 0;
        }
      } else {
        r.slot = as(o.reg, Reg::Full);
        switch (o.what) {
          case TileProgram::Output::ReduceAll: r.what = Result::ReduceAll; break;
          case TileProgram::Output::ReduceCols:
            r.what = Result::ReduceCols;
            r.cells = s.cols;
            if (o.reduce == Op::sum && dtype == DType::F32 && s.tile_rows < kNearRows) {
              r.near = temporary(Reg::Full, dtype, true);
              r.add = map_of(Op::add, dtype, dtype);
            }
            break;
          default:
            r.what = Result::ReduceSome;
            r.walk = walk_of(o.stride, Reg::Full);
            for (int i = 0; i < p_.dims.rank; ++i) r.cells *= o.stride[i] ? p_.dims[i] : 1;
            most_cells_ = std::max(most_cells_, r.cells);
        }
        r.fold = &loops_of(o.reduce, dtype);
        r.acc_item = uint32_t(itemsize(DType(r.fold->acc)));
        r.finish = map_of(Op::cast, DType(r.fold->acc), o.dtype);
        s.folds = true;
        reduces_cols_ |= r.what == Result::ReduceCols;
        cost_ += element_ns(Op::cast, dtype, dtype);
      }
      s.results.push_back(r);
    }
  }

  // Registers to places in the arena: each from its first to its last use, freed places are taken again (the hottest
  // memory).
  void allocate() {
    TileStep& s = *step_;
    std::vector<Value*> by_slot(size_t(n_slots_), nullptr);
    for (Value& v : values_) by_slot[v.slot] = &v;
    for (Value& v : temporaries_) by_slot[v.slot] = &v;
    const int end = int(s.body.size());
    auto use = [&](Slot slot, int when) {
      if (slot != kNone && by_slot[slot]) by_slot[slot]->last = std::max(by_slot[slot]->last, when);
    };
    for (int i = 0; i < end; ++i) {
      const Code& c = s.body[size_t(i)];
      for (Slot q : c.src) use(q, i);
      use(c.dst, i);
      use(c.acc, i);
    }
    for (const Result& r : s.results) use(r.slot, end);

    size_t top = (size_t(n_slots_) * sizeof(char*) + 63) & ~size_t(63);
    std::vector<std::pair<size_t, size_t>> free;  // bytes, offset
    auto bytes_of = [&](const Value& v) {
      int64_t n = v.cls == Reg::Full ? full() : v.cls == Reg::Row ? s.tile_rows : 1;
      return (size_t(std::max<int64_t>(n, 1)) * itemsize(v.dtype) + 63) & ~size_t(63);
    };
    auto take = [&](const Value& v) {
      size_t bytes = bytes_of(v), at;
      auto f = std::find_if(free.rbegin(), free.rend(), [&](auto& e) { return e.first == bytes; });
      if (f != free.rend()) {
        at = f->second;
        free.erase(std::next(f).base());
      } else {
        at = top;
        top += bytes;
      }
      s.registers.push_back({v.slot, at});
      return at;
    };
    auto give = [&](const Value& v) {
      for (auto [slot, at] : s.registers)
        if (slot == v.slot) free.push_back({bytes_of(v), at});
    };
    auto in_arena = [&](Slot q) { return q != kNone && by_slot[q] && !by_slot[q]->placed && !by_slot[q]->persistent; };
    for (Value* v : by_slot)
      if (v && v->persistent && !v->placed) take(*v);
    for (const Gather& g : s.gathers) take(*by_slot[g.slot]);
    for (int i = 0; i < end; ++i) {
      const Code& c = s.body[size_t(i)];
      auto release = [&] {
        for (int k = 0; k < c.n_src; ++k) {
          Slot q = c.src[k];
          bool again = false;
          for (int j = 0; j < k; ++j) again |= c.src[j] == q;
          if (!again && in_arena(q) && by_slot[q]->last == i) give(*by_slot[q]);
        }
      };
      // A map may write over a source that ends here: same place means same class and item size.
      bool in_place = c.what == Code::Flat || c.what == Code::Row;
      for (int k = 0; in_place && k < c.n_src; ++k)
        in_place = itemsize(by_slot[c.src[k]]->dtype) == itemsize(by_slot[c.dst]->dtype);
      if (in_place) release();
      if (in_arena(c.acc)) take(*by_slot[c.acc]);
      if (in_arena(c.dst)) take(*by_slot[c.dst]);
      if (!in_place) release();
      if (in_arena(c.acc)) give(*by_slot[c.acc]);
      if (in_arena(c.dst) && by_slot[c.dst]->last == i) give(*by_slot[c.dst]);
    }
    s.arena_bytes = top;
    s.n_slots = n_slots_;
  }

  void tasks() {
    TileStep& s = *step_;
    const int64_t n = s.rows * s.cols;
    s.ahead = s.body.size() >= kMinAhead && n * 4 >= kAheadBytes;
    for (const Gather& g : s.gathers)
      cost_ += g.row ? 0 : g.walk.rank && g.walk.stride[g.walk.rank - 1] == 1 ? 0.1 : 0.6;
    s.cost_ns = cost_ * double(n) + 10.0 * double(s.body.size()) * double(s.tiles) + 30;
    const double tile_ns = s.cost_ns / double(std::max<int64_t>(s.tiles, 1));
    // Partial rows are combined at the end: no more of them than an eighth of the rows, or column blocks instead.
    int64_t most = reduces_cols_ ? std::clamp<int64_t>(s.rows / 8, 1, kMaxTasks) : kMaxTasks;
    s.by_columns = reduces_cols_ && s.segments > 1 && most < std::min(s.segments, kMaxTasks);
    int64_t units = s.by_columns ? s.segments : s.tiles;
    double unit_ns = s.by_columns ? tile_ns * double(s.rows) : tile_ns;
    if (s.by_columns) most = kMaxTasks;
    // The same for other accumulators that each task has: no more of them than an eighth of the elements.
    most = std::clamp<int64_t>(n / (8 * most_cells_), 1, most);
    s.tiles_per_task = std::max<int64_t>((units + most - 1) / most, int64_t(kTaskNs / std::max(unit_ns, 1.0)) + 1);
    if (!s.by_columns && stores_rows_ && s.segments > 1)  // a row, and what is stored of it, belongs to one task
      s.tiles_per_task = (s.tiles_per_task + s.segments - 1) / s.segments * s.segments;
    s.tasks = std::max<int64_t>((units + s.tiles_per_task - 1) / s.tiles_per_task, 1);
    size_t at = 0;
    for (Result& r : s.results) {
      if (r.what < Result::ReduceAll) continue;
      r.at = at;
      if (r.what == Result::ReduceAll) {
        r.stride = 64;
      } else {
        size_t bytes = (size_t(r.cells) * r.acc_item + 63) & ~size_t(63);
        const bool shared = s.by_columns && r.what == Result::ReduceCols;
        r.stride = shared ? 0 : bytes;
        if (shared) at += bytes;
        if (s.segments > 1 && !s.by_columns) r.near = kNone;  // the tiles of a task are not one below the other
      }
      at += size_t(s.tasks) * r.stride;
    }
    s.scratch_bytes = at;
  }

  void describe() {
    DType t = p_.instrs.empty() ? (p_.inputs.empty() ? DType::F32 : p_.inputs[0].dtype) : p_.instrs.back().dtype;
    step_->description = "tile " + (has_rows_ ? std::to_string(step_->rows) + "x" + std::to_string(step_->cols)
                                             : std::to_string(p_.dims.size())) +
                         " " + name(t) + ": " + std::to_string(p_.instrs.size()) + " ops, " +
                         std::to_string(p_.inputs.size()) + " in, " + std::to_string(p_.outputs.size()) + " out";
  }

  const TileProgram p_;
  std::unique_ptr<TileStep> step_;
  std::vector<Value> values_, temporaries_;
  std::vector<int> direct_;  // per instruction: the output that it writes, -1 none
  int n_slots_ = 0;
  bool has_rows_ = false, reduces_cols_ = false, stores_rows_ = false;
  int64_t most_cells_ = 1;   // of the outputs that are reduced over some dimensions
  double cost_ = 0;  // ns per element
};

}  // namespace

std::unique_ptr<Step> make_tile(const TileProgram& p) { return Builder(p).build(); }

int64_t tile_max_row() { return kMaxRow; }

}  // namespace knet::cpu
