#include "kernels/adamw/adamw.h"

#include "kernels/core/check.h"

namespace boreas {

void AdamW::check() const {
  check_floating(name, "value", value);
  const DType dtype = accumulator_of(value.dtype());
  check_dtype(name, "value", value, dtype);
  for (const auto& [label, tensor] :
       {std::pair{"grad", grad}, std::pair{"first_moment", first_moment}, std::pair{"second_moment", second_moment}}) {
    check_dtype(name, label, tensor, dtype);
    check_shape(name, label, tensor, value.rows(), value.cols(), "value", value);
  }
  if (stored) {
    check_stored_as(name, "stored", stored, dtype);
    check_shape(name, "stored", stored, value.rows(), value.cols(), "value", value);
  }
  if (control) {
    check_dtype(name, "control", control, dtype);
    check_vector(name, "control", control, 4, "value", value);
  }
  BOREAS_CHECK(step >= 1, invalid_argument, "{}: step is {} but the first update is step 1", name, step);
  BOREAS_CHECK(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, invalid_argument,
               "{}: betas are {} and {} but must lie in [0, 1)", name, beta1, beta2);
  BOREAS_CHECK(eps > 0, invalid_argument, "{}: eps is {} but must be positive", name, eps);
}

void ClipScale::check() const {
  check_dtype(name, "sum_of_squares", sum_of_squares, DType::f64);
  BOREAS_CHECK(sum_of_squares.size() == 1, shape, "{}: sum_of_squares is {} but must be one value", name,
               to_string(sum_of_squares));
  check_floating(name, "control", control);
  check_dtype(name, "control", control, accumulator_of(control.dtype()));
  BOREAS_CHECK(control.size() == 4 && control.contiguous(), shape, "{}: control is {} but must be 4 values", name,
               to_string(control));
  BOREAS_CHECK(base_scale > 0, invalid_argument, "{}: base_scale is {} but must be positive", name, base_scale);
}

}  // namespace boreas
