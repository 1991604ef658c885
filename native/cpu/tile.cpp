// Prepares a tile program: how its space is cut into tiles and tasks, which loop serves each instruction, and where in
// the arena each register lies.
#include "cpu/tile.h"

#include <algorithm>

#include "cpu/threads.h"
#include "cpu/tile_pick.h"
#include "cpu/tile_rewrite.h"
#include "cpu/tile_step.h"

namespace knet::cpu {
namespace {

using namespace tile;

// Softmax of 64 rows of 16000: 0.86 ns an element, of 128 rows of 1000: 0.76; the registers still lie in L2.
constexpr int64_t kMaxRow = 16384;
// Rows of so many elements and more go through their stages in parts.
constexpr int64_t kInParts = 2 * kTile;
// A row operand meets a full one row by row from this row length on; below, it is spread over a register first.
constexpr int64_t kLongRow = 32;
// Tasks: at most this many (each has its own partial results), of about this length.
constexpr int64_t kMaxTasks = 64;
constexpr double kTaskNs = 2e3;
// A kernel of so many operations computes for so long that the processor's own prefetching stops in between; it
// fetches ahead by itself what is too large for a cache.
constexpr size_t kMinAhead = 6;
constexpr int64_t kAheadBytes = 1 << 20;

class Builder {
 public:
  explicit Builder(const TileProgram& p) : p_(in_order(with_rows(p))), step_(std::make_unique<TileStep>()) {}

  std::unique_ptr<Step> build() {
    geometry();
    inputs();
    choose_direct_outputs();
    sums();
    for (size_t i = 0; i < p_.instrs.size(); ++i) instruction(i);
    outputs();
    stages();
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
    bool part = false;        // as long as what goes through a stage together, not as a row
    int last = -1;            // body instruction
    Slot spread = kNone;      // the same, spread over a full register
  };

  static TileProgram in_order(TileProgram p) {
    int64_t row = 1;
    for (int i = p.split; i < p.dims.rank; ++i) row *= p.dims[i];
    return row >= kInParts && std::any_of(p.instrs.begin(), p.instrs.end(), is_fold) ? in_stages(std::move(p)) : p;
  }

  static bool is_fold(const TileProgram::Instr& in) { return in.what == TileProgram::Instr::RowReduce; }

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
      // Rows that are summed are two at least where two are not much longer: the numbers of one are a call each. Layer
      // norm of rows of 640 took 5.6 ms, so 4.9, of 768 5.3 and 4.9; of 1024 it takes as long either way.
      const int64_t least = kTile + (whole_rows ? s.cols - 1 : 0);
      s.tile_rows = std::clamp<int64_t>(least / std::max<int64_t>(1, s.cols), 1, std::max<int64_t>(1, s.rows));
      s.tiles = (s.rows + s.tile_rows - 1) / s.tile_rows;
      if (s.cols == 0 && !has_rows) s.tiles = 0;
    }
    has_rows_ = has_rows;
    s.part = full();
    if (whole_rows && s.cols >= kInParts) {
      const int64_t parts = (s.cols + kTile - 1) / kTile;
      s.part = ((s.cols + parts - 1) / parts + 63) / 64 * 64;  // of about the same length
      in_parts_ = true;
    }
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

  // What sums along rows add up, and what is not needed otherwise.
  void sums() {
    needless_.assign(p_.instrs.size(), false);
    summands_.resize(p_.instrs.size());
    for (size_t i = 0; i < p_.instrs.size(); ++i)
      if (is_fold(p_.instrs[i])) summands_[i] = summand(p_, i, needless_);
  }

  void note_read(uint16_t reg, size_t when) {
    if (reg < step_->read.size() && step_->read[reg] > -2) step_->read[reg] = std::max(step_->read[reg], int(when));
  }

  Slot temporary(Reg cls, DType t, bool persistent) {
    Value v{.slot = new_slot(), .cls = cls, .dtype = t, .persistent = persistent};
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
    c.count = cls == Reg::Full ? step_->part : step_->tile_rows;
    (scalar ? step_->prologue : step_->body).push_back(c);
    if (cls == Reg::Full) values_[reg].spread = to;
    return to;
  }

