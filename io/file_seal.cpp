#include "io/file_seal.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "io/codec.h"
#include "kernels/core/error.h"

namespace boreas {
namespace {

struct Seal {
  uint64_t table = 0, num_ranges = 0;
  uint32_t structure_crc = 0, table_crc = 0;
  std::array<char, 8> magic = {'b', 'o', 'r', 'e', 'a', 's', '\r', '\n'};
  uint32_t own_crc() const { return crc32c(std::as_bytes(std::span(this, 1))); }
};
static_assert(sizeof(Seal) == 32);
constexpr int64_t kSealBytes = sizeof(Seal) + sizeof(uint32_t);

// All bytes before the table that belong to no range.
uint32_t structure_crc(std::istream& file, const std::vector<ByteRange>& values, int64_t table) {
  std::vector<std::byte> structure;
  const auto add = [&](int64_t begin, int64_t end) {
    if (begin >= end) return;
    const size_t had = structure.size();
    structure.resize(had + size_t(end - begin));
    file.seekg(begin);
    file.read(reinterpret_cast<char*>(structure.data() + had), end - begin);
  };
  int64_t at = 0;
  for (const ByteRange& range : values) {
    add(at, range.begin);
    at = range.end;
  }
  add(at, table);
  return crc32c(structure);
}

// Where HDF5 takes its file to end, as superblocks of versions 2 and 3 say; else the file's size.
int64_t end_of_hdf5(std::istream& file, int64_t size) {
  std::array<char, 36> superblock{};
  file.seekg(0);
  file.read(superblock.data(), superblock.size());
  constexpr char kSignature[] = "\x89HDF\r\n\x1a\n";
  const bool known = file && std::memcmp(superblock.data(), kSignature, 8) == 0 &&
                     (superblock[8] == 2 || superblock[8] == 3) && superblock[9] == 8;
  if (!known) return size;
  int64_t end = 0;
  std::memcpy(&end, superblock.data() + 28, 8);
  return end;
}

}  // namespace

void seal_file(const std::string& path, std::vector<ByteRange> values) {
  std::sort(values.begin(), values.end(), [](const ByteRange& a, const ByteRange& b) { return a.begin < b.begin; });
  std::vector<ByteRange> merged;
  for (const ByteRange& range : values)
    if (!merged.empty() && range.begin == merged.back().end)
      merged.back().end = range.end;
    else
      merged.push_back(range);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  Seal seal;
  seal.table = std::filesystem::file_size(path);
  seal.num_ranges = merged.size();
  seal.structure_crc = structure_crc(file, merged, int64_t(seal.table));
  const auto table = std::as_bytes(std::span(merged));
  seal.table_crc = crc32c(table);
  const uint32_t own_crc = seal.own_crc();
  errno = 0;
  file.seekp(int64_t(seal.table));
  file.write(reinterpret_cast<const char*>(table.data()), std::streamsize(table.size()));
  file.write(reinterpret_cast<const char*>(&seal), sizeof seal);
  file.write(reinterpret_cast<const char*>(&own_crc), sizeof own_crc);
  file.close();
  BOREAS_CHECK(file, io, "{}: {}", path, std::strerror(errno));
}

void check_seal(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const int64_t size = int64_t(std::filesystem::file_size(path));
  const int64_t end = end_of_hdf5(file, size);
  if (!file || size < kSealBytes) return;
  Seal seal;
  uint32_t own_crc = 0;
  file.seekg(size - kSealBytes);
  file.read(reinterpret_cast<char*>(&seal), sizeof seal);
  file.read(reinterpret_cast<char*>(&own_crc), sizeof own_crc);
  BOREAS_CHECK(file, io, "{}: cannot be read", path);
  const bool sealed = seal.magic == Seal().magic && seal.own_crc() == own_crc;
  // Only what seals a file follows its end, so this is a seal that is no longer whole.
  BOREAS_CHECK(sealed || end >= size, corrupt_data,
               "{}: is damaged: its last bytes are no seal of boreas; use another copy", path);
  if (!sealed) return;
  std::vector<ByteRange> values(seal.num_ranges);
  const int64_t table_bytes = int64_t(values.size() * sizeof(ByteRange));
  bool whole = int64_t(seal.table) + table_bytes + kSealBytes == size;
  if (whole) {
    file.seekg(int64_t(seal.table));
    file.read(reinterpret_cast<char*>(values.data()), table_bytes);
    whole = file && crc32c(std::as_bytes(std::span(values))) == seal.table_crc &&
            structure_crc(file, values, int64_t(seal.table)) == seal.structure_crc && file;
  }
  BOREAS_CHECK(whole, corrupt_data, "{}: is damaged: its structure differs from what was written; use another copy",
               path);
}

}  // namespace boreas
