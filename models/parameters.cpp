#include "models/parameters.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/rng.h"
#include "kernels/elementwise/elementwise.h"

namespace boreas {

namespace {

constexpr int64_t kAlignment = 256;  // bytes, of each array in a flat buffer

/// Stands for memory in a store that is only planned with: not null, so that views of it are well-formed; never
/// touched.
void* const kNoMemory = reinterpret_cast<void*>(int64_t{1} << 45);

/// FNV-1a: a name's own random stream.
uint64_t hash_of(const std::string& name) {
  uint64_t hash = 14695981039346656037ull;
  for (const unsigned char c : name) hash = (hash ^ c) * 1099511628211ull;
  return hash;
}

std::vector<double> initial_values(const Init& init, uint64_t seed, const std::string& name, int64_t size) {
  std::vector<double> values(size_t(size), init.kind == Init::Kind::ones ? 1.0 : 0.0);
  if (init.kind != Init::Kind::uniform) return values;
  const Philox rng(seed, hash_of(name));
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < size; ++i) values[size_t(i)] = init.bound * (2 * rng.uniform(uint64_t(i)) - 1);
  return values;
}

}  // namespace

Init Init::linear(int64_t fan_in) { return {Kind::uniform, 1 / std::sqrt(double(std::max<int64_t>(1, fan_in)))}; }

Tensor Parameter::part(const Tensor& whole, const Part& part) const {
  if (shape.rank() > 1) return whole.slice(part.rows);
  return whole.columns(part.rows).reshape({part.rows.size()});
}

ParameterStore::ParameterStore(DType dtype, Device device) : dtype_(dtype), device_(device) {
  BOREAS_CHECK(is_floating(dtype), invalid_argument, "parameters cannot be {}; use f64, f32 or bf16", to_string(dtype));
}

void ParameterStore::claim_name(const std::string& name) {
  BOREAS_CHECK(!materialised(), invalid_argument, "parameter {} is added after the store was materialised", name);
  BOREAS_CHECK(names_.insert(name).second, invalid_argument, "two parameters are called {}", name);
}

Parameter& ParameterStore::insert(Parameter parameter) {
  for (const auto& part : parameter.parts) claim_name(part.name);
  parameter.value = Tensor(kNoMemory, dtype_, parameter.shape, device_);
  parameter.grad = Tensor(kNoMemory, accumulator_of(dtype_), parameter.shape, device_);
  offsets_.push_back(flat_size_);
  num_parameters_ += parameter.shape.size();
  const int64_t alignment = kAlignment / size_of(dtype_);
  flat_size_ += (parameter.shape.size() + alignment - 1) / alignment * alignment;
  return parameters_.emplace_back(std::move(parameter));
}

const Parameter* ParameterStore::add(const std::string& name, Shape shape, Init init, ShardSpec shards) {
  return &insert({.parts = {{name, {0, shape[0]}}}, .shape = shape, .init = init, .shards = std::move(shards)});
}

const Parameter* ParameterStore::add_stack(const std::vector<StackPart>& parts, int64_t cols, Init init) {
  Parameter parameter{.init = init};
  int64_t rows = 0;
  for (const StackPart& part : parts) {
    parameter.parts.push_back({part.name, {rows, rows + part.rows}});
    rows += part.rows;
  }
  parameter.shape = cols > 0 ? Shape{rows, cols} : Shape{rows};
  return &insert(std::move(parameter));
}

Tensor ParameterStore::add_constant(const std::string& name, Shape shape, std::span<const double> values) {
  claim_name(name);
  Buffer storage = Buffer::on(device_, shape.size() * size_of(dtype_), "constants");
  const Tensor value = storage.tensor(dtype_, shape);
  fill_from_host(value, values);
  constants_.push_back({name, std::move(storage), value});
  return value;
}

void ParameterStore::materialise(uint64_t seed) {
  BOREAS_CHECK(!materialised(), invalid_argument, "the parameters are materialised already");
  values_ = Buffer::on(device_, std::max<int64_t>(value_bytes(), 1), "parameters");
  gradients_ = Buffer::on(device_, std::max<int64_t>(gradient_bytes(), 1), "gradients");
  values_.zero();
  gradients_.zero();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    p.value = values_.tensor(dtype_, p.shape, offsets_[i] * size_of(dtype_));
    p.grad = gradients_.tensor(accumulator_of(dtype_), p.shape, offsets_[i] * size_of(accumulator_of(dtype_)));
    for (const auto& part : p.parts) {
      const Tensor value = p.part(p.value, part);
      fill_from_host(value, initial_values(p.init, seed, part.name, value.size()));
    }
  }
}

Tensor ParameterStore::flat_values() const {
  return materialised() ? values_.tensor(dtype_, {flat_size_}) : Tensor(kNoMemory, dtype_, {flat_size_}, device_);
}

Tensor ParameterStore::flat_gradients() const {
  const DType dtype = accumulator_of(dtype_);
  return materialised() ? gradients_.tensor(dtype, {flat_size_}) : Tensor(kNoMemory, dtype, {flat_size_}, device_);
}

void ParameterStore::zero_gradients(Context& ctx) const { run(ctx, Fill{.y = flat_gradients(), .value = 0}); }

void ParameterStore::for_each(
    const std::function<void(const std::string& name, Tensor value, Tensor grad)>& visit) const {
  for (const Parameter& p : parameters_)
    for (const auto& part : p.parts) visit(part.name, p.part(p.value, part), p.part(p.grad, part));
}

void ParameterStore::for_each_in(const Tensor& flat,
                                 const std::function<void(const std::string& name, Tensor slice)>& visit) const {
  BOREAS_CHECK(flat.size() == flat_size_, shape, "a flat vector of {} was given for parameters of {}", to_string(flat),
               flat_size_);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& p = parameters_[i];
    const Tensor whole =
        flat.reshape({flat_size_}).columns({offsets_[i], offsets_[i] + p.shape.size()}).reshape(p.shape);
    for (const auto& part : p.parts) visit(part.name, p.part(whole, part));
  }
}

void ParameterStore::for_each_constant(const std::function<void(const std::string& name, Tensor value)>& visit) const {
  for (const ConstantArray& constant : constants_) visit(constant.name, constant.value);
}

void fill_from_host(const Tensor& tensor, std::span<const double> values) {
  BOREAS_CHECK(tensor.contiguous() && tensor.size() == int64_t(values.size()), shape, "{} values cannot fill {}",
               values.size(), to_string(tensor));
  const Buffer staging(tensor.device(), Buffer::Kind::host, tensor.bytes(), "staging");
  const auto convert = [&]<class T>(T (*from)(double)) {
    T* const host = static_cast<T*>(staging.data());
    for (size_t i = 0; i < values.size(); ++i) host[i] = from(values[i]);
  };
  switch (tensor.dtype()) {
    case DType::f64:
      convert(+[](double value) { return value; });
      break;
    case DType::f32:
      convert(+[](double value) { return float(value); });
      break;
    case DType::bf16:
      convert(+[](double value) { return bfloat16(float(value)); });
      break;
    default:
      BOREAS_FAIL(invalid_argument, "{} is not of a floating type", to_string(tensor));
  }
  copy_bytes(Stream(tensor.device()), tensor.data(), tensor.device(), staging.data(), Device::cpu(), tensor.bytes());
}

std::string join_name(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : name.empty() ? prefix : prefix + "." + name;
}

}  // namespace boreas
