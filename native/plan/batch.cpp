// batch: operations of one signature that do not depend on each other, run as one.
// Nothing is joined yet: the stage stands here so that everything already runs through it.
#include "plan/pipeline.h"

namespace knet {

Graph batch(Graph g) { return g; }

}  // namespace knet
