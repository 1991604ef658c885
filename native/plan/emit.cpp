// A kernel for each group: a tile program of its nodes, or the Step that its only node is.
#include <algorithm>
#include <utility>

#include "plan/groups.h"

namespace knet {

namespace {

// While a tile program is made, registers of instructions carry this bit; they are numbered after the inputs at the
// end.
constexpr uint16_t kInstr = 0x8000;

// Adjacent dimensions become one where every operand steps through them evenly; rows and what is in a row stay apart.
void collapse(TileProgram& p, const Shape& space, int split) {
  split = std::max(split, 0);
  int w = -1, rows = 0;
  // Does each point have its place in it?
  auto strided = [&](const TileProgram::Output& o) {
    if (o.what == TileProgram::Output::ReduceSome) return true;
    return o.what == TileProgram::Output::Store &&
           (o.reg < p.inputs.size() ? p.inputs[o.reg].cls : p.instrs[o.reg - p.inputs.size()].cls) == Reg::Full;
  };
  p.dims.rank = 0;
  for (int i = 0; i < space.rank; ++i) {
    const int64_t d = space[i];
    bool joins = w >= 0 && (i != split || split == 0);
    for (const auto& in : p.inputs) {
      if (!joins) break;
      if (in.cls == Reg::Scalar || (in.cls == Reg::Row && i >= split)) continue;
      joins = in.stride[w] == in.stride[i] * d;
    }
    for (const auto& o : p.outputs) joins = joins && (!strided(o) || o.stride[w] == o.stride[i] * d);
    if (!joins) {
      ++w;
      p.dims.dim[w] = 1;
      rows += i < split;
    }
    p.dims.dim[w] *= d;
    for (auto& in : p.inputs) in.stride[w] = in.stride[i];
    for (auto& o : p.outputs) o.stride[w] = o.stride[i];
  }
  p.dims.rank = w + 1;
  p.split = rows;
  if (w < 0) p.dims = Shape{1};
  for (auto& o : p.outputs) {
    std::fill(o.stride + (strided(o) ? p.dims.rank : 0), o.stride + kMaxRank, 0);
    if (o.what != TileProgram::Output::Store || strided(o)) continue;
    int64_t s = 1;
    for (int i = p.split; i-- > 0; s *= p.dims[i]) o.stride[i] = s;
  }
}

class Emitter {
 public:
  Emitter(const Groups& made, Device& device)
      : made_(made), g_(made.graph), views_(made.views), values_(made.values), groups_(made.groups), device_(device),
        named_(values_.size()) {}

  Schedule run() {
    Schedule s;
    auto order = ordered();
    s.kernels.reserve(order.size());
    s.words.reserve(g_.nodes.size() + made_.reads.size());
    for (uint32_t k : order) {
      if (groups_[k].nothing) continue;
      Kernel kernel;
      nodes_.clear(), in_.clear(), out_.clear();
      for (uint32_t i = groups_[k].first_node; i != kNone; i = made_.next_node[i]) nodes_.push_back(i);
      if (groups_[k].tile && !is_lone_reduction(groups_[k])) {
        emit(k);
        if (out_.empty()) continue;
        kernel.step = device_.tile(program_);
      } else {
        kernel.step = emit_step(g_.nodes[nodes_[0]]);
      }
      kernel.at = uint32_t(s.words.size());
      kernel.n_nodes = uint32_t(nodes_.size());
      kernel.n_in = uint32_t(in_.size());
      kernel.n_out = uint32_t(out_.size());
      for (auto* words : {&nodes_, &in_, &out_}) s.words.insert(s.words.end(), words->begin(), words->end());
      s.kernels.push_back(std::move(kernel));
    }
    return s;
  }

 private:
  // The tile program being made.
  struct Emit {
    uint32_t group;
    int split;   // space[split:] is a row; -1: no rows
    bool again;  // some nodes may be there twice
    bool point;  // the space has one point only: everything is Full
    Shape space;
    TileProgram* p;
  };
  // The register that holds a value, in the kernel of a group.
  struct Named {
    uint16_t reg = 0;
    uint32_t in = kNone;
  };

