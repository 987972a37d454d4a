#include "io/codec.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

#include "io/thread_pool.h"
#include "kernels/core/error.h"

namespace boreas {
namespace {

template <class F>
void expect_error(ErrorCode code, const std::string& part, F f) {
  try {
    f();
    ADD_FAILURE() << "no error, expected one about " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\nlacks: " << part;
  }
}

Bytes test_bytes(size_t n) {
  std::mt19937 random(5);
  Bytes bytes(n);
  for (size_t i = 0; i < n; ++i) bytes[i] = std::byte(i % 4 == 3 ? 0 : random() % 16);
  return bytes;
}

Codec blosc(const std::string& cname, Codec::Shuffle shuffle, int64_t block_size) {
  return {.cname = cname, .shuffle = shuffle, .block_size = block_size};
}

BloscFrame open_frame(const Bytes& frame, size_t size) {
  return BloscFrame(Blob("frame", frame), int64_t(size), "chunk");
}

TEST(Codec, RoundTripsOfManySizes) {
  std::vector<Codec> codecs = {{.kind = Codec::Kind::none}, {.kind = Codec::Kind::zstd},   {.kind = Codec::Kind::zlib},
                               {.kind = Codec::Kind::gzip}, {.kind = Codec::Kind::crc32c}, {.level = 0}};
  for (const char* cname : {"blosclz", "lz4", "lz4hc", "zlib", "zstd"}) {
    for (const auto shuffle : {Codec::Shuffle::none, Codec::Shuffle::byte, Codec::Shuffle::bit}) {
      codecs.push_back(blosc(cname, shuffle, 0));
    }
  }
  for (const Codec& codec : codecs) {
    for (const size_t size : {1u, 3u, 127u, 128u, 1000u, 4096u, 100003u}) {
      for (const int64_t item_size : {1, 2, 4, 8}) {
        const Bytes in = test_bytes(size);
        Bytes out(size);
        decode(codec, encode(codec, in, item_size), out, "here");
        ASSERT_EQ(in, out) << codec.to_string() << " " << size << " " << item_size;
      }
    }
  }
}

TEST(Codec, LevelsAndNamesAreChecked) {
  expect_error(ErrorCode::invalid_argument, "0 to 9", [] { check_codec({.level = 10}); });
  expect_error(ErrorCode::invalid_argument, "zlib", [] { check_codec({.kind = Codec::Kind::zlib, .level = 10}); });
  expect_error(ErrorCode::invalid_argument, "zstd", [] { check_codec({.kind = Codec::Kind::zstd, .level = 1000}); });
  expect_error(ErrorCode::unsupported, "it has blosclz", [] { check_codec({.cname = "brotli"}); });
  expect_error(ErrorCode::invalid_argument, "block size", [] { check_codec({.block_size = -1}); });
}

TEST(Codec, GzipOfSeveralMembers) {
  const Codec gzip{.kind = Codec::Kind::gzip};
  const Bytes in = test_bytes(1000);
  Bytes first = encode(gzip, std::span(in).first(300), 1);
  const Bytes second = encode(gzip, std::span(in).subspan(300), 1);
  first.insert(first.end(), second.begin(), second.end());
  Bytes out(1000);
  decode(gzip, first, out, "here");
  EXPECT_EQ(in, out);
}

TEST(Codec, WrongSizesAreErrors) {
  for (const Codec& codec :
       {Codec{.kind = Codec::Kind::none}, Codec{.kind = Codec::Kind::zstd}, Codec{.kind = Codec::Kind::zlib},
        Codec{.kind = Codec::Kind::gzip}, Codec{.kind = Codec::Kind::crc32c}, Codec{}}) {
    const Bytes encoded = encode(codec, test_bytes(1000), 4);
    for (const size_t size : {0u, 1u, 999u, 1001u, 5000u}) {
      Bytes out(size);
      expect_error(ErrorCode::corrupt_data, "chunk 7", [&] { decode(codec, encoded, out, "chunk 7"); });
    }
    Bytes out(1000);
    expect_error(ErrorCode::corrupt_data, "chunk 7", [&] { decode(codec, {}, out, "chunk 7"); });
  }
}

TEST(Codec, ExpansionIsLimited) {
  check_expansion({.kind = Codec::Kind::gzip}, 1000, 1000000, "here");
  expect_error(ErrorCode::corrupt_data, "cannot decode",
               [] { check_expansion({.kind = Codec::Kind::gzip}, 1000, 2000000, "here"); });
  expect_error(ErrorCode::corrupt_data, "cannot decode",
               [] { check_expansion({.kind = Codec::Kind::zstd}, 0, 1, "here"); });
  // The limits hold what the codecs really reach.
  const Bytes zeros(16 << 20);
  for (const auto kind : {Codec::Kind::zstd, Codec::Kind::zlib, Codec::Kind::gzip}) {
    check_expansion({.kind = kind}, int64_t(encode({.kind = kind, .level = 9}, zeros, 1).size()), int64_t(zeros.size()),
                    "here");
  }
}

TEST(Codec, Crc32cOfKnownText) {
  const std::string text = "123456789";
  EXPECT_EQ(crc32c(std::as_bytes(std::span(text))), 0xe3069283u);  // the check value of CRC-32C
  EXPECT_EQ(crc32c({}), 0u);
  const Bytes zeros(32);
  EXPECT_EQ(crc32c(zeros), 0x8a9136aau);  // RFC 3720, B.4
}

TEST(BloscFrame, AnyRangeOfBlocks) {
  for (const char* cname : {"blosclz", "lz4", "lz4hc", "zlib", "zstd"}) {
    for (const auto shuffle : {Codec::Shuffle::none, Codec::Shuffle::byte, Codec::Shuffle::bit}) {
      for (const int64_t item_size : {1, 4, 7, 8}) {
        const Bytes in = test_bytes(400001);  // a short last block
        const Bytes encoded = encode(blosc(cname, shuffle, 8192), in, item_size);
        const BloscFrame frame = open_frame(encoded, in.size());
        ASSERT_GT(frame.num_blocks(), 4);
        for (int64_t first = 0; first < frame.num_blocks(); first += 1 + frame.num_blocks() / 8) {
          for (int64_t count = 1; first + count <= frame.num_blocks(); count += 1 + frame.num_blocks() / 6) {
            const int64_t begin = first * frame.block_size();
            const int64_t end = std::min<int64_t>(400001, begin + count * frame.block_size());
            Bytes out(size_t(end - begin));
            frame.decode(first, count, out);
            ASSERT_TRUE(std::equal(out.begin(), out.end(), in.begin() + begin))
                << cname << " " << first << " " << count;
          }
        }
      }
    }
  }
}

TEST(BloscFrame, ReadsOnlyTheBytesOfItsBlocks) {
  const Bytes in = test_bytes(4 << 20);
  const Bytes encoded = encode(blosc("zstd", Codec::Shuffle::byte, 64 << 10), in, 4);
  int64_t bytes_read = 0;
  const Blob blob("frame", int64_t(encoded.size()), [&](int64_t offset, std::span<std::byte> out) {
    bytes_read += int64_t(out.size());
    std::copy_n(encoded.begin() + offset, out.size(), out.begin());
  });
  const BloscFrame frame(blob, int64_t(in.size()), "chunk");
  EXPECT_EQ(bytes_read, frame.header_bytes());
  EXPECT_LE(bytes_read, 4096);
  Bytes out(size_t(frame.block_size()));
  bytes_read = 0;
  EXPECT_EQ(frame.decode(30, 1, out), bytes_read);
  EXPECT_LT(bytes_read, int64_t(encoded.size()) / 50);
  EXPECT_TRUE(std::equal(out.begin(), out.end(), in.begin() + 30 * frame.block_size()));
}

// Rebuilds a frame with its blocks in another order, as writers with several threads leave them.
Bytes shuffle_blocks(const Bytes& frame, std::mt19937& random) {
  const auto word = [&](size_t at) {
    int32_t value;
    std::memcpy(&value, frame.data() + at, 4);
    return value;
  };
  const size_t num_blocks = size_t((word(4) + word(8) - 1) / word(8));
  std::vector<size_t> order(num_blocks);
  for (size_t j = 0; j < num_blocks; ++j) order[j] = j;
  std::shuffle(order.begin(), order.end(), random);
  Bytes result(frame.begin(), frame.begin() + ptrdiff_t(16 + 4 * num_blocks));
  for (const size_t j : order) {
    const int32_t at = int32_t(result.size());
    std::memcpy(result.data() + 16 + 4 * j, &at, 4);
    const int32_t end = j + 1 < num_blocks ? word(16 + 4 * (j + 1)) : int32_t(frame.size());
    result.insert(result.end(), frame.begin() + word(16 + 4 * j), frame.begin() + end);
  }
  return result;
}

TEST(BloscFrame, BlocksInAnyOrder) {
  std::mt19937 random(6);
  const Bytes in = test_bytes(300001);
  const Bytes frame_bytes = encode(blosc("zstd", Codec::Shuffle::byte, 8192), in, 4);
  for (int round = 0; round < 5; ++round) {
    const Bytes shuffled = shuffle_blocks(frame_bytes, random);
    const BloscFrame frame = open_frame(shuffled, in.size());
    Bytes out(in.size());
    frame.decode(0, frame.num_blocks(), out);
    EXPECT_EQ(in, out);
    Bytes part(size_t(5 * frame.block_size()));
    frame.decode(3, 5, part);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), in.begin() + 3 * frame.block_size()));
  }
}

