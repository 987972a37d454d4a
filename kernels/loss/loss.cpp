#include "kernels/loss/loss.h"

#include "kernels/core/check.h"
#include "kernels/core/cpu_loops.h"
#include "kernels/loss/loss_blocks.h"

namespace boreas {

namespace {

template <class Op>
void check_common(const Op& op) {
  check_floating(op.name, "prediction", op.prediction);
  const DType dtype = accumulator_of(op.prediction.dtype());
  check_dtype(op.name, "prediction", op.prediction, dtype);
  check_dtype(op.name, "target", op.target, dtype);
  check_dtype(op.name, "node_weights", op.node_weights, dtype);
  check_dtype(op.name, "column_weights", op.column_weights, dtype);
  check_dtype(op.name, "loss", op.loss, dtype);
  check_vector(op.name, "column_weights", op.column_weights, op.prediction.cols(), "prediction", op.prediction);
  BOREAS_CHECK((op.loss.size() == 1 || op.loss.size() == op.prediction.cols()) && op.loss.contiguous(), shape,
               "{}: loss is {} but must be 1 value, or one for each of the {} columns", op.name, to_string(op.loss),
               op.prediction.cols());
  if (op.d_prediction) {
    check_stored_as(op.name, "d_prediction", op.d_prediction, dtype);
    check_shape(op.name, "d_prediction", op.d_prediction, op.prediction.rows(), op.prediction.cols(), "prediction",
                op.prediction);
  }
  BOREAS_CHECK(op.num_items >= 1 && op.target.rows() % op.num_items == 0, shape,
               "{}: target {} cannot be split into {} items of equal rows", op.name, to_string(op.target),
               op.num_items);
}

/// Partial sums of the loss: those of the GPU's blocks, or of the parts in which the CPU sums rows.
int64_t partial_sum_bytes(const Tensor& target, const Tensor& loss) {
  const int64_t sums = target.device().is_cuda()
                           ? cuda::loss_blocks(target.rows()) * cuda::loss_sums_a_block(target.cols(), loss.size())
                           : cpu::summation_parts(target.rows()).num_parts() * loss.size();
  return sums * int64_t(sizeof(double));
}

}  // namespace

void WeightedLoss::check() const {
  check_common(*this);
  check_shape(name, "target", target, prediction.rows(), prediction.cols(), "prediction", prediction);
  const int64_t num_nodes = target.rows() / num_items;
  BOREAS_CHECK((node_weights.size() == num_nodes || node_weights.size() == target.rows()) && node_weights.contiguous(),
               shape, "{}: node_weights is {} but must hold {} values (one a node) or {} (one a row)", name,
               to_string(node_weights), num_nodes, target.rows());
  if (!total) return;
  BOREAS_CHECK(kind == LossKind::rmse, invalid_argument, "{}: only the root needs a total, not {}", name,
               to_string(kind));
  check_dtype(name, "total", total, loss.dtype());
  check_vector(name, "total", total, loss.size(), "loss", loss);
}

int64_t WeightedLoss::scratch_bytes() const { return partial_sum_bytes(target, loss); }

void CrpsLoss::check() const {
  check_common(*this);
  BOREAS_CHECK(num_members >= 2, invalid_argument, "{}: an ensemble score needs two members or more, not {}", name,
               num_members);
  BOREAS_CHECK(alpha >= 0 && alpha <= 1, invalid_argument, "{}: alpha is {} but must lie in [0, 1]", name, alpha);
  check_shape(name, "prediction", prediction, target.rows() * num_members, target.cols(), "target", target);
  check_vector(name, "node_weights", node_weights, target.rows() / num_items, "target", target);
}

int64_t CrpsLoss::scratch_bytes() const {
  const int64_t members = target.device().is_cuda() ? 0 : cpu::summation_parts(target.rows()).num_parts() * num_members;
  return partial_sum_bytes(target, loss) + members * int64_t(sizeof(double));
}

}  // namespace boreas
