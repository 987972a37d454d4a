#include "engine/weights_io.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "io/atomic_replace.h"
#include "io/hdf5_file.h"
#include "kernels/core/near_names.h"
#include "models/parameters.h"

namespace boreas {
namespace {

using json = nlohmann::json;
namespace fs = std::filesystem;

// --- a weights file: names and shapes first, values on demand
// ----------------------------------------------------------

struct Entry {
  std::string name;  // in the file
  std::string type;
  std::vector<int64_t> shape;
  int64_t size = 0;
  int64_t offset = 0;  // safetensors: of the first byte in the file
};

struct WeightsFile {
  std::map<std::string, Entry> entries;  // by the name without prefix
  std::function<void(const Entry&, double* values)> read;
};

std::string without_prefix(std::string_view name) {
  for (const std::string_view prefix : {"model.model.", "model."})
    if (name.starts_with(prefix)) return std::string(name.substr(prefix.size()));
  return std::string(name);
}

void insert(WeightsFile& file, const std::string& path, Entry entry) {
  const std::string name = without_prefix(entry.name);
  const auto [other, inserted] = file.entries.emplace(name, entry);
  BOREAS_CHECK(inserted, corrupt_data, "{}: '{}' and '{}' are the same array '{}'", path, other->second.name,
               entry.name, name);
}

template <class T>
void widen(const std::vector<char>& bytes, double* values) {
  for (size_t i = 0; i < bytes.size() / sizeof(T); ++i) {
    T x;
    std::memcpy(&x, bytes.data() + i * sizeof(T), sizeof(T));
    if constexpr (std::is_same_v<T, bfloat16>)
      values[i] = double(float(x));
    else
      values[i] = double(x);
  }
}

// IEEE half precision, exactly.
double from_half(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const double magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                           : exponent == 0 ? std::ldexp(mantissa, -24)
                                           : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

struct SafetensorsType {
  std::string_view name;
  int64_t bytes;
  void (*widen)(const std::vector<char>&, double*);
};
constexpr SafetensorsType kSafetensorsTypes[] = {{"F64", 8, widen<double>},
                                                 {"F32", 4, widen<float>},
                                                 {"BF16", 2, widen<bfloat16>},
                                                 {"I64", 8, widen<int64_t>},
                                                 {"I32", 4, widen<int32_t>},
                                                 {"U8", 1, widen<uint8_t>},
                                                 {"F16", 2, [](const std::vector<char>& bytes, double* values) {
                                                    for (size_t i = 0; i < bytes.size() / 2; ++i) {
                                                      uint16_t half;
                                                      std::memcpy(&half, bytes.data() + 2 * i, 2);
                                                      values[i] = from_half(half);
                                                    }
                                                  }}};

const SafetensorsType* find_type(std::string_view name) {
  for (const SafetensorsType& type : kSafetensorsTypes)
    if (type.name == name) return &type;
  return nullptr;
}

// An unsigned integer of a safetensors header that fits in int64.
std::optional<int64_t> as_size(const json& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t(INT64_MAX)) return std::nullopt;
  return int64_t(value.get<uint64_t>());
}

Entry parse_safetensors_entry(const std::string& path, const std::string& name, const json& value, int64_t data_begin,
                              int64_t data_bytes) {
  const auto bad = [&](const std::string& what) -> void {
    BOREAS_FAIL(corrupt_data, "{}: the header's entry '{}' {}", path, name, what);
  };
  if (!value.is_object() || !value.contains("dtype") || !value["dtype"].is_string() || !value.contains("shape") ||
      !value["shape"].is_array() || !value.contains("data_offsets") || !value["data_offsets"].is_array() ||
      value["data_offsets"].size() != 2)
    bad("lacks dtype, shape or data_offsets");
  Entry entry{.name = name, .type = value["dtype"].get<std::string>(), .shape = {}, .size = 1, .offset = 0};
  const SafetensorsType* type = find_type(entry.type);
  BOREAS_CHECK(type, unsupported, "{}: '{}' has type {}; boreas reads F64, F32, BF16, F16, I64, I32 and U8", path, name,
               entry.type);
  for (const json& extent : value["shape"]) {
    const auto size = as_size(extent);
    if (!size || __builtin_mul_overflow(entry.size, *size, &entry.size))
      bad(fmt::format("has the impossible shape {}", value["shape"].dump()));
    entry.shape.push_back(*size);
  }
  const auto begin = as_size(value["data_offsets"][0]), end = as_size(value["data_offsets"][1]);
  int64_t bytes = 0;
  if (!begin || !end || *begin > *end || *end > data_bytes)
    bad(fmt::format("has data_offsets {} outside the {} bytes of data", value["data_offsets"].dump(), data_bytes));
  if (__builtin_mul_overflow(entry.size, type->bytes, &bytes) || bytes != *end - *begin)
    bad(fmt::format("has shape {} of type {} but {} bytes of data", value["shape"].dump(), entry.type, *end - *begin));
  entry.offset = data_begin + *begin;
  return entry;
}

// Layout: header size (u64, little endian), header (JSON), data. The arrays tile the data without gap or overlap.
WeightsFile open_safetensors(const std::string& path) {
  constexpr int64_t kLargestHeader = 100'000'000;
  auto stream = std::make_shared<std::ifstream>(path, std::ios::binary);
  std::error_code failure;
  const auto file_bytes = int64_t(fs::file_size(path, failure));
  BOREAS_CHECK(*stream && !failure, io, "{}: cannot be read", path);
  uint64_t header_bytes = 0;
  stream->read(reinterpret_cast<char*>(&header_bytes), 8);
  BOREAS_CHECK(*stream && header_bytes <= uint64_t(std::min(kLargestHeader, file_bytes - 8)), corrupt_data,
               "{}: neither HDF5 nor safetensors: it would have a header of {} bytes, but the file has {} bytes", path,
               header_bytes, file_bytes);
  std::string text(header_bytes, '\0');
  stream->read(text.data(), int64_t(header_bytes));
  // Entries are two levels deep; what is nested deeper is dropped instead of built.
  const auto shallow = [](int depth, json::parse_event_t, json&) { return depth <= 4; };
  const json header = json::parse(text, shallow, false);
  BOREAS_CHECK(*stream && header.is_object(), corrupt_data,
               "{}: the header of the safetensors file is not a JSON object", path);

  WeightsFile file;
  const int64_t data_begin = 8 + int64_t(header_bytes), data_bytes = file_bytes - data_begin;
  std::vector<std::pair<int64_t, int64_t>> extents;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") continue;
    const Entry entry = parse_safetensors_entry(path, name, value, data_begin, data_bytes);
    extents.emplace_back(entry.offset, entry.offset + entry.size * find_type(entry.type)->bytes);
    insert(file, path, entry);
  }
  std::sort(extents.begin(), extents.end());
  int64_t covered = data_begin;
  for (const auto& [begin, end] : extents) {
    BOREAS_CHECK(begin == covered, corrupt_data, "{}: the arrays overlap or leave a gap at byte {}", path, covered);
    covered = end;
  }
  BOREAS_CHECK(covered == file_bytes, corrupt_data, "{}: the arrays end at byte {} but the file has {}", path, covered,
               file_bytes);
  file.read = [stream, path](const Entry& entry, double* values) {
    const SafetensorsType* type = find_type(entry.type);
    std::vector<char> bytes(size_t(entry.size * type->bytes));
    stream->seekg(entry.offset);
    stream->read(bytes.data(), int64_t(bytes.size()));
    BOREAS_CHECK(*stream, io, "{}: reading '{}' failed", path, entry.name);
    type->widen(bytes, values);
  };
  return file;
}

WeightsFile open_hdf5(const std::string& path) {
  auto hdf5 = std::make_shared<Hdf5File>(Hdf5File::open(path));
  BOREAS_CHECK(
      hdf5->exists("weights") && hdf5->is_group("weights"), config,
      "{}: there is no group 'weights'; make the file with tools/anemoi_checkpoint_to_hdf5.py or boreas export", path);
  WeightsFile file;
  for (const std::string& name : hdf5->list("weights")) {
    const Hdf5File::ArrayInfo info = hdf5->info("weights/" + name);
    Entry entry{.name = name, .type = std::string(to_string(info.dtype)), .shape = {}, .size = 1, .offset = 0};
    for (int i = 0; i < info.shape.rank(); ++i) entry.shape.push_back(info.shape[i]);
    entry.size = info.shape.size();
    insert(file, path, entry);
  }
  file.read = [hdf5](const Entry& entry, double* values) {
    const auto [storage, array] = hdf5->read("weights/" + entry.name);
    dispatch_dtype(array.dtype(), [&, &array = array]<class T>() {
      const T* x = array.template as<T>();
      for (int64_t i = 0; i < array.size(); ++i)
        if constexpr (std::is_same_v<T, bfloat16>)
          values[i] = double(float(x[i]));
        else
          values[i] = double(x[i]);
    });
  };
  return file;
}

bool is_hdf5(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  BOREAS_CHECK(stream, io, "{}: cannot be opened", path);
  char magic[8] = {};
  stream.read(magic, 8);
  return stream && std::memcmp(magic, "\x89HDF\r\n\x1a\n", 8) == 0;
}

// --- names -----------------------------------------------------------------------------------------------------------

constexpr std::string_view kAlias = "layer_norm_attention_dest.", kAliased = "layer_norm_attention.";
constexpr std::string_view kLayoutVersion = "trainable_layout_version", kTrainable = "trainable.trainable";

std::string replace_tail(const std::string& name, size_t at, std::string_view from, std::string_view to) {
  return name.substr(0, at) + std::string(to) + name.substr(at + from.size());
}

// The first name of a second name: mappers list the destination's layer norm twice.
std::optional<std::string> aliased(const std::string& name) {
  const size_t at = name.find(kAlias);
  if (at == std::string::npos) return std::nullopt;
  return replace_tail(name, at, kAlias, kAliased);
}

// The second name that the reference gives to an array of a mapper ("...proc.layer_norm_attention.weight"; the layers
// of a processor are "...proc.3.layer_norm_attention.weight").
std::optional<std::string> alias_of(const std::string& name) {
  const std::string mapper = "proc." + std::string(kAliased);
  const size_t at = name.find(mapper);
  if (at == std::string::npos || (at > 0 && name[at - 1] != '.')) return std::nullopt;
  return replace_tail(name, at + 5, kAliased, kAlias);
}

std::optional<std::string> layout_version_of(const std::string& name) {
  if (!name.ends_with(kTrainable) || name.find("graph_provider") == std::string::npos) return std::nullopt;
  return name.substr(0, name.size() - kTrainable.size()) + std::string(kLayoutVersion);
}

std::string_view reason_not_used(const std::string& name) {
  if (name.starts_with("boundings.")) return "derived from the configuration and the statistics";
  if (name.starts_with("pre_processors.") || name.starts_with("post_processors."))
    return "normalisation comes from the dataset's statistics";
  return {};
}

// --- the store -------------------------------------------------------------------------------------------------------

struct Target {
  Tensor value;
  bool constant;
};

std::map<std::string, Target> targets_of(const ParameterStore& store) {
  std::map<std::string, Target> targets;
  store.for_each([&](const std::string& name, Tensor value, Tensor) { targets.emplace(name, Target{value, false}); });
  store.for_each_constant([&](const std::string& name, Tensor value) { targets.emplace(name, Target{value, true}); });
  return targets;
}

std::vector<int64_t> extents_of(const Shape& shape) {
  std::vector<int64_t> extents;
  for (int i = 0; i < shape.rank(); ++i) extents.push_back(shape[i]);
  return extents;
}

std::string text_of(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

std::vector<double> read_values(const WeightsFile& file, const Entry& entry) {
  std::vector<double> values(size_t(entry.size));
  file.read(entry, values.data());
  return values;
}

std::vector<char> host_bytes(const Tensor& value) {
  std::vector<char> bytes(size_t(value.bytes()));
  copy_now(bytes.data(), Device::cpu(), value.data(), value.device(), value.bytes());
  return bytes;
}

// Constants were made from the graph in another precision; a different graph differs by far more.
void check_constant(const std::string& path, const std::string& name, const Tensor& value,
                    std::span<const double> values) {
  const std::vector<char> bytes = host_bytes(value);
  dispatch_float(value.dtype(), [&]<class T>() {
    for (size_t i = 0; i < values.size(); ++i) {
      T own;
      std::memcpy(&own, bytes.data() + i * sizeof(T), sizeof(T));
      BOREAS_CHECK(std::abs(double(own) - values[i]) <= 1e-4, config,
                   "{}: '{}' has {} at element {} but this model's graph gives {}; the weights belong to another graph",
                   path, name, values[i], i, double(own));
    }
  });
}

void store_values(const Tensor& value, std::span<const double> values) {
  dispatch_dtype(value.dtype(), [&]<class T>() {
    std::vector<T> converted;
    converted.reserve(values.size());
    for (const double x : values)
      if constexpr (std::is_same_v<T, bfloat16>)
        converted.push_back(bfloat16(float(x)));
      else
        converted.push_back(T(x));
    copy_now(value.data(), value.device(), converted.data(), Device::cpu(), value.bytes());
  });
}

// --- writing ---------------------------------------------------------------------------------------------------------

// Every array of the reference's state dict: those of the store, second names, layout versions.
void for_each_exported(const ParameterStore& store,
                       const std::function<void(const std::string&, const Tensor&)>& visit) {
  static const int64_t one = 1;
  const Tensor version(const_cast<int64_t*>(&one), DType::i64, {1});
  for (const auto& [name, target] : targets_of(store)) {
    visit(name, target.value);
    if (const auto alias = alias_of(name)) visit(*alias, target.value);
    if (const auto layout = layout_version_of(name)) visit(*layout, version);
  }
}

void export_hdf5(const std::string& path, const ParameterStore& store) {
  Hdf5File file = Hdf5File::create(path);
  file.make_group("weights");
  for_each_exported(store, [&](const std::string& name, const Tensor& value) {
    const std::vector<char> bytes = host_bytes(value);
    file.write("weights/" + name, Tensor(const_cast<char*>(bytes.data()), value.dtype(), value.shape()));
  });
  file.commit();
}

void export_safetensors(const std::string& path, const ParameterStore& store) {
  json header = json::object();
  int64_t end = 0;
  for_each_exported(store, [&](const std::string& name, const Tensor& value) {
    constexpr std::string_view names[] = {"F64", "F32", "BF16", "I32", "I64", "U8"};
    const bool is_version = value.dtype() == DType::i64;  // a scalar in the reference
    const int64_t begin = end;
    end += value.bytes();
    header[name] = {{"dtype", names[int(value.dtype())]},
                    {"shape", is_version ? std::vector<int64_t>{} : extents_of(value.shape())},
                    {"data_offsets", {begin, end}}};
  });
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data start aligned

  const std::string partial = partial_path(path);
  try {
    std::ofstream file(partial, std::ios::binary);
    const uint64_t header_bytes = text.size();
    file.write(reinterpret_cast<const char*>(&header_bytes), 8);
    file.write(text.data(), int64_t(text.size()));
    for_each_exported(store, [&](const std::string&, const Tensor& value) {
      const std::vector<char> bytes = host_bytes(value);
      file.write(bytes.data(), int64_t(bytes.size()));
    });
    file.close();
    BOREAS_CHECK(file, io, "{}: writing failed: {}", path, std::strerror(errno));
    replace_path(partial, path);
  } catch (...) {
    remove_quietly(partial);
    throw;
  }
}

}  // namespace

ImportReport import_weights(const std::string& path, ParameterStore& store) {
  BOREAS_CHECK(store.materialised(), invalid_argument, "import_weights needs a materialised store");
  const WeightsFile file = is_hdf5(path) ? open_hdf5(path) : open_safetensors(path);
  const std::map<std::string, Target> targets = targets_of(store);
  std::vector<std::string> names;
  for (const auto& [name, target] : targets) names.push_back(name);

  ImportReport report;
  report.num_arrays = int64_t(file.entries.size());
  std::vector<std::string> differences;
  std::map<std::string, const Entry*> sources;                     // by the name in the store
  std::vector<std::pair<const Entry*, const Entry*>> equal_pairs;  // alias, first name
  std::vector<const Entry*> versions;
  for (const auto& [name, entry] : file.entries) {
    if (const auto first = aliased(name); first && targets.contains(*first)) {
      if (const auto other = file.entries.find(*first); other != file.entries.end()) {
        report.aliases.push_back(name);
        equal_pairs.emplace_back(&entry, &other->second);
      } else {
        sources.emplace(*first, &entry);
      }
    } else if (name.ends_with(kLayoutVersion)) {
      versions.push_back(&entry);
    } else if (targets.contains(name)) {
      sources.emplace(name, &entry);
    } else if (const std::string_view reason = reason_not_used(name); !reason.empty()) {
      report.not_used.push_back(fmt::format("{}: {}", name, reason));
    } else {
      differences.push_back(fmt::format("unexpected: {} {}{}", name, text_of(entry.shape), near_names(name, names)));
    }
  }
  for (const auto& [name, target] : targets) {
    const std::vector<int64_t> expected = extents_of(target.value.shape());
    if (const auto source = sources.find(name); source == sources.end())
      differences.push_back(fmt::format("missing: {} {}", name, text_of(expected)));
    else if (source->second->shape != expected)
      differences.push_back(
          fmt::format("shape: {} is {}, expected {}", name, text_of(source->second->shape), text_of(expected)));
  }
  for (const auto& [alias, first] : equal_pairs)
    if (alias->shape != first->shape || read_values(file, *alias) != read_values(file, *first))
      differences.push_back(fmt::format("not equal: {} and {}, two names of one array", alias->name, first->name));
  for (const Entry* entry : versions)
    if (entry->size != 1 || read_values(file, *entry)[0] != 1)
      differences.push_back(
          fmt::format("layout: {} is not 1: edge arrays are not sorted by destination; convert the "
                      "checkpoint with tools/anemoi_checkpoint_to_hdf5.py",
                      entry->name));
  BOREAS_CHECK(differences.empty(), config,
               "{} does not fit the model, {} differences:\n  {}\nCheck model.* and graph.*", path, differences.size(),
               fmt::join(differences, "\n  "));

  for (const auto& [name, entry] : sources) {
    const std::vector<double> values = read_values(file, *entry);
    for (size_t i = 0; i < values.size(); ++i)
      BOREAS_CHECK(std::isfinite(values[i]), corrupt_data, "{}: '{}' is {} at element {}", path, entry->name, values[i],
                   i);
    if (const Target& target = targets.at(name); target.constant) check_constant(path, name, target.value, values);
  }
  for (const auto& [name, entry] : sources) store_values(targets.at(name).value, read_values(file, *entry));
  store.round_masters();
  report.num_imported = int64_t(sources.size());
  return report;
}

void export_weights(const std::string& path, const ParameterStore& store) {
  BOREAS_CHECK(store.materialised(), invalid_argument, "export_weights needs a materialised store");
  const std::string ending = fs::path(path).extension();
  if (ending == ".h5" || ending == ".hdf5")
    export_hdf5(path, store);
  else if (ending == ".safetensors")
    export_safetensors(path, store);
  else
    BOREAS_FAIL(invalid_argument, "{}: weights are exported as .h5, .hdf5 or .safetensors, not as '{}'", path, ending);
}

}  // namespace boreas
