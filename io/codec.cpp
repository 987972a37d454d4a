#include "io/codec.h"

#include <blosc.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <numeric>

#include "io/scratch.h"
#include "kernels/core/error.h"

namespace boreas {

static_assert(std::endian::native == std::endian::little, "frames and chunks are read without swapping");

namespace {

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
void store(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

// Names of the five codecs of a blosc frame by the number in its flags. lz4hc writes what lz4 reads.
constexpr const char* kBloscCodecs[] = {"blosclz", "lz4", "snappy", "zlib", "zstd"};

constexpr int64_t kBloscHeader = 16;
constexpr int64_t kBloscMaximum = BLOSC_MAX_BUFFERSIZE;

std::string_view name_of(Codec::Shuffle shuffle) {
  constexpr std::string_view names[] = {"no", "byte", "bit"};
  return names[int(shuffle)];
}

// --- zlib and gzip -----------------------------------------------------------------------------------------

int window_bits(Codec::Kind kind) { return kind == Codec::Kind::gzip ? MAX_WBITS + 16 : MAX_WBITS; }

// zlib counts in 32 bits; longer input and output is handed to it in pieces.
uInt piece(size_t left) { return uInt(std::min<size_t>(left, 1u << 30)); }

Bytes encode_zlib(const Codec& codec, std::span<const std::byte> in) {
  z_stream stream{};
  BOREAS_CHECK(deflateInit2(&stream, codec.level, Z_DEFLATED, window_bits(codec.kind), 8, Z_DEFAULT_STRATEGY) == Z_OK,
               out_of_memory, "zlib could not start to compress {} bytes", in.size());
  const std::unique_ptr<z_stream, int (*)(z_stream*)> owner(&stream, &deflateEnd);
  Bytes out(deflateBound(&stream, uLong(in.size())));
  size_t taken = 0, made = 0;
  int state = Z_OK;
  while (state != Z_STREAM_END) {
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(in.data() + taken));
    stream.avail_in = piece(in.size() - taken);
    stream.next_out = reinterpret_cast<Bytef*>(out.data() + made);
    stream.avail_out = piece(out.size() - made);
    const uInt given_in = stream.avail_in, given_out = stream.avail_out;
    state = deflate(&stream, taken + given_in == in.size() ? Z_FINISH : Z_NO_FLUSH);
    BOREAS_CHECK(state == Z_OK || state == Z_STREAM_END, internal, "zlib failed to compress {} bytes: error {}",
                 in.size(), state);
    taken += given_in - stream.avail_in;
    made += given_out - stream.avail_out;
  }
  out.resize(made);
  return out;
}

void decode_zlib(const Codec& codec, std::span<const std::byte> in, std::span<std::byte> out,
                 const std::string& where) {
  z_stream stream{};
  BOREAS_CHECK(inflateInit2(&stream, window_bits(codec.kind)) == Z_OK, out_of_memory, "{}: zlib could not start",
               where);
  const std::unique_ptr<z_stream, int (*)(z_stream*)> owner(&stream, &inflateEnd);
  size_t taken = 0, made = 0;
  for (;;) {
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(in.data() + taken));
    stream.avail_in = piece(in.size() - taken);
    stream.next_out = reinterpret_cast<Bytef*>(out.data() + made);
    stream.avail_out = piece(out.size() - made);
    const uInt given_in = stream.avail_in, given_out = stream.avail_out;
    const int state = inflate(&stream, Z_NO_FLUSH);
    taken += given_in - stream.avail_in;
    made += given_out - stream.avail_out;
    if (state == Z_STREAM_END) {
      if (taken == in.size()) break;
      // A gzip file may be several members, one after another.
      BOREAS_CHECK(codec.kind == Codec::Kind::gzip && inflateReset(&stream) == Z_OK, corrupt_data,
                   "{}: the zlib stream ends at byte {} of {}", where, taken, in.size());
      continue;
    }
    const bool stuck = given_in == stream.avail_in && given_out == stream.avail_out;
    BOREAS_CHECK(state != Z_BUF_ERROR && (state != Z_OK || !stuck), corrupt_data,
                 "{}: {} bytes of {} decode to {} {} bytes, expected exactly {}", where, in.size(), codec.to_string(),
                 taken == in.size() ? "only" : "more than", made, out.size());
    BOREAS_CHECK(state == Z_OK, corrupt_data, "{}: damaged {} stream near byte {} of {}: {}", where, codec.to_string(),
                 taken, in.size(), stream.msg ? stream.msg : "zlib error");
  }
  BOREAS_CHECK(made == out.size(), corrupt_data, "{}: the chunk decodes to {} bytes, expected {}", where, made,
               out.size());
}

}  // namespace

