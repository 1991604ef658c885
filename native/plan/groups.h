// Nodes into groups, one group a kernel: what fuse fills, node by node, and emit reads.
//
// Every group has a depth: one more than the deepest group that makes its inputs, so whatever a group reads from
// memory was made at a smaller depth. A node may therefore join the deepest groups that make its inputs, and these
// may become one (equal depth: none reads another), without ever making a cycle.
//
// A group has a space, the shape it runs over: extents of 1 are left out, and where its nodes have several shapes,
// dimensions are split until each shape is the space with adjacent dimensions joined. In it a value is a register in
// one of two classes: Full, one element per point, or Row, one per row: the first dimensions of the space count the
// rows, the others are a row. A value made in the group is read as a register only if the reading strides are those
// under which it would be stored; any other reading (transposed, sliced) goes through memory.
#pragma once
#include <vector>

#include "plan/views.h"

namespace knet {

// Where a value is: in memory (or not made by a kernel), made by a group, waiting for its readers (deferred, free: see
// fuse.cpp), or without elements.
enum class State : uint8_t { Memory, Grouped, Deferred, Free, Empty };
enum class Class : uint8_t { Full, Row, Result };  // Result: of a reduction that is complete only when the kernel ends

struct Value {
  State state = State::Memory;
  Class cls = Class::Full;
  bool stored = false;      // somebody reads it from memory
  bool part = false;        // written in place into a concatenation
  bool cheap = false;       // deferred: may be made again for each reader
  bool reshaped = false;    // the nodes that wait with it have two shapes
  uint8_t waiting = 0;      // deferred or free: number of its nodes
  uint32_t group = kNone;
  uint32_t depth = 0;
  uint32_t uses = 0;
  uint32_t reader = kNone;  // the last tile group that reads all of it
  uint32_t copy = kNone;    // a contiguous copy of this value
  uint32_t source = kNone;  // deferred: the value of full size that it is made of
};

struct Group {
  bool tile = true;
  bool nothing = false;    // no kernel: a concatenation whose parts are in place
  bool rows_read = false;  // a Row register is read by another instruction
  uint32_t depth = 0;
  uint32_t order = 0;      // the last node in it
  int size = 0;            // instructions
  int n_reads = 0;
  uint32_t first_node = kNone, last_node = kNone;  // a list, linked by Groups::next_node
  uint32_t first_read = kNone, last_read = kNone;  // values read from memory: a list in Groups::reads
  int64_t rows = -1;       // of the space; -1: not decided
  Shape space;

  // What later nodes must respect. One row, of everything, was only a guess until somebody reads the Row register.
  int64_t fixed_rows() const { return rows == 1 && !rows_read ? -1 : rows; }
};

// How a reduction over an operand runs: not at all, over everything, over rows or columns, over some axes at the end of
// any kernel, or as a Step of its own.
struct Reduction {
  enum What : uint8_t { Nothing, All, Row, Columns, Some, Apart } what;
  int64_t rows = -1;   // Row, Columns: of the space
  bool some = false;   // Row, Columns: in a group with other rows it may run like Some
};

struct Read {
  uint32_t value, next;
};

struct Groups {
  Groups(Graph g, int64_t max_row) : graph(std::move(g)), max_row(max_row) {}

  Graph graph;
  const int64_t max_row;  // see Device
  List<View> views;
  List<Value> values;
  List<Group> groups;
  List<uint32_t> next_node;  // node -> the next one in its group
  List<Read> reads;
  List<Joined> joined;

  uint32_t root(uint32_t v) const { return views[v].root; }
  // Are nodes from i on additions of this stage?
  bool is_added(uint32_t i) const { return i >= recorded_; }
  const Shape& shape(uint32_t v) const { return graph.values[v].shape; }
  // The shape over which node i reads its inputs.
  const Shape& reading_shape(uint32_t i) const;
  Reduction classify(const Graph::Node&) const;
  // The group that group k has become part of.
  uint32_t find(uint32_t k) const {
    while (parent_[k] != k) k = parent_[k] = parent_[parent_[k]];
    return k;
  }

  void reserve(size_t n_nodes);
  uint32_t new_group(bool tile, uint32_t depth);
  // Node i is in g.
  void put_node(Group& g, uint32_t i);
  // g reads u from memory.
  void read(Group& g, uint32_t u);
  // Group k makes v.
  void made(uint32_t v, uint32_t k, Class);
  // `u` is going to be read from memory: see that it is there. Returns the depth at which it is made. `last`: all nodes
  // have been seen.
  uint32_t in_memory(uint32_t u, bool last = false);
  // Puts the maker of v and the nodes that wait for it into a group. `late`: nothing is lost if it is a deep one.
  void place(uint32_t v, bool late = false);
  // Node i is a kernel of its own. Returns its group.
  uint32_t place_step(uint32_t i);

 private:
  struct Leaf {  // value read by a node
    uint32_t value, node;
  };

  void put_nodes(Group&, uint32_t first, uint32_t last);
  void collect(uint32_t v);
  void join(Shape space, Reduction, uint32_t last, bool late);
  void set_rows(Group&, int64_t rows);
  bool has_room(const Group&, int size) const;
  bool register_strides(Leaf, uint32_t r, const Shape& space, int64_t rows, bool row) const;
  uint32_t producers(const Shape& space, Reduction, uint32_t last, uint32_t depth, int size, bool& row);
  uint32_t sibling(const Shape& space, Reduction, uint32_t depth, int size, bool late);
  void merge(uint32_t into, uint32_t k, int64_t rows);

  uint32_t recorded_ = 0;          // number of nodes before this stage
  mutable List<uint32_t> parent_;  // groups that became one; find() shortens the way
  List<uint32_t> tree_;            // nodes about to be placed together
  List<Leaf> leaves_;              // and what they read
  List<uint32_t> targets_, stack_;
};

// The extents that are not 1.
Shape without_ones(const Shape&);

// The coarsest shape that is both a and b (no ones in them) if some of its adjacent dimensions are joined: (32, 6272)
// and (2048, 98) have (32, 64, 98). False if there is none.
bool refine(const Shape& a, const Shape& b, Shape& fine);

// How many of the first dimensions of s have n points.
int dims_of(const Shape& s, int64_t n);

// Strides of `from`, broadcast to `shape`, over the first dimensions of `space`, which refine those of `shape`. Returns
// their number.
int operand_strides(const Layout& from, const Shape& shape, const Shape& space, int64_t* stride);

// A kernel for each group, in the order of execution. Takes the graph.
Schedule emit(Groups&&, Device&);

}  // namespace knet
