// Where a test computes a model: any device, any type.
#pragma once

#include <cmath>
#include <deque>
#include <span>
#include <vector>

#include "models/parameters.h"
#include "tests/support/tolerances.h"

namespace boreas::test {

/// A device, the type of weights, and how close results must come.
struct Precision {
  Device device;
  DType dtype = DType::f32;
  double forward = 0, gradient = 0;  ///< largest relative error
};

/// Owns an arena, a context and tensors on a device.
class Place {
  Arena arena_;
  std::deque<Buffer> buffers_;

 public:
  Context ctx;
  const DType dtype;  ///< of weights and what layers make of them
  const DType wide;   ///< of sums

  explicit Place(const Precision& precision)
      : arena_(Buffer::on(precision.device, int64_t{128} << 20, "test arena")),
        ctx(precision.device, arena_),
        dtype(precision.dtype),
        wide(accumulator_of(precision.dtype)) {}
  Place(const Place&) = delete;

  Tensor of(DType type, Shape shape, std::span<const double> values) {
    const Tensor tensor =
        buffers_.emplace_back(Buffer::on(ctx.device(), std::max<int64_t>(16, shape.size() * size_of(type)), "test"))
            .tensor(type, shape);
    fill_from_host(tensor, values);
    return tensor;
  }
  Tensor filled(DType type, Shape shape, double value) {
    return of(type, shape, std::vector<double>(size_t(shape.size()), value));
  }
  /// Full of NaN: an output that is not overwritten shows.
  Tensor output(DType type, Shape shape) { return filled(type, shape, NAN); }
  std::vector<double> values(const Tensor& tensor) const {
    BOREAS_ASSERT(tensor.contiguous());
    ctx_synchronize();
    const Buffer storage(Device::cpu(), Buffer::Kind::host, std::max<int64_t>(16, tensor.bytes()), "test");
    const Tensor host = storage.tensor(tensor.dtype(), tensor.shape());
    copy_now(host.data(), Device::cpu(), tensor.data(), tensor.device(), tensor.bytes());
    return values_of(host);
  }

 private:
  void ctx_synchronize() const { const_cast<Place*>(this)->ctx.compute().synchronize(); }
};

}  // namespace boreas::test
