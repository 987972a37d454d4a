#include "models/parameters.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/rng.h"
#include "kernels/elementwise/elementwise.h"

namespace boreas {

namespace {

/// Stands for memory in a store that is only planned with: not null, so that views of it are well-formed; never
/// touched.
void* const kNoMemory = reinterpret_cast<void*>(int64_t{1} << 45);

/// FNV-1a: a name's own random stream.
uint64_t hash_of(const std::string& name) {
  uint64_t hash = 14695981039346656037ull;
  for (const unsigned char c : name) hash = (hash ^ c) * 1099511628211ull;
  return hash;
}

/// Values `first` .. `first + size` of an array.
std::vector<double> initial_values(const Init& init, uint64_t seed, const std::string& name, int64_t first,
                                   int64_t size) {
  std::vector<double> values(size_t(size), init.kind == Init::Kind::ones ? 1.0 : 0.0);
  if (init.kind != Init::Kind::uniform) return values;
  const Philox rng(seed, hash_of(name));
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < size; ++i) values[size_t(i)] = init.bound * (2 * rng.uniform(uint64_t(first + i)) - 1);
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
  parameter.grad = Tensor(kNoMemory, master_dtype(), parameter.shape, device_);
  const ShardSpec& shards = parameter.shards;
  BOREAS_CHECK(!shards || (shards.rows.size() == parameter.shape[0] && shards.rows.end <= shards.num_rows), shape,
               "parameter {} has {} rows, but its shard is rows {} to {} of {}", parameter.parts[0].name,
               parameter.shape[0], shards.rows.begin, shards.rows.end, shards.num_rows);
  int64_t& end = shards ? sharded_size_ : replicated_size_;
  offsets_.push_back(end);
  const int64_t size = parameter.shape.size(), width = parameter.shape.rank() > 1 ? parameter.shape[1] : 1;
  num_parameters_ += shards ? shards.num_rows * width : size;
  const int64_t alignment = kAlignment / size_of(dtype_);
  end += (size + alignment - 1) / alignment * alignment;
  return parameters_.emplace_back(std::move(parameter));
}

const Parameter* ParameterStore::add(const std::string& name, Shape shape, Init init, ShardSpec shards) {
  return &insert({.parts = {{name, {0, shape[0]}}}, .shape = shape, .init = init, .shards = shards});
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

Tensor ParameterStore::add_constant(const std::string& name, Shape shape, std::span<const double> values,
                                    ShardSpec shards) {
  claim_name(name);
  Buffer storage = Buffer::on(device_, shape.size() * size_of(master_dtype()), "constants");
  const Tensor value = storage.tensor(master_dtype(), shape);
  fill_from_host(value, values);
  constants_.push_back({name, std::move(storage), value, shards});
  return value;
}

void ParameterStore::materialise(uint64_t seed) {
  BOREAS_CHECK(!materialised(), invalid_argument, "the parameters are materialised already");
  values_ = Buffer::on(device_, std::max<int64_t>(value_bytes(), 1), "parameters");
  gradients_ = Buffer::on(device_, std::max<int64_t>(gradient_bytes(), 1), "gradients");
  values_.zero();
  gradients_.zero();
  if (has_masters()) {
    masters_ = Buffer::on(device_, std::max<int64_t>(master_bytes(), 1), "masters");
    masters_.zero();
  }
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    p.value = values_.tensor(dtype_, p.shape, offset(i) * size_of(dtype_));
    p.grad = gradients_.tensor(master_dtype(), p.shape, offset(i) * size_of(master_dtype()));
  }
  const Tensor masters = flat_masters();
  for (size_t i = 0; i < parameters_.size(); ++i)
    for (const auto& part : parameters_[i].parts) {
      const Parameter& p = parameters_[i];
      const Tensor master = p.part(array_in(masters, i), part);
      const int64_t width = p.shape.rank() > 1 ? p.shape[1] : 1;
      std::vector<double> values;
      for (const Range rows : p.shards.stored_rows({0, master.size() / std::max<int64_t>(1, width)})) {
        const std::vector<double> of_run =
            initial_values(p.init, seed, part.name, rows.begin * width, rows.size() * width);
        values.insert(values.end(), of_run.begin(), of_run.end());
      }
      fill_from_host(master, values);
    }
  round_masters();
}

void ParameterStore::gradients_are_ready(Context& ctx, size_t n) const {
  if (!listener_) return;
  while (n < parameters_.size() && parameters_[n].shards) ++n;
  listener_(ctx, n < parameters_.size() ? offsets_[n] : replicated_size_);
}

void ParameterStore::keep_values_only() {
  values_only_ = true;
  gradients_ = Buffer();
  masters_ = Buffer();
  for (Parameter& p : parameters_) p.grad = Tensor(kNoMemory, master_dtype(), p.shape, device_);
}

Tensor ParameterStore::flat(const Buffer& buffer, DType dtype) const {
  return buffer.data() ? buffer.tensor(dtype, {flat_size()}) : Tensor(kNoMemory, dtype, {flat_size()}, device_);
}

Tensor ParameterStore::flat_values() const { return flat(values_, dtype_); }

Tensor ParameterStore::flat_masters() const { return has_masters() ? flat(masters_, master_dtype()) : flat_values(); }

Tensor ParameterStore::flat_gradients() const { return flat(gradients_, master_dtype()); }

void ParameterStore::round_masters() {
  values_change();
  if (!has_masters()) return;
  std::vector<float> masters(size_t(flat_size()), 0);
  std::vector<bfloat16> values(masters.size());
  copy_now(masters.data(), Device::cpu(), masters_.data(), device_, master_bytes());
  std::transform(masters.begin(), masters.end(), values.begin(), [](float x) { return bfloat16(x); });
  copy_now(values_.data(), device_, values.data(), Device::cpu(), value_bytes());
}

void ParameterStore::zero_gradients(Context& ctx) const { run(ctx, Fill{.y = flat_gradients(), .value = 0}); }

void ParameterStore::for_each(
    const std::function<void(const std::string& name, Tensor value, Tensor grad)>& visit) const {
  const Tensor masters = flat_masters();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& p = parameters_[i];
    const Tensor value = array_in(masters, i);
    for (const auto& part : p.parts) visit(part.name, p.part(value, part), p.part(p.grad, part));
  }
}

