// batch: independent operations of one signature, run as one.
//
// The nodes of the graph are emitted again in a new order. Products of matrices are `seeds`: one that is available waits
// in the bucket of its signature (operation, shapes, the matrix that it shares with others). When nothing is left to do but
// such, the bucket with the longest way to go is fired: all its products run as one, over their operands stacked. So the
// products of a recurrence run as soon as they can, one by one, and the hundred products of an output layer, which
// nobody waits for, when all of them are there: as one. The nodes of a tree are fired level by level.
//
// What follows a group is drawn in: as long as all members have alike consumers (a bias, a softmax, its derivative), these
// become one operation on the stack as well. Small elementwise operations on members are seeds themselves.
//
// All other nodes are emitted when somebody asks for their values, so that what belongs together stays together.
//
// A sum of many products, as the gradient of a shared matrix is, becomes one product with a long inner dimension; sums of
// column sums, of members of stacks, and chains of scatters are joined likewise. This changes the order in which numbers are
// added up, by the plan alone: the same program gives the same bits.
#include <algorithm>
#include <utility>

#include "plan/pipeline.h"
#include "plan/products.h"
#include "plan/slices.h"

namespace knet {

namespace {

constexpr uint32_t kNone = ~0u;
// Members below this size are batched wherever they occur: a kernel on so few elements costs more to plan and to start than
// to run. Above it a group must be worth more than the fusions that it may break.
constexpr int64_t kSmallBytes = 8 << 10;
// Products above this (in multiply-adds) keep all cores busy on their own; stacking them gains nothing unless it is free.
constexpr int64_t kLargeProduct = int64_t(1) << 26;
// How many alike nodes are looked for through their operands when a stack of them is asked for.
constexpr int kLiftDepth = 8;
// Operands of a node that may become one of a group.
constexpr int kMostOperands = 8;

using Values = List<uint32_t>;

// From a number of 64 bits to one of 32, kNone if there is none yet. Open addressing.
class Table {
 public:
  uint32_t& operator[](uint64_t key) {
    if (2 * count_ >= slots_.size()) grow();
    Slot& s = find(key);
    if (!s.used) s = {key, kNone, true}, ++count_;
    return s.value;
  }

 private:
  struct Slot {
    uint64_t key;
    uint32_t value;
    bool used = false;
  };
  List<Slot> slots_;
  size_t count_ = 0;
  Slot& find(uint64_t key) {
    const size_t mask = slots_.size() - 1;
    size_t i = (key * 0x9e3779b97f4a7c15ull >> 32) & mask;
    while (slots_[i].used && slots_[i].key != key) i = (i + 1) & mask;
    return slots_[i];
  }
  void grow() {
    const List<Slot> old = std::exchange(slots_, List<Slot>(std::max<size_t>(64, 2 * slots_.size())));
    for (const Slot& s : old)
      if (s.used) find(s.key) = s;
  }
};

class Batcher {
 public:
  Batcher(Graph g, std::string* told) : g_(std::move(g)), told_(told) {}

  Graph run() {
    prepare();
    for (uint32_t i = 0; i < g_.nodes.size(); ++i)
      if (missing_[i] == 0) arrive(i);
    settle();
    for (;;) {
      uint32_t next = kNone;
      for (uint32_t b : waiting_)
        if (next == kNone || bucket_list_[b].height > bucket_list_[next].height) next = b;
      if (next == kNone) break;
      erase_if(waiting_, [&](uint32_t b) { return b == next; });
      Values nodes = std::exchange(bucket_list_[next], {}).nodes;
      erase_if(nodes, [&](uint32_t i) { return done_[i]; });
      if (!nodes.empty()) fire(std::move(nodes));
      settle();
    }
    for (const auto& n : g_.nodes)
      if (n.op == Op::leaf || n.op == Op::scalar) value(n.out);
    for (uint32_t v : g_.outputs) out_.outputs.push_back(value(v));
    for (uint32_t v : g_.inputs) out_.inputs.push_back(map_[v]);
    for (uint32_t v : g_.scalars) out_.scalars.push_back(map_[v]);
    return std::move(out_);
  }

 private:
  Graph g_, out_;
  std::string* told_;

  struct Use {
    uint32_t node, at;  // operand `at` of the node
  };
  struct Bucket {
    Values nodes;
    uint32_t height = 0;
  };
  struct Seat {
    uint32_t stack = kNone, at = 0;
  };
  struct Stack {
    uint32_t value;  // of out_: as many elements as (count, *shape of a member), in this order
    uint32_t count;
    uint32_t seen = kNone;  // the same under the shape that was asked for last
  };
  struct Term {
    enum What : uint8_t { Product, Columns, Other } what;
    uint32_t value;
  };

  List<uint32_t> map_;       // value of g_ -> value of out_; kNone: not made, or only as part of a stack
  List<Seat> seat_;          // value of g_ -> where it is in a stack
  List<Stack> stacks_;
  List<uint32_t> use_at_;    // value of g_ -> its uses are uses_[use_at_[v] .. use_at_[v + 1])
  List<Use> uses_;
  List<uint32_t> height_;    // node -> longest way to the end
  List<uint32_t> missing_;   // node -> operands that are not available yet
  List<uint8_t> available_;  // node: could be emitted now, or has been
  List<uint8_t> done_;       // node: emitted, or part of something that is
  List<uint8_t> result_;     // value of g_: asked for
  Table buckets_;                   // signature -> of bucket_list_
  List<Bucket> bucket_list_;
  Values waiting_;                  // buckets that are not empty
  Values arrived_;
  Values on_right_, on_left_;       // value of g_ -> products in which it is the right-hand (left-hand) matrix
  Values role_;                     // node -> a sum, sums_[role], or the end of a chain of scatters, scatters_[role - kScatters]
  List<List<Term>> sums_;           // what each adds up
  List<Values> scatters_;           // each chain, first to last
  List<uint8_t> absorbed_;   // node: computed as part of a sum
  Values summed_in_;                // value of g_ -> the sum of products in which it is a right-hand matrix, or kNone
  Values reshaped_, transposed_;    // value of out_ -> a reshape, the transpose of it; kNone or beyond the end: none yet
  Table numbers_;                   // integer -> constant of out_
  struct Lifted {
    Values of;
    uint32_t stack, next;           // value of out_; another that begins with the same value, or kNone
  };
  List<Lifted> lifted_;
  Values lifted_at_;                // value of g_ -> the latest of lifted_ that begins with it, or kNone
  static constexpr uint32_t kScatters = 1u << 31;

