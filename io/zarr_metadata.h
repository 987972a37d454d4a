// The metadata of Zarr arrays as the rest of boreas sees it, parsed from and written to JSON. Used by zarr.cpp only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/codec.h"
#include "io/zarr.h"

namespace boreas {

/// The codecs of a chunk, or of a shard and, in `inner`, of the chunks in it.
struct ZarrPipeline {
  std::vector<int> order;  // dimension of the chunk for each dimension as stored; empty: as it is
  bool big_endian = false;
  std::vector<Codec> codecs;  // in the order of writing; at most one that compresses
  std::shared_ptr<const ZarrPipeline> inner;
  std::vector<int64_t> inner_shape;  // dimensions as stored
  bool index_at_end = true;
  bool index_has_checksum = false;

  std::string describe() const;
};

/// What a .zarray or zarr.json says, checked: ranks agree, sizes are in range, no product of sizes overflows, a chunk
/// has at most 8 GiB.
struct ZarrMetadata {
  std::string name;   // of the array in the store
  std::string where;  // "array 'x' of store y", for messages
  int format = 2;
  std::vector<int64_t> shape;
  std::vector<int64_t> stored_chunks;  // what lies under one key
  std::vector<int64_t> chunks;         // what is decoded at once
  ZarrDType dtype;
  std::vector<std::byte> fill;  // one item as it is in the file
  ZarrPipeline pipeline;
  std::string compressor;  // the pipeline in words
  std::string key_prefix, separator;
  std::vector<std::string> dimension_names;
  int64_t num_elements = 0;
  int64_t chunk_bytes = 0;  // of a stored chunk, decoded

  /// Key of the stored chunk at this position of the grid.
  std::string chunk_key(const std::vector<int64_t>& index) const;
};

/// Throws io when the store has no array of that name; otherwise as ZarrArray.
ZarrMetadata read_zarr_metadata(const Store& store, const std::string& name);
/// Checks `spec`, removes what lies under `name`, and writes the metadata.
void write_zarr_metadata(Store& store, const std::string& name, const ZarrSpec& spec);

/// Seconds in a unit of time such as "25s" or "ns", as numerator and denominator; nothing for units that boreas does
/// not read.
std::optional<std::pair<int64_t, int64_t>> seconds_per(const std::string& unit);

}  // namespace boreas
