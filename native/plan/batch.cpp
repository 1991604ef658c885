// batch: independent operations of one signature, run as one.
//
// The nodes of the graph are emitted again in a new order. Products of matrices are `seeds`: one that is available
// waits in the bucket of its signature (operation, shapes, the matrix that it shares with others). When nothing is left
// to do but such, the bucket with the longest way to go is fired: all its products run as one, over their operands
// stacked. So the products of a recurrence run as soon as they can, one by one, and the hundred products of an output
// layer, which nobody waits for, when all of them are there: as one. The nodes of a tree are fired level by level.
//
// What follows a group is drawn in: as long as all members have alike consumers (a bias, a softmax, its derivative),
// these become one operation on the stack as well. Small elementwise operations on members are seeds themselves, but
// not between the products of a recurrence.
//
// All other nodes are emitted when somebody asks for their values, so that what belongs together stays together.
//
// A sum of many products, as the gradient of a shared matrix is, becomes one product with a long inner dimension; sums
// of column sums, of members of stacks, and chains of scatters are joined likewise. This changes the order in which
// numbers are added up, by the plan alone: the same program gives the same bits.
#include <algorithm>
#include <utility>

#include "plan/batcher.h"
#include "plan/pipeline.h"
#include "plan/rows.h"
#include "plan/slices.h"

