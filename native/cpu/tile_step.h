// A tile program, prepared: what tile.cpp builds and tile_step.cpp runs.
//
// The iteration space is seen as rows x cols elements in C order and cut into tiles: some whole rows, or a part of one
// row. A tile is always a contiguous range of flat element numbers, so contiguous operands are used in place, by a
// pointer that moves with the tile. Everything else lives in registers: pieces of a thread-local arena that stay in the
// cache.
#pragma once
#include <array>
#include "cpu/isa/tile_tables.h"
#include "cpu/tile_walk.h"
#include "device.h"

namespace knet::cpu::tile {

using Slot = uint16_t;  // a pointer in the table of a running task
constexpr Slot kNone = 0xffff;

struct Code {
  enum What : uint8_t {
    Flat,    // map over the elements of the tile
    Row,     // map over the rows of the tile
    One,     // map over one element
    ByRow,   // map of a full and a row operand: per row, the row operand as a scalar
    Spread,  // row -> full
    Fill,    // scalar -> `count` elements
    Fold,    // full -> row: reduce (the product of two, if there are two), then convert the accumulators
  } what;
  bool negative = false;   // Fold: the negative of the sum
  uint8_t n_src = 0;
  uint8_t row_src = 0;     // ByRow: which source is the row
  Slot dst, src[4], acc = kNone;
  uint32_t item = 0, src_item = 0;  // bytes: an element of dst and of the full source (ByRow), of the row source (Spread)
  Map map = nullptr;
  const ReduceLoops* fold = nullptr;
  int64_t count = 0;
};

struct Moving {  // a slot that points into an operand and moves with the tile
  enum What : uint8_t { Full, Row, Col } what;
  bool out;
  Slot slot;
  uint16_t operand;
  uint32_t item;
};
struct Gather {  // a strided operand brought into a register
  Walk walk;
  bool row;
  Slot slot;
  uint16_t operand;
  uint32_t item;
  bool staged = false;  // in each stage that needs it, a part at a time
};
struct Result {  // what becomes of a register at the end of each tile (or of the run)
  enum What : uint8_t { Copy, Scatter, CopyRow, ScatterRow, One, ReduceAll, ReduceCols, ReduceSome } what;
  uint16_t out;
  Slot slot;
  Slot near = kNone;        // ReduceCols: sums of a few rows in their own type, before they go to the accumulators
  uint32_t item;
  Walk walk;                // Scatter: where it goes; ReduceSome: which accumulator each element belongs to
  Map add = nullptr;        // ReduceCols: into `near`
  const ReduceLoops* fold = nullptr;
  Map finish = nullptr;     // accumulator type -> result type
  uint32_t acc_item = 0;
  int64_t cells = 1;        // accumulators of a task
  size_t at = 0, stride = 0;  // where in scratch: task t's accumulators are at + t * stride
  bool staged = false;      // taken at the end of each part of a stage
};
// Some instructions of a program whose rows are longer than a tile. They go through the row in parts of which all
// registers stay in the fastest cache; only what a later stage reads is kept for the whole row.
struct Stage {
  uint32_t begin, end;   // in the body
  bool once;             // numbers of a row: not in parts
  struct Move { Slot slot; uint32_t item; };
  std::vector<Move> moves;                 // whole rows, through which the slots move
  std::vector<uint16_t> gathers, results;  // those of the program that take part
};

// Rows of float32 that are added up as such before their sum goes on in double: as many as in a sum along a row
// (isa/tile_reduce.cpp). Row by row into double, the two such sums of a layer norm took a sixth of its time.
constexpr int64_t kNearRows = 8;

class TileStep final : public Step {
 public:
  void run(char* const* out, const char* const* in, char* scratch) const override;
  bool may_alias(int out, int in) const override;
  std::string text() const override { return description; }

  int64_t rows = 1, cols = 1, tile_rows = 1, tile_cols = 1, segments = 1;  // segments: tiles to a row
  int64_t tiles = 0, tasks = 1;
  int64_t units = 0, unit_tiles = 1;  // what tasks share evenly: tiles, rows of several tiles, or columns of tiles
  int64_t part = 0;         // elements of a row that go through a stage together
  bool by_columns = false;  // tasks are column blocks, each through all rows
  bool folds = false;
  bool ahead = false;       // fetch what the next tile needs
  int64_t executions = 0;   // instructions that a tile takes, each part of a stage counted
  size_t arena_bytes = 0;
  int n_slots = 0;
  std::vector<std::pair<Slot, size_t>> registers;  // slot, offset in the arena
  std::vector<std::pair<Slot, uint16_t>> fixed;    // scalar inputs
  std::vector<Moving> moving;
  std::vector<Gather> gathers, once;               // per tile; per task
  std::vector<Code> prologue, body;                // per task; per tile
  std::vector<Stage> stages;                       // of the body; none: all of it for each tile
  std::vector<Result> results;
  // For may_alias: when (instruction number) an in-place readable input is read last (-2: not in place), and when a
  // contiguous full output is written (-1: it is none).
  std::vector<int> read, written;
  std::vector<size_t> in_item, out_item;
  std::string description;

 private:
  struct Fetched {  // an operand that is fetched ahead
    const char* data;
    uint32_t item;
  };
  struct Run {
    char* const* out;
    const char* const* in;
    char* scratch;
    std::array<Fetched, 12> fetched = {};  // more operands would be more streams than the processor follows
    size_t n_fetched = 0;
  };
  class Ahead;
  void task(int64_t t, const Run&) const;
  void tile(int64_t r, int64_t m, int64_t c, int64_t n, int64_t t, char** slot, const Run&) const;
  void in_parts(const Stage&, int64_t r, int64_t t, char** slot, const Run&, Ahead&) const;
  void finish(const Result&, int64_t r, int64_t m, int64_t c, int64_t n, int64_t t, char** slot, const Run&) const;
  void combine(const Result&, char* acc) const;
};

}  // namespace knet::cpu::tile
