#include "io/zarr_metadata.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "kernels/core/error.h"

namespace boreas {

using Json = nlohmann::json;

namespace {

constexpr int64_t kMaxMetadataBytes = 16 << 20;
constexpr int64_t kMaxAttributesBytes = 256 << 20;
constexpr int kMaxJsonDepth = 64;
constexpr int64_t kMaxRank = 32;
constexpr int64_t kMaxChunkBytes = int64_t(8) << 30;
constexpr size_t kMaxCodecs = 16;
constexpr int kMaxShardLevels = 4;
constexpr int64_t kMaxShardEntries = int64_t(1) << 30;

// --- JSON --------------------------------------------------------------------------------------------------

// Replaces the tokens NaN, Infinity and -Infinity by null, and refuses deep nesting before a parser sees it.
std::string to_strict_json(std::string_view text, const std::string& where) {
  std::string strict;
  strict.reserve(text.size());
  int depth = 0;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '"') {
      size_t end = i + 1;
      while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
      end = std::min(end + 1, text.size());
      strict.append(text, i, end - i);
      i = end;
      continue;
    }
    depth += text[i] == '{' || text[i] == '[' ? 1 : text[i] == '}' || text[i] == ']' ? -1 : 0;
    BOREAS_CHECK(depth <= kMaxJsonDepth, corrupt_data, "{}: JSON nested deeper than {} levels", where, kMaxJsonDepth);
    size_t length = 0;
    for (const std::string_view token : {"NaN", "Infinity", "-Infinity"}) {
      if (text.substr(i, token.size()) == token) length = token.size();
    }
    if (length > 0) {
      strict += "null";
      i += length;
    } else {
      strict += text[i++];
    }
  }
  return strict;
}

Json parse_json(const Bytes& bytes, const std::string& where) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  Json json;
  try {
    json = Json::parse(to_strict_json(text, where));
  } catch (const Json::exception& e) {
    BOREAS_FAIL(corrupt_data, "{} is not valid JSON: {}", where, e.what());
  }
  BOREAS_CHECK(json.is_object(), corrupt_data, "{} holds a JSON {}, expected an object", where, json.type_name());
  return json;
}

std::optional<Json> read_json(const Store& store, const std::string& key, int64_t max_bytes) {
  const auto bytes = store.get(key, max_bytes);
  if (!bytes) return std::nullopt;
  return parse_json(*bytes, fmt::format("{} of store {}", key, store.name()));
}

std::string key_of(const std::string& path, const std::string& name) {
  return path.empty() ? name : fmt::format("{}/{}", path, name);
}

const Json& member(const Json& object, const char* name, const std::string& where) {
  const auto it = object.find(name);
  BOREAS_CHECK(it != object.end(), corrupt_data, "{}: the member '{}' is missing", where, name);
  return *it;
}

int64_t to_int(const Json& json, const std::string& what) {
  const bool fits = json.is_number_unsigned() ? json.get<uint64_t>() <= uint64_t(INT64_MAX) : json.is_number_integer();
  BOREAS_CHECK(fits, corrupt_data, "{} is {}, expected an integer of 64 bits", what, json.dump());
  return json.get<int64_t>();
}

std::string to_text(const Json& json, const std::string& what) {
  BOREAS_CHECK(json.is_string(), corrupt_data, "{} is {}, expected a string", what, json.dump());
  return json.get<std::string>();
}

std::vector<int64_t> to_sizes(const Json& json, int64_t minimum, const std::string& what) {
  BOREAS_CHECK(json.is_array(), corrupt_data, "{} is {}, expected a list of integers", what, json.dump());
  BOREAS_CHECK(int64_t(json.size()) <= kMaxRank, corrupt_data, "{} has {} dimensions, the limit is {}", what,
               json.size(), kMaxRank);
  std::vector<int64_t> sizes;
  for (const Json& item : json) {
    sizes.push_back(to_int(item, what));
    BOREAS_CHECK(sizes.back() >= minimum, corrupt_data, "{} is {}: every entry must be at least {}", what, json.dump(),
                 minimum);
  }
  return sizes;
}

// A codec or grid of format 3: its name and its configuration, an empty object when it has none.
std::pair<std::string, Json> to_named(const Json& json, const std::string& what) {
  if (json.is_string()) return {json.get<std::string>(), Json::object()};
  BOREAS_CHECK(json.is_object(), corrupt_data, "{} is {}, expected a name or an object", what, json.dump());
  Json configuration = json.value("configuration", Json::object());
  BOREAS_CHECK(configuration.is_object(), corrupt_data, "{}: 'configuration' is not an object", what);
  return {to_text(member(json, "name", what), what), std::move(configuration)};
}