  const Groups& made_;
  const Graph& g_;
  const List<View>& views_;
  const List<Value>& values_;
  const List<Group>& groups_;
  Device& device_;
  List<Named> named_;
  List<uint32_t> nodes_, in_, out_;  // of the kernel being made
  TileProgram program_;              // if it is one
  List<Layout> in_layouts_, out_layouts_;

  // Program order, except that what is read comes before: a kernel stands where its last node stood, or just before
  // its first reader.
  List<uint32_t> ordered() {
    List<uint32_t> by_order, done, stack;
    // Groups of one order, which only those can have that consist of additions to the graph, are lists.
    List<uint32_t> first(g_.nodes.size(), kNone), other(groups_.size());
    for (uint32_t k = uint32_t(groups_.size()); k-- > 0;)
      if (made_.find(k) == k) other[k] = std::exchange(first[groups_[k].order], k);
    by_order.reserve(groups_.size());
    for (uint32_t k : first)
      for (; k != kNone; k = other[k]) by_order.push_back(k);
    done.reserve(by_order.size());
    constexpr uint32_t kListed = kNone - 1;
    // Per group: which of its reads is looked at next; kListed when the group is in `done`.
    List<uint32_t> next(groups_.size());
    for (uint32_t k : by_order) next[k] = groups_[k].first_read;
    for (uint32_t top : by_order) {
      stack.assign(1, top);
      while (!stack.empty()) {
        uint32_t k = stack.back();
        if (next[k] == kListed) {
          stack.pop_back();
        } else if (next[k] == kNone) {
          next[k] = kListed;
          done.push_back(k);
          stack.pop_back();
        } else {
          Read r = made_.reads[next[k]];
          next[k] = r.next;
          uint32_t maker = values_[made_.root(r.value)].group;
          if (maker != kNone && next[maker = made_.find(maker)] != kListed) stack.push_back(maker);
        }
      }
    }
    return done;
  }

  // A reduction that nothing went with: the Step for it reads memory as fast as it can be read, and sums of float32 are
  // double from the first element on.
  bool is_lone_reduction(const Group& g) const {
    return nodes_.size() == 1 && g.n_reads == 1 && info(g_.nodes[nodes_[0]].op).kind == Kind::Reduce;
  }

  std::shared_ptr<const Step> emit_step(const Graph::Node& n) {
    in_layouts_.clear();
    out_layouts_.clear();
    for (uint32_t u : g_.in(n)) in_.push_back(u);
    for (uint32_t o = 0; o < n.n_out; ++o) out_.push_back(n.out + o);
    if (n.op == Op::concatenate && appends(n)) {
      const auto vector = [&](uint32_t v) {
        return Layout::contiguous(views_[v].layout.dtype, Shape{views_[v].layout.shape.size()});
      };
      for (uint32_t u : in_) in_layouts_.push_back(vector(u));
      out_layouts_.push_back(vector(n.out));
      const int64_t axis = 0;
      return device_.step(n.op, out_layouts_, in_layouts_, {&axis, 1});
    }
    for (uint32_t u : in_) in_layouts_.push_back(views_[u].layout);
    for (uint32_t v : out_) out_layouts_.push_back(views_[v].layout);
    return device_.step(n.op, out_layouts_, in_layouts_, g_.attr(n));
  }

  // A concatenation along the outermost axis of contiguous parts is one of vectors: seen so, more of them are the same.
  bool appends(const Graph::Node& n) const {
    for (int64_t d = 0; d < g_.attr(n)[0]; ++d)
      if (made_.shape(n.out)[int(d)] != 1) return false;
    return views_[n.out].layout.is_contiguous() &&
           std::ranges::all_of(g_.in(n), [&](uint32_t u) { return views_[u].layout.is_contiguous(); });
  }