TEST(BloscFrame, ThreadsDecodeAtOnce) {
  ThreadPool pool(3);
  const Bytes in = test_bytes(1 << 20);
  const Bytes encoded = encode(blosc("lz4", Codec::Shuffle::byte, 16 << 10), in, 4);
  const BloscFrame frame = open_frame(encoded, in.size());
  Bytes out(in.size());
  for (int round = 0; round < 10; ++round) {
    pool.parallel_for(frame.num_blocks(), [&](int64_t j) {
      frame.decode(j, 1, std::span(out).subspan(size_t(j * frame.block_size()), size_t(frame.block_size())));
    });
    ASSERT_EQ(in, out);
    std::fill(out.begin(), out.end(), std::byte{0});
  }
}

TEST(BloscFrame, MessagesSayWhatIsWrong) {
  const Bytes in = test_bytes(20000);
  const Bytes good = encode(blosc("zstd", Codec::Shuffle::byte, 4096), in, 4);
  const auto expect = [&](ErrorCode code, const std::string& part, size_t at, uint32_t value, int width) {
    Bytes bad = good;
    std::memcpy(bad.data() + at, &value, size_t(width));
    expect_error(code, part, [&] {
      Bytes out(in.size());
      decode({}, bad, out, "chunk 7");
    });
  };
  expect(ErrorCode::corrupt_data, "version 3, expected 2", 0, 3, 1);
  expect(ErrorCode::unsupported, "Blosc2", 2, 0x95, 1);
  expect(ErrorCode::corrupt_data, "flags 0x99", 2, 0x99, 1);
  expect(ErrorCode::corrupt_data, "codec number 7", 2, 0xf1, 1);
  expect(ErrorCode::corrupt_data, "type size 0", 3, 0, 1);
  expect(ErrorCode::corrupt_data, "says 19999 decoded bytes, the chunk shape and data type say 20000", 4, 19999, 4);
  expect(ErrorCode::corrupt_data, "block size 0", 8, 0, 4);
  expect(ErrorCode::corrupt_data, "block size 20001", 8, 20001, 4);
  expect(ErrorCode::corrupt_data, "20000 blosc blocks need a table", 8, 1, 4);
  expect(ErrorCode::corrupt_data, "says 7 compressed bytes, there are", 12, 7, 4);
  expect(ErrorCode::corrupt_data, "block 0 starts at byte 15", 16, 15, 4);
  expect(ErrorCode::corrupt_data, "block 1 starts at byte -1", 20, 0xffffffff, 4);
  uint32_t start;
  std::memcpy(&start, good.data() + 16, 4);
  expect(ErrorCode::corrupt_data, "both start at byte", 20, start, 4);
  expect(ErrorCode::corrupt_data, "stream 0 of blosc block 0, at byte 36, claims 65535 bytes", start, 65535, 4);
  expect(ErrorCode::corrupt_data, "claims -1 bytes", start, 0xffffffff, 4);
  expect(ErrorCode::corrupt_data, "decode to", start + 4, 0xffffffff, 4);
}

}  // namespace
}  // namespace boreas