  const List<Term>* sum_at(uint32_t i) const { return role_[i] < kScatters ? &sums_[role_[i]] : nullptr; }
  const Values* scatters_at(uint32_t i) const {
    return role_[i] >= kScatters && role_[i] != kNone ? &scatters_[role_[i] - kScatters] : nullptr;
  }

  // ------------------------------------------------------------------------------------------ before

  const Spec& spec(uint32_t v) const { return g_.values[v]; }
  std::span<const Use> uses(uint32_t v) const { return {uses_.data() + use_at_[v], use_at_[v + 1] - use_at_[v]}; }
  bool once(uint32_t v) const { return use_at_[v + 1] - use_at_[v] == 1 && !result_[v]; }
  bool small(uint32_t v) const { return spec(v).bytes() <= kSmallBytes; }

  void prepare() {
    const size_t n_values = g_.values.size(), n_nodes = g_.nodes.size();
    map_.assign(n_values, kNone);
    seat_.resize(n_values);
    result_.assign(n_values, false);
    for (uint32_t v : g_.outputs) result_[v] = true;
    use_at_.assign(n_values + 1, 0);
    for (const auto& n : g_.nodes)  // (there may be words in `ins` that no node has any longer)
      for (uint32_t v : g_.in(n)) ++use_at_[v + 1];
    for (size_t v = 0; v < n_values; ++v) use_at_[v + 1] += use_at_[v];
    uses_.resize(g_.ins.size());
    Values at(use_at_.begin(), use_at_.end() - 1);
    missing_.assign(n_nodes, 0);
    for (uint32_t i = 0; i < n_nodes; ++i) {
      const auto in = g_.in(g_.nodes[i]);
      missing_[i] = uint32_t(in.size());
      for (uint32_t j = 0; j < in.size(); ++j) uses_[at[in[j]]++] = {i, j};
    }
    available_.assign(n_nodes, false);
    done_.assign(n_nodes, false);
    absorbed_.assign(n_nodes, false);
    summed_in_.assign(n_values, kNone);
    role_.assign(n_nodes, kNone);
    lifted_at_.assign(n_values, kNone);
    on_right_.assign(n_values, 0);
    on_left_.assign(n_values, 0);
    for (const auto& n : g_.nodes)
      if (is_plain_product(g_, n)) {
        ++on_right_[g_.in(n)[1]];
        ++on_left_[g_.in(n)[0]];
      }
    find_sums();
    find_scatters();
    // A chain of additions is one step.
    height_.assign(n_nodes, 0);
    for (size_t i = n_nodes; i-- > 0;)
      for (uint32_t v : g_.in(g_.nodes[i]))
        height_[g_.maker[v]] = std::max(height_[g_.maker[v]], height_[i] + !absorbed_[i]);
    out_.reserve(g_, 1.3);
  }

  // Sums of many terms of one shape, of which the partial sums have no other reader.
  void find_sums() {
    Values stack;
    for (uint32_t i = uint32_t(g_.nodes.size()); i-- > 0;) {
      const auto& n = g_.nodes[i];
      if (n.op != Op::add || absorbed_[i] || !is_float(spec(n.out).dtype)) continue;
      List<Term> terms;
      Values inner;
      uint32_t products = 0, columns = 0;
      stack.assign({g_.in(n)[1], g_.in(n)[0]});
      while (!stack.empty()) {
        const uint32_t v = stack.back();
        stack.pop_back();
        const auto& m = g_.made(v);
        const bool alone = once(v) && spec(v).shape == spec(n.out).shape;
        if (m.op == Op::add && alone && !absorbed_[g_.maker[v]]) {
          inner.push_back(g_.maker[v]);
          stack.push_back(g_.in(m)[1]);
          stack.push_back(g_.in(m)[0]);
        } else if (alone && is_plain_product(g_, m)) {
          terms.push_back({Term::Product, v});
          ++products;
        } else if (alone && sums_columns(m)) {
          terms.push_back({Term::Columns, v});
          ++columns;
        } else {
          terms.push_back({Term::Other, v});
        }
      }
      if (terms.size() < kManyProducts) continue;
      for (Term& t : terms) {
        if (t.what == Term::Product && products < kManyProducts) t.what = Term::Other;
        if (t.what == Term::Columns && columns < kManyProducts) t.what = Term::Other;
        if (t.what != Term::Other) absorbed_[g_.maker[t.value]] = true;
        if (t.what == Term::Product) summed_in_[right(t.value)] = i;
      }
      for (uint32_t k : inner) absorbed_[k] = true;
      role_[i] = uint32_t(sums_.size());
      sums_.push_back(std::move(terms));
    }
  }

  // A sum over the leading axes.
  bool sums_columns(const Graph::Node& n) const {
    const auto a = g_.attr(n);
    if (n.op != Op::sum || a[size_t(a[0]) + 1] || a[0] == 0) return false;
    for (int64_t k = 0; k < a[0]; ++k)
      if (a[size_t(k) + 1] != k) return false;
    return spec(n.out).dtype == spec(g_.in(n)[0]).dtype && spec(n.out).shape.rank > 0;
  }

  // scatter_add(scatter_add(x, v, i), w, j), rows at a vector of indices.
  bool scatters_rows(const Graph::Node& n) const {
    return n.op == Op::scatter_add && n.n_in == 3 && g_.attr(n)[0] == 1 && g_.attr(n)[1] == 0 && g_.attr(n)[2] == 0 &&
           spec(g_.in(n)[2]).shape.rank == 1;
  }
  void find_scatters() {
    for (uint32_t i = uint32_t(g_.nodes.size()); i-- > 0;) {
      if (!scatters_rows(g_.nodes[i]) || absorbed_[i]) continue;
      Values chain{i};
      for (;;) {
        const auto& n = g_.nodes[chain.back()];
        const uint32_t x = g_.in(n)[0];
        const auto& m = g_.made(x);
        if (!once(x) || !scatters_rows(m) || !(spec(g_.in(m)[1]).shape == spec(g_.in(n)[1]).shape)) break;
        chain.push_back(g_.maker[x]);
      }
      if (chain.size() < kManyProducts) continue;
      std::ranges::reverse(chain);
      for (size_t k = 0; k + 1 < chain.size(); ++k) absorbed_[chain[k]] = true;
      role_[i] = kScatters + uint32_t(scatters_.size());
      scatters_.push_back(std::move(chain));
    }
  }

