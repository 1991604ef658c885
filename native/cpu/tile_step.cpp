// Runs a tile program: tasks over tiles, and for each tile the whole list of operations.
#include "cpu/tile_step.h"

#include <algorithm>
#include <bit>
#include <new>

#include "cpu/threads.h"
#include "cpu/tile_pick.h"

namespace knet::cpu::tile {
namespace {

// Memory of one thread for the registers of the program that it runs; grows, is freed with the thread.
class Arena {
 public:
  ~Arena() { ::operator delete(data_, std::align_val_t(64)); }
  char* get(size_t bytes) {
    if (bytes > bytes_) grow(bytes);
    return data_;
  }

 private:
  void grow(size_t bytes) {
    bytes = std::bit_ceil(bytes);
    char* fresh = static_cast<char*>(::operator new(bytes, std::align_val_t(64)));
    ::operator delete(data_, std::align_val_t(64));
    data_ = fresh;
    bytes_ = bytes;
  }
  char* data_ = nullptr;
  size_t bytes_ = 0;
};
thread_local Arena arena;

void move(char* to, const char* from, int64_t bytes) {
  if (to != from) std::memcpy(to, from, size_t(bytes));
}

// `count` elements into one accumulator (step 0) or into as many, side by side (step 1).
void fold_run(const ReduceLoops& fold, char* acc, const char* from, int64_t count, int64_t step) {
  if (step) return fold.cols(acc, from, 1, count);
  uint64_t partial;
  fold.rows(&partial, from, 1, count);
  fold.combine(acc, &partial, 1);
}

// The sums of m rows; or, m being 1, of the first part of a row, of the next ones, of the last.
void fold(const Code& c, char** slot, int64_t m, int64_t n, bool first, bool last) {
  char *acc = slot[c.acc], *to = acc;
  uint64_t part;
  if (!first) to = reinterpret_cast<char*>(&part);
  if (c.n_src == 2) c.fold->products(to, slot[c.src[0]], slot[c.src[1]], m, n / m);
  else c.fold->rows(to, slot[c.src[0]], m, n / m);
  if (!first) c.fold->combine(acc, &part, 1);
  if (!last) return;
  if (c.negative)
    for (int64_t r = 0; r < m; ++r) reinterpret_cast<double*>(acc)[r] = 0 - reinterpret_cast<double*>(acc)[r];
  const void* from = acc;
  c.map(slot[c.dst], &from, m);
}

void execute(const Code& c, char** slot, int64_t m, int64_t n) {
  const void* src[4] = {slot[c.src[0]], slot[c.src[1]], slot[c.src[2]], slot[c.src[3]]};
  char* dst = slot[c.dst];
  switch (c.what) {
    case Code::Flat: c.map(dst, src, n); break;
    case Code::Row: c.map(dst, src, m); break;
    case Code::One: c.map(dst, src, 1); break;
    case Code::ByRow: {
      const int64_t width = n / m, step[2] = {c.row_src == 0 ? c.src_item : width * c.src_item,
                                              c.row_src == 1 ? c.src_item : width * c.src_item};
      for (int64_t r = 0; r < m; ++r) {
        c.map(dst, src, width);
        dst += width * c.item;
        src[0] = static_cast<const char*>(src[0]) + step[0];
        src[1] = static_cast<const char*>(src[1]) + step[1];
      }
      break;
    }
    case Code::Spread: casts().spread[std::countr_zero(c.item)](dst, src[0], m, n / m); break;
    case Code::Fill: casts().splat[std::countr_zero(c.item)](dst, src[0], c.count); break;
    case Code::Fold: fold(c, slot, m, n, true, true);
  }
}

}  // namespace

// The operands of the next tile, fetched meanwhile, a few lines with every operation.
class TileStep::Ahead {
 public:
  // The next tile: n elements from `at` on.
  Ahead(const TileStep& s, const Run& run, int64_t at, int64_t n)
      : fetched_(run.fetched.data(), run.n_fetched), at_(at), n_(n), each_(s.ahead ? kAll / s.executions + 1 : 0) {}

  void some() {
    const int64_t from = done_, to = done_ = std::min(kAll, done_ + each_);
    for (const Fetched& f : fetched_) {
      const char* p = f.data + at_ * f.item;
      const int64_t lines = (n_ * f.item + 63) / 64;
      for (int64_t l = lines * from / kAll, end = lines * to / kAll; l < end; ++l)
        __builtin_prefetch(p + 64 * l, 0, 2);  // to L2: L1 has the registers
    }
  }