int64_t product(const std::vector<int64_t>& sizes, const std::string& what) {
  int64_t n = 1;
  for (const int64_t size : sizes) {
    BOREAS_CHECK(!__builtin_mul_overflow(n, size, &n), corrupt_data, "{} is [{}]: the product exceeds 64 bits", what,
                 fmt::join(sizes, ", "));
  }
  return n;
}

// --- data types and fill values ----------------------------------------------------------------------------

// Rounds to nearest, ties to even.
uint16_t double_to_half(double value) {
  if (std::isnan(value)) return 0x7e00;
  const double size = std::abs(value);
  int exponent = 0;
  std::frexp(size, &exponent);
  exponent = std::max(exponent, -13);
  const int bits =
      size >= 65520 ? 0x7c00 : ((exponent + 13) << 10) + int(std::nearbyint(std::ldexp(size, 11 - exponent)));
  return uint16_t(bits | (std::signbit(value) ? 0x8000 : 0));
}

template <class T>
std::vector<std::byte> bytes_of(T value) {
  const auto* begin = reinterpret_cast<const std::byte*>(&value);
  return std::vector<std::byte>(begin, begin + sizeof value);
}

std::vector<std::byte> float_bytes(double value, int64_t size) {
  if (size == 2) return bytes_of(double_to_half(value));
  return size == 4 ? bytes_of(float(value)) : bytes_of(value);
}

// The value of an item in the machine's byte order.
std::vector<std::byte> parse_fill_value(const Json& json, const ZarrDType& dtype, const std::string& where) {
  const auto refuse = [&]() {
    BOREAS_FAIL(corrupt_data, "{}: fill_value {} is not a value of data type {}", where, json.dump(),
                dtype.to_string());
  };
  if (json.is_null()) return std::vector<std::byte>(size_t(dtype.size));
  if (dtype.kind == 'f') {
    if (json.is_number()) return float_bytes(json.get<double>(), dtype.size);
    if (!json.is_string()) refuse();
    const std::string text = json.get<std::string>();
    if (text == "NaN") return float_bytes(std::numeric_limits<double>::quiet_NaN(), dtype.size);
    if (text == "Infinity") return float_bytes(HUGE_VAL, dtype.size);
    if (text == "-Infinity") return float_bytes(-HUGE_VAL, dtype.size);
    const bool is_pattern = text.size() == size_t(2 + 2 * dtype.size) && text.starts_with("0x") &&
                            text.find_first_not_of("0123456789abcdefABCDEF", 2) == text.npos;
    if (!is_pattern) refuse();
    std::vector<std::byte> bits = bytes_of(uint64_t(std::stoull(text, nullptr, 16)));
    bits.resize(size_t(dtype.size));
    return bits;
  }
  // Whole numbers, kept in 64 bits and checked against the range of the type.
  uint64_t bits = 0;
  bool negative = false;
  if (json.is_boolean()) {
    bits = json.get<bool>();
  } else if (json.is_number_integer()) {
    bits = json.get<uint64_t>();
    negative = !json.is_number_unsigned() && json.get<int64_t>() < 0;
  } else if (json.is_number_float() && json.get<double>() == std::floor(json.get<double>()) &&
             std::abs(json.get<double>()) < 0x1p53) {
    bits = uint64_t(int64_t(json.get<double>()));
    negative = json.get<double>() < 0;
  } else if (json == "NaT" && (dtype.kind == 'M' || dtype.kind == 'm')) {
    bits = uint64_t(kNotATime);
    negative = true;
  } else {
    refuse();
  }
  const int num_bits = dtype.kind == 'b' ? 1 : int(8 * dtype.size);
  const bool is_signed = dtype.kind != 'u' && dtype.kind != 'b';
  const bool fits = negative ? is_signed && int64_t(bits) >= INT64_MIN >> (64 - num_bits)
                             : bits <= UINT64_MAX >> (64 - num_bits + (is_signed ? 1 : 0));
  if (!fits) refuse();
  std::vector<std::byte> bytes = bytes_of(bits);
  bytes.resize(size_t(dtype.size));
  return bytes;
}

