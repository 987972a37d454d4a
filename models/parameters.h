// Parameters by name, in flat buffers.
#pragma once

#include <deque>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/buffer.h"
#include "kernels/core/context.h"
#include "kernels/core/partition.h"

namespace boreas {

/// How a parameter starts. Uniform values depend on the seed and the parameter's name only, not on the order of layers.
struct Init {
  enum class Kind : uint8_t { zeros, ones, uniform };
  Kind kind = Kind::zeros;
  double bound = 0;  ///< uniform in [-bound, bound)

  static Init zeros() { return {}; }
  static Init ones() { return {Kind::ones, 0}; }
  /// U(+-1/sqrt(fan_in)): weights and biases of linear layers.
  static Init linear(int64_t fan_in);
};

/// How a named array lies over the ranks that share a sample: every rank holds all of it (the default), or each its own
/// rows, which then are `rows` of the whole array of `num_rows`, or of patches those in the runs `stored`.
struct ShardSpec {
  Range rows;
  int64_t num_rows = 0;            ///< 0: replicated
  std::vector<Range> stored = {};  ///< one after the other; empty: `rows`
  explicit operator bool() const { return num_rows > 0; }
  /// Where own rows, counted from this rank's first, are in the whole array.
  std::vector<Range> stored_rows(Range own) const {
    if (!stored.empty()) return cut(stored, own);
    return {{rows.begin + own.begin, rows.begin + own.end}};
  }
};

/// A trainable array: one name, or several stacked by rows so that one product serves them all.
struct Parameter {
  struct Part {
    std::string name;
    Range rows;  ///< of the stack
  };
  std::vector<Part> parts = {};
  Shape shape = {};  ///< [rows, cols], or [rows] for vectors; of this rank's rows
  Init init = {};
  ShardSpec shards = {};
  Tensor value = {}, grad = {};  ///< without memory until the store is materialised: enough for planning

  Tensor part(const Tensor& whole, const Part& part) const;  ///< of `value` or `grad`
};

/// A named array that is stored with the parameters but not trained, such as node coordinates.
struct ConstantArray {
  std::string name;
  Buffer storage;
  Tensor value;
  ShardSpec shards;
};

/// Every trainable array of a model by its name in the reference implementation. Layers add theirs when they are built
/// and hold pointers to them; `materialise` then lays all values in one flat buffer ("parameters") and all gradients in
/// another ("gradients", accumulator type), each array aligned, gaps zero. One clip, one norm, one AdamW call serve
/// all. Arrays that are split over ranks stand behind all others: what comes before is summed over the ranks at once.
///
/// Where the accumulator type is wider than the storage type (bf16), a third buffer ("masters") holds the weights that
/// are trained, saved and named; the values that layers read are these, rounded.
class ParameterStore {
 public:
  static constexpr int64_t kAlignment = 256;  ///< bytes, of each array in the flat buffer of values

  explicit ParameterStore(DType dtype = DType::f32, Device device = Device::cpu());
  ParameterStore(const ParameterStore&) = delete;

  DType dtype() const { return dtype_; }
  DType master_dtype() const { return accumulator_of(dtype_); }
  bool has_masters() const { return master_dtype() != dtype_ && !values_only_; }
  Device device() const { return device_; }

  /// `shape`: of this rank's rows. Throws invalid_argument if the name is taken or the store is materialised.
  const Parameter* add(const std::string& name, Shape shape, Init init, ShardSpec shards = {});
  struct StackPart {
    std::string name;
    int64_t rows;
  };
  /// Rows of `parts` one below the other; cols = 0: vectors, one after the other.
  const Parameter* add_stack(const std::vector<StackPart>& parts, int64_t cols, Init init);
  /// In the type of the masters.
  Tensor add_constant(const std::string& name, Shape shape, std::span<const double> values, ShardSpec shards = {});

