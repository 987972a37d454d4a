// Whole files of text or bytes, written aside and renamed.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace boreas {

/// Writes `path` as `.<name>.partial` beside it and renames it over the old file. Throws io with the path and the
/// cause.
void write_file(const std::string& path, std::span<const uint8_t> bytes);
void write_text_file(const std::string& path, std::string_view text);
std::string read_text_file(const std::string& path);

}  // namespace boreas