  void emit(uint32_t k) {
    const Group& g = groups_[k];
    TileProgram& p = program_;
    p.inputs.clear(), p.instrs.clear(), p.outputs.clear();
    std::sort(nodes_.begin(), nodes_.end());
    const int split = g.fixed_rows() < 0 ? -1 : dims_of(g.space, g.rows);
    Emit e{k, split, made_.is_added(nodes_.back()), g.space.rank == 0, g.space, &p};
    for (uint32_t i : nodes_) {
      const Graph::Node& n = g_.nodes[i];
      if (info(n.op).kind == Kind::Reduce) emit_reduction(e, i);
      else emit_map(e, i, values_[n.out].cls == Class::Row ? Reg::Row : Reg::Full);
    }
    for (uint32_t i : nodes_) {
      const Graph::Node& n = g_.nodes[i];
      const Value& x = values_[n.out];
      if (!x.stored) continue;
      TileProgram::Output o{};
      o.reg = named_[n.out].reg;
      o.dtype = g_.values[n.out].dtype;
      o.reduce = n.op;
      bool reduced = info(n.op).kind == Kind::Reduce && !(x.cls == Class::Row && e.split >= 0);
      if (reduced) o.what = end_of_reduction(e, n, o.stride);
      else operand_strides(views_[n.out].layout, made_.shape(n.out), e.space, o.stride);
      p.outputs.push_back(o);
      out_.push_back(n.out);
    }
    const uint16_t n_in = uint16_t(p.inputs.size());
    auto number = [&](uint16_t& r) { if (r & kInstr) r = uint16_t(n_in + (r & ~kInstr)); };
    for (auto& o : p.outputs) number(o.reg);
    for (auto& in : p.instrs)
      for (int j = 0; j < in.n_src; ++j) number(in.src[j]);
    collapse(p, g.space, e.split);
  }

  // How the kernel ends in reduction n; for one over some axes, the strides of what is left.
  TileProgram::Output::What end_of_reduction(const Emit& e, const Graph::Node& n, int64_t* stride) const {
    const Reduction how = made_.classify(n);
    if (how.what == Reduction::All) return TileProgram::Output::ReduceAll;
    if (how.what == Reduction::Columns && how.rows == groups_[e.group].rows) return TileProgram::Output::ReduceCols;
    const Shape& s = made_.shape(g_.in(n)[0]);
    Layout left = Layout::contiguous(g_.values[n.out].dtype, s);
    bool reduced[kMaxRank] = {};
    AttrReader attr{g_.attr(n)};
    for (int64_t a : attr.ints()) reduced[a] = true;
    int64_t step = 1;
    for (int i = s.rank; i-- > 0;) {
      left.stride[i] = reduced[i] ? 0 : step;
      step *= reduced[i] ? 1 : s[i];
    }
    operand_strides(left, s, e.space, stride);
    return TileProgram::Output::ReduceSome;
  }

  Reg class_of(const Emit& e, uint16_t r) const {
    return r & kInstr ? e.p->instrs[r & ~kInstr].cls : e.p->inputs[r].cls;
  }

  DType type_of(const Emit& e, uint16_t r) const {
    return r & kInstr ? e.p->instrs[r & ~kInstr].to : e.p->inputs[r].dtype;
  }

  static bool same(const TileProgram::Instr& a, const TileProgram::Instr& b) {
    return a.what == b.what && a.op == b.op && a.dtype == b.dtype && a.to == b.to && a.cls == b.cls &&
           std::equal(a.src, a.src + a.n_src, b.src, b.src + b.n_src);
  }

  uint16_t map(Emit& e, Op op, DType from, DType to, Reg cls, std::span<const uint16_t> src) {
    TileProgram::Instr in{};
    in.what = TileProgram::Instr::Map;
    in.op = op;
    in.dtype = from;
    in.to = to;
    in.cls = cls;
    in.n_src = uint8_t(src.size());
    std::copy(src.begin(), src.end(), in.src);
    if (e.again)
      for (size_t k = 0; k < e.p->instrs.size(); ++k)
        if (same(e.p->instrs[k], in)) return uint16_t(kInstr | k);
    e.p->instrs.push_back(in);
    return uint16_t(kInstr | (e.p->instrs.size() - 1));
  }