// --- codecs ------------------------------------------------------------------------------------------------

std::string Codec::to_string() const {
  switch (kind) {
    case Kind::none:
      return "none";
    case Kind::blosc:
      return fmt::format("blosc({}, level {}, {} shuffle)", cname, level, name_of(shuffle));
    case Kind::zstd:
      return fmt::format("zstd(level {})", level);
    case Kind::zlib:
      return fmt::format("zlib(level {})", level);
    case Kind::gzip:
      return fmt::format("gzip(level {})", level);
    case Kind::crc32c:
      return "crc32c";
  }
  return "unknown";
}

void check_codec(const Codec& codec) {
  const auto check_level = [&](int lowest, int highest) {
    BOREAS_CHECK(codec.level >= lowest && codec.level <= highest, invalid_argument,
                 "{}: the level must be from {} to {}", codec.to_string(), lowest, highest);
  };
  switch (codec.kind) {
    case Codec::Kind::none:
    case Codec::Kind::crc32c:
      return;
    case Codec::Kind::blosc:
      check_level(0, 9);
      BOREAS_CHECK(blosc_compname_to_compcode(codec.cname.c_str()) >= 0, unsupported,
                   "blosc has no codec '{}' here; it has {}", codec.cname, blosc_list_compressors());
      BOREAS_CHECK(codec.block_size >= 0 && codec.block_size <= kBloscMaximum, invalid_argument,
                   "{}: block size {} is not from 0 to {}", codec.to_string(), codec.block_size, kBloscMaximum);
      return;
    case Codec::Kind::zstd:
      return check_level(ZSTD_minCLevel(), ZSTD_maxCLevel());
    case Codec::Kind::zlib:
    case Codec::Kind::gzip:
      return check_level(-1, 9);
  }
}

Bytes encode(const Codec& codec, std::span<const std::byte> in, int64_t item_size) {
  check_codec(codec);
  switch (codec.kind) {
    case Codec::Kind::none:
      return Bytes(in.begin(), in.end());
    case Codec::Kind::blosc: {
      BOREAS_CHECK(int64_t(in.size()) <= kBloscMaximum, invalid_argument,
                   "blosc cannot compress {} bytes at once; its limit is {}: choose smaller chunks", in.size(),
                   kBloscMaximum);
      Bytes out(in.size() + BLOSC_MAX_OVERHEAD);
      const int n = blosc_compress_ctx(codec.level, int(codec.shuffle), size_t(item_size), in.size(), in.data(),
                                       out.data(), out.size(), codec.cname.c_str(), size_t(codec.block_size), 1);
      BOREAS_CHECK(n > 0, internal, "{} failed to compress {} bytes: error {}", codec.to_string(), in.size(), n);
      out.resize(size_t(n));
      return out;
    }
    case Codec::Kind::zstd: {
      Bytes out(ZSTD_compressBound(in.size()));
      const size_t n = ZSTD_compress(out.data(), out.size(), in.data(), in.size(), codec.level);
      BOREAS_CHECK(!ZSTD_isError(n), internal, "zstd failed to compress {} bytes: {}", in.size(), ZSTD_getErrorName(n));
      out.resize(n);
      return out;
    }
    case Codec::Kind::zlib:
    case Codec::Kind::gzip:
      return encode_zlib(codec, in);
    case Codec::Kind::crc32c: {
      Bytes out(in.begin(), in.end());
      const uint32_t checksum = crc32c(in);
      const auto bytes = std::as_bytes(std::span(&checksum, 1));
      out.insert(out.end(), bytes.begin(), bytes.end());
      return out;
    }
  }
  BOREAS_FAIL(internal, "unknown codec");
}

