// Filters of one plane, and the sums of their derivatives: windows read where they are. See micro.h.
#pragma once
#include <cstdint>
#include <utility>

#include "cpu/isa/micro.h"
#include "cpu/isa/vector.h"

namespace knet::cpu::KNET_ISA {
namespace {

// What one tap of a window reads for a vector of results q to q + n - 1: from where in a row, and which lanes of it.
template <class T, int S>
struct Reach {
  int64_t at;
  Some<T> lanes[S];
  bool whole;  // all of them

  void aim(const Filter& f, int64_t q, int64_t n, int64_t tap) {
    constexpr int64_t L = Vec<T>::lanes;
    at = q * S + tap;
    const int64_t end = f.x[1] - at < (n - 1) * S + 1 ? f.x[1] - at : (n - 1) * S + 1;
    whole = at >= 0 && end >= (L - 1) * S + 1 && (S == 1 || f.x[1] - at >= L * S);
    for (int s = 0; s < S; ++s) {
      auto lane = [&](int64_t i) { return i - s * L < 0 ? 0 : i - s * L > L ? L : i - s * L; };
      lanes[s] = some<T>(lane(-at), lane(end) > lane(-at) ? lane(end) : lane(-at));
    }
  }
  template <bool Whole = false>
  inline __attribute__((always_inline)) auto read(const T* row) const {
    auto part = [&](int s) __attribute__((always_inline)) {
      return Whole ? load(row + at + s * Vec<T>::lanes) : load(row + at + s * Vec<T>::lanes, lanes[s]);
    };
    if constexpr (S == 1) return part(0);
    else return halves<T, 0>(part(0), part(1), std::make_integer_sequence<int, Vec<T>::lanes>());
  }
};
constexpr int64_t kReach = 16;  // taps of a window's row

// R rows of results from row h on, one vector of each; W: how wide the window is, if known. Rows beyond the plane are
// met where R is 1 alone.
template <class T, int S, int R, int W, bool Whole>
void filter_block(const Filter& f, const Reach<T, S>* reach, const T* x, const T* w, T* y, int64_t h, int64_t n) {
  typename Vec<T>::type sum[R] = {};
  const int64_t pitch = f.stride[0] * f.x[1];
  Reach<T, S> at[W ? W : 1];
  for (int j = 0; j < W; ++j) at[j] = reach[j];
  for (int64_t i = 0; i < f.window[0]; ++i, w += f.window[1]) {
    const int64_t first = h * f.stride[0] + f.tap[0][i];
    if (R == 1 && uint64_t(first) >= uint64_t(f.x[0])) continue;
    const T* row[R];
    for (int r = 0; r < R; ++r) row[r] = x + first * f.x[1] + r * pitch;
    if constexpr (W > 0) {
#pragma GCC unroll 4
      for (int j = 0; j < W; ++j)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r] += w[j] * at[j].template read<Whole>(row[r]);
    } else {
      for (int64_t j = 0; j < f.window[1]; ++j) {
        at[0] = reach[j];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r] += w[j] * at[0].template read<Whole>(row[r]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    T* to = y + r * f.y[1];
    if (n >= Vec<T>::lanes) *reinterpret_cast<typename Vec<T>::type*>(to) = sum[r];
    else store_part(to, sum[r], n);
  }
}

// The same for a window of 3 x 3 whose rows are neighbours, the results' rows P apart: each row of the plane is loaded
// once for all results that meet it. In the order of the window's rows, upwards where those go up: the same sums.
template <class T, int S, int R, int P, bool Whole>
void filter_square(const Filter& f, const Reach<T, S>* reach, const T* x, const T* w, T* y, int64_t h, int64_t n) {
  using V = typename Vec<T>::type;
  V sum[R] = {};
  const bool down = f.tap[0][1] > f.tap[0][0];
  const int64_t pitch = down ? f.x[1] : -f.x[1];
  const T* row = x + ((down ? h : h + R - 1) * P + f.tap[0][0]) * f.x[1];
  const Reach<T, S> at[3] = {reach[0], reach[1], reach[2]};
#pragma GCC unroll 20
  for (int p = 0; p < (R - 1) * P + 3; ++p, row += pitch) {
    const V v[3] = {at[0].template read<Whole>(row), at[1].template read<Whole>(row), at[2].template read<Whole>(row)};
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      if (const int i = p - r * P; i >= 0 && i < 3)
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j) sum[r] += w[3 * i + j] * v[j];
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    T* to = y + (down ? r : R - 1 - r) * f.y[1];
    if (n >= Vec<T>::lanes) *reinterpret_cast<V*>(to) = sum[r];
    else store_part(to, sum[r], n);
  }
}

template <class T, int S, int W>
void filter_rows(const Filter& f, const T* x, const T* w, T* y, int64_t lo, int64_t hi) {
  constexpr int64_t L = Vec<T>::lanes;
  Reach<T, S> reach[kReach];
  int64_t least = f.tap[0][0], most = least;
  for (int64_t i = 1; i < f.window[0]; ++i) {
    least = f.tap[0][i] < least ? f.tap[0][i] : least;
    most = f.tap[0][i] > most ? f.tap[0][i] : most;
  }
  const int64_t way = f.window[0] == 3 ? f.tap[0][1] - f.tap[0][0] : 0;
  const bool square = W == 3 && f.stride[0] == S && (way == 1 || way == -1) && f.tap[0][2] - f.tap[0][1] == way;
  // Of the rows, those that meet no row beyond the plane. They are done 8 or 4 at once, the last of them over again
  // with those that are left (the same sums), for single rows wait for their own additions.
  const int64_t step = f.stride[0], left = f.x[0] - 1 - most, after = left < 0 ? 0 : left / step + 1;
  const int64_t before = least >= 0 ? 0 : (step - 1 - least) / step;
  const int64_t first = before > lo ? before : lo, end = after < hi ? after : hi;
  for (int64_t h = lo, rows; h < hi; h += rows) {
    rows = 1;
    if (h >= first && h < end) {
      if (end - first >= 4) rows = 4;
      if (kVectorBytes == 64 && end - first >= 8 && end - h > 4) rows = 8;
      if (end - h < rows) h = end - rows;
    }
    for (int64_t q = 0; q < f.y[1]; q += L) {
      const int64_t n = f.y[1] - q < L ? f.y[1] - q : L;
      bool whole = true;
      if (h == lo || f.y[1] > L)
        for (int64_t j = 0; j < f.window[1]; ++j) reach[j].aim(f, q, n, f.tap[1][j]);
      for (int64_t j = 0; j < f.window[1]; ++j) whole &= reach[j].whole;
      auto block = [&]<int R>() {
        if (R > 1) fetch_rows<T, S>(x + ((h + R) * f.stride[0] + most) * f.x[1] + q * S, f.x[1], R * f.stride[0]);
        auto f_block = whole ? filter_block<T, S, R, W, true> : filter_block<T, S, R, W, false>;
        if constexpr (W == 3 && R > 1)
          if (square) f_block = whole ? filter_square<T, S, R, S, true> : filter_square<T, S, R, S, false>;
        f_block(f, reach, x, w, y + h * f.y[1] + q, h, n);
      };
      if (rows == 8) block.template operator()<8>();
      else if (rows == 4) block.template operator()<4>();
      else block.template operator()<1>();
    }
  }
}

template <class T>
void filter(const Filter& f, const T* x, const T* w, T* y, int64_t lo, int64_t hi) {
  auto rows = f.window[1] == 3 ? (f.stride[1] == 1 ? filter_rows<T, 1, 3> : filter_rows<T, 2, 3>)
                               : (f.stride[1] == 1 ? filter_rows<T, 1, 0> : filter_rows<T, 2, 0>);
  rows(f, x, w, y, lo, hi);
}

// The planes that are read next: a line of dy's and x_lines of x's are fetched with each row of results, which took
// depthwise 64x56x56 from 1.44 ms to 1.12 and 96x112x112 with strides of 2 from 5.0 to 4.3, none of it in the cache.
template <class T>
struct Ahead {
  const T *x, *dy;
  int64_t x_lines;
  void fetch(int64_t h) const {
    constexpr int64_t line = 64 / int64_t(sizeof(T));
    __builtin_prefetch(dy + h * line);
    for (int64_t l = 0; l < x_lines; ++l) __builtin_prefetch(x + (h * x_lines + l) * line);
  }
};

// The rows of results beside those that meet the plane with all three rows of a window: the one before them, which the
// window's first row does not, and the one behind them, which its last does not.
struct Beside {
  bool before = false, behind = false;
};

// I x K taps of the window from row i on, for one vector of each row h to end - 1 of results; all meet rows of the
// plane.
template <class T, int S, int I, int K, bool Whole>
void filter_sums_block(const Filter& f, const Reach<T, S>* reach, int64_t i, const T* x, const T* dy, int64_t n,
                       T* sums, int64_t h, int64_t end, const Ahead<T>& ahead, Beside beside = {}) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes;
  V sum[I][K];
  Reach<T, S> at[K];
  const T* row[I];
  for (int p = 0; p < K; ++p) at[p] = reach[p];
  for (int r = 0; r < I; ++r) {
    row[r] = x + (h * f.stride[0] + f.tap[0][i + r]) * f.x[1];
    for (int p = 0; p < K; ++p) sum[r][p] = load(sums + (r * f.window[1] + p) * L);
  }
  const Some<T> lanes = some<T>(0, n);
  if constexpr (I == 3 && K == 3 && kVectorBytes == 64) {  // 32 registers
    // Rows that are neighbours: what the next row of results meets again is not loaded again.
    // No loops here: arrays that GCC 12 meets in loops stay in memory, which took 160 ns a plane of
    // 14x14 instead of 97.
    if (f.stride[0] == S && row[1] - row[0] == f.x[1] && row[2] - row[1] == f.x[1]) {
      using Row = V[3];
      Row above = {}, here = {}, below = {}, first, second, third;
      const T* next = row[0];
      auto move = [](Row& to, const Row& from) __attribute__((always_inline)) {
        to[0] = from[0], to[1] = from[1], to[2] = from[2];
      };
      auto read = [&](Row& to) __attribute__((always_inline)) {
        to[0] = at[0].template read<Whole>(next);
        to[1] = at[1].template read<Whole>(next);
        to[2] = at[2].template read<Whole>(next);
        next += f.x[1];
      };
      auto add = [&](Row& to, const Row& met, V y) __attribute__((always_inline)) {
        to[0] += met[0] * y, to[1] += met[1] * y, to[2] += met[2] * y;
      };
      auto result = [&]() __attribute__((always_inline)) {
        ahead.fetch(h);
        return Whole ? load(dy + h++ * f.y[1]) : load(dy + h++ * f.y[1], lanes);
      };
      // What the next row of results meets again.
      auto pass = [&]() __attribute__((always_inline)) {
        move(above, S == 1 ? here : below);
        if (S == 1) move(here, below);
      };
      move(first, sum[0]), move(second, sum[1]), move(third, sum[2]);
      if (beside.before) {
        --h;
        next += (1 - S) * f.x[1];
        read(here), read(below);
        const V y = result();
        add(second, here, y), add(third, below, y);
        pass();
      } else if (h < end) {
        read(above);
        if (S == 1) read(here);
      }
      while (h < end) {
        if (S == 2) read(here);
        read(below);
        const V y = result();
        add(first, above, y), add(second, here, y), add(third, below, y);
        pass();
      }
      if (beside.behind) {
        if (S == 2) read(here);
        const V y = result();
        add(first, above, y), add(second, here, y);
      }
      move(sum[0], first), move(sum[1], second), move(sum[2], third);
      h = end;
    }
  }
  for (; h < end; ++h) {
    ahead.fetch(h);
    const V y = Whole ? load(dy + h * f.y[1]) : load(dy + h * f.y[1], lanes);
#pragma GCC unroll 3
    for (int r = 0; r < I; ++r) {
#pragma GCC unroll 3
      for (int p = 0; p < K; ++p) sum[r][p] += at[p].template read<Whole>(row[r]) * y;
      row[r] += f.stride[0] * f.x[1];
    }
  }
  for (int r = 0; r < I; ++r)
    for (int p = 0; p < K; ++p) *reinterpret_cast<V*>(sums + (r * f.window[1] + p) * L) = sum[r][p];
}

// I rows of taps: the results that meet rows of the plane with all of them, and those that do with some.
template <class T, int S, int I, int K, bool Whole>
void filter_sums_taps(const Filter& f, const Reach<T, S>* reach, int64_t i, const T* x, const T* dy, int64_t n,
                      T* sums, const Ahead<T>& ahead) {
  int64_t first[I], end[I], from = 0, to = f.y[0];
  for (int r = 0; r < I; ++r) {
    const int64_t tap = f.tap[0][i + r], s = f.stride[0], left = f.x[0] - 1 - tap;
    first[r] = tap >= 0 ? 0 : (s - 1 - tap) / s;
    end[r] = left < 0 ? 0 : left / s + 1 < f.y[0] ? left / s + 1 : f.y[0];
    from = first[r] > from ? first[r] : from;
    to = end[r] < to ? end[r] : to;
  }
  if (from > to) from = to = 0;
  Beside beside;
  if constexpr (I == 3 && K == 3 && kVectorBytes == 64)
    if (f.stride[0] == S && f.tap[0][i + 1] - f.tap[0][i] == 1 && f.tap[0][i + 2] - f.tap[0][i + 1] == 1 && from < to)
      beside = {from == 1 && first[1] == 0, to + 1 == f.y[0] && end[1] == f.y[0]};
  filter_sums_block<T, S, I, K, Whole>(f, reach, i, x, dy, n, sums, from, to, ahead, beside);
  for (int r = 0; I > 1 && r < I; ++r) {
    T* sum = sums + r * f.window[1] * Vec<T>::lanes;
    auto rows = [&](int64_t h, int64_t until) {
      if (h < until) filter_sums_block<T, S, 1, K, Whole>(f, reach, i + r, x, dy, n, sum, h, until, ahead);
    };
    if (!beside.before) rows(first[r], end[r] < from ? end[r] : from);
    if (!beside.behind) rows(first[r] > to ? first[r] : to, end[r]);
  }
}

template <class T, int S>
void filter_sums_rows(const Filter& f, const T* x, const T* dy, T* sum, const T* next_x, const T* next_dy) {
  constexpr int64_t L = Vec<T>::lanes, line = 64 / int64_t(sizeof(T));
  // Each vector of a row of results fetches as many lines of each plane as there are rows, times S x S of x.
  Reach<T, S> reach[kReach];
  for (int64_t q = 0; q < f.y[1]; q += L) {
    const int64_t n = f.y[1] - q < L ? f.y[1] - q : L, w = f.window[1];
    const Ahead<T> ahead{next_x + q / L * f.y[0] * S * S * line, next_dy + q / L * f.y[0] * line, S * S};
    bool whole = true;
    for (int64_t j = 0; j < w; ++j) reach[j].aim(f, q, n, f.tap[1][j]), whole &= reach[j].whole;
    auto taps = [&]<int I, int K>(int64_t i, int64_t j) {
      (whole ? filter_sums_taps<T, S, I, K, true> : filter_sums_taps<T, S, I, K, false>)(
          f, reach + j, i, x, dy + q, n, sum + (i * w + j) * L, ahead);
    };
    for (int64_t i = 0; i < f.window[0];) {
      const bool three = i + 3 <= f.window[0];
      int64_t j = 0;
      for (; j + 3 <= w; j += 3)
        if (three) taps.template operator()<3, 3>(i, j);
        else taps.template operator()<1, 3>(i, j);
      for (; j < w; ++j)
        if (three) taps.template operator()<3, 1>(i, j);
        else taps.template operator()<1, 1>(i, j);
      i += three ? 3 : 1;
    }
  }
}

template <class T>
void filter_sums(const Filter& f, const T* x, const T* dy, T* sum, const T* next_x, const T* next_dy) {
  (f.stride[1] == 1 ? filter_sums_rows<T, 1> : filter_sums_rows<T, 2>)(f, x, dy, sum, next_x, next_dy);
}

template <class T, int K>
void traces_block(T* sums, const int64_t* off, const T* b, const T* c, const Piece* pieces, int64_t count) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes;
  V sum[K];
  const T* from[K];
  for (int p = 0; p < K; ++p) sum[p] = load(sums + p * L), from[p] = b + off[p];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = pieces[i].from;
    const T* to = c + pieces[i].to;
    if (int n = pieces[i].n; n == L) {
      const V y = load(to);
#pragma GCC unroll 12
      for (int p = 0; p < K; ++p) sum[p] += load(from[p] + at) * y;
    } else {
      const V y = load_part(to, n);
#pragma GCC unroll 12
      for (int p = 0; p < K; ++p) sum[p] += load_part(from[p] + at, n) * y;
    }
  }
  for (int p = 0; p < K; ++p) *reinterpret_cast<V*>(sums + p * L) = sum[p];
}

// Nine at once: a window of 3 x 3 in one pass.
template <class T>
void traces(int64_t k, T* sum, const int64_t* off, const T* b, const T* c, const Piece* pieces, int64_t count) {
  constexpr int L = Vec<T>::lanes;
  int64_t p = 0;
  for (; p + 9 <= k; p += 9) traces_block<T, 9>(sum + p * L, off + p, b, c, pieces, count);
  for (; p + 4 <= k; p += 4) traces_block<T, 4>(sum + p * L, off + p, b, c, pieces, count);
  for (; p < k; ++p) traces_block<T, 1>(sum + p * L, off + p, b, c, pieces, count);
}

}  // namespace
}  // namespace knet::cpu::KNET_ISA