  // ------------------------------------------------------------------------------------------ what is available

  void arrive(uint32_t i) {
    if (!available_[i]) arrived_.push_back(i);
  }
  void provide(uint32_t i) {  // its results are there, or can be had
    if (available_[i]) return;
    available_[i] = true;
    const auto& n = g_.nodes[i];
    for (uint32_t k = 0; k < n.n_out; ++k)
      for (Use u : uses(n.out + k))
        if (--missing_[u.node] == 0) arrive(u.node);
  }
  void settle() {
    while (!arrived_.empty()) {
      const uint32_t i = arrived_.back();
      arrived_.pop_back();
      if (available_[i] || done_[i]) continue;
      const uint64_t s = absorbed_[i] ? 0 : signature(i);
      if (!s) {
        provide(i);
        continue;
      }
      uint32_t& at = buckets_[s];
      if (at == kNone) {
        at = uint32_t(bucket_list_.size());
        bucket_list_.emplace_back();
      }
      Bucket& b = bucket_list_[at];
      if (b.nodes.empty()) waiting_.push_back(at);
      b.nodes.push_back(i);
      b.height = std::max(b.height, height_[i] + 1);
    }
  }

  static uint64_t mix(uint64_t h, uint64_t x) {
    h = (h ^ x) * 0xd6e8feb86659fd93ull;
    return h ^ h >> 32;
  }
  uint64_t mix(uint64_t h, const Spec& s) const {
    h = mix(h, uint64_t(s.dtype));
    for (int64_t d : s.shape) h = mix(h, uint64_t(d) + 1);
    return h;
  }

  // What nodes of one bucket have in common; 0: no seed.
  uint64_t signature(uint32_t i) const {
    const auto& n = g_.nodes[i];
    uint64_t h = mix(0x9e3779b97f4a7c15ull, uint64_t(n.op));
    if (is_plain_product(g_, n)) {
      const uint32_t a = g_.in(n)[0], b = g_.in(n)[1];
      const bool right = on_right_[b] >= kManyProducts || (on_right_[b] > 1 && small(a));
      const bool left = !right && spec(b).shape[1] == 1 && on_left_[a] > 1;
      if (right) return mix(mix(mix(h, b), spec(a)), 1) | 1;
      if (left) return mix(mix(mix(h, a), spec(b)), 2) | 1;
      return 0;
    }
    if (n.op == Op::gather && gathers_rows(n)) return mix(mix(h, g_.in(n)[0]), spec(g_.in(n)[1])) | 1;
    // What can run on a stack, on small members of stacks.
    if (!small(n.out) || n.n_out != 1 || n.n_in == 0 || n.n_in > kMostOperands || n.op == Op::cast) return 0;
    if (const Kind k = info(n.op).kind; k != Kind::Elementwise && k != Kind::Reduce && n.op != Op::take_along_axis) return 0;
    bool member = false;
    for (uint32_t v : g_.in(n)) member |= seat_[v].stack != kNone;
    if (!member) return 0;
    for (uint32_t v : g_.in(n)) h = is_given(v) ? mix(h, v) : mix(h, spec(v));
    for (int64_t a : g_.attr(n)) h = mix(h, uint64_t(a));
    return h | 1;
  }
  bool is_given(uint32_t v) const {
    const Op op = g_.made(v).op;
    return op == Op::leaf || op == Op::scalar || op == Op::constant;
  }

  // ------------------------------------------------------------------------------------------ single values

  uint32_t number(int64_t i) {
    uint32_t& v = numbers_[uint64_t(i)];
    if (v == kNone) v = out_.constant({.i = i}, DType::I64);
    return v;
  }
  // The view of v that was made last, for it is often asked for again.
  static uint32_t& last(Values& views, uint32_t v) {
    if (v >= views.size()) views.resize(v + 1 + v / 2, kNone);
    return views[v];
  }
  uint32_t reshape(uint32_t v, const Shape& s, int32_t line) {
    if (out_.made(v).op == Op::reshape) v = out_.in(out_.made(v))[0];
    if (out_.values[v].shape == s) return v;
    uint32_t& known = last(reshaped_, v);
    if (known == kNone || !(out_.values[known].shape == s)) {
      Spec to = out_.values[v];
      to.shape = s;
      known = out_.add(Op::reshape, {&v, 1}, ShapeWords(s), {&to, 1}, line);
    }
    return known;
  }
  uint32_t transpose(uint32_t v, int32_t line) {
    const auto& made = out_.made(v);
    if (made.op == Op::transpose && out_.attr(made)[0] == 2) return out_.in(made)[0];  // one that moves nothing is no node
    uint32_t& known = last(transposed_, v);
    if (known == kNone) {
      Spec to = out_.values[v];
      std::swap(to.shape[0], to.shape[1]);
      const int64_t attrs[] = {2, 1, 0};
      known = out_.add(Op::transpose, {&v, 1}, attrs, {&to, 1}, line);
    }
    return known;
  }
  // Rows from .. from + count - 1.
  uint32_t rows(uint32_t v, int64_t from, int64_t count, int32_t line) {
    Spec to = out_.values[v];
    if (from == 0 && count == to.shape[0]) return v;
    to.shape[0] = count;
    const uint32_t in[] = {v, number(from)};
    const int64_t attrs[] = {1, 0, 1, count, 1, 1};
    return out_.add(Op::slice, in, attrs, {&to, 1}, line);
  }

  // The value of out_ for a value of g_ that is available.
  uint32_t value(uint32_t v) {
    if (map_[v] == kNone && seat_[v].stack == kNone) demand(g_.maker[v]);
    if (map_[v] == kNone) {
      const int32_t line = g_.made(v).line;
      const uint32_t row = rows(seen_as(seat_[v].stack, spec(v).shape, line), seat_[v].at, 1, line);
      map_[v] = reshape(row, spec(v).shape, line);
    }
    return map_[v];
  }

