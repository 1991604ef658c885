// place: lifetimes to offsets.
//
// A value lives from the kernel that writes it to the last that reads it. Where a kernel may write over a value
// that it is the last to read, both are one piece of memory: an accumulation of a hundred slices stays in one
// place, and all of it in the result's own buffer if it ends in a result. The pieces are then packed into one
// arena.
#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>

#include "plan/views.h"

namespace knet {

namespace {

constexpr uint32_t kNowhere = kNone - 1;  // for a piece: the value is not made at all
constexpr int64_t kAlign = 64;  // a cache line, and the widest vector

int64_t aligned(int64_t bytes, int64_t to = kAlign) { return (bytes + to - 1) / to * to; }

// Memory that holds one value after another, each written over the one before.
struct Piece {
  int64_t bytes = 0;
  uint32_t birth = 0, death = 0;  // kernels, both included
  int32_t output = -1;
  uint32_t gifts = 0, n_gifts = 0;  // in Placer::gifts_: inputs whose memory the first value may be written to
  int64_t offset = 0;
  uint32_t whole = kNone;  // the piece of which it is a part, at `offset`
};

// Free memory between pieces, by offset: a few dozen holes, so that looking at all of them is quicker than a tree.
class Holes {
 public:
  // Room for so many bytes, from the smallest hole that has it and of these the lowest; -1: there is none.
  int64_t take(int64_t bytes) {
    constexpr int64_t kLarge = std::numeric_limits<int64_t>::max();
    int64_t best = kLarge;
    Hole* from = nullptr;
    for (Hole& h : list_) {
      const bool better = h.bytes >= bytes && h.bytes < best;
      best = better ? h.bytes : best;
      from = better ? &h : from;
    }
    if (!from) return -1;
    const int64_t at = from->offset;
    *from = {at + bytes, best - bytes};
    if (from->bytes == 0) list_.erase(from, from + 1);
    return at;
  }
  // The end of what is taken, if everything ends at `top`: a hole just below is gone.
  int64_t lower(int64_t top) {
    if (list_.empty() || list_.back().offset + list_.back().bytes != top) return top;
    const int64_t at = list_.back().offset;
    list_.pop_back();
    return at;
  }
  // A hole, joined with those that it touches.
  void give(int64_t offset, int64_t bytes) {
    Hole* after = list_.begin();
    for (size_t n = list_.size(); n > 0;) {  // by halving
      const size_t half = (n + 1) / 2;
      const bool below = after[half - 1].offset < offset;
      after = below ? after + half : after;
      n = below ? n - half : half - 1;
    }
    const bool joins_before = after != list_.begin() && after[-1].offset + after[-1].bytes == offset;
    const bool joins_after = after != list_.end() && after->offset == offset + bytes;
    if (joins_before && joins_after) {
      after[-1].bytes += bytes + after->bytes;
      list_.erase(after, after + 1);
    } else if (joins_before) {
      after[-1].bytes += bytes;
    } else if (joins_after) {
      *after = {offset, bytes + after->bytes};
    } else {
      list_.insert(after, {offset, bytes});
    }
  }