void decode(const Codec& codec, std::span<const std::byte> in, std::span<std::byte> out, const std::string& where) {
  const auto check_size = [&](size_t size) {
    BOREAS_CHECK(size == out.size(), corrupt_data, "{}: {} bytes of {} decode to {} bytes, expected {}", where,
                 in.size(), codec.to_string(), size, out.size());
  };
  switch (codec.kind) {
    case Codec::Kind::none:
      check_size(in.size());
      std::copy(in.begin(), in.end(), out.begin());
      return;
    case Codec::Kind::blosc: {
      const Blob blob(where, int64_t(in.size()), [in](int64_t offset, std::span<std::byte> part) {
        std::copy_n(in.data() + offset, part.size(), part.data());
      });
      const BloscFrame frame(blob, int64_t(out.size()), where);
      frame.decode(0, frame.num_blocks(), out);
      return;
    }
    case Codec::Kind::zstd: {
      const size_t n = ZSTD_decompress(out.data(), out.size(), in.data(), in.size());
      BOREAS_CHECK(!ZSTD_isError(n), corrupt_data, "{}: {} bytes of zstd do not decode to {} bytes: {}", where,
                   in.size(), out.size(), ZSTD_getErrorName(n));
      return check_size(n);
    }
    case Codec::Kind::zlib:
    case Codec::Kind::gzip:
      return decode_zlib(codec, in, out, where);
    case Codec::Kind::crc32c: {
      BOREAS_CHECK(in.size() >= 4, corrupt_data, "{}: {} bytes are too few to hold a crc32c", where, in.size());
      const auto body = in.first(in.size() - 4);
      check_size(body.size());
      const uint32_t expected = load<uint32_t>(in.data() + body.size()), actual = crc32c(body);
      BOREAS_CHECK(actual == expected, corrupt_data, "{}: the crc32c of {} bytes is {:08x}, stored is {:08x}", where,
                   body.size(), actual, expected);
      std::copy(body.begin(), body.end(), out.begin());
      return;
    }
  }
}

void check_expansion(const Codec& codec, int64_t encoded_size, int64_t decoded_size, const std::string& where) {
  // The densest a format can be: deflate spends a bit on 129 bytes; zstd spends 4 bytes on a block of 128 KiB.
  const int64_t factor = codec.kind == Codec::Kind::zstd                                      ? 32768
                         : codec.kind == Codec::Kind::zlib || codec.kind == Codec::Kind::gzip ? 1032
                         : codec.kind == Codec::Kind::blosc                                   ? INT32_MAX
                                                                                              : 1;
  BOREAS_CHECK(encoded_size > 0 && decoded_size / factor <= encoded_size, corrupt_data,
               "{}: {} bytes of {} cannot decode to {} bytes", where, encoded_size, codec.to_string(), decoded_size);
}

uint32_t crc32c(std::span<const std::byte> bytes) {
  // tables[k][b]: the checksum of byte b followed by k zero bytes; eight bytes are then one round of look-ups.
  static const auto tables = [] {
    std::array<std::array<uint32_t, 256>, 8> t{};
    for (uint32_t b = 0; b < 256; ++b) {
      uint32_t crc = b;
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0u);
      t[0][b] = crc;
    }
    for (size_t k = 1; k < 8; ++k) {
      for (size_t b = 0; b < 256; ++b) t[k][b] = (t[k - 1][b] >> 8) ^ t[0][t[k - 1][b] & 255];
    }
    return t;
  }();
  uint32_t crc = ~0u;
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = load<uint64_t>(bytes.data() + i) ^ crc;
    crc = 0;
    for (size_t k = 0; k < 8; ++k) crc ^= tables[7 - k][(word >> (8 * k)) & 255];
  }
  for (; i < bytes.size(); ++i) crc = (crc >> 8) ^ tables[0][(crc ^ uint32_t(bytes[i])) & 255];
  return ~crc;
}

// --- blosc frames ------------------------------------------------------------------------------------------

namespace {

// Flag bits of a frame.
constexpr uint8_t kByteShuffle = 1, kStored = 2, kBitShuffle = 4, kReserved = 8, kNotSplit = 16;

// Frames up to this size are read as a whole; of larger ones first this much, which holds most tables.
constexpr int64_t kSmallFrame = 64 << 10, kFirstRead = 4 << 10;

// A stored frame has no blocks of its own; pieces of this size stand in for them.
constexpr int64_t kStoredBlock = 64 << 10;

}  // namespace