  // Emits a node, and before it what it needs, in the old order.
  void demand(uint32_t node) {
    if (done_[node]) return;
    const auto had = [&](uint32_t v) { return map_[v] != kNone || seat_[v].stack != kNone; };
    if (role_[node] == kNone && std::ranges::all_of(g_.in(g_.nodes[node]), had)) {
      done_[node] = true;
      return emit(node);
    }
    Values todo{node}, list;
    while (!todo.empty()) {
      const uint32_t i = todo.back();
      todo.pop_back();
      if (done_[i]) continue;
      done_[i] = true;
      list.push_back(i);
      const auto need = [&](uint32_t v) {
        if (!had(v)) todo.push_back(g_.maker[v]);
      };
      if (const auto* terms = sum_at(i)) {
        for (const Term& t : *terms)
          if (t.what == Term::Other) need(t.value);
          else for (uint32_t v : g_.in(g_.made(t.value))) need(v);
      } else if (const Values* chain = scatters_at(i)) {
        need(g_.in(g_.nodes[chain->front()])[0]);
        for (uint32_t k : *chain) need(g_.in(g_.nodes[k])[1]), need(g_.in(g_.nodes[k])[2]);
      } else {
        for (uint32_t v : g_.in(g_.nodes[i])) need(v);
      }
    }
    std::ranges::sort(list);
    for (uint32_t i : list) emit(i);
  }

  void emit(uint32_t i) {
    const auto& n = g_.nodes[i];
    if (role_[i] != kNone) return role_[i] < kScatters ? emit_sum(i) : emit_scatters(i);
    if (same_memory(n) && map_[g_.in(n)[0]] == kNone) {  // a member seen under another shape
      seat_[n.out] = seat_[g_.in(n)[0]];
      return;
    }
    uint32_t few[kMostOperands];
    Values many(n.n_in > kMostOperands ? n.n_in : 0);
    const std::span in(many.empty() ? few : many.data(), n.n_in);
    for (uint32_t j = 0; j < n.n_in; ++j) in[j] = value(g_.in(n)[j]);
    const uint32_t o = out_.add(n.op, in, g_.attr(n), {g_.values.data() + n.out, n.n_out}, n.line);
    for (uint32_t k = 0; k < n.n_out; ++k) map_[n.out + k] = o + k;
  }

  // A reshape, or a transpose that moves nothing.
  bool same_memory(const Graph::Node& n) const {
    if (n.op == Op::reshape) return true;
    if (n.op != Op::transpose) return false;
    const Shape& from = spec(g_.in(n)[0]).shape;
    int64_t last = -1;
    for (int64_t axis : g_.attr(n).subspan(1)) {
      if (from[int(axis)] == 1) continue;
      if (axis < last) return false;
      last = axis;
    }
    return true;
  }

  // ------------------------------------------------------------------------------------------ stacks

  // Are these members of one stack, one after the other?
  bool in_order(const Values& vs) const {
    const Seat first = seat_[vs[0]];
    if (first.stack == kNone) return false;
    for (size_t i = 1; i < vs.size(); ++i)
      if (seat_[vs[i]].stack != first.stack || seat_[vs[i]].at != first.at + i) return false;
    return true;
  }
  static bool all_same(const Values& vs) {
    return std::ranges::all_of(vs, [&](uint32_t v) { return v == vs[0]; });
  }
  Shape stacked_shape(size_t count, const Shape& s) const {
    Shape r{int64_t(count)};
    for (int64_t d : s) r.push(d);
    return r;
  }

  // The values as one of shape (count, *shape), copied together if they are not.
  uint32_t stacked(const Values& vs) {
    const Shape shape = spec(vs[0]).shape, want = stacked_shape(vs.size(), shape);
    const int32_t line = g_.made(vs[0]).line;
    if (in_order(vs)) {
      const Seat first = seat_[vs[0]];
      return rows(seen_as(first.stack, shape, line), first.at, int64_t(vs.size()), line);
    }
    // Pieces: runs of neighbours in a stack, and single values, joined along a new first axis.
    Values pieces;
    pieces.reserve(vs.size());
    for (size_t i = 0; i < vs.size();) {
      size_t end = i + 1;
      const Seat first = seat_[vs[i]];
      while (first.stack != kNone && end < vs.size() && seat_[vs[end]].stack == first.stack &&
             seat_[vs[end]].at == first.at + (end - i))
        ++end;
      if (first.stack != kNone && (end - i > 1 || map_[vs[i]] == kNone))
        pieces.push_back(rows(seen_as(first.stack, shape, line), first.at, int64_t(end - i), line));
      else
        pieces.push_back(reshape(value(vs[i]), stacked_shape(1, shape), line));
      i = end;
    }
    const int64_t axis[] = {0};
    Spec joined = spec(vs[0]);
    joined.shape = want;
    const uint32_t c = out_.add(Op::concatenate, pieces, axis, {&joined, 1}, line);
    take_seats(vs, c, false);
    return c;
  }

  // A stack whose members are seen under another shape.
  uint32_t seen_as(uint32_t stack, const Shape& member, int32_t line) {
    Stack& s = stacks_[stack];
    const Shape want = stacked_shape(s.count, member);
    if (s.seen == kNone || !(out_.values[s.seen].shape == want)) s.seen = reshape(s.value, want, line);
    return s.seen;
  }

  void take_seats(const Values& vs, uint32_t stack, bool first_home) {
    stacks_.push_back({stack, uint32_t(vs.size())});
    for (uint32_t i = 0; i < vs.size(); ++i)
      if (first_home || seat_[vs[i]].stack == kNone) seat_[vs[i]] = {uint32_t(stacks_.size() - 1), i};
  }

  // The same for operands of a group: what makes small operands is batched as well, if it is alike.
  uint32_t lifted(const Values& vs, int depth = 0) {
    if (in_order(vs)) return stacked(vs);
    for (uint32_t k = lifted_at_[vs[0]]; k != kNone; k = lifted_[k].next)
      if (lifted_[k].of == vs) return lifted_[k].stack;
    uint32_t c = kNone;
    if (depth < kLiftDepth) {
      const Values makers = fresh_makers(vs);
      if (!makers.empty()) c = together(makers, depth + 1);
    }
    if (c == kNone) {
      c = stacked(vs);
    } else {
      take_seats(vs, c, true);
      c = reshape(c, stacked_shape(vs.size(), spec(vs[0]).shape), g_.made(vs[0]).line);
      for (uint32_t v : vs) done_[g_.maker[v]] = true;
    }
    lifted_.push_back({vs, c, lifted_at_[vs[0]]});
    lifted_at_[vs[0]] = uint32_t(lifted_.size() - 1);
    return c;
  }