namespace knet {

namespace {

// Products above this (in multiply-adds) keep all cores busy on their own; stacking them gains nothing unless it is
// free.
constexpr int64_t kLargeProduct = int64_t(1) << 26;

uint64_t mix(uint64_t h, uint64_t x) {
  h = (h ^ x) * 0xd6e8feb86659fd93ull;
  return h ^ h >> 32;
}
uint64_t mix(uint64_t h, const Spec& s) {
  h = mix(h, uint64_t(s.dtype));
  for (int64_t d : s.shape) h = mix(h, uint64_t(d) + 1);
  return h;
}

}  // namespace

Graph Batcher::run() {
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
  for (uint32_t v : g_.outputs) value(v);
  return finish();
}

void Batcher::prepare() {
  const size_t n_values = g_.values.size(), n_nodes = g_.nodes.size();
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
  on_right_.assign(n_values, 0);
  on_left_.assign(n_values, 0);
  side_.assign(n_nodes, kNoProduct);
  for (uint32_t i = 0; i < n_nodes; ++i) {
    const auto in = g_.in(g_.nodes[i]);
    missing_[i] = uint32_t(in.size());
    for (uint32_t j = 0; j < in.size(); ++j) uses_[at[in[j]]++] = {i, j};
    if (is_product(g_, g_.nodes[i])) {
      side_[i] = -1;
      ++on_right_[in[1]];
      ++on_left_[in[0]];
    }
  }
  available_.assign(n_nodes, false);
  done_.assign(n_nodes, false);
  absorbed_.assign(n_nodes, false);
  summed_in_.assign(n_values, kNone);
  role_.assign(n_nodes, kNone);
  joined_at_.assign(n_values, kNone);
  find_sums();
  find_scatters();
  find_ways();
  out_.reserve(g_, 1.3);
}

// ------------------------------------------------------------------------------------------ what is available

void Batcher::provide(uint32_t i) {  // its results are there, or can be had
  if (available_[i]) return;
  available_[i] = true;
  const auto& n = g_.nodes[i];
  for (uint32_t k = 0; k < n.n_out; ++k)
    for (Use u : uses(n.out + k))
      if (--missing_[u.node] == 0) arrive(u.node);
}

void Batcher::settle() {
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

// Which matrix of a product others have as well, so that they may run as one; -1: neither.
int Batcher::shared_side(const Graph::Node& n) const {
  const uint32_t a = g_.in(n)[0], b = g_.in(n)[1];
  if (on_right_[b] >= kManyProducts || (on_right_[b] > 1 && small(a))) return 1;
  return is_column(spec(b).shape) && on_left_[a] > 1 ? 0 : -1;
}

// How far each node is from the end, and what lies in a recurrence.
//
// Between the products of a recurrence, small operations are left to the products: each asks for its operands, and what
// makes those of a group is lifted with it. As seeds they would be grouped by what they are, and not by who reads them.
void Batcher::find_ways() {
  const uint32_t n_nodes = uint32_t(g_.nodes.size());
  // Products that share a matrix are of one kind. The first 64 kinds have a bit each; the others count as no products.
  List<uint64_t> kind(n_nodes), before(n_nodes);
  Table numbers;
  uint32_t n_kinds = 0;
  uint64_t recurrent = 0;
  for (uint32_t i = 0; i < n_nodes; ++i) {
    const auto& n = g_.nodes[i];
    uint64_t all = 0;
    for (uint32_t v : g_.in(n)) all |= before[g_.maker[v]];
    if (side_[i] != kNoProduct && !absorbed_[i]) {
      side_[i] = int8_t(shared_side(n));
      if (const int side = side_[i]; side >= 0) {
        uint32_t& number = numbers[uint64_t(g_.in(n)[size_t(side)]) << 1 | uint64_t(side)];
        if (number == kNone) number = n_kinds++;
        kind[i] = number < 64 ? uint64_t(1) << number : 0;
        recurrent |= all & kind[i];
      }
    }
    before[i] = all | kind[i];
  }
  // Backward: the longest way to the end, on which a chain of additions is one step, and the kinds that come first.
  List<uint64_t>& next = before;
  next.assign(n_nodes, 0);
  height_.assign(n_nodes, 0);
  in_recurrence_.resize(n_nodes);
  for (uint32_t i = n_nodes; i-- > 0;) {
    const auto& n = g_.nodes[i];
    in_recurrence_[i] = (next[i] & recurrent) != 0;
    const uint64_t first = kind[i] ? kind[i] : absorbed_[i] && n.op != Op::add ? 0 : next[i];
    const uint32_t height = height_[i] + !absorbed_[i];
    for (uint32_t v : g_.in(n)) {
      const uint32_t m = g_.maker[v];
      next[m] |= first;
      height_[m] = std::max(height_[m], height);
    }
  }
}

// What nodes of one bucket have in common; 0: no seed.
uint64_t Batcher::signature(uint32_t i) const {
  const auto& n = g_.nodes[i];
  uint64_t h = mix(0x9e3779b97f4a7c15ull, uint64_t(n.op));
  if (const int side = side_[i]; side != kNoProduct) {
    if (side < 0) return 0;
    return mix(mix(mix(h, g_.in(n)[size_t(side)]), spec(g_.in(n)[size_t(1 - side)])), uint64_t(side)) | 1;
  }
  if (n.op == Op::gather && gathers_rows(n)) return mix(mix(h, g_.in(n)[0]), spec(g_.in(n)[1])) | 1;
  // What can run on a stack, on small members of stacks.
  if (in_recurrence_[i] || !small(n.out)) return 0;
  if (n.n_out != 1 || n.n_in == 0 || n.n_in > kMostOperands || n.op == Op::cast) return 0;
  if (const Kind k = info(n.op).kind; k != Kind::Elementwise && k != Kind::Reduce && n.op != Op::take_along_axis) return 0;
  bool member = false;
  for (uint32_t v : g_.in(n)) member |= seat_[v].stack != kNone;
  if (!member) return 0;
  for (uint32_t v : g_.in(n)) h = is_given(v) ? mix(h, v) : mix(h, spec(v));
  for (int64_t a : g_.attr(n)) h = mix(h, uint64_t(a));
  return h | 1;
}

// ------------------------------------------------------------------------------------------ groups

void Batcher::fire(Values nodes) {
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

bool Batcher::worthwhile(const Values& nodes) const {
  const auto& n = g_.nodes[nodes[0]];
  if (!is_product(g_, n)) return true;
  const Shape &a = spec(g_.in(n)[0]).shape, &b = spec(g_.in(n)[1]).shape;
  return (a.rank == 1 ? 1 : a[0]) * b.size() <= kLargeProduct;
}

// In the order in which their operands lie in a stack already.
void Batcher::by_seat(Values& nodes) const {
  for (size_t j = 0; j < g_.nodes[nodes[0]].n_in; ++j) {
    const uint32_t stack = seat_[g_.in(g_.nodes[nodes[0]])[j]].stack;
    if (stack == kNone) continue;
    if (!std::ranges::all_of(nodes, [&](uint32_t i) { return seat_[g_.in(g_.nodes[i])[j]].stack == stack; })) continue;
    std::ranges::stable_sort(nodes, {}, [&](uint32_t i) { return seat_[g_.in(g_.nodes[i])[j]].at; });
    return;
  }
}

bool Batcher::run_together(const Values& nodes) {
  const uint32_t c = together(nodes);
  if (c == kNone) return false;
  tell(nodes);
  take_seats(finished(nodes), c, true);
  for (uint32_t i : nodes) provide(i);
  return true;
}

void Batcher::tell(const Values& nodes) {
  if (!told_) return;
  const auto& n = g_.nodes[nodes[0]];
  *told_ += std::to_string(nodes.size()) + " of " + info(n.op).name + " " + name(spec(n.out).dtype) +
            str(spec(n.out).shape) + " run as one\n";
}

Graph batch(Graph g, std::string* told) {
  g = push_slices(split_products(std::move(g)));
  join_slices(g);
  // Most plans have no matrix in more than one product.
  List<uint32_t> count(g.values.size());
  bool any = false;
  for (const auto& n : g.nodes)
    if (is_product(g, n))
      any |= ++count[g.in(n)[1]] > 1 || (is_column(g.values[g.in(n)[1]].shape) && ++count[g.in(n)[0]] > 1);
  if (any) g = Batcher(std::move(g), told).run();
  g = share_rows(std::move(g));
  if (!accumulate_products(g)) return g;
  return prune(std::move(g));
}

}  // namespace knet