BloscFrame::BloscFrame(Blob blob, int64_t expected_size, std::string where)
    : blob_(std::move(blob)), where_(std::move(where)), size_(expected_size) {
  const int64_t frame_size = blob_.size();
  BOREAS_CHECK(frame_size >= kBloscHeader, corrupt_data,
               "{}: {} bytes are too few for a blosc frame, whose header has {}", where_, frame_size, kBloscHeader);
  header_bytes_ = frame_size <= kSmallFrame ? frame_size : kFirstRead;
  Bytes head(static_cast<size_t>(header_bytes_));
  blob_.read(0, head);
  std::copy_n(head.begin(), kBloscHeader, header_);

  const uint8_t version = uint8_t(header_[0]), flags = uint8_t(header_[2]), type_size = uint8_t(header_[3]);
  const int64_t claimed_size = load<uint32_t>(header_ + 4), claimed_frame = load<uint32_t>(header_ + 12);
  block_size_ = load<uint32_t>(header_ + 8);
  stored_ = (flags & kStored) != 0;
  BOREAS_CHECK(version == BLOSC_VERSION_FORMAT, corrupt_data, "{}: blosc frame of version {}, expected {}", where_,
               version, BLOSC_VERSION_FORMAT);
  BOREAS_CHECK((flags & (kByteShuffle | kBitShuffle)) != (kByteShuffle | kBitShuffle), unsupported,
               "{}: a Blosc2 frame; boreas reads blosc 1", where_);
  BOREAS_CHECK((flags & kReserved) == 0 && type_size > 0, corrupt_data,
               "{}: blosc header with flags {:#04x} and type size {}", where_, flags, type_size);
  BOREAS_CHECK(claimed_frame == frame_size, corrupt_data, "{}: the blosc header says {} compressed bytes, there are {}",
               where_, claimed_frame, frame_size);
  BOREAS_CHECK(claimed_size == size_, corrupt_data,
               "{}: the blosc header says {} decoded bytes, the chunk shape and data type say {}", where_, claimed_size,
               size_);
  if (stored_) {
    BOREAS_CHECK(frame_size == kBloscHeader + size_, corrupt_data, "{}: a stored blosc frame has {} bytes, expected {}",
                 where_, frame_size, kBloscHeader + size_);
    block_size_ = std::min(kStoredBlock, size_);
    num_blocks_ = (size_ + block_size_ - 1) / block_size_;
  } else {
    const int codec = flags >> 5;
    BOREAS_CHECK(codec < int(std::size(kBloscCodecs)), corrupt_data, "{}: the blosc header names codec number {}",
                 where_, codec);
    BOREAS_CHECK(blosc_compname_to_compcode(kBloscCodecs[codec]) >= 0, unsupported,
                 "{}: this c-blosc was built without {}; it has {}", where_, kBloscCodecs[codec],
                 blosc_list_compressors());
    BOREAS_CHECK(block_size_ > 0 && block_size_ <= size_, corrupt_data,
                 "{}: blosc block size {} is not from 1 to the {} bytes of the chunk", where_, block_size_, size_);
    num_blocks_ = (size_ + block_size_ - 1) / block_size_;
    const int64_t table_end = kBloscHeader + 4 * num_blocks_;
    BOREAS_CHECK(table_end < frame_size, corrupt_data, "{}: {} blosc blocks need a table up to byte {} of {}", where_,
                 num_blocks_, table_end, frame_size);
    if (table_end > header_bytes_) {
      head.resize(size_t(table_end));
      blob_.read(header_bytes_, std::span(head).subspan(size_t(header_bytes_)));
      header_bytes_ = table_end;
    }
    starts_.resize(size_t(num_blocks_));
    std::memcpy(starts_.data(), head.data() + kBloscHeader, starts_.size() * sizeof(int32_t));
    for (size_t j = 0; j < starts_.size(); ++j) {
      BOREAS_CHECK(starts_[j] >= table_end && starts_[j] < frame_size, corrupt_data,
                   "{}: blosc block {} starts at byte {}, outside of {} to {}", where_, j, starts_[j], table_end,
                   frame_size - 1);
    }
    // Writers with several threads place blocks in the order in which they are finished; a block ends where the next
    // one in the file begins.
    ends_.resize(starts_.size());
    if (std::adjacent_find(starts_.begin(), starts_.end(), std::greater_equal<>()) == starts_.end()) {
      std::copy(starts_.begin() + 1, starts_.end(), ends_.begin());
      ends_.back() = int32_t(frame_size);
    } else {
      std::vector<int32_t> order(starts_.size());
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(),
                [&](int32_t a, int32_t b) { return starts_[size_t(a)] < starts_[size_t(b)]; });
      for (size_t k = 0; k < order.size(); ++k) {
        const size_t j = size_t(order[k]);
        ends_[j] = k + 1 < order.size() ? starts_[size_t(order[k + 1])] : int32_t(frame_size);
        BOREAS_CHECK(ends_[j] > starts_[j], corrupt_data, "{}: blosc blocks {} and {} both start at byte {}", where_, j,
                     order[k + 1], starts_[j]);
      }
    }
  }
  if (header_bytes_ == frame_size) blob_ = Blob(blob_.name(), std::move(head));
}