  // The nodes that make these, if they are alike, wait for somebody to ask for them, and cost nothing to batch: small, or
  // elementwise.
  Values fresh_makers(const Values& vs) const {
    if (!small(vs[0]) && info(g_.made(vs[0]).op).kind != Kind::Elementwise) return {};
    Values makers;
    makers.reserve(vs.size());
    for (uint32_t v : vs) {
      const uint32_t i = g_.maker[v];
      if (done_[i] || is_given(v) || absorbed_[i] || role_[i] != kNone) return {};
      makers.push_back(i);
    }
    return alike(makers) ? makers : Values{};
  }

  // Do the nodes differ in nothing but their operands?
  bool alike(const Values& nodes) const {
    const auto& n = g_.nodes[nodes[0]];
    if (n.n_out != 1) return false;
    for (uint32_t i : nodes) {
      const auto& m = g_.nodes[i];
      if (m.op != n.op || m.n_in != n.n_in || m.n_out != 1 || !std::ranges::equal(g_.attr(m), g_.attr(n))) return false;
      if (!(spec(m.out).shape == spec(n.out).shape) || spec(m.out).dtype != spec(n.out).dtype) return false;
      for (uint32_t j = 0; j < n.n_in; ++j) {
        const Spec &a = spec(g_.in(m)[j]), &b = spec(g_.in(n)[j]);
        if (a.dtype != b.dtype || !(a.shape == b.shape)) return false;
      }
    }
    return true;
  }
  Values operands(const Values& nodes, size_t j) const {
    Values vs;
    vs.reserve(nodes.size());
    for (uint32_t i : nodes) vs.push_back(g_.in(g_.nodes[i])[j]);
    return vs;
  }

  // ------------------------------------------------------------------------------------------ one for many

  // Can a node of this kind run on a stack, given which operands are shared by all?
  bool stackable(const Graph::Node& n, std::span<const bool> same) const {
    switch (info(n.op).kind) {
      case Kind::Elementwise: return spec(n.out).shape.rank < kMaxRank;
      case Kind::Contraction: {
        if (!is_plain_product(g_, n)) return false;
        return same[1] || (same[0] && spec(g_.in(n)[1]).shape[1] == 1);
      }
      default: break;
    }
    if (spec(n.out).shape.rank >= kMaxRank - 1 || same[0]) return n.op == Op::gather && same[0] && gathers_rows(n);
    switch (n.op) {
      case Op::sum: case Op::prod: case Op::max: case Op::min: case Op::any: case Op::all:
      case Op::reshape: case Op::transpose: case Op::broadcast_to:
        return spec(g_.in(n)[0]).shape.rank < kMaxRank - 1;
      case Op::take_along_axis: return !same[1];
      default: return false;
    }
  }
  bool gathers_rows(const Graph::Node& n) const {
    return n.n_in == 2 && g_.attr(n)[0] == 1 && g_.attr(n)[1] == 0 && g_.attr(n)[2] == 0 &&
           spec(g_.in(n)[1]).shape.rank == 1;
  }

  // One node for all of these (alike). It makes their results one after the other: (count, *shape of a result) under this or
  // another shape. kNone: that cannot be.
  uint32_t together(const Values& nodes, int depth = 0) {
    const Graph::Node n = g_.nodes[nodes[0]];
    const int64_t count = int64_t(nodes.size());
    bool same[kMostOperands];
    if (n.n_in > kMostOperands || n.n_in == 0) return kNone;
    Values in[kMostOperands];
    bool any = false;
    for (size_t j = 0; j < n.n_in; ++j) {
      in[j] = operands(nodes, j);
      same[j] = all_same(in[j]);
      any |= !same[j];
    }
    if (!any || !stackable(n, {same, n.n_in})) return kNone;
    Values now;
    now.reserve(n.n_in);
    for (size_t j = 0; j < n.n_in; ++j) now.push_back(same[j] ? value(in[j][0]) : lifted(in[j], depth));
    const Spec one = spec(n.out);
    Spec all = one;
    all.shape = stacked_shape(size_t(count), one.shape);
    List<int64_t> attrs(g_.attr(n).begin(), g_.attr(n).end());

    if (info(n.op).kind == Kind::Elementwise) {
      for (size_t j = 0; j < n.n_in; ++j) {
        const Shape& s = spec(in[j][0]).shape;
        if (same[j] || s.rank == one.shape.rank) continue;
        Shape wide{count};
        for (int i = s.rank; i < one.shape.rank; ++i) wide.push(1);
        for (int64_t d : s) wide.push(d);
        now[j] = reshape(now[j], wide, n.line);
      }
      return out_.add(n.op, now, attrs, {&all, 1}, n.line);
    }
    switch (n.op) {
      case Op::matmul: return product(n, now, same[1], count, all);
      case Op::gather: {
        const int64_t each = spec(in[1][0]).shape[0];
        now[1] = reshape(now[1], Shape{count * each}, n.line);
        Spec flat = one;
        flat.shape[0] *= count;
        return out_.add(n.op, now, attrs, {&flat, 1}, n.line);
      }
      case Op::reshape: return now[0];
      case Op::broadcast_to: {
        const Shape& s = spec(in[0][0]).shape;
        Shape wide{count};
        for (int i = s.rank; i < one.shape.rank; ++i) wide.push(1);
        for (int64_t d : s) wide.push(d);
        now[0] = reshape(now[0], wide, n.line);
        attrs.assign(1, all.shape.rank);
        attrs.insert(attrs.end(), all.shape.begin(), all.shape.end());
        break;
      }
      case Op::transpose:
        for (size_t k = 1; k < attrs.size(); ++k) ++attrs[k];
        attrs.insert(attrs.begin() + 1, 0);
        ++attrs[0];
        break;
      case Op::take_along_axis: ++attrs[0]; break;
      default:  // reductions: the number of axes, the axes, keepdims
        for (int64_t k = 0; k < attrs[0]; ++k) ++attrs[size_t(k) + 1];
    }
    return out_.add(n.op, now, attrs, {&all, 1}, n.line);
  }

