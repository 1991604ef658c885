// What batch works on: a graph that is emitted again in another order, and where its values are meanwhile. See
// batch.cpp.
#pragma once
#include <algorithm>
#include <string>

#include "plan/known.h"
#include "plan/products.h"
#include "plan/table.h"

namespace knet {

// Members below this size are batched wherever they occur: a kernel on so few elements costs more to plan and to start
// than to run. Above it a group must be worth more than the fusions that it may break.
inline constexpr int64_t kSmallBytes = 8 << 10;
// How many alike nodes are looked for through their operands when a stack of them is asked for.
inline constexpr int kLiftDepth = 8;
// Operands of a node that may become one of a group.
inline constexpr int kMostOperands = 8;
// Of a splice, so that three words for each fit a node.
inline constexpr size_t kMostPieces = 16384;

using Values = List<uint32_t>;

class Batcher : Rebuilder {
 public:
  Batcher(Graph g, std::string* told) : Rebuilder(std::move(g)), told_(told) {}
  Graph run();

 private:
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
    uint32_t pile = kNone;  // the same, one below the other along their first axis, once it has been asked for
  };
  struct Term {
    enum What : uint8_t { Product, Columns, Other } what;
    uint32_t value;
    uint32_t left = kNone, right = kNone;  // of a product: the matrices whose rows are multiplied, see left()
  };
  using Terms = List<Term>;
  struct Joined {
    Values of;
    uint32_t stack, next;  // value of out_; another that begins with the same value, or kNone
  };
  // Values that lie one after the other in a stack, or one by itself: `count` of a list from `first` on.
  struct Run {
    uint32_t first, count;
  };
  // Alike nodes, one for each member of a group, that could run on the stack.
  struct Follower {
    Values nodes;
    bool kept = true;
  };
  struct Claim {
    uint32_t set = kNone, at = 0;
  };

  List<Seat> seat_;               // value of g_ -> where it is in a stack
  List<Stack> stacks_;
  Values use_at_;                 // value of g_ -> its uses are uses_[use_at_[v] .. use_at_[v + 1])
  List<Use> uses_;
  Values height_;                 // node -> longest way to the end
  Values missing_;                // node -> operands that are not available yet
  List<uint8_t> available_;       // node: could be emitted now, or has been
  List<uint8_t> in_recurrence_;   // node: what comes of it goes first into a product of a recurrence
  List<uint8_t> done_;            // node: emitted, or part of something that is
  List<uint8_t> result_;          // value of g_: asked for
  Table buckets_;                 // signature -> of bucket_list_
  List<Bucket> bucket_list_;
  Values waiting_;                // buckets that are not empty
  Values arrived_;
  Values on_right_, on_left_;     // value of g_ -> products in which it is the right-hand (left-hand) matrix
  List<int8_t> side_;             // node: of a product, shared_side(); kNoProduct: it is none
  Values role_;                   // node -> a sum, sums_[role], or the end of a chain of scatters, scatters_[role - kScatters]
  List<Terms> sums_;              // what each adds up
  List<Values> scatters_;         // each chain, first to last
  List<uint8_t> absorbed_;        // node: computed as part of a sum
  Values summed_in_;              // value of g_ -> the sum of products in which it is a right-hand matrix, or kNone
  Known known_{out_, g_.nodes.size() / 2};  // views and stacks in out_, which are often asked for again
  Table numbers_;                 // integer -> constant of out_
  List<Joined> joined_;           // what has been put together before
  Values joined_at_;              // value of g_ -> the latest of joined_ that begins with it, or kNone
  List<Follower> followers_;      // found first, then thinned out, then run
  List<Claim> claimed_;           // node -> its place in a follower set
  static constexpr uint32_t kScatters = 1u << 31;
  static constexpr int8_t kNoProduct = -2;

  const Spec& spec(uint32_t v) const { return g_.values[v]; }
  std::span<const Use> uses(uint32_t v) const { return {uses_.data() + use_at_[v], use_at_[v + 1] - use_at_[v]}; }
  bool once(uint32_t v) const { return use_at_[v + 1] - use_at_[v] == 1 && !result_[v]; }
  bool small(uint32_t v) const { return spec(v).bytes() <= kSmallBytes; }
  bool is_given(uint32_t v) const {
    const Op op = g_.made(v).op;
    return op == Op::leaf || op == Op::scalar || op == Op::constant;
  }
  const Terms* sum_at(uint32_t i) const { return role_[i] < kScatters ? &sums_[role_[i]] : nullptr; }
  const Values* scatters_at(uint32_t i) const {
    return role_[i] >= kScatters && role_[i] != kNone ? &scatters_[role_[i] - kScatters] : nullptr;
  }
  static bool all_same(const Values& vs) {
    return std::ranges::all_of(vs, [&](uint32_t v) { return v == vs[0]; });
  }

