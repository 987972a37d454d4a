#include "io/zarr.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

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
constexpr int64_t kMaxReadAllBytes = int64_t(4) << 30;

// Blocks of a chunk are decoded in groups of about this many bytes: large enough to hide the cost of a call and a read,
// small enough to stay in a core's cache and to keep all threads busy.
constexpr int64_t kGroupBytes = 1 << 20;

// Pieces in which a chunk without compression is read where it does not lie contiguous in the box.
constexpr int64_t kRawBlock = 64 << 10;

// --- JSON
// ---------------------------------------------------------------------------------------------------------------

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

// --- sizes and boxes
// ----------------------------------------------------------------------------------------------------

int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

int64_t product(const std::vector<int64_t>& sizes, const std::string& what) {
  int64_t n = 1;
  for (const int64_t size : sizes) {
    BOREAS_CHECK(!__builtin_mul_overflow(n, size, &n), corrupt_data, "{} is [{}]: the product exceeds 64 bits", what,
                 fmt::join(sizes, ", "));
  }
  return n;
}

// Bytes between neighbours of each dimension, C order.
std::vector<int64_t> strides_of(const std::vector<int64_t>& shape, int64_t item_size) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = item_size;
  for (size_t d = shape.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= shape[d];
  }
  return strides;
}

// How a box of a chunk lies in the memory of the caller, one dimension of it.
struct Axis {
  int64_t begin, count;  // in the chunk
  int64_t stride;        // of the caller's memory, in bytes
};

// A box of a chunk as runs that are contiguous in the chunk, in the order in which they lie in it. In the caller's
// memory the items of a run are `item_stride` bytes apart.
class Runs {
 public:
  Runs(const std::vector<int64_t>& chunk_shape, const std::vector<Axis>& axes, int64_t item_size)
      : item_size_(item_size), item_stride_(item_size) {
    const std::vector<int64_t> strides = strides_of(chunk_shape, item_size);
    // From the innermost dimension outwards: each joins the one inside of it where both memories go on without a gap.
    std::vector<Level> levels;
    for (size_t d = axes.size(); d-- > 0;) {
      begin_ += axes[d].begin * strides[d];
      if (axes[d].count == 1) continue;
      const Level level{axes[d].count, strides[d], axes[d].stride};
      if (!levels.empty() && level.chunk_stride == levels.back().count * levels.back().chunk_stride &&
          level.out_stride == levels.back().count * levels.back().out_stride) {
        levels.back().count *= level.count;
      } else {
        levels.push_back(level);
      }
    }
    int64_t run_items = 1;
    if (!levels.empty() && levels.front().chunk_stride == item_size) {
      run_items = levels.front().count;
      item_stride_ = levels.front().out_stride;
      levels.erase(levels.begin());
    }
    run_bytes_ = run_items * item_size;
    levels_.assign(levels.rbegin(), levels.rend());
    for (const Level& level : levels_) count_ *= level.count;
  }

  struct Run {
    int64_t chunk, out;  // first byte, in the chunk and in the caller's memory
  };

  int64_t count() const { return count_; }
  int64_t run_bytes() const { return run_bytes_; }
  bool contiguous() const { return item_stride_ == item_size_; }

  Run operator[](int64_t index) const {
    Run run{begin_, 0};
    for (size_t d = levels_.size(); d-- > 0;) {
      const Level& level = levels_[d];
      run.chunk += (index % level.count) * level.chunk_stride;
      run.out += (index % level.count) * level.out_stride;
      index /= level.count;
    }
    return run;
  }

