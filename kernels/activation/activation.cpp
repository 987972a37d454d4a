#include "kernels/activation/activation.h"

#include "kernels/core/check.h"

namespace boreas {

namespace {

void check_like(const char* op, const char* name, const Tensor& tensor, const char* reference_name,
                const Tensor& reference) {
  check_dtype(op, name, tensor, reference.dtype());
  check_shape(op, name, tensor, reference.rows(), reference.cols(), reference_name, reference);
}

}  // namespace

void GeluForward::check() const {
  check_floating(name, "x", x);
  check_like(name, "y", y, "x", x);
}

void GeluBackward::check() const {
  check_floating(name, "x", x);
  check_like(name, "d_y", d_y, "x", x);
  check_like(name, "d_x", d_x, "x", x);
}

void GatedForward::check() const {
  check_floating(name, "gate", gate);
  check_like(name, "value", value, "gate", gate);
  check_like(name, "y", y, "gate", gate);
}

void GatedBackward::check() const {
  check_floating(name, "gate", gate);
  check_like(name, "value", value, "gate", gate);
  check_like(name, "d_y", d_y, "gate", gate);
  check_like(name, "d_gate", d_gate, "gate", gate);
  check_like(name, "d_value", d_value, "gate", gate);
  BOREAS_CHECK(d_gate.data() != d_value.data() || d_gate.size() == 0, invalid_argument,
               "{}: d_gate and d_value must not be the same memory", name);
}

}  // namespace boreas
