// Zarr arrays: format 2 read and written, format 3 read.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/codec.h"
#include "io/store.h"
#include "io/thread_pool.h"

namespace boreas {

/// What a read cost. Functions add to it.
struct ReadStats {
  int64_t bytes_read = 0;      // from the store, headers and indices included
  int64_t chunks_read = 0;     // chunks (inner chunks of a shard) that were opened
  int64_t chunks_missing = 0;  // chunks that are absent and were filled
  int64_t blocks_decoded = 0;  // blosc blocks, or whole chunks of the other codecs
  int64_t bytes_decoded = 0;   // bytes that left a decoder

  ReadStats& operator+=(const ReadStats& other);
};

/// The elements with begin[d] <= index[d] < end[d].
struct IndexBox {
  std::vector<int64_t> begin, end;
  int64_t size() const;  // number of elements
};

/// Element type of an array, as NumPy writes it: kind 'f', 'i', 'u', 'b', 'M' (time) or 'm' (duration), and bytes.
struct ZarrDType {
  char kind = 'f';
  int64_t size = 4;
  bool big_endian = false;  // in the file
  std::string unit;         // of 'M' and 'm', with its multiple: "s", "25s", "ns"; empty: no unit

  /// Parses "<f4", ">i8", "|b1", "<M8[25s]"; throws unsupported, naming `where`, for other kinds and sizes.
  static ZarrDType parse(const std::string& text, const std::string& where);
  std::string to_string() const;
};

/// What a new array is. Format 2, C order, keys "0.0.0".
struct ZarrSpec {
  std::vector<int64_t> shape, chunks;
  std::string dtype = "<f4";  // little-endian
  std::optional<double> fill_value =
      {};                 // NaN only for floats, and for times, where it means "not a time"; nothing: null
  Codec compressor = {};  // blosc, lz4, level 5, byte shuffle
  std::vector<std::string> dimension_names = {};  // empty: none
};

/// The value of "not a time" in arrays of times and durations.
inline constexpr int64_t kNotATime = INT64_MIN;

/// An array of numbers in chunks. Reading is const and may be done from many threads at once.
///
/// All errors name store, array, chunk key and file. corrupt_data: metadata or chunk bytes that contradict themselves
/// or each other; never a part of a chunk is returned as if it were whole, but what `out` holds after an error is
/// unspecified. unsupported: filters, codecs, data types and extensions outside of docs/zarr.md, by name. Shapes, chunk
/// sizes and their products are checked before anything is allocated, and sizes found in chunks are only compared with
/// those that the metadata implies.
class ZarrArray {
 public:
  /// `name` is the path of the array in the store, "" the root. Throws io when there is no array of that name.
  static ZarrArray open(std::shared_ptr<Store> store, const std::string& name);
  /// Writes the metadata (and `_ARRAY_DIMENSIONS`); replaces an array that is there. Throws invalid_argument.
  static ZarrArray create(std::shared_ptr<Store> store, const std::string& name, const ZarrSpec& spec);
  static bool exists(const Store& store, const std::string& name);

  const std::string& name() const;
  int format() const;  // 2 or 3
  const std::vector<int64_t>& shape() const;
  /// Shape of what is decoded at once: the chunk, or the inner chunk of a shard.
  const std::vector<int64_t>& chunks() const;
  /// Shape of what is stored under one key: the chunk, or the shard.
  const std::vector<int64_t>& stored_chunks() const;
  const ZarrDType& dtype() const;
  const std::string& compressor() const;  // "blosc(lz4, level 5, shuffle)", for people
  /// One name per dimension, or none at all when the array has none.
  const std::vector<std::string>& dimension_names() const;
  IndexBox whole() const;
  int64_t num_elements() const;

  /// Reads a box into `out`, contiguous, C order, in the machine's byte order. Decodes only the chunks, and of blosc
  /// frames only the blocks, that meet the box, straight into `out` where a block lies contiguous in it. Absent chunks
  /// become the fill value.
  void read(const IndexBox& box, void* out, ThreadPool& pool, ReadStats* stats = nullptr) const;

  /// Whether the chunk or shard at this position of the grid is stored.
  bool has_chunk(const std::vector<int64_t>& grid_index) const;

  /// Writes a box from `in`, contiguous, C order. Chunks that the box covers in part are read first, so two writers may
  /// not share a chunk. Format 2 and little-endian only.
  void write(const IndexBox& box, const void* in, ThreadPool& pool);

  /// The whole array converted to T (double, float, int64_t, int32_t, uint8_t); for coordinates and statistics: throws
  /// unsupported above 4 GiB.
  template <class T>
  std::vector<T> read_all(ThreadPool& pool) const {
    return read_values<T>(whole(), pool);
  }
  /// The same of a box.
  template <class T>
  std::vector<T> read_values(const IndexBox& box, ThreadPool& pool) const;
  /// The whole array of times or durations in seconds; throws corrupt_data when one is not a whole second. Not-a-time
  /// stays kNotATime.
  std::vector<int64_t> read_seconds(ThreadPool& pool) const;

 private:
  struct State;
  explicit ZarrArray(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

/// Writes the marker of a format 2 group; "" is the root.
void create_group(Store& store, const std::string& path);
/// Names of the arrays directly in a group, sorted.
std::vector<std::string> list_arrays(const Store& store, const std::string& group = "");
/// JSON text of the attributes of a group or array of either format, "{}" when it has none. The tokens NaN, Infinity
/// and -Infinity, which Python writes and JSON does not know, become null.
std::string read_attributes(const Store& store, const std::string& path);
/// Replaces the attributes of a format 2 group or array; `json` must be an object.
void write_attributes(Store& store, const std::string& path, const std::string& json);

}  // namespace boreas