 private:
  struct Hole {
    int64_t offset, bytes;
  };
  List<Hole> list_;
};

// In order of time: each piece goes into the smallest hole that fits, or on top.
int64_t pack_in_time(List<Piece>& pieces, const List<uint32_t>& which, uint32_t n_kernels) {
  List<uint32_t> ending(which), first(n_kernels + 1, 0);
  for (uint32_t p : which) ++first[pieces[p].death + 1];
  for (uint32_t k = 0; k < n_kernels; ++k) first[k + 1] += first[k];
  auto at = first;
  for (uint32_t p : which) ending[at[pieces[p].death]++] = p;
  Holes holes;
  int64_t top = 0, most = 0;
  size_t next = 0;
  for (uint32_t k = 0; k < n_kernels; ++k) {
    size_t from = next;
    while (next < which.size() && pieces[which[next]].birth == k) ++next;
    for (size_t i = from; i < next; ++i) {  // the largest first: `which` is sorted so
      Piece& p = pieces[which[i]];
      p.offset = holes.take(p.bytes);
      if (p.offset >= 0) continue;
      p.offset = top = holes.lower(top);
      top += p.bytes;
      most = std::max(most, top);
    }
    for (uint32_t i = first[k]; i < first[k + 1]; ++i) holes.give(pieces[ending[i]].offset, pieces[ending[i]].bytes);
  }
  return most;
}

// The largest first, each as low as those that are alive with it allow. Tighter, but O(n^2). Into `offsets`, in the
// order of `which`.
int64_t pack_by_size(const List<Piece>& pieces, const List<uint32_t>& which, List<int64_t>& offsets) {
  struct Placed {
    int64_t offset, end;
    uint32_t birth, death;
  };
  List<uint32_t> order(which.size());
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    const int64_t m = pieces[which[a]].bytes, n = pieces[which[b]].bytes;
    return m != n ? m > n : a < b;
  });
  List<Placed> placed;  // by offset
  placed.reserve(which.size());
  offsets.resize(which.size());
  int64_t most = 0;
  for (uint32_t i : order) {
    const Piece& p = pieces[which[i]];
    int64_t at = 0;
    for (const Placed& q : placed) {  // no jump depends on who is alive when: it would be guessed wrong half of the time
      const bool together = (q.death >= p.birth) & (p.death >= q.birth);
      if (together & (at + p.bytes <= q.offset)) break;
      at = together ? std::max(at, q.end) : at;
    }
    offsets[i] = at;
    most = std::max(most, at + p.bytes);
    const Placed here{at, at + p.bytes, p.birth, p.death};
    placed.insert(std::upper_bound(placed.begin(), placed.end(), here,
                                   [](const Placed& a, const Placed& b) { return a.offset < b.offset; }), here);
  }
  return most;
}

class Placer {
 public:
  explicit Placer(const Schedule& s) : s_(s), g_(s.graph) {}

  Placement run() {
    out_.places.resize(g_.values.size());
    out_.scratch.assign(s_.kernels.size(), 0);
    numbers();
    lifetimes();
    pieces();
    pack();
    return std::move(out_);
  }

 private:
  const Schedule& s_;
  const Graph& g_;
  Placement out_;
  List<uint32_t> last_;     // root -> the last kernel that reads it (or writes it, if none reads); kNone: none
  List<int32_t> output_;    // root -> the first result that is it, or -1
  List<uint32_t> piece_of_; // root -> piece
  List<Piece> pieces_;
  List<uint32_t> gifts_;    // inputs, see Piece::gifts
  List<uint32_t> taken_by_; // piece -> the kernel that wrote it last
  int64_t frame_ = 0;              // bytes of bound numbers at the start of the arena

  uint32_t root(uint32_t v) const { return s_.views[v].root; }

  void numbers() {
    int64_t kept = 0;
    auto slot = [&](uint32_t v, Place::What what, uint32_t index, int64_t& end) {
      int64_t size = int64_t(itemsize(g_.values[v].dtype));
      end = aligned(end, size);
      out_.places[v] = {what, index, end};
      end += size;
    };
    for (size_t i = 0; i < g_.inputs.size(); ++i) out_.places[g_.inputs[i]] = {Place::Input, uint32_t(i), 0};
    for (size_t i = 0; i < g_.scalars.size(); ++i) slot(g_.scalars[i], Place::ScalarSlot, uint32_t(i), frame_);
    uint32_t constants = 0;
    for (const Graph::Node& n : g_.nodes)
      if (n.op == Op::constant) slot(n.out, Place::Constant, constants++, kept);
    frame_ = aligned(frame_);
  }