ZarrDType parse_data_type_v3(const Json& json, const std::string& where) {
  const auto [name, configuration] = to_named(json, where + ": data_type");
  ZarrDType dtype;
  if (name == "numpy.datetime64" || name == "numpy.timedelta64") {
    const int64_t scale =
        configuration.contains("scale_factor") ? to_int(configuration["scale_factor"], where + ": scale_factor") : 1;
    const std::string unit = to_text(member(configuration, "unit", where), where + ": unit of time");
    dtype = {name == "numpy.datetime64" ? 'M' : 'm', 8, false, scale == 1 ? unit : fmt::format("{}{}", scale, unit)};
    if (dtype.unit == "generic") dtype.unit.clear();
    BOREAS_CHECK(scale > 0 && (dtype.unit.empty() || seconds_per(dtype.unit)), unsupported,
                 "{}: times in units of {} {}; boreas reads s, ms, us, ns, m, h and D", where, scale, unit);
    return dtype;
  }
  if (name == "bool") return {'b', 1, false, ""};
  for (const auto& [prefix, kind] : {std::pair("float", 'f'), std::pair("int", 'i'), std::pair("uint", 'u')}) {
    for (const int64_t size : {1, 2, 4, 8}) {
      if (name == fmt::format("{}{}", prefix, 8 * size) && (kind != 'f' || size > 1)) return {kind, size, false, ""};
    }
  }
  BOREAS_FAIL(unsupported, "{}: boreas does not read the data type '{}'", where, name);
}

// --- how a chunk is encoded --------------------------------------------------------------------------------

Codec::Shuffle parse_shuffle(const Json& json, int64_t item_size, const std::string& where) {
  if (json == 0 || json == "noshuffle") return Codec::Shuffle::none;
  if (json == 1 || json == "shuffle") return Codec::Shuffle::byte;
  if (json == 2 || json == "bitshuffle") return Codec::Shuffle::bit;
  if (json == -1) return item_size == 1 ? Codec::Shuffle::bit : Codec::Shuffle::byte;
  BOREAS_FAIL(corrupt_data, "{}: blosc shuffle {}", where, json.dump());
}

// A compressor of either format. The numbers matter for writing only: chunks say themselves how they were made.
std::optional<Codec> parse_codec(const std::string& name, const Json& json, int64_t item_size,
                                 const std::string& where) {
  const auto number = [&](const char* key, int64_t otherwise) {
    return json.contains(key) && !json[key].is_null() ? to_int(json[key], where + ": " + key) : otherwise;
  };
  Codec codec;
  if (name == "blosc") {
    codec.kind = Codec::Kind::blosc;
    codec.cname = json.contains("cname") ? to_text(json["cname"], where + ": cname") : "lz4";
    codec.level = int(std::clamp<int64_t>(number("clevel", 5), 0, 9));
    codec.shuffle = parse_shuffle(json.value("shuffle", Json(1)), item_size, where);
    codec.block_size = number("blocksize", 0);
    return codec;
  }
  codec.level = int(std::clamp<int64_t>(number("level", 1), -100, 100));
  if (name == "zstd") {
    codec.kind = Codec::Kind::zstd;
  } else if (name == "zlib") {
    codec.kind = Codec::Kind::zlib;
  } else if (name == "gzip") {
    codec.kind = Codec::Kind::gzip;
  } else if (name == "crc32c") {
    codec.kind = Codec::Kind::crc32c;
  } else {
    return std::nullopt;
  }
  return codec;
}

