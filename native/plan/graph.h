// The planner's data: a straight-line program over values. Every stage is a function from Graph to Graph (or on to the
// next form).
#pragma once
#include <algorithm>
#include <string>
#include <vector>
#include "plan/bump.h"
#include "trace/op.h"
#include "types.h"

namespace knet {

inline constexpr uint32_t kNone = ~0u;  // no value, no node
// Parts of a concatenation are written in place from this many bytes on: below, one kernel that copies them all is as
// good.
inline constexpr int64_t kJoinBytes = 8 << 10;

// Values are numbered; each is made by one node (inputs by a leaf or scalar node). Nodes are in an order in which
// everything is made before it is used. Words of inputs and attributes lie in two pools, so that a node is plain data;
// there may be words in them that no node has any longer.
// A graph lives while it is planned, within a Blocks::Scope.
struct Graph {
  struct Node {
    Op op;
    uint16_t n_in = 0, n_out = 0, n_attr = 0;
    uint32_t in_at = 0, attr_at = 0;  // where in `ins`, `attrs`
    uint32_t out = 0;                 // results are values out .. out + n_out - 1
    int32_t line = -1;                // the recorded operation that it stems from (its first result in the trace); -1 unknown
  };
  List<Node> nodes;
  List<uint32_t> ins;
  List<int64_t> attrs;
  List<Spec> values;
  List<uint32_t> maker;    // value -> its node
  List<uint32_t> inputs;   // values bound to buffers at each run, in binding order (made by op leaf)
  List<uint32_t> scalars;  // values bound to Python numbers at each run (made by op scalar), in binding order
  List<uint32_t> outputs;  // values to be computed, in order; one may occur twice, or be an input
  // Values that have run already, and the inputs that hold them: derivatives see how they were made, programs read the
  // inputs. Gone after simplify.
  List<std::pair<uint32_t, uint32_t>> known;

  std::span<const uint32_t> in(const Node& n) const { return {ins.data() + n.in_at, n.n_in}; }
  std::span<const int64_t> attr(const Node& n) const { return {attrs.data() + n.attr_at, n.n_attr}; }
  const Node& made(uint32_t v) const { return nodes[maker[v]]; }
  // Append a node; results get their specs from infer() unless given. Returns the first result.
  uint32_t add(Op op, std::span<const uint32_t> in, std::span<const int64_t> attrs = {}, int32_t line = -1);
  uint32_t add(Op op, std::span<const uint32_t> in, std::span<const int64_t> attrs, std::span<const Spec> specs,
               int32_t line = -1);
  // A structural scalar: op `constant`, attrs {dtype, bits}.
  uint32_t constant(Scalar s, DType t);
  // Room for what a stage makes of `like`, times a factor.
  void reserve(const Graph& like, double times = 1.1) {
    nodes.reserve(size_t(double(like.nodes.size()) * times));
    ins.reserve(size_t(double(like.ins.size()) * times));
    attrs.reserve(size_t(double(like.attrs.size()) * times));
    values.reserve(size_t(double(like.values.size()) * times));
    maker.reserve(size_t(double(like.values.size()) * times));
  }
  std::string text() const;  // one line per node: "v7: float32(3, 4) = add(v5, v6)"
};

// Are they the same? For lists of a few words, of which a call of memcmp (std::ranges::equal) takes longer than they
// do.
template <class T>
bool same_words(std::span<const T> a, std::span<const T> b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i]) return false;
  return true;
}

// A shape as attributes: its rank, then its dimensions.
class ShapeWords {
 public:
  explicit ShapeWords(const Shape& s) : n_(size_t(s.rank) + 1) {
    words_[0] = s.rank;
    std::copy(s.begin(), s.end(), words_ + 1);
  }
  operator std::span<const int64_t>() const { return {words_, n_}; }

 private:
  size_t n_;
  int64_t words_[kMaxRank + 1];
};

// Makes a graph anew, node by node: what stages that rewrite have in common.
class Rebuilder {
 public:
  explicit Rebuilder(Graph g) : g_(std::move(g)), map_(g_.values.size(), kNone) {}

 protected:
  Graph g_, out_;
  List<uint32_t> map_;  // value of g_ -> value of out_; kNone: not made, or not as a value of its own

  // The node as it is, on what has become of its operands.
  void keep(const Graph::Node&);
  // The nodes first .. end - 1 as they are, at once. Of a graph of which words and values are in the order of the
  // nodes: as it was recorded or rebuilt, and not changed since.
  void keep(size_t first, size_t end);
  // out_, with the inputs, scalars and outputs of g_.
  Graph finish();
};

// Only the nodes that the outputs need, renumbered; inputs and scalars stay.
Graph prune(Graph);

}  // namespace knet