  // a @ w for many a: one product of all their rows. w @ x for many columns x: the rows x^T @ w^T.
  uint32_t product(const Graph::Node& n, const Values& in, bool right, int64_t count, const Spec& all) {
    const Shape &a = spec(g_.in(n)[0]).shape, &b = spec(g_.in(n)[1]).shape;
    const int64_t m = right ? a[0] : 1, k = a[1], columns = right ? b[1] : a[0];
    Values now = in;
    now[0] = reshape(right ? in[0] : in[1], Shape{count * m, k}, n.line);
    now[1] = right ? in[1] : transpose(in[0], n.line);
    Spec flat = all;
    flat.shape = Shape{count * m, columns};
    return out_.add(Op::matmul, now, {}, {&flat, 1}, n.line);
  }

  void tell(const Values& nodes) {
    if (!told_) return;
    const auto& n = g_.nodes[nodes[0]];
    *told_ += std::to_string(nodes.size()) + " of " + info(n.op).name + " " + name(spec(n.out).dtype) +
              str(spec(n.out).shape) + " run as one\n";
  }

  // ------------------------------------------------------------------------------------------ groups

  void fire(Values nodes) {
    std::ranges::sort(nodes);
    if (nodes.size() > 1 && alike(nodes) && worthwhile(nodes)) {
      for (size_t j = 0; j < g_.nodes[nodes[0]].n_in; ++j) stack_for_sum(operands(nodes, j));
      by_seat(nodes);
      if (run_together(nodes)) {
        if (!small(g_.nodes[nodes[0]].out)) extend(nodes);  // what follows small ones are seeds
        return;
      }
    }
    for (uint32_t i : nodes) {
      demand(i);
      provide(i);
    }
  }

  bool worthwhile(const Values& nodes) const {
    const auto& n = g_.nodes[nodes[0]];
    if (!is_plain_product(g_, n)) {
      if (nodes.size() >= kManyProducts) return true;
      for (size_t j = 0; j < n.n_in; ++j) {  // few: only if nothing must be copied together
        const Values in = operands(nodes, j);
        if (!all_same(in) && !in_order(in)) return false;
      }
      return true;
    }
    const Shape &a = spec(g_.in(n)[0]).shape, &y = spec(n.out).shape;
    return a[0] * a[1] * y[1] <= kLargeProduct;
  }

  // Values that are about to be stacked, and will be wanted as a stack, together with others, by a sum of products: that
  // stack is made now.
  void stack_for_sum(const Values& vs) {
    const uint32_t sum = summed_in_[vs[0]];
    if (sum == kNone || all_same(vs)) return;
    if (!std::ranges::all_of(vs, [&](uint32_t v) { return summed_in_[v] == sum && seat_[v].stack == kNone; })) return;
    Values list;
    for (const Term& t : *sum_at(sum))
      if (t.what == Term::Product) list.push_back(t.value);
    if (list.empty()) return;  // it has been computed
    in_sum_order(list);
    Values all;
    for (uint32_t v : list) all.push_back(right(v));
    for (uint32_t v : all)
      if (!(spec(v).shape == spec(vs[0]).shape) || !available_[g_.maker[v]] || seat_[v].stack != kNone) return;
    stacked(all);
  }

  // In the order in which their operands lie in a stack already.
  void by_seat(Values& nodes) const {
    for (size_t j = 0; j < g_.nodes[nodes[0]].n_in; ++j) {
      const uint32_t stack = seat_[g_.in(g_.nodes[nodes[0]])[j]].stack;
      if (stack == kNone) continue;
      if (!std::ranges::all_of(nodes, [&](uint32_t i) { return seat_[g_.in(g_.nodes[i])[j]].stack == stack; })) continue;
      std::ranges::stable_sort(nodes, {}, [&](uint32_t i) { return seat_[g_.in(g_.nodes[i])[j]].at; });
      return;
    }
  }

  bool run_together(const Values& nodes) {
    const uint32_t c = together(nodes);
    if (c == kNone) return false;
    tell(nodes);
    Values vs;
    vs.reserve(nodes.size());
    for (uint32_t i : nodes) {
      vs.push_back(g_.nodes[i].out);
      done_[i] = true;
    }
    take_seats(vs, c, true);
    for (uint32_t i : nodes) provide(i);
    return true;
  }

  // ------------------------------------------------------------------------------------------ what follows a group

  // Sets of alike nodes, one for each member, that could run on the stack: found first, then thinned out, then run.
  struct Follower {
    Values nodes;
    bool kept = true;
  };
  List<Follower> followers_;
  struct Claim {
    uint32_t set = kNone, at = 0;
  };
  List<Claim> claimed_;  // node -> its place in a follower set

  void extend(const Values& group) {
    followers_.clear();
    claimed_.resize(g_.nodes.size());
    List<Values> todo(1);
    for (uint32_t i : group) todo[0].push_back(g_.nodes[i].out);
    while (!todo.empty()) {
      const Values vs = std::move(todo.back());
      todo.pop_back();
      for (Use u : uses(vs[0])) {
        Values nodes = followers_of(vs, u);
        if (nodes.empty()) continue;
        for (uint32_t k = 0; k < nodes.size(); ++k) claimed_[nodes[k]] = {uint32_t(followers_.size()), k};
        todo.emplace_back();
        for (uint32_t i : nodes) todo.back().push_back(g_.nodes[i].out);
        followers_.push_back({std::move(nodes)});
      }
    }
    // From the last to the first: a large value is batched only if whoever reads it is.
    for (size_t s = followers_.size(); s-- > 0;) followers_[s].kept = wanted(s);
    for (size_t s = 0; s < followers_.size(); ++s)
      if (followers_[s].kept) run_together(followers_[s].nodes);
    for (const Follower& f : followers_)
      for (uint32_t i : f.nodes) claimed_[i] = {};
  }