// `shape` is the shape of what this pipeline encodes.
ZarrPipeline parse_codecs_v3(const Json& json, std::vector<int64_t> shape, int64_t item_size, int level,
                             const std::string& where) {
  BOREAS_CHECK(json.is_array() && !json.empty() && json.size() <= kMaxCodecs, corrupt_data,
               "{}: 'codecs' must be a list of 1 to {} codecs", where, kMaxCodecs);
  ZarrPipeline pipeline;
  bool to_bytes = false, compressed = false;
  for (const Json& item : json) {
    const auto [name, configuration] = to_named(item, where + ": codec");
    const bool is_array_codec = name == "transpose", is_to_bytes = name == "bytes" || name == "sharding_indexed";
    BOREAS_CHECK(is_array_codec || is_to_bytes ? !to_bytes : to_bytes, corrupt_data,
                 "{}: codec '{}' stands in the wrong place of the chain", where, name);
    to_bytes |= is_to_bytes;
    if (name == "transpose") {
      const std::vector<int64_t> order =
          to_sizes(member(configuration, "order", where), 0, where + ": transpose order");
      std::vector<int64_t> sorted = order, all(shape.size());
      std::sort(sorted.begin(), sorted.end());
      std::iota(all.begin(), all.end(), 0);
      BOREAS_CHECK(sorted == all, corrupt_data, "{}: transpose order [{}] is not a permutation of {} dimensions", where,
                   fmt::join(order, ", "), shape.size());
      std::vector<int> composed;
      for (const int64_t d : order) composed.push_back(pipeline.order.empty() ? int(d) : pipeline.order[size_t(d)]);
      pipeline.order = std::move(composed);
      std::vector<int64_t> permuted;
      for (const int64_t d : order) permuted.push_back(shape[size_t(d)]);
      shape = std::move(permuted);
    } else if (name == "bytes") {
      const std::string endian = configuration.contains("endian") && !configuration["endian"].is_null()
                                     ? to_text(configuration["endian"], where + ": endian")
                                     : "";
      BOREAS_CHECK(endian == "little" || endian == "big" || (endian.empty() && item_size == 1), corrupt_data,
                   "{}: codec 'bytes' has endian '{}', expected 'little' or 'big'", where, endian);
      pipeline.big_endian = endian == "big" && item_size > 1;
    } else if (name == "sharding_indexed") {
      BOREAS_CHECK(level < kMaxShardLevels, unsupported, "{}: shards nested deeper than {} levels", where,
                   kMaxShardLevels);
      pipeline.inner_shape = to_sizes(member(configuration, "chunk_shape", where), 1, where + ": inner chunk_shape");
      bool divides = pipeline.inner_shape.size() == shape.size();
      int64_t num_inner = 1;
      for (size_t d = 0; divides && d < shape.size(); ++d) {
        divides = shape[d] % pipeline.inner_shape[d] == 0;
        num_inner *= shape[d] / pipeline.inner_shape[d];
      }
      BOREAS_CHECK(divides, corrupt_data, "{}: shards of shape [{}] cannot be divided into chunks of shape [{}]", where,
                   fmt::join(shape, ", "), fmt::join(pipeline.inner_shape, ", "));
      BOREAS_CHECK(num_inner <= kMaxShardEntries, corrupt_data, "{}: shards of {} chunks; the limit is {}", where,
                   num_inner, kMaxShardEntries);
      auto inner =
          std::make_shared<ZarrPipeline>(parse_codecs_v3(member(configuration, "codecs", where), pipeline.inner_shape,
                                                         item_size, level + 1, where + " (inner codecs)"));
      pipeline.big_endian = inner->big_endian;
      pipeline.inner = std::move(inner);
      const std::string location = configuration.contains("index_location")
                                       ? to_text(configuration["index_location"], where + ": index_location")
                                       : "end";
      BOREAS_CHECK(location == "end" || location == "start", corrupt_data, "{}: index_location is '{}'", where,
                   location);
      pipeline.index_at_end = location == "end";
      const ZarrPipeline index = parse_codecs_v3(member(configuration, "index_codecs", where), {2}, 8, kMaxShardLevels,
                                                 where + " (index_codecs)");
      pipeline.index_has_checksum = index.codecs.size() == 1 && index.codecs[0].kind == Codec::Kind::crc32c;
      BOREAS_CHECK(!index.big_endian && index.order.empty() && (index.codecs.empty() || pipeline.index_has_checksum),
                   unsupported, "{}: boreas reads shard indices of little-endian bytes, with or without crc32c", where);
    } else {
      const std::optional<Codec> codec = parse_codec(name, configuration, item_size, where);
      BOREAS_CHECK(codec && codec->kind != Codec::Kind::zlib, unsupported,
                   "{}: boreas does not read the codec '{}'; it reads transpose, bytes, sharding_indexed, blosc, zstd, "
                   "gzip and crc32c",
                   where, name);
      if (codec->kind != Codec::Kind::crc32c) {
        BOREAS_CHECK(!compressed && !pipeline.inner, unsupported, "{}: boreas reads one compressor in a chain{}", where,
                     pipeline.inner ? ", and none around shards" : "");
        compressed = true;
      }
      pipeline.codecs.push_back(*codec);
    }
  }
  BOREAS_CHECK(to_bytes, corrupt_data, "{}: the codecs have neither 'bytes' nor 'sharding_indexed'", where);
  return pipeline;
}

// --- arrays ------------------------------------------------------------------------------------------------

// For messages; throws for names that cannot be keys.
std::string describe_place(const Store& store, const std::string& name) {
  if (name.empty()) return fmt::format("the root array of store {}", store.name());
  check_key(name, store.name());
  return fmt::format("array '{}' of store {}", name, store.name());
}

