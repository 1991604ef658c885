#include "memory/buffer.h"

#include "device.h"

namespace knet {

BufferRef allocate(DeviceId id, size_t bytes) {
  if (bytes == 0) bytes = 1;
  auto data = static_cast<char*>(device(id).allocate(bytes));
  Buffer* b;
  try {
    b = new Buffer;
  } catch (...) {
    device(id).release(data, bytes);
    throw Error(Error::Memory, "[allocate] no memory is left, not even for the description of an array.");
  }
  b->device = id;
  b->bytes = bytes;
  b->data = data;
  return BufferRef(b);
}

void destroy(Buffer* b) {
  if (b->free_owner) b->free_owner(b->owner);
  else if (b->data) device(b->device).release(b->data, b->bytes);
  delete b;
}

}  // namespace knet
