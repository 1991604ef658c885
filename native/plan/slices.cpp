#include "plan/slices.h"

#include <algorithm>

namespace knet {

namespace {

class Pusher : Rebuilder {
 public:
  using Rebuilder::Rebuilder;

  Graph run() {
    if (!find()) return std::move(g_);
    for (const auto& n : g_.nodes) {
      if (n.n_out == 1 && only_cut_[n.out]) continue;  // made slice by slice
      if (n.op == Op::slice && only_cut_[g_.in(n)[0]]) {
        starts_.clear();
        for (uint32_t v : g_.in(n).subspan(1)) starts_.push_back(map_[v]);
        map_[n.out] = cut(g_.in(n)[0], g_.attr(n), n.line);
        continue;
      }
      keep(n);
    }
    return prune(finish());
  }

 private:
  std::vector<uint32_t> starts_;  // of the slice that is being pushed, in out_
  std::vector<bool> only_cut_;  // value: elementwise, and read by slices alone, of no more elements than it has

  bool find() {
    only_cut_.assign(g_.values.size(), false);
    std::vector<int64_t> left(g_.values.size());  // elements that slices may still take; negative: some other reader
    for (size_t v = 0; v < left.size(); ++v) left[v] = g_.values[v].shape.size();
    std::vector<bool> cut(g_.values.size());
    for (uint32_t v : g_.outputs) left[v] = -1;
    bool any = false;
    for (size_t i = g_.nodes.size(); i-- > 0;) {
      const auto& n = g_.nodes[i];
      const auto in = g_.in(n);
      bool pushed = false;
      if (info(n.op).kind == Kind::Elementwise && cut[n.out] && left[n.out] >= 0 && n.n_attr <= 1) {
        only_cut_[n.out] = pushed = any = true;
      }
      for (size_t j = 0; j < in.size(); ++j) {
        const uint32_t v = in[j];
        if (n.op == Op::slice && j == 0) {
          cut[v] = true;
          left[v] -= g_.values[n.out].shape.size();
        } else if (pushed && g_.values[v].shape == g_.values[n.out].shape) {
          cut[v] = true;  // its slices are those of the result
          left[v] -= left[v] >= 0 ? g_.values[v].shape.size() : 0;
        } else {
          left[v] = -1;
        }
      }
    }
    return any;
  }

  // The slice [axes, lengths, steps] from starts_ on of value v of g_.
  uint32_t cut(uint32_t v, std::span<const int64_t> attrs, int32_t line) {
    const auto& n = g_.made(v);
    if (!only_cut_[v]) return slice(v, g_.values[v].shape, attrs, line);
    std::vector<uint32_t> in;
    for (uint32_t u : g_.in(n))
      in.push_back(only_cut_[u] ? cut(u, attrs, line) : slice(u, g_.values[v].shape, attrs, line));
    return out_.add(n.op, in, g_.attr(n), n.line);
  }

