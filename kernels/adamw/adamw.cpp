#include "kernels/adamw/adamw.h"

#include "kernels/core/check.h"

namespace boreas {

void AdamW::check() const {
  check_floating(name, "value", value);
  for (const auto& [label, tensor] :
       {std::pair{"grad", grad}, std::pair{"first_moment", first_moment}, std::pair{"second_moment", second_moment}}) {
    check_dtype(name, label, tensor, value.dtype());
    check_shape(name, label, tensor, value.rows(), value.cols(), "value", value);
  }
  BOREAS_CHECK(step >= 1, invalid_argument, "{}: step is {} but the first update is step 1", name, step);
  BOREAS_CHECK(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, invalid_argument,
               "{}: betas are {} and {} but must lie in [0, 1)", name, beta1, beta2);
  BOREAS_CHECK(eps > 0, invalid_argument, "{}: eps is {} but must be positive", name, eps);
}

}  // namespace boreas