  // The first run that ends after this byte of the chunk; count() when there is none.
  int64_t first_after(int64_t byte) const {
    int64_t low = 0, high = count_;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if ((*this)[middle].chunk + run_bytes_ > byte) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  // Copies what the bytes [begin, begin + part.size()) of the chunk have in common with the box.
  void scatter(int64_t begin, std::span<const std::byte> part, std::byte* out) const {
    const int64_t end = begin + int64_t(part.size());
    for (int64_t r = first_after(begin); r < count_; ++r) {
      const Run run = (*this)[r];
      const int64_t from = std::max(begin, run.chunk), to = std::min(end, run.chunk + run_bytes_);
      if (from >= to) break;
      copy(part.data() + (from - begin), from - run.chunk, to - from, out + run.out);
    }
  }

  // Collects the box from the caller's memory into a whole chunk.
  void gather(const std::byte* in, std::byte* chunk) const {
    for (int64_t r = 0; r < count_; ++r) {
      const Run run = (*this)[r];
      for (int64_t item = 0; item < run_bytes_; item += contiguous() ? run_bytes_ : item_size_) {
        std::memcpy(chunk + run.chunk + item, in + run.out + item / item_size_ * item_stride_,
                    size_t(contiguous() ? run_bytes_ : item_size_));
      }
    }
  }

  // Sets every item of the box.
  void fill(const std::vector<std::byte>& item, std::byte* out) const {
    const bool same = std::all_of(item.begin(), item.end(), [&](std::byte b) { return b == item[0]; });
    for (int64_t r = 0; r < count_; ++r) {
      std::byte* to = out + (*this)[r].out;
      if (same && contiguous()) {
        std::memset(to, int(item[0]), size_t(run_bytes_));
      } else {
        for (int64_t i = 0; i < run_bytes_ / item_size_; ++i) {
          std::memcpy(to + i * item_stride_, item.data(), item.size());
        }
      }
    }
  }

 private:
  struct Level {
    int64_t count, chunk_stride, out_stride;
  };

  // `length` bytes, which are the bytes from `offset` on of a run that begins at `run`. An item may be cut: blocks of
  // other writers need not end between items.
  void copy(const std::byte* from, int64_t offset, int64_t length, std::byte* run) const {
    if (contiguous()) {
      std::memcpy(run + offset, from, size_t(length));
      return;
    }
    for (int64_t done = 0; done < length;) {
      const int64_t in_item = (offset + done) % item_size_;
      const int64_t n = std::min(item_size_ - in_item, length - done);
      std::memcpy(run + (offset + done) / item_size_ * item_stride_ + in_item, from + done, size_t(n));
      done += n;
    }
  }

  int64_t item_size_, item_stride_, begin_ = 0, run_bytes_ = 0, count_ = 1;
  std::vector<Level> levels_;  // outermost first, without the run itself
};

// --- data types and fill values
// -----------------------------------------------------------------------------------------

double half_to_double(uint16_t half) {
  const int exponent = (half >> 10) & 31, fraction = half & 1023;
  const double sign = half & 0x8000 ? -1.0 : 1.0;
  if (exponent == 31) return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * HUGE_VAL;
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

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

void swap_items(std::byte* items, int64_t count, int64_t item_size) {
  for (int64_t i = 0; i < count; ++i) std::reverse(items + i * item_size, items + (i + 1) * item_size);
}

// Seconds as a fraction per unit of time: {numerator, denominator}.
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

// --- how a chunk is encoded
// ---------------------------------------------------------------------------------------------

// The codecs of a chunk, or of a shard and, in `inner`, of the chunks in it.
struct Pipeline {
  std::vector<int> order;  // dimension of the chunk for each dimension as stored; empty: as it is
  bool big_endian = false;
  std::vector<Codec> codecs;  // in the order of writing; at most one that compresses
  std::shared_ptr<const Pipeline> inner;
  std::vector<int64_t> inner_shape;  // dimensions as stored
  bool index_at_end = true;
  bool index_has_checksum = false;

  std::string describe() const {
    if (inner) return fmt::format("sharded([{}], {})", fmt::join(inner_shape, ", "), inner->describe());
    std::vector<std::string> names;
    for (const Codec& codec : codecs) names.push_back(codec.to_string());
    return names.empty() ? "none" : fmt::format("{}", fmt::join(names, " + "));
  }
};

std::vector<int64_t> permute(const std::vector<int64_t>& sizes, const std::vector<int>& order) {
  if (order.empty()) return sizes;
  std::vector<int64_t> result;
  for (const int d : order) result.push_back(sizes[size_t(d)]);
  return result;
}

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
Pipeline parse_codecs_v3(const Json& json, std::vector<int64_t> shape, int64_t item_size, int level,
                         const std::string& where) {
  BOREAS_CHECK(json.is_array() && !json.empty() && json.size() <= kMaxCodecs, corrupt_data,
               "{}: 'codecs' must be a list of 1 to {} codecs", where, kMaxCodecs);
  Pipeline pipeline;
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
          std::make_shared<Pipeline>(parse_codecs_v3(member(configuration, "codecs", where), pipeline.inner_shape,
                                                     item_size, level + 1, where + " (inner codecs)"));
      pipeline.big_endian = inner->big_endian;
      pipeline.inner = std::move(inner);
      const std::string location = configuration.contains("index_location")
                                       ? to_text(configuration["index_location"], where + ": index_location")
                                       : "end";
      BOREAS_CHECK(location == "end" || location == "start", corrupt_data, "{}: index_location is '{}'", where,
                   location);
      pipeline.index_at_end = location == "end";
      const Pipeline index = parse_codecs_v3(member(configuration, "index_codecs", where), {2}, 8, kMaxShardLevels,
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

}  // namespace

// --- small public types
// -------------------------------------------------------------------------------------------------

ReadStats& ReadStats::operator+=(const ReadStats& other) {
  bytes_read += other.bytes_read;
  chunks_read += other.chunks_read;
  chunks_missing += other.chunks_missing;
  blocks_decoded += other.blocks_decoded;
  bytes_decoded += other.bytes_decoded;
  return *this;
}

int64_t IndexBox::size() const {
  int64_t n = 1;
  for (size_t d = 0; d < begin.size(); ++d) n *= std::max<int64_t>(0, end[d] - begin[d]);
  return n;
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

// --- metadata
// -----------------------------------------------------------------------------------------------------------

struct ZarrArray::State {
  std::shared_ptr<Store> store;
  std::string name;
  int format = 2;
  std::vector<int64_t> shape, stored_chunks, chunks;
  ZarrDType dtype;
  std::vector<std::byte> fill;  // one item as it is in the file
  Pipeline pipeline;
  std::string compressor;
  std::string key_prefix, separator;
  std::vector<std::string> dimension_names;
  int64_t num_elements = 0, chunk_bytes = 0;  // of what is stored under one key

  std::string where() const {
    return name.empty() ? fmt::format("the root array of store {}", store->name())
                        : fmt::format("array '{}' of store {}", name, store->name());
  }

  std::string chunk_key(const std::vector<int64_t>& index) const {
    const std::string numbers = fmt::format("{}", fmt::join(index, separator));
    if (format == 2) return key_of(name, numbers.empty() ? "0" : numbers);
    if (key_prefix.empty()) return key_of(name, numbers.empty() ? "0" : numbers);
    return key_of(name, numbers.empty() ? key_prefix : key_prefix + separator + numbers);
  }

  // The checks that both formats share; run before anything of these sizes is allocated or computed with.
  void finish() {
    const std::string place = where();
    BOREAS_CHECK(stored_chunks.size() == shape.size(), corrupt_data, "{}: shape has {} dimensions but chunks have {}",
                 place, shape.size(), stored_chunks.size());
    num_elements = product(shape, place + ": shape");
    std::vector<int64_t> sizes = shape;
    sizes.push_back(dtype.size);
    product(sizes, place + ": shape, with the item size");
    sizes = stored_chunks;
    sizes.push_back(dtype.size);
    chunk_bytes = product(sizes, place + ": chunks, with the item size");
    BOREAS_CHECK(chunk_bytes <= kMaxChunkBytes, corrupt_data, "{}: chunks [{}] of {} have {} bytes, the limit is {}",
                 place, fmt::join(stored_chunks, ", "), dtype.to_string(), chunk_bytes, kMaxChunkBytes);
    if (dtype.big_endian) swap_items(fill.data(), 1, dtype.size);
  }

  void parse_v2(const Json& json) {
    const std::string place = where();
    const int64_t version = to_int(member(json, "zarr_format", place), place + ": zarr_format");
    BOREAS_CHECK(version == 2, corrupt_data, "{}: .zarray says zarr_format {}, expected 2", place, version);
    format = 2;
    shape = to_sizes(member(json, "shape", place), 0, place + ": shape");
    stored_chunks = chunks = to_sizes(member(json, "chunks", place), 1, place + ": chunks");
    const Json& type = member(json, "dtype", place);
    BOREAS_CHECK(type.is_string(), unsupported, "{}: boreas does not read the structured data type {}", place,
                 type.dump());
    dtype = ZarrDType::parse(type.get<std::string>(), place);
    fill = parse_fill_value(json.value("fill_value", Json()), dtype, place);
    const std::string order = to_text(json.value("order", Json("C")), place + ": order");
    BOREAS_CHECK(order == "C" || order == "F", corrupt_data, "{}: order is '{}', expected 'C' or 'F'", place, order);
    if (order == "F") {
      for (size_t d = shape.size(); d-- > 0;) pipeline.order.push_back(int(d));
    }
    separator = to_text(json.value("dimension_separator", Json(".")), place + ": dimension_separator");
    BOREAS_CHECK(separator == "." || separator == "/", corrupt_data,
                 "{}: dimension_separator is '{}', expected '.' or '/'", place, separator);
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
          id == "crc32c" ? std::nullopt : parse_codec(id, compressor_json, dtype.size, place);
      BOREAS_CHECK(codec, unsupported,
                   "{}: boreas does not read the compressor '{}'; it reads blosc, zstd, zlib and gzip", place, id);
      pipeline.codecs.push_back(*codec);
    }
    finish();
  }

  void parse_v3(const Json& json) {
    const std::string place = where();
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
    format = 3;
    shape = to_sizes(member(json, "shape", place), 0, place + ": shape");
    dtype = parse_data_type_v3(member(json, "data_type", place), place);
    fill = parse_fill_value(member(json, "fill_value", place), dtype, place);
    const auto [grid, grid_configuration] = to_named(member(json, "chunk_grid", place), place + ": chunk_grid");
    BOREAS_CHECK(grid == "regular", unsupported, "{}: boreas does not read the chunk grid '{}'", place, grid);
    stored_chunks = to_sizes(member(grid_configuration, "chunk_shape", place), 1, place + ": chunk_shape");
    const auto [encoding, encoding_configuration] =
        to_named(member(json, "chunk_key_encoding", place), place + ": chunk_key_encoding");
    BOREAS_CHECK(encoding == "default" || encoding == "v2", unsupported,
                 "{}: boreas does not read the chunk key encoding '{}'", place, encoding);
    key_prefix = std::string(encoding == "default" ? "c" : "");
    separator = to_text(encoding_configuration.value("separator", Json(encoding == "default" ? "/" : ".")),
                        place + ": separator");
    BOREAS_CHECK(separator == "." || separator == "/", corrupt_data, "{}: separator is '{}', expected '.' or '/'",
                 place, separator);
    BOREAS_CHECK(json.value("storage_transformers", Json::array()).empty(), unsupported,
                 "{}: boreas does not read storage transformers", place);
    const Json names = json.value("dimension_names", Json());
    if (names.is_array() && names.size() == shape.size()) {
      for (const Json& item : names) dimension_names.push_back(item.is_string() ? item.get<std::string>() : "");
    }
    finish();  // before the products of shards are formed
    pipeline = parse_codecs_v3(member(json, "codecs", place), stored_chunks, dtype.size, 0, place);
    dtype.big_endian = pipeline.big_endian;
    if (dtype.big_endian) swap_items(fill.data(), 1, dtype.size);
    chunks = stored_chunks;
    const Pipeline* level = &pipeline;
    for (; level->inner; level = level->inner.get()) {
      // The inner shape is in the stored order of dimensions.
      std::vector<int64_t> shape_of_inner = level->inner_shape;
      for (size_t d = 0; d < level->order.size(); ++d) shape_of_inner[size_t(level->order[d])] = level->inner_shape[d];
      chunks = std::move(shape_of_inner);
    }
  }
};

namespace {

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

// --- reading chunks
// -----------------------------------------------------------------------------------------------------

// One call of ZarrArray::read.
struct Job {
  int64_t item_size;
  const std::vector<std::byte>& fill;
  std::byte* out;
  ThreadPool& pool;
  std::atomic<int64_t> bytes_read = 0, chunks_read = 0, chunks_missing = 0, blocks_decoded = 0, bytes_decoded = 0;
};

// Decodes the blocks of a chunk that meet the box. `decode(first, count, memory)` decodes neighbouring blocks.
template <class Decode>
void read_blocks(Job& job, const Runs& runs, std::byte* out, int64_t size, int64_t block_size, const Decode& decode) {
  // Groups of neighbouring blocks. Those that lie as a whole in one run go straight to their place in the box.
  struct Group {
    int64_t first, count;
    std::byte* place;  // null: by way of a buffer
  };
  std::vector<Group> groups;
  const int64_t num_blocks = ceil_div(size, block_size), max_count = std::max<int64_t>(1, kGroupBytes / block_size);
  for (int64_t block = 0, run = 0; block < num_blocks; ++block) {
    run = runs.first_after(block * block_size);
    if (run == runs.count()) break;
    const Runs::Run found = runs[run];
    block = std::max(block, found.chunk / block_size);
    const int64_t begin = block * block_size, end = std::min(size, begin + block_size);
    const bool direct = runs.contiguous() && found.chunk <= begin && end <= found.chunk + runs.run_bytes();
    std::byte* place = direct ? out + found.out + (begin - found.chunk) : nullptr;
    if (!groups.empty()) {
      Group& last = groups.back();
      const bool follows = last.first + last.count == block && last.count < max_count;
      const bool same_run = direct ? last.place && last.place + last.count * block_size == place : !last.place;
      if (follows && same_run) {
        ++last.count;
        continue;
      }
    }
    groups.push_back({block, 1, place});
  }

  job.pool.parallel_for(int64_t(groups.size()), [&](int64_t g) {
    const Group& group = groups[size_t(g)];
    const int64_t begin = group.first * block_size;
    const int64_t length = std::min(size, begin + group.count * block_size) - begin;
    if (group.place) {
      decode(group.first, group.count, std::span(group.place, size_t(length)));
    } else {
      const auto buffer = std::make_unique_for_overwrite<std::byte[]>(size_t(length));
      decode(group.first, group.count, std::span(buffer.get(), size_t(length)));
      runs.scatter(begin, {buffer.get(), size_t(length)}, out);
    }
    job.blocks_decoded += group.count;
    job.bytes_decoded += length;
  });
}

void read_chunk(Job& job, const Pipeline& pipeline, Blob blob, std::vector<int64_t> shape, std::vector<Axis> axes,
                std::byte* out, const std::string& where);

// Reads the chunks of a shard that meet the box: the index first, then only their bytes.
void read_shard(Job& job, const Pipeline& pipeline, const Blob& blob, const std::vector<int64_t>& shape,
                const std::vector<Axis>& axes, std::byte* out, const std::string& where) {
  const std::vector<int64_t>& inner = pipeline.inner_shape;
  std::vector<int64_t> grid, first, last;  // of chunks: all; those that meet the box
  int64_t num_entries = 1, num_read = 1;
  for (size_t d = 0; d < shape.size(); ++d) {
    grid.push_back(shape[d] / inner[d]);
    first.push_back(axes[d].begin / inner[d]);
    last.push_back((axes[d].begin + axes[d].count - 1) / inner[d]);
    num_entries *= grid[d];
    num_read *= last[d] - first[d] + 1;
  }
  const int64_t index_bytes = 16 * num_entries + (pipeline.index_has_checksum ? 4 : 0);
  BOREAS_CHECK(blob.size() >= index_bytes, corrupt_data, "{}: a shard of {} bytes cannot hold its index of {} bytes",
               where, blob.size(), index_bytes);
  const int64_t index_begin = pipeline.index_at_end ? blob.size() - index_bytes : 0;
  Bytes encoded = blob.slice(index_begin, index_bytes).read_all();
  job.bytes_read += index_bytes;
  std::vector<uint64_t> index(size_t(2 * num_entries));
  const std::span index_span = std::as_writable_bytes(std::span(index));
  decode({.kind = pipeline.index_has_checksum ? Codec::Kind::crc32c : Codec::Kind::none}, encoded, index_span,
         where + ", shard index");
  const int64_t body_begin = pipeline.index_at_end ? 0 : index_bytes, body_end = body_begin + blob.size() - index_bytes;

  job.pool.parallel_for(num_read, [&](int64_t n) {
    int64_t entry = 0, scale = 1;
    std::byte* place = out;
    std::vector<Axis> part(axes.size());
    std::vector<int64_t> position(axes.size());
    for (size_t d = axes.size(); d-- > 0;) {
      const int64_t extent = last[d] - first[d] + 1;
      position[d] = first[d] + n % extent;
      n /= extent;
      entry += position[d] * scale;
      scale *= grid[d];
      const int64_t from = std::max(axes[d].begin, position[d] * inner[d]);
      const int64_t to = std::min(axes[d].begin + axes[d].count, (position[d] + 1) * inner[d]);
      part[d] = {from - position[d] * inner[d], to - from, axes[d].stride};
      place += (from - axes[d].begin) * axes[d].stride;
    }
    const uint64_t offset = index[size_t(2 * entry)], length = index[size_t(2 * entry + 1)];
    if (offset == UINT64_MAX && length == UINT64_MAX) {
      Runs(inner, part, job.item_size).fill(job.fill, place);
      ++job.chunks_missing;
      return;
    }
    const std::string inner_where = fmt::format("{}, inner chunk [{}]", where, fmt::join(position, ", "));
    BOREAS_CHECK(
        offset >= uint64_t(body_begin) && offset <= uint64_t(body_end) && length <= uint64_t(body_end) - offset,
        corrupt_data, "{}: the shard index says {} bytes at offset {}; chunks lie between {} and {}", inner_where,
        length, offset, body_begin, body_end);
    read_chunk(job, *pipeline.inner, blob.slice(int64_t(offset), int64_t(length)), inner, std::move(part), place,
               inner_where);
  });
}

// Reads the box that `axes` describe of a chunk of this shape.
void read_chunk(Job& job, const Pipeline& pipeline, Blob blob, std::vector<int64_t> shape, std::vector<Axis> axes,
                std::byte* out, const std::string& where) {
  if (!pipeline.order.empty()) {
    shape = permute(shape, pipeline.order);
    std::vector<Axis> permuted;
    for (const int d : pipeline.order) permuted.push_back(axes[size_t(d)]);
    axes = std::move(permuted);
  }

  // Checksums that wrap everything else are verified first; what is inside of them is then read from memory.
  size_t num_codecs = pipeline.codecs.size();
  bool in_memory = false;
  for (; num_codecs > 0 && pipeline.codecs[num_codecs - 1].kind == Codec::Kind::crc32c; --num_codecs) {
    const Bytes wrapped = blob.read_all();
    if (!in_memory) job.bytes_read += blob.size();
    in_memory = true;
    Bytes body(wrapped.size() - std::min<size_t>(4, wrapped.size()));
    decode(pipeline.codecs[num_codecs - 1], wrapped, body, where);
    blob = Blob(blob.name(), std::move(body));
  }
  const auto count_read = [&](int64_t bytes) {
    if (!in_memory) job.bytes_read += bytes;
  };
  if (pipeline.inner) {
    read_shard(job, pipeline, blob, shape, axes, out, where);
    return;
  }
  ++job.chunks_read;

  int64_t size = job.item_size;
  for (const int64_t extent : shape) size *= extent;
  const Runs runs(shape, axes, job.item_size);
  if (num_codecs == 0) {
    BOREAS_CHECK(blob.size() == size, corrupt_data, "{}: it has {} bytes, expected {}", where, blob.size(), size);
    read_blocks(job, runs, out, size, std::min(size, kRawBlock),
                [&](int64_t first, int64_t, std::span<std::byte> memory) {
                  blob.read(first * std::min(size, kRawBlock), memory);
                  count_read(int64_t(memory.size()));
                });
    return;
  }
  if (num_codecs == 1 && pipeline.codecs[0].kind == Codec::Kind::blosc) {
    const BloscFrame frame(std::move(blob), size, where);
    count_read(frame.header_bytes());
    read_blocks(job, runs, out, size, frame.block_size(),
                [&](int64_t first, int64_t count, std::span<std::byte> memory) {
                  count_read(frame.decode(first, count, memory));
                });
    return;
  }

  // The other compressors give all or nothing. Checksums inside of the compressor add four bytes each.
  const Codec& compressor = pipeline.codecs[num_codecs - 1];
  const int64_t decoded_size = size + 4 * int64_t(num_codecs - 1);
  check_expansion(compressor, blob.size(), decoded_size, where);
  const Bytes encoded = blob.read_all();
  count_read(blob.size());
  ++job.blocks_decoded;
  job.bytes_decoded += decoded_size;
  if (num_codecs == 1 && runs.contiguous() && runs.run_bytes() == size) {
    decode(compressor, encoded, {out, size_t(size)}, where);
    return;
  }
  const auto decoded = std::make_unique_for_overwrite<std::byte[]>(size_t(decoded_size));
  decode(compressor, encoded, {decoded.get(), size_t(decoded_size)}, where);
  int64_t checked_size = decoded_size;
  for (size_t k = num_codecs - 1; k-- > 0; checked_size -= 4) {
    const std::span wrapped(decoded.get(), size_t(checked_size));
    decode(pipeline.codecs[k], wrapped, wrapped.first(size_t(checked_size - 4)), where);
  }
  runs.scatter(0, {decoded.get(), size_t(size)}, out);
}

// The chunks of a grid that meet a box.
class ChunkBoxes {
 public:
  ChunkBoxes(const IndexBox& box, const std::vector<int64_t>& chunks, int64_t item_size) : box_(box), chunks_(chunks) {
    std::vector<int64_t> extents;
    for (size_t d = 0; d < chunks.size(); ++d) {
      extents.push_back(box.end[d] - box.begin[d]);
      count_ *= (box.end[d] - 1) / chunks[d] - box.begin[d] / chunks[d] + 1;
    }
    strides_ = strides_of(extents, item_size);
  }

  int64_t count() const { return count_; }

  struct Part {
    std::vector<int64_t> index;  // in the grid of chunks
    std::vector<Axis> axes;
    int64_t offset = 0;  // of its first element in the caller's memory, in bytes
  };

  Part operator[](int64_t n) const {
    Part part{std::vector<int64_t>(chunks_.size()), std::vector<Axis>(chunks_.size())};
    for (size_t d = chunks_.size(); d-- > 0;) {
      const int64_t first = box_.begin[d] / chunks_[d], extent = (box_.end[d] - 1) / chunks_[d] - first + 1;
      const int64_t index = first + n % extent;
      n /= extent;
      const int64_t from = std::max(box_.begin[d], index * chunks_[d]);
      const int64_t to = box_.end[d] - index * chunks_[d] < chunks_[d] ? box_.end[d] : (index + 1) * chunks_[d];
      part.index[d] = index;
      part.axes[d] = {from - index * chunks_[d], to - from, strides_[d]};
      part.offset += (from - box_.begin[d]) * strides_[d];
    }
    return part;
  }

 private:
  const IndexBox& box_;
  const std::vector<int64_t>& chunks_;
  std::vector<int64_t> strides_;
  int64_t count_ = 1;
};

void check_box(const IndexBox& box, const std::vector<int64_t>& shape, const std::string& where) {
  bool valid = box.begin.size() == shape.size() && box.end.size() == shape.size();
  for (size_t d = 0; valid && d < shape.size(); ++d) {
    valid = 0 <= box.begin[d] && box.begin[d] <= box.end[d] && box.end[d] <= shape[d];
  }
  BOREAS_CHECK(valid, invalid_argument, "{}: the box [{}] to [{}] does not lie in the shape [{}]", where,
               fmt::join(box.begin, ", "), fmt::join(box.end, ", "), fmt::join(shape, ", "));
}

}  // namespace

// --- ZarrArray
// ----------------------------------------------------------------------------------------------------------

bool ZarrArray::exists(const Store& store, const std::string& name) {
  if (store.exists(key_of(name, ".zarray"))) return true;
  const auto json = read_json(store, key_of(name, "zarr.json"), kMaxAttributesBytes);
  return json && json->value("node_type", Json()) == "array";
}

ZarrArray ZarrArray::open(std::shared_ptr<Store> store, const std::string& name) {
  if (!name.empty()) check_key(name, store->name());
  auto state = std::make_shared<State>();
  state->store = store;
  state->name = name;
  if (const auto v2 = read_json(*store, key_of(name, ".zarray"), kMaxMetadataBytes)) {
    state->parse_v2(*v2);
    const Json attributes = read_json(*store, key_of(name, ".zattrs"), kMaxAttributesBytes).value_or(Json::object());
    const Json names = attributes.value("_ARRAY_DIMENSIONS", Json());
    if (names.is_array() && names.size() == state->shape.size()) {
      for (const Json& item : names) state->dimension_names.push_back(item.is_string() ? item.get<std::string>() : "");
    }
  } else if (const auto v3 = read_json(*store, key_of(name, "zarr.json"), kMaxMetadataBytes)) {
    BOREAS_CHECK(v3->value("node_type", Json()) == "array", io, "{} is a Zarr group, not an array", state->where());
    state->parse_v3(*v3);
  } else {
    const std::vector<std::string> arrays = list_arrays(*store);
    BOREAS_FAIL(io, "there is no {}; the store has the arrays: {}", state->where(),
                arrays.empty() ? "none" : fmt::format("{}", fmt::join(arrays, ", ")));
  }
  state->compressor = state->pipeline.describe();
  return ZarrArray(std::move(state));
}

ZarrArray ZarrArray::create(std::shared_ptr<Store> store, const std::string& name, const ZarrSpec& spec) {
  if (!name.empty()) check_key(name, store->name());
  State state;
  state.store = store;
  state.name = name;
  const std::string where = state.where();
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
  state.parse_v2(metadata);
  BOREAS_CHECK(spec.compressor.kind != Codec::Kind::blosc || state.chunk_bytes <= INT32_MAX - 16, invalid_argument,
               "{}: chunks [{}] have {} bytes; blosc compresses at most {} at once: choose smaller chunks", where,
               fmt::join(spec.chunks, ", "), state.chunk_bytes, INT32_MAX - 16);

  if (!name.empty()) store->erase(name);
  put_json(*store, key_of(name, ".zarray"), metadata);
  if (!spec.dimension_names.empty() || spec.shape.empty()) {
    put_json(*store, key_of(name, ".zattrs"), {{"_ARRAY_DIMENSIONS", spec.dimension_names}});
  }
  return open(std::move(store), name);
}

const std::string& ZarrArray::name() const { return state_->name; }
int ZarrArray::format() const { return state_->format; }
const std::vector<int64_t>& ZarrArray::shape() const { return state_->shape; }
const std::vector<int64_t>& ZarrArray::chunks() const { return state_->chunks; }
const std::vector<int64_t>& ZarrArray::stored_chunks() const { return state_->stored_chunks; }
const ZarrDType& ZarrArray::dtype() const { return state_->dtype; }
const std::string& ZarrArray::compressor() const { return state_->compressor; }
const std::vector<std::string>& ZarrArray::dimension_names() const { return state_->dimension_names; }
IndexBox ZarrArray::whole() const { return {std::vector<int64_t>(state_->shape.size(), 0), state_->shape}; }
int64_t ZarrArray::num_elements() const { return state_->num_elements; }

void ZarrArray::read(const IndexBox& box, void* out, ThreadPool& pool, ReadStats* stats) const {
  const State& state = *state_;
  const std::string where = state.where();
  check_box(box, state.shape, where);
  if (box.size() == 0) return;
  const int64_t item_size = state.dtype.size;
  Job job{item_size, state.fill, static_cast<std::byte*>(out), pool};
  const ChunkBoxes boxes(box, state.stored_chunks, item_size);
  pool.parallel_for(boxes.count(), [&](int64_t n) {
    ChunkBoxes::Part part = boxes[n];
    const std::string key = state.chunk_key(part.index);
    std::byte* place = job.out + part.offset;
    if (std::optional<Blob> blob = state.store->open(key)) {
      const std::string chunk_where = fmt::format("{}, chunk {} in {}", where, key, blob->name());
      read_chunk(job, state.pipeline, std::move(*blob), state.stored_chunks, std::move(part.axes), place, chunk_where);
    } else {
      Runs(state.stored_chunks, part.axes, item_size).fill(state.fill, place);
      ++job.chunks_missing;
    }
  });
  if (state.dtype.big_endian) {
    constexpr int64_t kItems = 1 << 18;
    pool.parallel_for(ceil_div(box.size(), kItems), [&](int64_t n) {
      swap_items(job.out + n * kItems * item_size, std::min(kItems, box.size() - n * kItems), item_size);
    });
  }
  if (stats) {
    *stats += {job.bytes_read, job.chunks_read, job.chunks_missing, job.blocks_decoded, job.bytes_decoded};
  }
}

bool ZarrArray::has_chunk(const std::vector<int64_t>& grid_index) const {
  bool valid = grid_index.size() == state_->shape.size();
  for (size_t d = 0; valid && d < grid_index.size(); ++d) {
    valid = 0 <= grid_index[d] && grid_index[d] < ceil_div(state_->shape[d], state_->stored_chunks[d]);
  }
  BOREAS_CHECK(valid, invalid_argument, "{}: there is no chunk [{}] in the shape [{}] with chunks [{}]",
               state_->where(), fmt::join(grid_index, ", "), fmt::join(state_->shape, ", "),
               fmt::join(state_->stored_chunks, ", "));
  return state_->store->exists(state_->chunk_key(grid_index));
}

void ZarrArray::write(const IndexBox& box, const void* in, ThreadPool& pool) {
  const State& state = *state_;
  const std::string where = state.where();
  BOREAS_CHECK(state.format == 2 && !state.dtype.big_endian && state.pipeline.order.empty(), unsupported,
               "{}: boreas writes arrays of format 2, little-endian, C order; this one is of format {}, {}{}", where,
               state.format, state.dtype.to_string(), state.pipeline.order.empty() ? "" : ", transposed");
  check_box(box, state.shape, where);
  if (box.size() == 0) return;
  const int64_t item_size = state.dtype.size;
  const auto* source = static_cast<const std::byte*>(in);
  const Codec compressor = state.pipeline.codecs.empty() ? Codec{.kind = Codec::Kind::none} : state.pipeline.codecs[0];
  check_codec(compressor);
  const ChunkBoxes boxes(box, state.stored_chunks, item_size);
  pool.parallel_for(boxes.count(), [&](int64_t n) {
    const ChunkBoxes::Part part = boxes[n];
    const std::string key = state.chunk_key(part.index);
    const Runs runs(state.stored_chunks, part.axes, item_size);
    std::span<const std::byte> chunk(source + part.offset, size_t(state.chunk_bytes));
    std::unique_ptr<std::byte[]> buffer;
    if (!runs.contiguous() || runs.run_bytes() != state.chunk_bytes) {
      buffer = std::make_unique_for_overwrite<std::byte[]>(size_t(state.chunk_bytes));
      // The chunk as it is, or as it would be if it were there; then the box over it.
      std::vector<Axis> all;
      bool covered = true;
      const std::vector<int64_t> strides = strides_of(state.stored_chunks, item_size);
      for (size_t d = 0; d < part.axes.size(); ++d) {
        all.push_back({0, state.stored_chunks[d], strides[d]});
        const int64_t in_array = state.shape[d] - part.index[d] * state.stored_chunks[d];
        covered &= part.axes[d].count == std::min(state.stored_chunks[d], in_array);
      }
      std::optional<Blob> blob = covered ? std::nullopt : state.store->open(key);
      if (blob) {
        Job job{item_size, state.fill, buffer.get(), pool};
        const std::string chunk_where = fmt::format("{}, chunk {} in {}", where, key, blob->name());
        read_chunk(job, state.pipeline, std::move(*blob), state.stored_chunks, all, buffer.get(), chunk_where);
      } else {
        Runs(state.stored_chunks, all, item_size).fill(state.fill, buffer.get());
      }
      runs.gather(source + part.offset, buffer.get());
      chunk = {buffer.get(), size_t(state.chunk_bytes)};
    }
    if (compressor.kind == Codec::Kind::none) {
      state.store->put(key, chunk);
    } else {
      state.store->put(key, encode(compressor, chunk, item_size));
    }
  });
}

template <class T>
std::vector<T> ZarrArray::read_all(ThreadPool& pool) const {
  const State& state = *state_;
  const ZarrDType& dtype = state.dtype;
  const int64_t n = state.num_elements;
  BOREAS_CHECK(n <= kMaxReadAllBytes / std::max<int64_t>(dtype.size, sizeof(T)), unsupported,
               "{}: {} elements of {} are too many to read as a whole (limit {} bytes); read boxes of it",
               state.where(), n, dtype.to_string(), kMaxReadAllBytes);
  constexpr char target = std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 'i' : 'u';
  std::vector<T> values(static_cast<size_t>(n));
  const bool is_time = dtype.kind == 'M' || dtype.kind == 'm';
  if ((dtype.kind == target || (is_time && target == 'i')) && dtype.size == int64_t(sizeof(T))) {
    read(whole(), values.data(), pool);
    return values;
  }
  const bool converts =
      std::is_floating_point_v<T> ? !is_time : dtype.kind == 'b' || dtype.kind == 'i' || dtype.kind == 'u';
  BOREAS_CHECK(converts, unsupported, "{}: data type {} does not convert to {} of {} bytes{}", state.where(),
               dtype.to_string(), target == 'f' ? "floats" : "integers", sizeof(T),
               is_time ? "; times are read as seconds" : "");
  Bytes raw(size_t(n * dtype.size));
  read(whole(), raw.data(), pool);
  const auto convert = [&]<class S>(S) {
    for (size_t i = 0; i < values.size(); ++i) {
      S value;
      std::memcpy(&value, raw.data() + i * sizeof(S), sizeof(S));
      if constexpr (!std::is_floating_point_v<T> && !std::is_floating_point_v<S>) {
        BOREAS_CHECK(std::in_range<T>(value), corrupt_data, "{}: element {} is {}, which does not fit {} bytes",
                     state.where(), i, value, sizeof(T));
      }
      values[i] = static_cast<T>(value);
    }
  };
  if (dtype.kind == 'f') {
    if (dtype.size == 2) {
      for (size_t i = 0; i < values.size(); ++i) {
        uint16_t half;
        std::memcpy(&half, raw.data() + 2 * i, 2);
        values[i] = static_cast<T>(half_to_double(half));
      }
    } else {
      dtype.size == 4 ? convert(float()) : convert(double());
    }
  } else if (dtype.kind == 'i') {
    dtype.size == 1   ? convert(int8_t())
    : dtype.size == 2 ? convert(int16_t())
    : dtype.size == 4 ? convert(int32_t())
                      : convert(int64_t());
  } else {
    dtype.size == 1   ? convert(uint8_t())
    : dtype.size == 2 ? convert(uint16_t())
    : dtype.size == 4 ? convert(uint32_t())
                      : convert(uint64_t());
  }
  return values;
}

template std::vector<double> ZarrArray::read_all<double>(ThreadPool&) const;
template std::vector<float> ZarrArray::read_all<float>(ThreadPool&) const;
template std::vector<int64_t> ZarrArray::read_all<int64_t>(ThreadPool&) const;
template std::vector<int32_t> ZarrArray::read_all<int32_t>(ThreadPool&) const;
template std::vector<uint8_t> ZarrArray::read_all<uint8_t>(ThreadPool&) const;

std::vector<int64_t> ZarrArray::read_seconds(ThreadPool& pool) const {
  const ZarrDType& dtype = state_->dtype;
  const auto ratio = seconds_per(dtype.unit);
  BOREAS_CHECK((dtype.kind == 'M' || dtype.kind == 'm') && ratio, unsupported,
               "{}: data type {} is not a time or duration with a unit", state_->where(), dtype.to_string());
  std::vector<int64_t> values = read_all<int64_t>(pool);
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == kNotATime) continue;
    int64_t scaled = 0;
    BOREAS_CHECK(!__builtin_mul_overflow(values[i], ratio->first, &scaled) && scaled % ratio->second == 0, corrupt_data,
                 "{}: element {} is {} x {}, which is not a whole number of seconds", state_->where(), i, values[i],
                 dtype.unit);
    values[i] = scaled / ratio->second;
  }
  return values;
}

// --- groups and attributes
// ----------------------------------------------------------------------------------------------

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