  /// Allocates and initialises. May be called once.
  void materialise(uint64_t seed);
  bool materialised() const { return values_.data() != nullptr; }
  /// Gives back gradients and masters, for a model that is only used; for_each then shows the values.
  void keep_values_only();

  /// While there is a listener, models tell it in their backward, as soon as it is true, from which place of the flat
  /// vectors on the replicated gradients will not change any more.
  void listen(std::function<void(Context& ctx, int64_t from)> listener) { listener_ = std::move(listener); }
  /// Said by models: all arrays that were added after the first n are ready.
  void gradients_are_ready(Context& ctx, size_t n) const;
  size_t num_arrays() const { return parameters_.size(); }

  int64_t num_parameters() const { return num_parameters_; }  ///< without gaps, of all ranks
  int64_t flat_size() const { return replicated_size_ + sharded_size_; }
  Range replicated() const { return {0, replicated_size_}; }  ///< of the flat vectors
  Range sharded() const { return {replicated_size_, flat_size()}; }
  int64_t value_bytes() const { return flat_size() * size_of(dtype_); }
  int64_t gradient_bytes() const { return flat_size() * size_of(master_dtype()); }
  int64_t master_bytes() const { return has_masters() ? gradient_bytes() : 0; }
  Tensor flat_values() const;     ///< [flat_size]
  Tensor flat_masters() const;    ///< [flat_size]; flat_values() where these are their own masters
  Tensor flat_gradients() const;  ///< [flat_size]
  void zero_gradients(Context& ctx) const;
  /// values = masters, rounded: to be called after the masters were written by anything but the optimizer.
  void round_masters();
  /// How often the values were changed, as far as who changes them says so: what was made of them may be stale.
  int64_t version() const { return version_; }
  void values_change() { ++version_; }

  /// Where the array of each name lies in the flat vectors, in the order of addition.
  struct Place {
    std::string name;
    Range flat;
    Shape shape;  ///< of this rank's rows
    ShardSpec shards;
  };
  std::vector<Place> places() const;
  /// Visits every named array in the order of addition, its master as `value`; parts of a stack are visited one by one.
  /// Of an array that is split over ranks, this rank's rows.
  void for_each(const std::function<void(const std::string& name, Tensor value, Tensor grad)>& visit) const;
  /// The part of a vector shaped like the flat buffers (moments, averages) that belongs to each name.
  void for_each_in(const Tensor& flat, const std::function<void(const std::string& name, Tensor slice)>& visit) const;
  void for_each_constant(const std::function<void(const std::string& name, Tensor value)>& visit) const;
  const std::deque<Parameter>& parameters() const { return parameters_; }
  /// How the array or constant of that name lies over the ranks.
  ShardSpec shards_of(const std::string& name) const;

 private:
  Parameter& insert(Parameter parameter);
  void claim_name(const std::string& name);
  Tensor flat(const Buffer& buffer, DType dtype) const;
  int64_t offset(size_t i) const { return offsets_[i] + (parameters_[i].shards ? replicated_size_ : 0); }
  Tensor array_in(const Tensor& flat, size_t i) const;

  DType dtype_;
  Device device_;
  std::deque<Parameter> parameters_;  // stable addresses
  std::vector<int64_t> offsets_;      // in the flat buffers, in elements; of split arrays: behind all others
  std::deque<ConstantArray> constants_;
  std::set<std::string, std::less<>> names_;
  int64_t num_parameters_ = 0, replicated_size_ = 0, sharded_size_ = 0;
  bool values_only_ = false;
  int64_t version_ = 0;
  std::function<void(Context&, int64_t)> listener_;
  Buffer values_, gradients_, masters_;
};

/// Writes host values into a contiguous tensor of a floating type, on any device.
void fill_from_host(const Tensor& tensor, std::span<const double> values);

/// "encoder.data" + "proc" = "encoder.data.proc"; an empty part adds nothing.
std::string join_name(const std::string& prefix, const std::string& name);

}  // namespace boreas
