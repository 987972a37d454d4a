// A checksum over the structure of an HDF5 file, which readers check before they follow it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace boreas {

/// Bytes [begin, end) of a file.
struct ByteRange {
  int64_t begin = 0, end = 0;
};

/// Appends a seal, which HDF5 does not see, to an HDF5 file: the CRC-32C of all its bytes but those of `values`, arrays
/// that readers take part by part and whose bytes point nowhere. Layout, little-endian: a table of u64 begin, u64 end
/// of each range, ascending; u64 place of the table, u64 number of its ranges, u32 CRC of the structure, u32 CRC of the
/// table, 8 bytes magic, u32 CRC of these 32 bytes. Throws io with the system's reason.
void seal_file(const std::string& path, std::vector<ByteRange> values);

/// Throws corrupt_data if the file is not what was sealed. Files that others made have no seal and pass, as do those
/// cut short before it: HDF5 notices that by itself.
void check_seal(const std::string& path);

}  // namespace boreas
