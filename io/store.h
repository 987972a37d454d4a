// Bytes by key: a directory of files, a zip archive, or memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace boreas {

using Bytes = std::vector<std::byte>;

/// The value of a key, opened for reading: any number of ranges, from any number of threads, with one open file. A copy
/// refers to the same file, which closes with the last copy.
class Blob {
 public:
  /// Reads exactly out.size() bytes from `offset`, or throws io.
  using Reader = std::function<void(int64_t offset, std::span<std::byte> out)>;

  Blob(std::string name, int64_t size, Reader reader)
      : name_(std::move(name)), size_(size), reader_(std::move(reader)) {}
  /// A blob that owns its bytes.
  Blob(std::string name, Bytes bytes);

  /// Where it lies, for messages: a path, or archive and entry.
  const std::string& name() const { return name_; }
  int64_t size() const { return size_; }

  /// Throws corrupt_data when the range is not inside the blob.
  void read(int64_t offset, std::span<std::byte> out) const;
  Bytes read_all() const;

  /// The bytes [offset, offset + size) as a blob of their own; throws corrupt_data when they are not inside this one.
  Blob slice(int64_t offset, int64_t size) const;

 private:
  std::string name_;
  int64_t begin_ = 0;
  int64_t size_ = 0;
  Reader reader_;
};

/// A flat map from key to bytes; '/' separates the components of a key.
///
/// A key is valid when it is not empty, has no NUL and no backslash, no slash at either end, and no component that is
/// empty, "." or ".."; all functions throw invalid_argument for others. Only "no such file" counts as an absent key:
/// every other failure throws io with the path and the system's reason. All functions may be called from any thread.
class Store {
 public:
  virtual ~Store() = default;

  /// Its path, for messages.
  virtual const std::string& name() const = 0;
  /// Nothing when the key is absent.
  virtual std::optional<Blob> open(const std::string& key) const = 0;
  /// Replaces the value as a whole: a reader sees the old bytes or the new, never a part. Throws unsupported where the
  /// store is read-only.
  virtual void put(const std::string& key, std::span<const std::byte> bytes) = 0;
  /// Removes a key, or all keys below it; absent keys are no error.
  virtual void erase(const std::string& key) = 0;
  /// The names directly under `prefix` ("" is the root), sorted; those that have names under them end with '/'.
  virtual std::vector<std::string> list(const std::string& prefix) const = 0;

  bool exists(const std::string& key) const { return open(key).has_value(); }
  std::optional<int64_t> size(const std::string& key) const;
  /// Throws corrupt_data when the value is larger than `max_size`.
  std::optional<Bytes> get(const std::string& key, int64_t max_size = INT64_MAX) const;
  std::optional<Bytes> get_range(const std::string& key, int64_t offset, int64_t length) const;
  void put(const std::string& key, std::string_view text);
};

/// Throws invalid_argument unless the key follows the rule of Store; `where` names the store.
void check_key(std::string_view key, std::string_view where);

/// Opens a directory, or a file ending in ".zip" (read-only), by its path. Throws io when it does not exist,
/// unsupported for a zip archive when boreas was built without minizip. Files reached through symbolic links must lie
/// inside the directory.
std::shared_ptr<Store> open_store(const std::string& path);

/// Makes a directory (its parent must exist) and opens it; a directory that is there already must be empty, or the
/// function throws io.
std::shared_ptr<Store> create_directory_store(const std::string& path);

/// A store that lives in memory.
std::shared_ptr<Store> make_memory_store(std::string name = "memory");

}  // namespace boreas
