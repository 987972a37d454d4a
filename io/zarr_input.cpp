// Fields in Zarr stores: arrays with dimensions and attributes as xarray writes them, and Anemoi datasets.
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "io/cf_input.h"
#include "io/dataset_reader.h"
#include "io/zarr.h"
#include "kernels/core/error.h"

namespace boreas {
namespace {

using nlohmann::json;

json parse(const std::string& text, const std::string& where) {
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    BOREAS_FAIL(corrupt_data, "{}: is no JSON: {}", where, error.what());
  }
}

// Elements of any number type as f64, a few at a time.
template <class T>
void widen(const std::vector<std::byte>& bytes, double* out) {
  const T* const values = reinterpret_cast<const T*>(bytes.data());
  for (size_t i = 0; i < bytes.size() / sizeof(T); ++i) out[i] = double(values[i]);
}

class ZarrFile : public CfFile {
 public:
  ZarrFile(const std::string& path, std::shared_ptr<Store> store) : CfFile(path), pool_(0) {
    std::map<std::string, int> known;
    for (const std::string& name : list_arrays(*store)) {
      ZarrArray array = ZarrArray::open(store, name);
      if (array.dimension_names().size() != array.shape().size()) continue;  // nothing says what its dimensions are
      Variable variable{name, {}, std::string("fiu").find(array.dtype().kind) != std::string::npos};
      for (size_t d = 0; d < array.shape().size(); ++d) {
        const std::string& dimension = array.dimension_names()[d];
        const int64_t size = array.shape()[d];
        if (known.emplace(dimension, int(dimensions().size())).second) add_dimension(dimension, size);
        BOREAS_CHECK(dimensions()[size_t(known[dimension])].size == size, corrupt_data,
                     "{}: array '{}' has dimension '{}' of size {}, another array {}", path, name, dimension, size,
                     dimensions()[size_t(known[dimension])].size);
        variable.dimensions.push_back(known[dimension]);
      }
      attributes_.push_back(parse(read_attributes(*store, name), path + ": attributes of " + name));
      packings_.push_back(packing_of(*store, name, attributes_.back()));
      arrays_.push_back(std::move(array));
      add_variable(std::move(variable));
    }
    find_coordinates();
  }

  std::string text(int variable, const char* name) const override {
    const json& attributes = attributes_[size_t(variable)];
    const auto at = attributes.find(name);
    return at != attributes.end() && at->is_string() ? at->get<std::string>() : "";
  }

  void read(int variable, const std::vector<size_t>& begin, const std::vector<size_t>& count,
            double* out) const override {
    const ZarrArray& array = arrays_[size_t(variable)];
    IndexBox box;
    for (size_t d = 0; d < begin.size(); ++d) {
      box.begin.push_back(int64_t(begin[d]));
      box.end.push_back(int64_t(begin[d] + count[d]));
    }
    const size_t n = size_t(box.size());
    const ZarrDType& type = array.dtype();
    std::vector<std::byte> bytes(n * size_t(type.size));
    array.read(box, bytes.data(), pool_);
    const std::string kind = fmt::format("{}{}", type.kind, type.size);
    if (kind == "f8") widen<double>(bytes, out);
    if (kind == "f4") widen<float>(bytes, out);
    if (kind == "i8") widen<int64_t>(bytes, out);
    if (kind == "i4") widen<int32_t>(bytes, out);
    if (kind == "i2") widen<int16_t>(bytes, out);
    if (kind == "i1") widen<int8_t>(bytes, out);
    if (kind == "u8") widen<uint64_t>(bytes, out);
    if (kind == "u4") widen<uint32_t>(bytes, out);
    if (kind == "u2") widen<uint16_t>(bytes, out);
    if (kind == "u1") widen<uint8_t>(bytes, out);
    packings_[size_t(variable)].unpack({out, n});
  }

 private:
  // Of format 2, the fill value is the missing one.
  static CfPacking packing_of(const Store& store, const std::string& name, const json& attributes) {
    CfPacking packing;
    const auto number = [](const json& from, const char* key, auto&& take) {
      if (const auto at = from.find(key); at != from.end() && at->is_number()) take(at->get<double>());
    };
    const auto missing = [&](double value) { packing.missing.push_back(value); };
    number(attributes, "_FillValue", missing);
    number(attributes, "missing_value", missing);
    number(attributes, "scale_factor", [&](double value) { packing.scale = value; });
    number(attributes, "add_offset", [&](double value) { packing.offset = value; });
    if (const auto bytes = store.get(name + "/.zarray")) {
      const std::string text(reinterpret_cast<const char*>(bytes->data()), bytes->size());
      number(parse(text, name + "/.zarray"), "fill_value", missing);
    }
    return packing;
  }

  mutable ThreadPool pool_;
  std::vector<ZarrArray> arrays_;
  std::vector<json> attributes_;
  std::vector<CfPacking> packings_;
};

bool is_dataset(const Store& store, const std::string& path) {
  return ZarrArray::exists(store, "data") && ZarrArray::exists(store, "latitudes") &&
         parse(read_attributes(store, ""), path).contains("variables");
}

InputCatalog catalog_of(const DatasetReader& reader) {
  InputCatalog catalog;
  catalog.grids = {{reader.latitudes(), reader.longitudes(), reader.field_shape(), "",
                    fmt::format("{} cells of a dataset", reader.num_cells())}};
  for (int64_t v = 0; v < reader.num_variables(); ++v) {
    InputVariable variable;
    variable.name = variable.base = reader.variables()[size_t(v)];
    variable.units = reader.units(v);
    for (int64_t date = 0; date < reader.num_dates(); ++date)
      for (int64_t member = 0; member < reader.num_members() && !reader.missing(date); ++member)
        variable.fields[reader.dates()[size_t(date)]].push_back({0, int32_t(v), date, 0, member});
    catalog.variables.push_back(std::move(variable));
  }
  catalog.read = [reader](const FieldLocation& at, std::span<double> values) {
    std::vector<float> field(values.size());
    reader.read(at.time, {at.variable}, {at.member, at.member + 1}, {0, int64_t(values.size())}, field.data());
    std::copy(field.begin(), field.end(), values.begin());
  };
  return catalog;
}

}  // namespace

InputCatalog open_zarr_stores(const std::vector<std::string>& paths) {
  std::vector<std::unique_ptr<CfFile>> files;
  for (const std::string& path : paths) {
    const auto store = open_store(path);
    if (is_dataset(*store, path)) {
      BOREAS_CHECK(paths.size() == 1, unsupported, "{}: is an Anemoi dataset, which is not read together with others",
                   path);
      return catalog_of(DatasetReader::open({.path = path}));
    }
    files.push_back(std::make_unique<ZarrFile>(path, store));
    BOREAS_CHECK(!files.back()->variables().empty(), corrupt_data,
                 "{}: holds no Zarr arrays with named dimensions (_ARRAY_DIMENSIONS)", path);
  }
  return catalog_of(std::move(files));
}

}  // namespace boreas