  // For each of the values a node that uses it as `first` uses vs[0]; empty if they are not alike or cannot run together.
  Values followers_of(const Values& vs, Use first) const {
    Values nodes;
    for (uint32_t v : vs) {
      uint32_t found = kNone;
      for (Use u : uses(v)) {
        if (u.at != first.at || g_.nodes[u.node].op != g_.nodes[first.node].op) continue;
        if (done_[u.node] || absorbed_[u.node] || claimed_[u.node].set != kNone) continue;
        if (role_[u.node] != kNone) continue;
        if (std::ranges::find(nodes, u.node) != nodes.end()) continue;
        found = u.node;
        break;
      }
      if (found == kNone || (nodes.empty() && found != first.node)) return {};
      nodes.push_back(found);
    }
    if (!alike(nodes)) return {};
    const auto& n = g_.nodes[nodes[0]];
    bool same[kMostOperands];
    if (n.n_in > kMostOperands) return {};
    for (size_t j = 0; j < n.n_in; ++j) {
      const Values in = operands(nodes, j);
      same[j] = all_same(in);
      if (j != first.at && !at_hand(in, same[j])) return {};
    }
    if (same[first.at] || !stackable(n, {same, n.n_in})) return {};
    return nodes;
  }

  // Could these be an operand of a group?
  bool at_hand(const Values& vs, bool same, int depth = 0) const {
    auto there = [&](uint32_t v) { return available_[g_.maker[v]]; };
    if (same) return there(vs[0]);
    if (const uint32_t set = claimed_[g_.maker[vs[0]]].set; set != kNone) {
      for (uint32_t k = 0; k < vs.size(); ++k)
        if (const Claim c = claimed_[g_.maker[vs[k]]]; c.set != set || c.at != k) return false;
      return true;
    }
    if (!std::ranges::all_of(vs, there)) return false;
    if (in_order(vs) || small(vs[0])) return true;
    const Values makers = depth < kLiftDepth ? fresh_makers(vs) : Values{};
    if (makers.empty()) return false;
    for (size_t j = 0; j < g_.nodes[makers[0]].n_in; ++j) {
      const Values in = operands(makers, j);
      if (!at_hand(in, all_same(in), depth + 1)) return false;
    }
    return true;
  }

  bool wanted(size_t s) const {
    const Follower& f = followers_[s];
    const auto& n = g_.nodes[f.nodes[0]];
    if (small(n.out) || info(n.op).kind == Kind::Contraction || info(n.op).kind == Kind::Index) return true;
    for (uint32_t i : f.nodes) {
      if (result_[g_.nodes[i].out]) return false;
      for (Use u : uses(g_.nodes[i].out)) {
        if (in_sum(u.node)) continue;
        const uint32_t set = claimed_[u.node].set;
        if (set == kNone || !followers_[set].kept) return false;
      }
    }
    return true;
  }
  // Is it read as part of a sum of products or of columns, which wants a stack?
  bool in_sum(uint32_t i) const {
    if (absorbed_[i]) return g_.nodes[i].op != Op::add;
    const auto& n = g_.nodes[i];
    if (n.op != Op::transpose && n.op != Op::reshape) return false;
    return std::ranges::all_of(uses(n.out), [&](Use u) { return in_sum(u.node); });
  }

  // ------------------------------------------------------------------------------------------ sums

  void emit_sum(uint32_t i) {
    const auto& n = g_.nodes[i];
    const List<Term> terms = std::move(sums_[role_[i]]);
    uint32_t sum = kNone;
    auto plus = [&](uint32_t v) {
      const uint32_t in[] = {sum, v};
      sum = sum == kNone ? v : out_.add(Op::add, in, {}, n.line);
    };
    // Terms that might be one: products of one shape, column sums of one shape, members of stacks.
    struct Alike {
      Term::What what;
      const Shape* shape;
      Values list;
    };
    List<Alike> kinds;
    for (const Term& t : terms) {
      const Shape* shape = &spec(t.what == Term::Other ? t.value : g_.in(g_.made(t.value))[0]).shape;
      if (t.what == Term::Other && (seat_[t.value].stack == kNone || !small(t.value))) {
        plus(value(t.value));
        continue;
      }
      auto k = std::ranges::find_if(kinds, [&](const Alike& a) { return a.what == t.what && *a.shape == *shape; });
      if (k == kinds.end()) k = kinds.insert(k, {t.what, shape, {}});
      k->list.push_back(t.value);
    }
    for (const Alike& k : kinds) {
      if (k.what == Term::Product) sum_products(k.list, plus);
      else if (k.what == Term::Columns) sum_columns(k.list, plus);
      else sum_members(k.list, plus);
    }
    map_[n.out] = sum;
  }

  // A single term, by itself.
  uint32_t alone(uint32_t v) {
    const auto& n = g_.made(v);
    Values in;
    for (uint32_t u : g_.in(n)) in.push_back(value(u));
    return out_.add(n.op, in, g_.attr(n), {&g_.values[n.out], 1}, n.line);
  }

  // The matrix whose transpose this is, if it is one.
  uint32_t turned(uint32_t v) const {
    const auto& n = g_.made(v);
    return n.op == Op::transpose && spec(v).shape.rank == 2 && g_.attr(n)[1] == 1 ? g_.in(n)[0] : kNone;
  }

  uint32_t right(uint32_t product) const { return g_.in(g_.made(product))[1]; }
  // The left matrix, or what it is the transpose of.
  uint32_t left(uint32_t product) const {
    const uint32_t a = g_.in(g_.made(product))[0];
    return turned(a) == kNone ? a : turned(a);
  }

  // Products that are added up, in the order of a stack that is there already; else as their left matrices were computed.
  void in_sum_order(Values& list) const {
    auto lies = [&](auto of) {
      const uint32_t s = seat_[of(list[0])].stack;
      return s != kNone && std::ranges::all_of(list, [&](uint32_t v) { return seat_[of(v)].stack == s; });
    };
    auto l = [&](uint32_t v) { return left(v); };
    auto r = [&](uint32_t v) { return right(v); };
    if (lies(l)) std::ranges::stable_sort(list, {}, [&](uint32_t v) { return seat_[left(v)].at; });
    else if (lies(r)) std::ranges::stable_sort(list, {}, [&](uint32_t v) { return seat_[right(v)].at; });
    else std::ranges::stable_sort(list, {}, l);
  }