int64_t BloscFrame::decode(int64_t first, int64_t count, std::span<std::byte> out) const {
  const int64_t begin = first * block_size_, end = std::min(size_, (first + count) * block_size_);
  BOREAS_ASSERT(first >= 0 && count > 0 && first + count <= num_blocks_ && int64_t(out.size()) == end - begin);
  const bool in_memory = header_bytes_ == blob_.size();
  if (stored_) {
    blob_.read(kBloscHeader + begin, out);
    return in_memory ? 0 : end - begin;
  }

  // A frame of just these blocks, which c-blosc decodes straight into `out`: header, new table, their bytes.
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), first);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return starts_[size_t(a)] < starts_[size_t(b)]; });
  const int64_t table_end = kBloscHeader + 4 * count;
  int64_t frame_size = table_end;
  for (const int64_t j : order) frame_size += ends_[size_t(j)] - starts_[size_t(j)];
  const Scratch memory(frame_size);
  std::byte* const frame = memory.data();

  int64_t at = table_end;
  for (size_t k = 0; k < order.size();) {
    const int64_t from = starts_[size_t(order[k])];
    int64_t to = from;
    for (; k < order.size() && starts_[size_t(order[k])] == to; ++k) {
      store(frame + kBloscHeader + 4 * (order[k] - first), int32_t(at + to - from));
      to = ends_[size_t(order[k])];
    }
    blob_.read(from, {frame + at, size_t(to - from)});
    at += to - from;
  }

  std::copy_n(header_, kBloscHeader, frame);
  store(frame + 4, uint32_t(end - begin));
  store(frame + 12, uint32_t(frame_size));
  if (end - begin < block_size_) {
    // The short last block, alone: c-blosc wants blocks no longer than the frame. Short blocks are never split.
    store(frame + 8, uint32_t(end - begin));
    frame[2] |= std::byte{kNotSplit};
  }

  // The lengths of the streams in each block, checked here so that a message can say where they are wrong.
  const int64_t type_size = uint8_t(header_[3]);
  const bool may_split = (uint8_t(header_[2]) & kNotSplit) == 0 && type_size <= 16 && block_size_ / type_size >= 128;
  for (int64_t j = first; j < first + count; ++j) {
    const int64_t block = load<int32_t>(frame + kBloscHeader + 4 * (j - first));
    const int64_t length = ends_[size_t(j)] - starts_[size_t(j)];
    const bool is_short = size_ - j * block_size_ < block_size_;
    const int64_t num_streams = may_split && !is_short ? type_size : 1;
    int64_t used = 0;
    for (int64_t stream = 0; stream < num_streams; ++stream) {
      const int64_t stream_size = used + 4 <= length ? load<int32_t>(frame + block + used) : 0;
      used += 4;
      BOREAS_CHECK(stream_size > 0 && stream_size <= length - used, corrupt_data,
                   "{}: stream {} of blosc block {}, at byte {}, claims {} bytes, its block has {} left", where_,
                   stream, j, starts_[size_t(j)] + used - 4, stream_size, std::max<int64_t>(0, length - used));
      used += stream_size;
    }
  }

  const int decoded = blosc_decompress_ctx(frame, out.data(), out.size(), 1);
  BOREAS_CHECK(decoded == int(out.size()), corrupt_data,
               "{}: blosc blocks {} to {}, at byte {}, decode to {} bytes, expected {}: their bytes are damaged",
               where_, first, first + count - 1, starts_[size_t(first)], decoded, out.size());
  return in_memory ? 0 : frame_size - table_end;
}

}  // namespace boreas