  // ---- batch.cpp: what is available, and which of it runs together
  void prepare();
  void arrive(uint32_t i) {
    if (!available_[i]) arrived_.push_back(i);
  }
  void provide(uint32_t node);
  int shared_side(const Graph::Node&) const;
  void find_ways();
  void settle();
  uint64_t signature(uint32_t node) const;
  void fire(Values nodes);
  bool worthwhile(const Values& nodes) const;
  void by_seat(Values& nodes) const;
  bool run_together(const Values& nodes);
  void tell(const Values& nodes);

  // ---- batch_stacks.cpp: members and stacks, one operation for many
  uint32_t number(int64_t);
  uint32_t shared(Op, std::span<const uint32_t> in, std::span<const int64_t> attrs, const Spec&, int32_t line);
  uint32_t reshape(uint32_t v, const Shape&, int32_t line);
  uint32_t transpose(uint32_t v, int32_t line);
  uint32_t rows(uint32_t v, int64_t from, int64_t count, int32_t line);
  uint32_t value(uint32_t v);
  void demand(uint32_t node);
  void emit(uint32_t node);
  bool same_memory(const Graph::Node&) const;
  bool in_order(const Values&) const;
  uint32_t stacked(const Values&);
  uint32_t spliced(const Values&, const List<Run>&);
  uint32_t concatenated(const Values&, const List<Run>&);
  uint32_t joined(const Values&) const;
  void remember(const Values&, uint32_t stack);
  uint32_t seen_as(uint32_t stack, int64_t count, const Shape& member, int32_t line);
  uint32_t members(Seat first, int64_t count, const Shape& member, int32_t line);
  void take_seats(const Values&, uint32_t stack, bool first_home);
  Values finished(const Values& nodes);
  uint32_t lifted(const Values&, int depth = 0);
  Values fresh_makers(const Values&) const;
  bool alike(uint32_t node, uint32_t other) const;
  bool alike(const Values& nodes) const;
  bool same_spec(uint32_t u, uint32_t v) const {
    return spec(u).dtype == spec(v).dtype && spec(u).shape == spec(v).shape;
  }
  Values operands(const Values& nodes, size_t j) const;
  bool stackable(const Graph::Node&, std::span<const bool> same) const;
  bool gathers_rows(const Graph::Node&) const;
  uint32_t together(const Values& nodes, int depth = 0);
  uint32_t slices(const Values& nodes);
  uint32_t product(const Graph::Node&, const Values& in, bool right, int64_t count, const Spec& all);

  // ---- batch_follow.cpp: what follows a group
  void extend(const Values& group);
  Values followers_of(const Values&, Use first) const;
  bool at_hand(const Values&, bool same, int depth = 0) const;
  bool wanted(size_t set) const;
  bool in_sum(uint32_t node) const;

  // ---- batch_sums.cpp: sums of many terms, and chains of scatters
  void find_sums();
  bool sums_columns(const Graph::Node&) const;
  bool scatters_rows(const Graph::Node&) const;
  bool adds_slice(const Graph::Node&) const;
  void find_scatters();
  void stack_for_sum(const Values&);
  void emit_sum(uint32_t node);
  uint32_t alone(uint32_t v);
  uint32_t turned(uint32_t v) const;
  uint32_t right(uint32_t product) const;
  uint32_t left(uint32_t product) const;
  void in_sum_order(Terms&) const;
  bool follows(const Values&, uint32_t t) const;
  template <class Plus>
  void sum_products(Terms, Plus);
  template <class Plus>
  bool long_product(const Values& as, const Values& bs, uint32_t like, Plus);
  template <class Plus>
  void sum_columns(const Terms&, Plus);
  template <class Plus>
  void sum_members(Terms, Plus);
  void tell_sum(size_t count, const char* what, const Shape&);
  void emit_scatters(uint32_t node);
};

}  // namespace knet
