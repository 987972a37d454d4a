// Files and folders that appear under their name complete or not at all.
#pragma once

#include <string>

namespace boreas {

/// "folder/.name.partial": where something is written until it is complete. Throws io if the folder does not exist.
std::string partial_path(const std::string& path);

/// Flushes `partial` (a file, or a folder with all that is in it) to the disk, gives it the name `path`, replacing what
/// had it, and flushes the folder. Throws io with the system's reason; `partial` is then still there.
void replace_path(const std::string& partial, const std::string& path);

/// Removes a file or folder, with all that is in it, if it exists; never throws.
void remove_quietly(const std::string& path) noexcept;

}  // namespace boreas