  void lifetimes() {
    last_.assign(g_.values.size(), kNone);
    output_.assign(g_.values.size(), -1);
    for (size_t k = 0; k < s_.kernels.size(); ++k) {
      for (uint32_t v : s_.out(s_.kernels[k])) last_[v] = uint32_t(k);
      for (uint32_t v : s_.in(s_.kernels[k])) last_[root(v)] = uint32_t(k);
    }
    for (size_t j = g_.outputs.size(); j-- > 0;) output_[root(g_.outputs[j])] = int32_t(j);
  }

  // May output o of the kernel take the memory of its input i? The device says whether it can be done; here,
  // whether it is the same bytes and nobody else looks.
  bool may_take(const Kernel& kernel, size_t o, size_t i) const {
    const auto in = s_.in(kernel);
    const uint32_t v = s_.out(kernel)[o], u = in[i], r = root(u);
    if (itemsize(g_.values[v].dtype) != itemsize(g_.values[r].dtype)) return false;
    if (g_.values[v].shape.size() != g_.values[r].shape.size() || !is_whole(s_.views[u], g_)) return false;
    for (size_t j = 0; j < in.size(); ++j)
      if (j != i && root(in[j]) == r) return false;
    if (const TileProgram* p = kernel.tile()) {
      // Point by point: both in C order over the whole space; and the value is not needed after its place is written.
      if (p->outputs[o].what != TileProgram::Output::Store || p->inputs[i].cls != Reg::Full) return false;
      if (!std::equal(p->inputs[i].stride, p->inputs[i].stride + p->dims.rank, p->outputs[o].stride) &&
          !(p->dims.rank == 1 && p->dims[0] == 1))
        return false;
      const size_t writer = p->outputs[o].reg - p->inputs.size();
      for (size_t n = writer + 1; n < p->instrs.size(); ++n)
        for (int j = 0; j < p->instrs[n].n_src; ++j)
          if (p->instrs[n].src[j] == i) return false;
      for (const auto& other : p->outputs)
        if (other.reg == i) return false;
    }
    return kernel.step->may_alias(int(o), int(i));
  }

  // What is written early has few inputs to take (later instructions read the others): it chooses first.
  static List<uint32_t> in_order_of_writing(const Kernel& kernel) {
    List<uint32_t> order(kernel.n_out);
    std::iota(order.begin(), order.end(), 0u);
    if (const TileProgram* p = kernel.tile(); p && kernel.n_out > 1)
      std::ranges::stable_sort(order, {}, [p](uint32_t o) { return p->outputs[o].reg; });
    return order;
  }