// The checks that both formats share; run before anything of these sizes is allocated or computed with.
void finish(ZarrMetadata& m) {
  const std::string& place = m.where;
  BOREAS_CHECK(m.stored_chunks.size() == m.shape.size(), corrupt_data, "{}: shape has {} dimensions but chunks have {}",
               place, m.shape.size(), m.stored_chunks.size());
  m.num_elements = product(m.shape, place + ": shape");
  std::vector<int64_t> sizes = m.shape;
  sizes.push_back(m.dtype.size);
  product(sizes, place + ": shape, with the item size");
  sizes = m.stored_chunks;
  sizes.push_back(m.dtype.size);
  m.chunk_bytes = product(sizes, place + ": chunks, with the item size");
  BOREAS_CHECK(m.chunk_bytes <= kMaxChunkBytes, corrupt_data, "{}: chunks [{}] of {} have {} bytes, the limit is {}",
               place, fmt::join(m.stored_chunks, ", "), m.dtype.to_string(), m.chunk_bytes, kMaxChunkBytes);
  if (m.dtype.big_endian) std::reverse(m.fill.begin(), m.fill.end());
}

void parse_v2(const Json& json, ZarrMetadata& m) {
  const std::string& place = m.where;
  const int64_t version = to_int(member(json, "zarr_format", place), place + ": zarr_format");
  BOREAS_CHECK(version == 2, corrupt_data, "{}: .zarray says zarr_format {}, expected 2", place, version);
  m.format = 2;
  m.shape = to_sizes(member(json, "shape", place), 0, place + ": shape");
  m.stored_chunks = m.chunks = to_sizes(member(json, "chunks", place), 1, place + ": chunks");
  const Json& type = member(json, "dtype", place);
  BOREAS_CHECK(type.is_string(), unsupported, "{}: boreas does not read the structured data type {}", place,
               type.dump());
  m.dtype = ZarrDType::parse(type.get<std::string>(), place);
  m.fill = parse_fill_value(json.value("fill_value", Json()), m.dtype, place);
  const std::string order = to_text(json.value("order", Json("C")), place + ": order");
  BOREAS_CHECK(order == "C" || order == "F", corrupt_data, "{}: order is '{}', expected 'C' or 'F'", place, order);
  if (order == "F") {
    for (size_t d = m.shape.size(); d-- > 0;) m.pipeline.order.push_back(int(d));
  }
  m.separator = to_text(json.value("dimension_separator", Json(".")), place + ": dimension_separator");
  BOREAS_CHECK(m.separator == "." || m.separator == "/", corrupt_data,
               "{}: dimension_separator is '{}', expected '.' or '/'", place, m.separator);
  const Json filters = json.value("filters", Json());
  BOREAS_CHECK(filters.is_null() || filters.is_array(), corrupt_data, "{}: filters is {}", place, filters.dump());
  if (!filters.empty()) {
    const Json& id = filters[0].is_object() ? filters[0].value("id", filters[0]) : filters[0];
    BOREAS_FAIL(unsupported, "{}: boreas does not read the filter {}; store the array without filters", place,
                id.dump());
  }
  const Json compressor_json = json.value("compressor", Json());
  if (!compressor_json.is_null()) {
    BOREAS_CHECK(compressor_json.is_object(), corrupt_data, "{}: compressor is {}", place, compressor_json.dump());
    const std::string id = to_text(member(compressor_json, "id", place), place + ": compressor id");
    const std::optional<Codec> codec =
        id == "crc32c" ? std::nullopt : parse_codec(id, compressor_json, m.dtype.size, place);
    BOREAS_CHECK(codec, unsupported,
                 "{}: boreas does not read the compressor '{}'; it reads blosc, zstd, zlib and gzip", place, id);
    m.pipeline.codecs.push_back(*codec);
  }
  finish(m);
}