Tensor ParameterStore::array_in(const Tensor& flat, size_t i) const {
  const Shape& shape = parameters_[i].shape;
  return flat.reshape({flat_size()}).columns({offset(i), offset(i) + shape.size()}).reshape(shape);
}

std::vector<ParameterStore::Place> ParameterStore::places() const {
  std::vector<Place> places;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& p = parameters_[i];
    const int64_t width = p.shape.rank() > 1 ? p.shape[1] : 1;
    for (const auto& part : p.parts)
      places.push_back({part.name,
                        {offset(i) + part.rows.begin * width, offset(i) + part.rows.end * width},
                        p.shape.rank() > 1 ? Shape{part.rows.size(), width} : Shape{part.rows.size()},
                        p.shards});
  }
  return places;
}

void ParameterStore::for_each_in(const Tensor& flat,
                                 const std::function<void(const std::string& name, Tensor slice)>& visit) const {
  BOREAS_CHECK(flat.size() == flat_size(), shape, "a flat vector of {} was given for parameters of {}", to_string(flat),
               flat_size());
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& p = parameters_[i];
    const Tensor whole = array_in(flat, i);
    for (const auto& part : p.parts) visit(part.name, p.part(whole, part));
  }
}

ShardSpec ParameterStore::shards_of(const std::string& name) const {
  for (const Parameter& p : parameters_)
    for (const auto& part : p.parts)
      if (part.name == name) return p.shards;
  for (const ConstantArray& constant : constants_)
    if (constant.name == name) return constant.shards;
  BOREAS_FAIL(invalid_argument, "there is no parameter {}", name);
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
  copy_now(tensor.data(), tensor.device(), staging.data(), Device::cpu(), tensor.bytes());
}

std::string join_name(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : name.empty() ? prefix : prefix + "." + name;
}

}  // namespace boreas