  void instruction(size_t i) {
    const auto& in = p_.instrs[i];
    if (needless_[i]) {
      values_.push_back({.cls = in.cls, .dtype = in.to});
      return;
    }
    for (int k = 0; k < in.n_src; ++k) note_read(in.src[k], i);
    Value v{.slot = new_slot(), .cls = in.cls, .dtype = in.to};
    Code c{.what = Code::Flat, .n_src = in.n_src, .dst = v.slot, .src = {}};
    c.item = uint32_t(itemsize(in.to));
    if (is_fold(in)) {
      const Summand& s = summands_[i];
      c.what = Code::Fold;
      c.fold = &loops_of(in.op, in.dtype);
      c.map = map_of(Op::cast, DType(c.fold->acc), in.to);
      c.negative = s.negative;
      c.n_src = s.product ? 2 : 1;
      c.src[0] = as(s.a, Reg::Full);
      c.src[1] = as(s.b, Reg::Full);
      for (uint16_t r : {s.a, s.b}) note_read(r, i);
      c.acc = temporary(Reg::Row, DType::F64, in_parts_);
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
    for (int k = c.n_src; k < 4; ++k) c.src[k] = c.src[0];
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

  static bool over_elements(const Code& c) { return c.what != Code::Row && c.what != Code::One; }

  // Cuts the body into stages: numbers of a row are computed at once, what is between is done in parts. What is made
  // and read in one stage alone needs no more room than a part. Reductions of full registers are taken where these are
  // made, or, of operands, where they are read first.
  void stages() {
    TileStep& s = *step_;
    const int count = int(s.body.size());
    s.executions = count;
    if (!in_parts_) return;
    // Does it read a sum of the last stage?
    auto waits = [&](const Code& c) {
      for (uint32_t k = s.stages.back().begin; k < s.stages.back().end; ++k)
        if (const Code& d = s.body[k]; d.what == Code::Fold && std::count(c.src, c.src + 4, d.dst)) return true;
      return false;
    };
    for (int k = 0; k < count; ++k) {
      const Code& c = s.body[size_t(k)];
      const bool once = !over_elements(c);
      if (s.stages.empty() || s.stages.back().once != once || (!once && waits(c)))
        s.stages.push_back({.begin = uint32_t(k), .once = once});
      s.stages.back().end = uint32_t(k) + 1;
    }
    // In which stages each slot is named.
    std::vector<std::vector<int>> named;
    named.resize(size_t(n_slots_));
    auto name = [&](Slot q, int stage) {
      if (named[q].empty() || named[q].back() != stage) named[q].push_back(stage);
    };
    s.executions = 0;
    for (int i = 0; i < int(s.stages.size()); ++i) {
      const Stage& g = s.stages[size_t(i)];
      s.executions += (g.end - g.begin) * (g.once ? 1 : (s.cols + s.part - 1) / s.part);
      if (g.once) continue;
      for (uint32_t k = g.begin; k < g.end; ++k) {
        const Code& c = s.body[k];
        for (Slot q : c.src) name(q, i);
        name(c.dst, i);
      }
    }
    const int after = int(s.stages.size()), first = s.stages[0].once;  // there is one: rows are summed
    for (size_t k = 0; k < s.results.size(); ++k) {
      Result& r = s.results[k];
      if (r.what < Result::ReduceAll) continue;
      r.staged = true;
      if (named[r.slot].empty()) name(r.slot, first);
      s.stages[size_t(named[r.slot].front())].results.push_back(uint16_t(k));
    }
    for (Result& r : s.results)
      if (!r.staged) name(r.slot, after);
    // Strided operands are brought anew for each stage, unless that is slow.
    for (size_t k = 0; k < s.gathers.size(); ++k) {
      Gather& g = s.gathers[k];
      const int64_t step = g.walk.rank ? g.walk.stride[g.walk.rank - 1] : 0;
      const bool runs = step == 0 || step == 1;
      const auto& in = named[g.slot];
      if (g.row || in.empty() || in.back() == after || !(runs || in.size() == 1)) continue;
      g.staged = true;
      for (int i : in) s.stages[size_t(i)].gathers.push_back(uint16_t(k));
    }
    auto is_staged = [&](Slot q) {
      return std::any_of(s.gathers.begin(), s.gathers.end(), [&](const Gather& g) { return g.slot == q && g.staged; });
    };
    auto is_whole = [&](Slot q) {
      return std::any_of(s.once.begin(), s.once.end(), [&](const Gather& g) { return g.slot == q; }) ||
             std::any_of(s.results.begin(), s.results.end(), [&](const Result& r) { return r.near == q; });
    };
    auto place = [&](Value& v) {
      if (v.cls != Reg::Full || v.slot == kNone) return;
      const auto& in = named[v.slot];
      const bool once = in.empty() || (in.size() == 1 && in[0] < after);
      v.part = !v.placed && !is_whole(v.slot) && (v.persistent || once || is_staged(v.slot));
      if (v.part) return;
      for (int i : in)
        if (i < after) s.stages[size_t(i)].moves.push_back({v.slot, uint32_t(itemsize(v.dtype))});
    };
    for (auto* list : {&values_, &temporaries_})
      for (Value& v : *list) place(v);
  }

  // Registers to places in the arena: each from its first to its last use, freed places are taken again (the hottest
  // memory).
  void allocate() {
    TileStep& s = *step_;
    std::vector<Value*> by_slot(size_t(n_slots_), nullptr);
    for (Value& v : values_)
      if (v.slot != kNone) by_slot[v.slot] = &v;
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
    for (const Result& r : s.results)
      if (!r.staged) use(r.slot, end);
    for (const Stage& g : s.stages)
      for (uint16_t k : g.results) use(s.results[k].slot, int(g.end));  // after its last instruction

    size_t top = (size_t(n_slots_) * sizeof(char*) + 63) & ~size_t(63);
    std::vector<std::pair<size_t, size_t>> free_[2];  // bytes, offset; of parts, which are overwritten before rows end
    auto bytes_of = [&](const Value& v) {
      int64_t n = v.cls == Reg::Full ? (v.part ? s.part : full()) : v.cls == Reg::Row ? s.tile_rows : 1;
      return (size_t(std::max<int64_t>(n, 1)) * itemsize(v.dtype) + 63) & ~size_t(63);
    };
    auto take = [&](const Value& v) {
      size_t bytes = bytes_of(v), at;
      auto& free = free_[v.part];
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
        if (slot == v.slot) free_[v.part].push_back({bytes_of(v), at});
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
    // Partial rows are combined at the end: no more of them than an eighth of the rows, or column blocks instead.
    int64_t most = reduces_cols_ ? std::clamp<int64_t>(s.rows / 8, 1, kMaxTasks) : kMaxTasks;
    s.by_columns = reduces_cols_ && s.segments > 1 && most < std::min(s.segments, kMaxTasks);
    if (s.by_columns) most = kMaxTasks;
    // The same for other accumulators that each task has: no more of them than an eighth of the elements.
    most = std::clamp<int64_t>(n / (8 * most_cells_), 1, most);
    // A row, and what is stored of it, belongs to one task.
    const bool whole_rows = !s.by_columns && stores_rows_ && s.segments > 1;
    s.units = s.by_columns ? s.segments : whole_rows ? s.rows : s.tiles;
    s.unit_tiles = whole_rows ? s.segments : 1;
    if (s.cost_ns >= kSerialNs) {
      s.tasks = std::clamp<int64_t>(std::min(most, s.units), 1, even_tasks(int64_t(s.cost_ns / kTaskNs)));
    }
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
  std::vector<Summand> summands_;  // per instruction that is a sum along rows
  std::vector<bool> needless_;     // per instruction: a sum does it by the way
  std::vector<int> direct_;  // per instruction: the output that it writes, -1 none
  int n_slots_ = 0;
  bool in_parts_ = false;    // rows go through stages
  bool has_rows_ = false, reduces_cols_ = false, stores_rows_ = false;
  int64_t most_cells_ = 1;   // of the outputs that are reduced over some dimensions
  double cost_ = 0;  // ns per element
};

}  // namespace

std::unique_ptr<Step> make_tile(const TileProgram& p) { return Builder(p).build(); }

int64_t tile_max_row() { return kMaxRow; }

}  // namespace knet::cpu