  void pieces() {
    piece_of_.assign(g_.values.size(), kNone);
    // Concatenations that are written part by part: alive from the first part on. A part may be one as well.
    List<std::pair<uint32_t, int64_t>> part_of(s_.joined.empty() ? 0 : g_.values.size(), {kNone, 0});
    for (const Joined& j : s_.joined) {
      Piece p;
      p.bytes = aligned(g_.values[j.whole].bytes());
      p.birth = kNone;
      p.death = last_[j.whole] == kNone ? 0 : last_[j.whole];
      p.output = output_[j.whole];
      piece_of_[j.whole] = uint32_t(pieces_.size());
      for (const Joined::Part& part : j.parts) part_of[part.value] = {uint32_t(pieces_.size()), part.offset};
      pieces_.push_back(p);
      taken_by_.push_back(kNone);
    }
    for (const Joined& j : s_.joined) std::tie(pieces_[piece_of_[j.whole]].whole, pieces_[piece_of_[j.whole]].offset) = part_of[j.whole];
    List<int32_t> input_of(g_.values.size(), -1);
    for (size_t i = 0; i < g_.inputs.size(); ++i) input_of[g_.inputs[i]] = int32_t(i);
    for (uint32_t k = 0; k < s_.kernels.size(); ++k) {
      const Kernel& kernel = s_.kernels[k];
      const auto in = s_.in(kernel), out = s_.out(kernel);
      for (size_t o : in_order_of_writing(kernel)) {
        const uint32_t v = out[o];
        const int64_t bytes = g_.values[v].bytes();
        const bool part = !part_of.empty() && part_of[v].first != kNone;
        if (last_[v] == k && output_[v] < 0 && !part && kernel.step->may_skip(int(o))) {
          piece_of_[v] = kNowhere;
          continue;
        }
        uint32_t taken = kNone;
        const uint32_t gifts = uint32_t(gifts_.size());
        for (size_t i = 0; bytes > 0 && i < in.size() && taken == kNone; ++i) {
          const uint32_t r = root(in[i]);
          if (last_[r] != k || output_[r] >= 0) continue;
          const bool made = piece_of_[r] != kNone;
          // A part stays what it is as long as the whole is needed.
          if (made && (pieces_[piece_of_[r]].whole != kNone || taken_by_[piece_of_[r]] == kNone)) continue;
          // Another result of this kernel may have taken it already.
          if (made ? taken_by_[piece_of_[r]] == k : input_of[r] < 0) continue;
          if (!may_take(kernel, o, i)) continue;
          if (made) taken = piece_of_[r];
          else gifts_.push_back(uint32_t(input_of[r]));
        }
        if (taken == kNone) {
          taken = uint32_t(pieces_.size());
          Piece p;
          p.bytes = aligned(bytes);
          p.birth = k;
          p.gifts = gifts;
          p.n_gifts = uint32_t(gifts_.size()) - gifts;
          pieces_.push_back(p);
          taken_by_.push_back(k);
        }
        piece_of_[v] = taken;
        Piece& p = pieces_[taken];
        p.death = std::max(p.death, last_[v]);
        if (output_[v] >= 0) p.output = output_[v];
        taken_by_[taken] = k;
        if (part) std::tie(p.whole, p.offset) = part_of[v];
      }
    }
    for (const Piece& p : pieces_)
      for (uint32_t w = p.whole; w != kNone; w = pieces_[w].whole) {
        pieces_[w].birth = std::min(pieces_[w].birth, p.birth);
        pieces_[w].death = std::max(pieces_[w].death, p.death);
      }
  }

