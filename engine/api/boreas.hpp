// boreas for C++ programs: boreas.h with objects that close themselves and errors that are thrown. C++17.
#pragma once

#include <boreas.h>

#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace boreas::host {

/// What boreas.h returns as a status, with its sentence.
class Error : public std::runtime_error {
 public:
  explicit Error(int status) : std::runtime_error(boreas_error()), status_(status) {}
  int status() const { return status_; }

 private:
  int status_;
};

inline void check(int status) {
  if (status != BOREAS_OK) throw Error(status);
}

/// A struct of boreas.h with its size set, and all else zero.
template <class Struct>
Struct make() {
  Struct made{};
  made.struct_size = sizeof(Struct);
  return made;
}

inline int64_t parse_date(const std::string& text) {
  int64_t date = 0;
  check(boreas_parse_date(text.c_str(), &date));
  return date;
}
inline std::string format_date(int64_t date) {
  char text[32];
  check(boreas_format_date(date, text, sizeof text));
  return text;
}

/// An array of the host as a field; `values` must live as long as it.
template <class Value>
boreas_field field(const char* name, const Value* values, size_t count, int64_t stride = 1,
                   const char* units = nullptr) {
  static_assert(std::is_same_v<Value, float> || std::is_same_v<Value, double>, "fields are float or double");
  auto made = make<boreas_field>();
  made.name = name;
  made.units = units;
  made.dtype = std::is_same_v<Value, float> ? BOREAS_F32 : BOREAS_F64;
  made.count = int64_t(count);
  made.stride = stride;
  made.data = const_cast<Value*>(values);
  return made;
}

class Model {
 public:
  explicit Model(const std::string& checkpoint, boreas_model_options options = make<boreas_model_options>()) {
    check(boreas_model_open(checkpoint.c_str(), &options, &handle_));
  }
  Model(Model&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Model& operator=(Model&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Model() {
    if (handle_) boreas_model_close(handle_);
  }
  boreas_model* handle() const { return handle_; }

  boreas_model_info info() const {
    auto info = make<boreas_model_info>();
    check(boreas_model_describe(handle_, &info));
    return info;
  }
  std::vector<boreas_variable_info> variables() const {
    std::vector<boreas_variable_info> all(size_t(info().num_variables), make<boreas_variable_info>());
    for (size_t v = 0; v < all.size(); ++v) check(boreas_model_variable(handle_, int64_t(v), &all[v]));
    return all;
  }
  /// Latitudes and longitudes in degrees, of all cells of the grid.
  std::pair<std::vector<double>, std::vector<double>> coordinates() const {
    const auto count = size_t(info().num_cells);
    std::pair<std::vector<double>, std::vector<double>> both{std::vector<double>(count), std::vector<double>(count)};
    check(boreas_model_coordinates(handle_, both.first.data(), both.second.data(), int64_t(count)));
    return both;
  }
  void set_cells(const std::vector<int64_t>& cells) {
    check(boreas_model_set_cells(handle_, cells.data(), int64_t(cells.size())));
  }

  void set_sample(int64_t sample, int64_t time, const boreas_field& field) {
    check(boreas_training_set(handle_, sample, time, &field));
  }
  boreas_training_result train(boreas_training_options options = make<boreas_training_options>()) {
    auto result = make<boreas_training_result>();
    check(boreas_training_step(handle_, &options, &result));
    return result;
  }
  void save(const std::string& path) { check(boreas_model_save(handle_, path.c_str())); }

 private:
  boreas_model* handle_ = nullptr;
};

class State {
 public:
  explicit State(const Model& model, boreas_state_options options = make<boreas_state_options>()) {
    check(boreas_state_open(model.handle(), &options, &handle_));
  }
  State(State&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  State& operator=(State&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~State() {
    if (handle_) boreas_state_close(handle_);
  }
  boreas_state* handle() const { return handle_; }

  void begin(int64_t start_date) { check(boreas_state_begin(handle_, start_date)); }
  void set(int64_t date, const boreas_field& field) { check(boreas_state_set(handle_, date, &field)); }
  template <class Value>
  void set(int64_t date, const char* name, const std::vector<Value>& values) {
    set(date, field(name, values.data(), values.size()));
  }
  void step() { check(boreas_state_step(handle_)); }
  void rollout(int64_t num_steps) { check(boreas_state_rollout(handle_, num_steps)); }
  int64_t date() const {
    int64_t date = 0;
    check(boreas_state_date(handle_, &date));
    return date;
  }
  void read(int64_t date, const boreas_field& field) { check(boreas_state_read(handle_, date, &field)); }
  template <class Value>
  void read(int64_t date, const char* name, std::vector<Value>& values) {
    read(date, field(name, values.data(), values.size()));
  }
  /// Valid until the next step.
  boreas_field view(int64_t date, const char* name) {
    auto field = make<boreas_field>();
    check(boreas_state_view(handle_, date, name, &field));
    return field;
  }
  boreas_timings timings() const {
    auto timings = make<boreas_timings>();
    check(boreas_state_timings(handle_, &timings));
    return timings;
  }

 private:
  boreas_state* handle_ = nullptr;
};

}  // namespace boreas::host
