// Suggestions for a name that is not known: what every "no such variable", "unknown key" message ends with.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace boreas {

/// Up to three known names close to `name` (edit distance at most a third of its length, at least 1, where swapped
/// neighbours count once and case does not), nearest first, as "; near names: u_500, u_50"; empty if none is close.
std::string near_names(std::string_view name, std::span<const std::string> known);

}  // namespace boreas