  template <class Plus>
  void sum_products(Values list, Plus plus) {
    // Rows that are added up lie one under the other: of a^T that is a; a column is the transpose of a row.
    const bool rows_add = std::ranges::all_of(list, [&](uint32_t v) {
      const uint32_t a = g_.in(g_.made(v))[0];
      return turned(a) != kNone || spec(a).shape[1] == 1;
    });
    if (list.size() >= kManyProducts && rows_add) {
      in_sum_order(list);
      Values as, bs;
      for (uint32_t v : list) as.push_back(left(v)), bs.push_back(right(v));
      // Runs that lie in stacks on both sides need no copies; a few of them are as good as one.
      Values runs{0};
      for (uint32_t t = 1; t < list.size(); ++t)
        if (!follows(as, t) || !follows(bs, t)) runs.push_back(t);
      if (runs.size() > 1 + list.size() / 8) runs.resize(1);
      runs.push_back(uint32_t(list.size()));
      for (size_t r = 0; r + 1 < runs.size(); ++r) {
        const uint32_t from = runs[r], to = runs[r + 1];
        auto part = [&](const Values& vs) { return Values(vs.begin() + from, vs.begin() + to); };
        if (long_product(part(as), part(bs), list[from], plus)) continue;
        for (uint32_t t = from; t < to; ++t) plus(alone(list[t]));
      }
      return;
    }
    for (uint32_t v : list) plus(alone(v));
  }

  bool follows(const Values& vs, uint32_t t) const {
    const Seat a = seat_[vs[t - 1]], b = seat_[vs[t]];
    return a.stack == b.stack && (a.stack == kNone || b.at == a.at + 1);
  }

  // The sum over t of as[t]^T @ bs[t] as one product, if what must be copied for it is less than what the partial sums would
  // read and write.
  template <class Plus>
  bool long_product(const Values& as, const Values& bs, uint32_t like, Plus plus) {
    int64_t copied = 0;
    for (const Values* vs : {&as, &bs})
      if (!in_order(*vs))
        for (uint32_t v : *vs)
          if (seat_[v].stack != kNone || is_given(v)) copied += spec(v).bytes();
    if (as.size() < kManyProducts || copied > int64_t(as.size()) * 2 * spec(like).bytes()) return false;
    if (all_same(as) || all_same(bs)) return false;
    const int32_t line = g_.made(like).line;
    const Shape y = spec(like).shape;
    const uint32_t a = stacked(as), b = stacked(bs);
    const int64_t k = out_.values[a].shape.size() / y[0];
    const uint32_t in[] = {transpose(reshape(a, Shape{k, y[0]}, line), line), reshape(b, Shape{k, y[1]}, line)};
    tell_sum(as.size(), "products", y);
    plus(out_.add(Op::matmul, in, {}, {&g_.values[like], 1}, line));
    return true;
  }

  template <class Plus>
  void sum_columns(const Values& list, Plus plus) {
    Values of;
    for (uint32_t v : list) of.push_back(g_.in(g_.made(v))[0]);
    // Only what lies in one stack: this is not worth a copy.
    std::ranges::stable_sort(of, {}, [&](uint32_t v) { return std::pair(seat_[v].stack, seat_[v].at); });
    if (list.size() >= kManyProducts && in_order(of)) {
      const auto& n = g_.made(list[0]);
      List<int64_t> attrs(g_.attr(n).begin(), g_.attr(n).end());
      attrs.insert(attrs.begin() + 1, 0);
      ++attrs[0];
      for (int64_t k = 1; k < attrs[0]; ++k) attrs[size_t(k) + 1] = k;
      const uint32_t s = stacked(of);
      tell_sum(list.size(), "column sums", spec(list[0]).shape);
      return plus(out_.add(Op::sum, {&s, 1}, attrs, {&g_.values[list[0]], 1}, n.line));
    }
    for (uint32_t v : list) plus(alone(v));
  }

  // Small members of stacks.
  template <class Plus>
  void sum_members(Values list, Plus plus) {
    if (list.size() < kManyProducts || all_same(list)) {
      for (uint32_t v : list) plus(value(v));
      return;
    }
    std::ranges::stable_sort(list, {}, [&](uint32_t v) { return std::pair(seat_[v].stack, seat_[v].at); });
    const int64_t attrs[] = {1, 0, 0};
    const uint32_t s = stacked(list);
    tell_sum(list.size(), "members", spec(list[0]).shape);
    plus(out_.add(Op::sum, {&s, 1}, attrs, {&g_.values[list[0]], 1}, g_.made(list[0]).line));
  }

  void tell_sum(size_t count, const char* what, const Shape& s) {
    if (told_) *told_ += std::to_string(count) + " " + what + " " + str(s) + " added up as one\n";
  }

  void emit_scatters(uint32_t i) {
    Values chain = std::move(scatters_[role_[i] - kScatters]);
    const auto& n = g_.nodes[i];
    const uint32_t base = value(g_.in(g_.nodes[chain[0]])[0]);
    std::ranges::stable_sort(chain, {}, [&](uint32_t k) {
      const Seat seat = seat_[g_.in(g_.nodes[k])[1]];
      return std::pair(seat.stack, seat.at);
    });
    Values vs, at;
    for (uint32_t k : chain) {
      vs.push_back(g_.in(g_.nodes[k])[1]);
      at.push_back(g_.in(g_.nodes[k])[2]);
    }
    const Shape each = spec(vs[0]).shape;
    Shape flat = each;
    flat[0] *= int64_t(chain.size());
    const uint32_t rows_in = reshape(stacked(vs), flat, n.line);
    const uint32_t index = reshape(stacked(at), Shape{flat[0]}, n.line);
    const uint32_t in[] = {base, rows_in, index};
    tell_sum(chain.size(), "scatters", each);
    map_[n.out] = out_.add(n.op, in, g_.attr(n), {&g_.values[n.out], 1}, n.line);
  }
};

}  // namespace

Graph batch(Graph g, std::string* told) {
  g = push_slices(split_products(std::move(g)));
  join_slices(g);
  // Most plans have no matrix in more than one product.
  List<uint32_t> count(g.values.size());
  bool any = false;
  for (const auto& n : g.nodes)
    if (is_plain_product(g, n)) any |= ++count[g.in(n)[1]] > 1 || (g.values[n.out].shape[1] == 1 && ++count[g.in(n)[0]] > 1);
  if (any) g = Batcher(std::move(g), told).run();
  if (!accumulate_products(g)) return g;
  return prune(std::move(g));
}

}  // namespace knet