  void pack() {
    const size_t n_values = pieces_.size();
    List<uint32_t> kernels_with_scratch;
    for (uint32_t k = 0; k < s_.kernels.size(); ++k)
      if (size_t b = s_.kernels[k].step->scratch_bytes) {
        Piece p;
        p.bytes = aligned(int64_t(b));
        p.birth = p.death = k;
        pieces_.push_back(p);
        kernels_with_scratch.push_back(k);
      }
    const uint32_t n = uint32_t(s_.kernels.size());
    // In the order of their births, and of those the largest first.
    List<uint32_t> at(n + 1, 0);
    const auto lies_here = [](const Piece& p) { return p.output < 0 && p.bytes > 0 && p.whole == kNone; };
    for (const Piece& p : pieces_)
      if (lies_here(p)) ++at[p.birth + 1];
    for (uint32_t k = 0; k < n; ++k) at[k + 1] += at[k];
    List<uint32_t> in_arena(at[n]);
    for (uint32_t i = 0; i < pieces_.size(); ++i)
      if (lies_here(pieces_[i])) in_arena[at[pieces_[i].birth]++] = i;
    for (uint32_t k = 0, from = 0; k < n; from = at[k++])
      if (at[k] > from + 1)
        std::sort(in_arena.begin() + from, in_arena.begin() + at[k], [&](uint32_t a, uint32_t b) {
          return pieces_[a].bytes != pieces_[b].bytes ? pieces_[a].bytes > pieces_[b].bytes : a < b;
        });
    List<int64_t> change(n + 1, 0);
    for (uint32_t i : in_arena) {
      change[pieces_[i].birth] += pieces_[i].bytes;
      change[pieces_[i].death + 1] -= pieces_[i].bytes;
    }
    int64_t live = 0, most_live = 0;
    for (int64_t c : change) most_live = std::max(most_live, live += c);

    int64_t bytes = pack_in_time(pieces_, in_arena, n);
    // Packing in time is within 6 % of the floor on random lifetimes; by size it is within 2 %, but it took 2.5 ms for
    // 1200 pieces (Zen 5, a busy machine). So it is tried only where the first wastes much and there are few.
    // And it must gain more than a few pages: a tree of 25 leaves has 80 pieces in 33 kB, and its plan serves once.
    constexpr size_t kFew = 500;
    constexpr int64_t kLittle = 16 << 10;
    if (bytes - most_live > std::max(most_live / 32, kLittle) && in_arena.size() <= kFew) {
      List<int64_t> offsets;
      const int64_t b = pack_by_size(pieces_, in_arena, offsets);
      if (b < bytes) {
        bytes = b;
        for (size_t i = 0; i < in_arena.size(); ++i) pieces_[in_arena[i]].offset = offsets[i];
      }
    }
    out_.arena_bytes = frame_ + bytes;
    out_.live_bytes = frame_ + most_live;
    for (size_t i = 0; i < kernels_with_scratch.size(); ++i)
      out_.scratch[kernels_with_scratch[i]] = frame_ + pieces_[n_values + i].offset;
    for (uint32_t v = 0; v < piece_of_.size(); ++v) {
      if (piece_of_[v] == kNowhere) continue;
      if (piece_of_[v] == kNone) {
        // Never computed: an input, a number, or empty.
        if (root(v) == v && out_.places[v].what == Place::None && output_[v] >= 0)
          out_.places[v] = {Place::Output, uint32_t(output_[v]), 0};
        else if (root(v) == v && out_.places[v].what == Place::None)
          out_.places[v] = {Place::Arena, 0, frame_};
        continue;
      }
      uint32_t p = piece_of_[v];
      int64_t from = 0;
      for (; pieces_[p].whole != kNone; p = pieces_[p].whole) from += pieces_[p].offset;
      const Piece& whole = pieces_[p];
      if (whole.output >= 0) out_.places[v] = {Place::Output, uint32_t(whole.output), from};
      else out_.places[v] = {Place::Arena, 0, frame_ + whole.offset + from};
    }
    for (const Piece& p : pieces_)
      if (p.output >= 0 && p.whole == kNone)
        for (uint32_t i = 0; i < p.n_gifts; ++i) out_.gifts.push_back({uint32_t(p.output), gifts_[p.gifts + i]});
  }
};

}  // namespace

Placement place(const Schedule& s) { return Placer(s).run(); }

std::string Placement::text(const Schedule& s) const {
  std::string t = "arena " + std::to_string(arena_bytes) + " bytes, alive at once " + std::to_string(live_bytes) + "\n";
  auto line = [&](uint32_t v) {
    const Place& p = places[v];
    t += "v" + std::to_string(v) + ": " + std::to_string(s.graph.values[v].bytes()) + " bytes ";
    switch (p.what) {
      case Place::None: t += "nowhere"; break;
      case Place::Input: t += "in input " + std::to_string(p.index); break;
      case Place::ScalarSlot: t += "number " + std::to_string(p.index); break;
      case Place::Constant: t += "constant " + std::to_string(p.index); break;
      case Place::Arena: t += "at " + std::to_string(p.offset); break;
      case Place::Output:
        t += "in result " + std::to_string(p.index);
        for (const char* link = ", if nobody else holds it over input "; const Gift& gift : gifts)
          if (gift.output == p.index) t += std::exchange(link, " or ") + std::to_string(gift.input);
        break;
    }
    t += "\n";
  };
  for (const Kernel& k : s.kernels)
    for (uint32_t v : s.out(k)) line(v);
  return t;
}

}  // namespace knet