  uint16_t input(Emit& e, uint32_t u, const Shape& reading) {
    TileProgram::Input in;
    in.dtype = g_.values[u].dtype;
    std::fill(in.stride, in.stride + kMaxRank, 0);
    operand_strides(views_[u].layout, reading, e.space, in.stride);
    auto zero = [&](int a, int b) {
      return std::all_of(in.stride + a, in.stride + b, [](int64_t s) { return s == 0; });
    };
    in.cls = e.point ? Reg::Full : zero(0, e.space.rank) ? Reg::Scalar
             : e.split >= 0 && zero(e.split, e.space.rank) ? Reg::Row : Reg::Full;
    const View& view = views_[u];
    for (size_t j = 0; j < e.p->inputs.size(); ++j) {
      const View& other = views_[in_[j]];
      if (other.root != view.root || other.offset != view.offset) continue;
      if (other.dynamic.size() != view.dynamic.size()) continue;
      bool same = std::equal(in.stride, in.stride + e.space.rank, e.p->inputs[j].stride);
      for (size_t d = 0; same && d < view.dynamic.size(); ++d)
        same = view.dynamic[d].scalar == other.dynamic[d].scalar && view.dynamic[d].stride == other.dynamic[d].stride;
      if (same) return uint16_t(j);
    }
    in_.push_back(u);
    e.p->inputs.push_back(in);
    return uint16_t(e.p->inputs.size() - 1);
  }

  uint16_t operand(Emit& e, uint32_t u, uint32_t node) {
    const uint32_t r = made_.root(u);
    const Value& x = values_[r];
    Named& named = named_[r];
    if (named.in == e.group) return named.reg;
    if (x.state == State::Free) {  // made of free values only: not deep
      emit_map(e, g_.maker[r], Reg::Scalar);
      return named.reg;
    }
    if (x.group == kNone || made_.find(x.group) != e.group) return input(e, u, made_.reading_shape(node));
    // Made here, but by a node that was added after its reader was recorded.
    emit_map(e, g_.maker[r], x.cls == Class::Row ? Reg::Row : Reg::Full);
    return named.reg;
  }

  void emit_map(Emit& e, uint32_t i, Reg cls) {
    const Graph::Node& n = g_.nodes[i];
    if (named_[n.out].in == e.group) return;
    uint16_t src[4];
    auto in = g_.in(n);
    for (size_t j = 0; j < in.size(); ++j) src[j] = operand(e, in[j], i);
    DType from = g_.values[in[info(n.op).rule == DTypeRule::Where ? 1 : 0]].dtype;
    named_[n.out] = {map(e, n.op, from, g_.values[n.out].dtype, e.point ? Reg::Full : cls, {src, in.size()}), e.group};
  }

  void emit_reduction(Emit& e, uint32_t i) {
    const Graph::Node& n = g_.nodes[i];
    DType t = g_.values[n.out].dtype;
    uint16_t src = operand(e, g_.in(n)[0], i);
    // Sums of bool and small integers, any and all work in the type of the result; and only Full registers are reduced.
    if (type_of(e, src) != t || class_of(e, src) != Reg::Full)
      src = map(e, Op::cast, type_of(e, src), t, Reg::Full, {&src, 1});
    if (values_[n.out].cls == Class::Row && e.split >= 0) {
      TileProgram::Instr in{};
      in.what = TileProgram::Instr::RowReduce;
      in.op = n.op;
      in.dtype = in.to = t;
      in.cls = Reg::Row;
      in.n_src = 1;
      in.src[0] = src;
      e.p->instrs.push_back(in);
      src = uint16_t(kInstr | (e.p->instrs.size() - 1));
    }
    named_[n.out] = {src, e.group};
  }
};

}  // namespace

Schedule emit(Groups&& groups, Device& device) {
  Schedule s = Emitter(groups, device).run();
  s.graph = std::move(groups.graph);
  s.views = std::move(groups.views);
  s.joined = std::move(groups.joined);
  return s;
}

}  // namespace knet