  // The same slice of an operand, which may be broadcast along some of the axes of the result's shape.
  uint32_t slice(uint32_t v, const Shape& shape, std::span<const int64_t> attrs, int32_t line) {
    const Shape& s = g_.values[v].shape;
    AttrReader read{attrs};
    const auto axes = read.ints(), lengths = read.ints(), steps = read.ints();
    std::vector<uint32_t> in{map_[v]};
    std::vector<int64_t> a, l, st;
    for (size_t k = 0; k < axes.size(); ++k) {
      const int axis = int(axes[k]) - (shape.rank - s.rank);
      if (axis < 0 || s[axis] != shape[int(axes[k])]) continue;
      in.push_back(starts_[k]);
      a.push_back(axis), l.push_back(lengths[k]), st.push_back(steps[k]);
    }
    if (a.empty()) return map_[v];
    std::vector<int64_t> words;
    for (auto* list : {&a, &l, &st}) {
      words.push_back(int64_t(list->size()));
      words.insert(words.end(), list->begin(), list->end());
    }
    return out_.add(Op::slice, in, words, line);
  }
};

}  // namespace

Graph push_slices(Graph g) {
  // Most plans have no elementwise result of which slices alone are read: that is all there is to see.
  const auto cuts = [&](const Graph::Node& n) {
    return n.op == Op::slice && info(g.made(g.in(n)[0]).op).kind == Kind::Elementwise;
  };
  if (std::ranges::none_of(g.nodes, cuts)) return g;
  List<uint8_t> sliced(g.values.size()), otherwise(g.values.size());
  for (const auto& n : g.nodes) {
    const bool cut = n.op == Op::slice;
    if (cut) sliced[g.in(n)[0]] = true;
    for (uint32_t v : g.in(n).subspan(cut)) otherwise[v] = true;
  }
  for (uint32_t v : g.outputs) otherwise[v] = true;
  for (const auto& n : g.nodes)
    if (sliced[n.out] && !otherwise[n.out] && info(n.op).kind == Kind::Elementwise) return Pusher(std::move(g)).run();
  return g;
}

void join_slices(Graph& g) {
  List<uint32_t> uses;
  struct Part {
    int64_t start, length;
    uint32_t value;
  };
  const auto fixed = [&](const Graph::Node& n) {
    return n.op == Op::slice_add && n.n_in > 2 && g.made(g.in(n)[2]).op == Op::constant;
  };
  if (std::ranges::none_of(g.nodes, fixed)) return;
  List<int64_t> filled(g.values.size());  // elements of the axis that are put in place by the chain that ends in a value
  for (const auto& n : g.nodes)
    if (n.op == Op::slice_add) filled[n.out] = filled[g.in(n)[0]] + g.values[g.in(n)[1]].shape[int(g.attr(n)[1])];
  for (size_t i = g.nodes.size(); i-- > 0;) {
    if (g.nodes[i].op != Op::slice_add) continue;
    if (filled[g.nodes[i].out] != g.values[g.nodes[i].out].shape[int(g.attr(g.nodes[i])[1])]) continue;
    if (uses.empty()) {
      uses.resize(g.values.size());
      for (const auto& n : g.nodes)
        for (uint32_t v : g.in(n)) ++uses[v];
      for (uint32_t v : g.outputs) ++uses[v];
    }
    // From the last of the chain down to the zeros.
    const int64_t axis = g.attr(g.nodes[i])[1];
    List<Part> parts;
    uint32_t v = g.nodes[i].out;
    int64_t left = g.values[v].shape[int(axis)];
    bool good = true;
    for (; good && g.made(v).op == Op::slice_add; v = g.in(g.made(v))[0]) {
      const auto& n = g.made(v);
      const auto a = g.attr(n);
      good = (v == g.nodes[i].out || uses[v] == 1) && a[0] == 1 && a[1] == axis && a[3] == 1 &&
             g.made(g.in(n)[2]).op == Op::constant;
      if (!good) break;
      const uint32_t part = g.in(n)[1];
      parts.push_back({g.attr(g.made(g.in(n)[2]))[1], g.values[part].shape[int(axis)], part});
      left -= parts.back().length;
    }
    if (!good || left || parts.size() < 2) continue;
    const auto& zeros = g.made(v);
    if (zeros.op != Op::broadcast_to) continue;
    const auto& zero = g.made(g.in(zeros)[0]);
    if (zero.op != Op::constant || g.attr(zero)[1] != 0) continue;
    std::ranges::sort(parts, {}, &Part::start);
    int64_t end = 0;
    for (const Part& p : parts) {
      good = good && p.start == end;
      end += p.length;
    }
    if (!good || end != g.values[v].shape[int(axis)]) continue;
    auto& n = g.nodes[i];
    n.op = Op::concatenate;
    n.in_at = uint32_t(g.ins.size());
    n.n_in = uint16_t(parts.size());
    n.attr_at = uint32_t(g.attrs.size());
    n.n_attr = 1;
    for (const Part& p : parts) g.ins.push_back(p.value);
    g.attrs.push_back(axis);
  }
}

}  // namespace knet