void parse_v3(const Json& json, ZarrMetadata& m) {
  const std::string& place = m.where;
  const int64_t version = to_int(member(json, "zarr_format", place), place + ": zarr_format");
  BOREAS_CHECK(version == 3, corrupt_data, "{}: zarr.json says zarr_format {}, expected 3", place, version);
  constexpr std::string_view known[] = {
      "zarr_format",    "node_type",  "attributes",         "shape",  "data_type",
      "chunk_grid",     "fill_value", "chunk_key_encoding", "codecs", "storage_transformers",
      "dimension_names"};
  for (const auto& [key, value] : json.items()) {
    const bool may_ignore = value.is_object() && value.value("must_understand", Json(true)) == false;
    BOREAS_CHECK(std::find(std::begin(known), std::end(known), key) != std::end(known) || may_ignore, unsupported,
                 "{}: zarr.json has the member '{}', which boreas does not know", place, key);
  }
  m.format = 3;
  m.shape = to_sizes(member(json, "shape", place), 0, place + ": shape");
  m.dtype = parse_data_type_v3(member(json, "data_type", place), place);
  m.fill = parse_fill_value(member(json, "fill_value", place), m.dtype, place);
  const auto [grid, grid_configuration] = to_named(member(json, "chunk_grid", place), place + ": chunk_grid");
  BOREAS_CHECK(grid == "regular", unsupported, "{}: boreas does not read the chunk grid '{}'", place, grid);
  m.stored_chunks = to_sizes(member(grid_configuration, "chunk_shape", place), 1, place + ": chunk_shape");
  const auto [encoding, encoding_configuration] =
      to_named(member(json, "chunk_key_encoding", place), place + ": chunk_key_encoding");
  BOREAS_CHECK(encoding == "default" || encoding == "v2", unsupported,
               "{}: boreas does not read the chunk key encoding '{}'", place, encoding);
  m.key_prefix = std::string(encoding == "default" ? "c" : "");
  m.separator = to_text(encoding_configuration.value("separator", Json(encoding == "default" ? "/" : ".")),
                        place + ": separator");
  BOREAS_CHECK(m.separator == "." || m.separator == "/", corrupt_data, "{}: separator is '{}', expected '.' or '/'",
               place, m.separator);
  BOREAS_CHECK(json.value("storage_transformers", Json::array()).empty(), unsupported,
               "{}: boreas does not read storage transformers", place);
  const Json names = json.value("dimension_names", Json());
  if (names.is_array() && names.size() == m.shape.size()) {
    for (const Json& item : names) m.dimension_names.push_back(item.is_string() ? item.get<std::string>() : "");
  }
  finish(m);  // before the products of shards are formed
  m.pipeline = parse_codecs_v3(member(json, "codecs", place), m.stored_chunks, m.dtype.size, 0, place);
  m.dtype.big_endian = m.pipeline.big_endian;
  if (m.dtype.big_endian) std::reverse(m.fill.begin(), m.fill.end());
  m.chunks = m.stored_chunks;
  std::vector<int> axis(m.shape.size());  // dimension of the array for each dimension as stored at a level
  std::iota(axis.begin(), axis.end(), 0);
  for (const ZarrPipeline* level = &m.pipeline; level->inner; level = level->inner.get()) {
    std::vector<int> permuted = axis;
    for (size_t d = 0; d < level->order.size(); ++d) permuted[d] = axis[size_t(level->order[d])];
    axis = std::move(permuted);
    for (size_t d = 0; d < axis.size(); ++d) m.chunks[size_t(axis[d])] = level->inner_shape[d];
  }
}

Json compressor_to_json(const Codec& codec) {
  switch (codec.kind) {
    case Codec::Kind::none:
      return nullptr;
    case Codec::Kind::blosc:
      return {{"id", "blosc"},
              {"cname", codec.cname},
              {"clevel", codec.level},
              {"shuffle", int(codec.shuffle)},
              {"blocksize", codec.block_size}};
    case Codec::Kind::zstd:
      return {{"id", "zstd"}, {"level", codec.level}};
    case Codec::Kind::zlib:
      return {{"id", "zlib"}, {"level", codec.level}};
    case Codec::Kind::gzip:
      return {{"id", "gzip"}, {"level", codec.level}};
    case Codec::Kind::crc32c:
      break;
  }
  BOREAS_FAIL(unsupported, "format 2 arrays have no codec {}", codec.to_string());
}

Json fill_value_to_json(const std::optional<double>& fill, const ZarrDType& dtype) {
  if (!fill) return nullptr;
  if (dtype.kind == 'f') {
    if (std::isnan(*fill)) return "NaN";
    if (std::isinf(*fill)) return *fill > 0 ? "Infinity" : "-Infinity";
    return *fill;
  }
  if (std::isnan(*fill) && (dtype.kind == 'M' || dtype.kind == 'm')) return "NaT";
  BOREAS_CHECK(std::abs(*fill) < 0x1p53 && *fill == std::floor(*fill), invalid_argument,
               "fill value {} is not a value of data type {}", *fill, dtype.to_string());
  if (dtype.kind == 'b') return *fill != 0;
  return int64_t(*fill);
}

void put_json(Store& store, const std::string& key, const Json& json) { store.put(key, json.dump(4, ' ', true)); }

}  // namespace

// --- what zarr.cpp sees ------------------------------------------------------------------------------------