 private:
  static constexpr int64_t kAll = 1 << 16;
  const std::span<const Fetched> fetched_;
  const int64_t at_, n_, each_;
  int64_t done_ = 0;
};

void TileStep::run(char* const* out, const char* const* in, char* scratch) const {
  Run run{out, in, scratch};
  if (ahead)
    for (const Moving& v : moving) {  // a result in place of an input is fetched once: Adam took 12.5 ms, so 11.2
      const char* data = v.out ? out[v.operand] : in[v.operand];
      Fetched *const begin = run.fetched.data(), *const end = begin + run.n_fetched;
      if (v.what != Moving::Full || run.n_fetched == run.fetched.size() ||
          std::any_of(begin, end, [&](const Fetched& f) { return f.data == data; }))
        continue;
      *end = {data, v.item};
      ++run.n_fetched;
    }
  if (tasks == 1) task(0, run);
  else parallel(tasks, cost_ns, [&](int64_t t) { task(t, run); });
  if (!folds) return;
  for (const Result& r : results) {
    if (r.what < Result::ReduceAll) continue;
    char* acc = scratch + r.at;
    if (r.stride) combine(r, acc);
    const void* from = acc;
    r.finish(out[r.out], &from, r.cells);
  }
}

// The accumulators of the tasks into those of the first, in order. They lie in the caches of the threads that made
// them: those of a layer norm, 64 times 2 x 768, took one thread 0.2 ms of 2.5.
void TileStep::combine(const Result& r, char* acc) const {
  constexpr int64_t kCells = 128;
  parallel((r.cells + kCells - 1) / kCells, 0.5 * double(r.cells * (tasks - 1)), [&](int64_t i) {
    const int64_t first = i * kCells, n = std::min(kCells, r.cells - first);
    char* to = acc + size_t(first) * r.acc_item;
    for (int64_t t = 1; t < tasks; ++t) r.fold->combine(to, to + size_t(t) * r.stride, n);
  });
}

bool TileStep::may_alias(int out, int in) const {
  return written[size_t(out)] >= 0 && read[size_t(in)] >= -1 && out_item[size_t(out)] == in_item[size_t(in)] &&
         read[size_t(in)] <= written[size_t(out)];
}

void TileStep::task(int64_t t, const Run& run) const {
  char* base = arena.get(arena_bytes);
  char** slot = reinterpret_cast<char**>(base);
  for (auto [s, offset] : registers) slot[s] = base + offset;
  for (auto [s, i] : fixed) slot[s] = const_cast<char*>(run.in[i]);
  if (tiles)
    for (const Gather& g : once)
      gather(g.walk, g.item, slot[g.slot], run.in[g.operand], 0, g.row ? tile_rows : tile_rows * tile_cols);
  for (const Code& c : prologue) execute(c, slot, 0, 0);
  if (folds)
    for (const Result& r : results)
      if (r.what >= Result::ReduceAll && !(r.what == Result::ReduceCols && by_columns))
        r.fold->identity(run.scratch + r.at + size_t(t) * r.stride, r.cells);
  auto clear = [&](const Result& r) { std::memset(slot[r.near], 0, size_t(tile_cols) * r.item); };
  auto flush = [&](int64_t c, int64_t n) {  // what the last few rows have left
    for (const Result& r : results)
      if (r.near != kNone) {
        r.fold->cols(run.scratch + r.at + size_t(t) * r.stride + size_t(c) * r.acc_item, slot[r.near], 1, n);
        clear(r);
      }
  };
  for (const Result& r : results)
    if (r.near != kNone) clear(r);
  const int64_t first = units * t / tasks * unit_tiles, end = units * (t + 1) / tasks * unit_tiles;
  if (by_columns) {
    for (int64_t s = first; s < end; ++s) {
      int64_t c = s * tile_cols, n = std::min(tile_cols, cols - c);
      for (const Result& r : results)
        if (r.what == Result::ReduceCols) r.fold->identity(run.scratch + r.at + size_t(c) * r.acc_item, n);
      for (int64_t r = 0; r < rows; ++r) tile(r, 1, c, n, t, slot, run);
      flush(c, n);
    }
  } else if (segments > 1) {
    for (int64_t k = first; k < end; ++k) {
      int64_t r = k / segments, c = (k - r * segments) * tile_cols;
      tile(r, 1, c, std::min(tile_cols, cols - c), t, slot, run);
    }
  } else {
    for (int64_t k = first; k < end; ++k) {
      int64_t r = k * tile_rows, m = std::min(tile_rows, rows - r);
      tile(r, m, 0, m * cols, t, slot, run);
    }
    flush(0, cols);
  }
  if (t == 0)
    for (const Result& r : results)
      if (r.what == Result::One) std::memcpy(run.out[r.out], slot[r.slot], r.item);
}

// Rows [r, r + m), n elements in all from column c on.
void TileStep::tile(int64_t r, int64_t m, int64_t c, int64_t n, int64_t t, char** slot, const Run& run) const {
  const int64_t at = r * cols + c;
  for (const Moving& v : moving) {
    char* p = v.out ? run.out[v.operand] : const_cast<char*>(run.in[v.operand]);
    slot[v.slot] = p + (v.what == Moving::Full ? at : v.what == Moving::Row ? r : c) * v.item;
  }
  for (const Gather& g : gathers)
    if (!g.staged) gather(g.walk, g.item, slot[g.slot], run.in[g.operand], g.row ? r : at, g.row ? m : n);
  Ahead fetch(*this, run, at + (by_columns ? cols : n), n);
  if (stages.empty()) {
    for (const Code& code : body) {
      if (ahead) fetch.some();
      execute(code, slot, m, n);
    }
  } else {
    for (const Stage& s : stages) {
      if (!s.once) in_parts(s, r, t, slot, run, fetch);
      else for (uint32_t k = s.begin; k < s.end; ++k) execute(body[k], slot, m, n);
    }
  }
  for (const Result& o : results)
    if (!o.staged) finish(o, r, m, c, n, t, slot, run);
}

// A stage of row r.
void TileStep::in_parts(const Stage& s, int64_t r, int64_t t, char** slot, const Run& run, Ahead& fetch) const {
  for (int64_t c = 0; c < cols; c += part) {
    const int64_t n = std::min(part, cols - c);
    for (uint16_t k : s.gathers) {
      const Gather& g = gathers[k];
      gather(g.walk, g.item, slot[g.slot], run.in[g.operand], r * cols + c, n);
    }
    for (uint32_t k = s.begin; k < s.end; ++k) {
      const Code& code = body[k];
      if (ahead) fetch.some();
      if (code.what == Code::Fold) fold(code, slot, 1, n, c == 0, c + n == cols);
      else execute(code, slot, 1, n);
    }
    for (uint16_t k : s.results) finish(results[k], r, 1, c, n, t, slot, run);
    for (auto [q, item] : s.moves) slot[q] += n * item;
  }
  for (auto [q, item] : s.moves) slot[q] -= cols * item;
}

// What becomes of rows [r, r + m), n elements in all from column c on, of a register.
void TileStep::finish(const Result& o, int64_t r, int64_t m, int64_t c, int64_t n, int64_t t, char** slot,
                      const Run& run) const {
  const int64_t at = r * cols + c;
  const char* from = slot[o.slot];
  switch (o.what) {
    case Result::Copy: move(run.out[o.out] + at * o.item, from, n * o.item); break;
    case Result::CopyRow: move(run.out[o.out] + r * o.item, from, m * o.item); break;
    case Result::Scatter: scatter(o.walk, o.item, run.out[o.out], from, at, n); break;
    case Result::ScatterRow: scatter(o.walk, o.item, run.out[o.out], from, r, m); break;
    case Result::One: break;
    case Result::ReduceAll: {
      uint64_t partial;
      o.fold->rows(&partial, from, 1, n);
      o.fold->combine(run.scratch + o.at + size_t(t) * o.stride, &partial, 1);
      break;
    }
    case Result::ReduceCols: {
      const int64_t width = n / m;
      char* acc = run.scratch + o.at + size_t(t) * o.stride + size_t(c) * o.acc_item;
      if (o.near == kNone) {
        o.fold->cols(acc, from, m, width);
        break;
      }
      char* near = slot[o.near] + (o.staged ? c * o.item : 0);
      for (int64_t i = 0; i < m; ++i, from += width * o.item) {
        const void* both[2] = {near, from};
        o.add(near, both, width);
      }
      if (r / kNearRows != (r + m) / kNearRows) {
        o.fold->cols(acc, near, 1, width);
        std::memset(near, 0, size_t(width) * o.item);
      }
      break;
    }
    case Result::ReduceSome: {
      char* acc = run.scratch + o.at + size_t(t) * o.stride;
      o.walk.runs(at, n, [&](int64_t cell, int64_t count, int64_t step) {
        fold_run(*o.fold, acc + cell * o.acc_item, from, count, step);
        from += count * o.item;
      });
    }
  }
}

}  // namespace knet::cpu::tile
