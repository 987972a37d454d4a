#include "models/layers/linear.h"

namespace boreas {

Linear::Linear(ParameterStore& store, const std::string& name, int64_t in, int64_t out, bool zero) {
  const Init init = zero ? Init::zeros() : Init::linear(in);
  weight_ = store.add(join_name(name, "weight"), {out, in}, init);
  bias_ = store.add(join_name(name, "bias"), {out}, init);
}

Linear::Linear(ParameterStore& store, const std::string& prefix, const std::vector<ParameterStore::StackPart>& parts,
               int64_t in, Bias bias) {
  const auto named = [&](const char* what) {
    std::vector<ParameterStore::StackPart> result;
    for (const auto& part : parts) result.push_back({join_name(join_name(prefix, part.name), what), part.rows});
    return result;
  };
  weight_ = store.add_stack(named("weight"), in, Init::linear(in));
  if (bias == Bias::yes) bias_ = store.add_stack(named("bias"), 0, Init::linear(in));
}

void Linear::forward(Context& ctx, const Tensor& x, const Tensor& y, const Tensor& residual) const {
  LinearForward op;
  op.x = x;
  op.weight = weight_->value;
  if (bias_) op.bias = bias_->value;
  op.residual = residual;
  op.y = y;
  run(ctx, op);
}

void Linear::forward_rows(Context& ctx, const Tensor& x, const Tensor& y, Range rows) const {
  LinearForward op;
  op.x = x;
  op.weight = weight_->value.slice(rows);
  if (bias_) op.bias = bias_->value.columns(rows);
  op.y = y;
  run(ctx, op);
}

void Linear::forward_gelu(Context& ctx, const Tensor& x, const Tensor& before, const Tensor& y) const {
  LinearForward op;
  op.x = x;
  op.weight = weight_->value;
  if (bias_) op.bias = bias_->value;
  op.activation = Activation::gelu;
  op.pre_activation = before;
  op.y = y;
  run(ctx, op);
}

void Linear::backward_parameters(Context& ctx, const Tensor& x, const Tensor& d_y) const {
  LinearBackward op;
  op.x = x;
  op.d_y = d_y;
  op.d_weight = weight_->grad;
  if (bias_) op.d_bias = bias_->grad;
  run(ctx, op);
}

void Linear::backward_input(Context& ctx, const Tensor& d_y, const Tensor& d_x, bool accumulate) const {
  const int64_t in = weight_->shape[1];
  LinearBackward op;
  op.weight = weight_->value.columns({in - d_x.cols(), in});
  op.d_y = d_y;
  op.d_x = d_x;
  op.accumulate_d_x = accumulate;
  run(ctx, op);
}

void Linear::backward_gelu(Context& ctx, const Tensor& d_y, const Tensor& before, const Tensor& d_before) const {
  LinearBackward op;
  op.weight = weight_->value;
  op.d_y = d_y;
  op.pre_activation = before;
  op.d_x = d_before;
  run(ctx, op);
}

}  // namespace boreas