std::string ZarrPipeline::describe() const {
  if (inner) return fmt::format("sharded([{}], {})", fmt::join(inner_shape, ", "), inner->describe());
  std::vector<std::string> names;
  for (const Codec& codec : codecs) names.push_back(codec.to_string());
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, " + "));
}

std::string ZarrMetadata::chunk_key(const std::vector<int64_t>& index) const {
  const std::string numbers = fmt::format("{}", fmt::join(index, separator));
  if (key_prefix.empty()) return key_of(name, numbers.empty() ? "0" : numbers);
  return key_of(name, numbers.empty() ? key_prefix : key_prefix + separator + numbers);
}

ZarrMetadata read_zarr_metadata(const Store& store, const std::string& name) {
  ZarrMetadata m;
  m.name = name;
  m.where = describe_place(store, name);
  if (const auto v2 = read_json(store, key_of(name, ".zarray"), kMaxMetadataBytes)) {
    parse_v2(*v2, m);
    const Json attributes = read_json(store, key_of(name, ".zattrs"), kMaxAttributesBytes).value_or(Json::object());
    const Json names = attributes.value("_ARRAY_DIMENSIONS", Json());
    if (names.is_array() && names.size() == m.shape.size()) {
      for (const Json& item : names) m.dimension_names.push_back(item.is_string() ? item.get<std::string>() : "");
    }
  } else if (const auto v3 = read_json(store, key_of(name, "zarr.json"), kMaxMetadataBytes)) {
    BOREAS_CHECK(v3->value("node_type", Json()) == "array", io, "{} is a Zarr group, not an array", m.where);
    parse_v3(*v3, m);
  } else {
    const std::vector<std::string> arrays = list_arrays(store);
    BOREAS_FAIL(io, "there is no {}; the store has the arrays: {}", m.where,
                arrays.empty() ? "none" : fmt::format("{}", fmt::join(arrays, ", ")));
  }
  m.compressor = m.pipeline.describe();
  return m;
}

void write_zarr_metadata(Store& store, const std::string& name, const ZarrSpec& spec) {
  ZarrMetadata m;
  m.where = describe_place(store, name);
  const std::string& where = m.where;
  BOREAS_CHECK(spec.shape.size() == spec.chunks.size() && int64_t(spec.shape.size()) <= kMaxRank, invalid_argument,
               "{}: shape [{}] and chunks [{}] must have the same number of dimensions, at most {}", where,
               fmt::join(spec.shape, ", "), fmt::join(spec.chunks, ", "), kMaxRank);
  for (size_t d = 0; d < spec.shape.size(); ++d) {
    BOREAS_CHECK(spec.shape[d] >= 0 && spec.chunks[d] >= 1, invalid_argument,
                 "{}: shape [{}] with chunks [{}]: sizes must be at least 0 and chunks at least 1", where,
                 fmt::join(spec.shape, ", "), fmt::join(spec.chunks, ", "));
  }
  BOREAS_CHECK(spec.dimension_names.empty() || spec.dimension_names.size() == spec.shape.size(), invalid_argument,
               "{}: {} dimension names for {} dimensions", where, spec.dimension_names.size(), spec.shape.size());
  const ZarrDType dtype = ZarrDType::parse(spec.dtype, where);
  BOREAS_CHECK(!dtype.big_endian, unsupported, "{}: boreas writes little-endian arrays, not '{}'", where, spec.dtype);
  check_codec(spec.compressor);
  const Json metadata = {{"zarr_format", 2},
                         {"shape", spec.shape},
                         {"chunks", spec.chunks},
                         {"dtype", dtype.to_string()},
                         {"order", "C"},
                         {"fill_value", fill_value_to_json(spec.fill_value, dtype)},
                         {"compressor", compressor_to_json(spec.compressor)},
                         {"filters", nullptr}};
  parse_v2(metadata, m);
  BOREAS_CHECK(spec.compressor.kind != Codec::Kind::blosc || m.chunk_bytes <= INT32_MAX - 16, invalid_argument,
               "{}: chunks [{}] have {} bytes; blosc compresses at most {} at once: choose smaller chunks", where,
               fmt::join(spec.chunks, ", "), m.chunk_bytes, INT32_MAX - 16);

  if (!name.empty()) store.erase(name);
  put_json(store, key_of(name, ".zarray"), metadata);
  if (!spec.dimension_names.empty() || spec.shape.empty()) {
    put_json(store, key_of(name, ".zattrs"), {{"_ARRAY_DIMENSIONS", spec.dimension_names}});
  }
}

