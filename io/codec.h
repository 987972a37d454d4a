// The codecs of Zarr chunks: blosc, zstd, zlib, gzip, crc32c; and blosc frames block by block.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/store.h"

namespace boreas {

/// One step from bytes to bytes.
struct Codec {
  enum class Kind { none, blosc, zstd, zlib, gzip, crc32c };
  enum class Shuffle { none, byte, bit };

  Kind kind = Kind::blosc;
  std::string cname = "lz4";  // of blosc: blosclz, lz4, lz4hc, zlib, zstd, snappy where c-blosc has it
  int level = 5;
  Shuffle shuffle = Shuffle::byte;
  int64_t block_size = 0;  // of blosc; 0: c-blosc chooses

  /// "blosc(lz4, level 5, byte shuffle)".
  std::string to_string() const;
};

/// Throws invalid_argument when the codec's own numbers are out of range, unsupported when c-blosc lacks the cname.
void check_codec(const Codec& codec);

/// `item_size` is the width that shuffles work on. Throws invalid_argument for blosc above 2^31 - 17 bytes.
Bytes encode(const Codec& codec, std::span<const std::byte> in, int64_t item_size);

/// Decodes all of `in` into exactly out.size() bytes; throws corrupt_data, naming `where`, when it does not decode to
/// exactly that. blosc: every block, in the calling thread.
void decode(const Codec& codec, std::span<const std::byte> in, std::span<std::byte> out, const std::string& where);

/// Throws corrupt_data when so few encoded bytes cannot possibly decode to `decoded_size`; asked before memory for the
/// decoded bytes is allocated.
void check_expansion(const Codec& codec, int64_t encoded_size, int64_t decoded_size, const std::string& where);

/// CRC-32C (Castagnoli), as the codec crc32c appends it.
uint32_t crc32c(std::span<const std::byte> bytes);

/// A blosc 1 frame in a blob, opened by reading its header and table of block starts. Each block decodes by itself and
/// only its bytes are read.
///
///   frame = header (16 bytes), bstarts (int32 x num_blocks, absent when stored), blocks in any order
class BloscFrame {
 public:
  /// Reads header and table. Throws corrupt_data unless the frame is consistent in itself, fills the blob exactly and
  /// decodes to `expected_size` bytes.
  BloscFrame(Blob blob, int64_t expected_size, std::string where);

  int64_t size() const { return size_; }  // decoded
  int64_t block_size() const { return block_size_; }
  int64_t num_blocks() const { return num_blocks_; }
  int64_t header_bytes() const { return header_bytes_; }  // what opening it read

  /// Decodes the blocks [first, first + count) to `out`, which has exactly their size (the last block of a frame may be
  /// short), and returns the number of bytes read. May be called from many threads at once.
  int64_t decode(int64_t first, int64_t count, std::span<std::byte> out) const;

 private:
  Blob blob_;
  std::string where_;
  std::byte header_[16];
  bool stored_ = false;
  int64_t size_ = 0, block_size_ = 0, num_blocks_ = 0, header_bytes_ = 0;
  std::vector<int32_t> starts_, ends_;  // byte range of each block in the blob
};

}  // namespace boreas