std::optional<std::pair<int64_t, int64_t>> seconds_per(const std::string& unit) {
  const size_t digits = std::min(unit.find_first_not_of("0123456789"), unit.size());
  if (digits > 9) return std::nullopt;
  const int64_t multiple = digits == 0 ? 1 : std::stoll(unit.substr(0, digits));
  const std::string base = unit.substr(digits);
  if (multiple == 0) return std::nullopt;
  if (base == "D") return std::pair(multiple * 86400, int64_t(1));
  if (base == "h") return std::pair(multiple * 3600, int64_t(1));
  if (base == "m") return std::pair(multiple * 60, int64_t(1));
  if (base == "s") return std::pair(multiple, int64_t(1));
  if (base == "ms") return std::pair(multiple, int64_t(1000));
  if (base == "us") return std::pair(multiple, int64_t(1000000));
  if (base == "ns") return std::pair(multiple, int64_t(1000000000));
  return std::nullopt;
}

ZarrDType ZarrDType::parse(const std::string& text, const std::string& where) {
  ZarrDType dtype;
  const auto refuse = [&]() {
    BOREAS_FAIL(unsupported,
                "{}: boreas does not read the data type '{}'; it reads f2 f4 f8, i1 to i8, u1 to u8, b1, "
                "M8 and m8 in s, ms, us, ns, m, h or D",
                where, text);
  };
  if (text.size() < 3 || std::string_view("<>|=").find(text[0]) == std::string_view::npos) refuse();
  dtype.kind = text[1];
  dtype.size = text[2] - '0';
  std::string unit = text.substr(3);
  const bool has_unit = unit.size() > 2 && unit.front() == '[' && unit.back() == ']';
  if (dtype.kind == 'M' || dtype.kind == 'm') {
    if (!unit.empty() && !has_unit) refuse();
    if (has_unit) dtype.unit = unit.substr(1, unit.size() - 2);
    if (dtype.unit == "generic") dtype.unit.clear();
    if (!dtype.unit.empty() && !seconds_per(dtype.unit)) refuse();
  } else if (!unit.empty()) {
    refuse();
  }
  const std::string_view sizes = dtype.kind == 'f'                        ? "248"
                                 : dtype.kind == 'i' || dtype.kind == 'u' ? "1248"
                                 : dtype.kind == 'b'                      ? "1"
                                 : dtype.kind == 'M' || dtype.kind == 'm' ? "8"
                                                                          : "";
  if (sizes.find(text[2]) == std::string_view::npos) refuse();
  if (text[0] == '|' && dtype.size > 1) refuse();
  dtype.big_endian = text[0] == '>' && dtype.size > 1;
  return dtype;
}

std::string ZarrDType::to_string() const {
  return fmt::format("{}{}{}{}",
                     size == 1    ? '|'
                     : big_endian ? '>'
                                  : '<',
                     kind, size, unit.empty() ? unit : fmt::format("[{}]", unit));
}

// --- groups and attributes ---------------------------------------------------------------------------------

bool ZarrArray::exists(const Store& store, const std::string& name) {
  if (store.exists(key_of(name, ".zarray"))) return true;
  const auto json = read_json(store, key_of(name, "zarr.json"), kMaxAttributesBytes);
  return json && json->value("node_type", Json()) == "array";
}

void create_group(Store& store, const std::string& path) {
  put_json(store, key_of(path, ".zgroup"), {{"zarr_format", 2}});
}

std::vector<std::string> list_arrays(const Store& store, const std::string& group) {
  std::vector<std::string> arrays;
  for (const std::string& entry : store.list(group)) {
    if (!entry.ends_with('/')) continue;
    const std::string name = entry.substr(0, entry.size() - 1);
    if (ZarrArray::exists(store, key_of(group, name))) arrays.push_back(name);
  }
  return arrays;
}

std::string read_attributes(const Store& store, const std::string& path) {
  if (const auto v2 = read_json(store, key_of(path, ".zattrs"), kMaxAttributesBytes)) return v2->dump();
  const auto v3 = read_json(store, key_of(path, "zarr.json"), kMaxAttributesBytes);
  return v3 ? v3->value("attributes", Json::object()).dump() : "{}";
}

void write_attributes(Store& store, const std::string& path, const std::string& json) {
  const auto bytes = std::as_bytes(std::span(json));
  const std::string where = fmt::format("attributes of '{}' for store {}", path, store.name());
  put_json(store, key_of(path, ".zattrs"), parse_json(Bytes(bytes.begin(), bytes.end()), where));
}

}  // namespace boreas
