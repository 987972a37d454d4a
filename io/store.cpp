#include "io/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <system_error>

#include "kernels/core/error.h"
#ifdef BOREAS_WITH_MINIZIP
#include <minizip/unzip.h>
#endif

namespace boreas {

namespace {

std::string reason(int error) { return std::generic_category().message(error); }

std::string join(std::string_view folder, std::string_view name) {
  return folder.empty() ? std::string(name) : fmt::format("{}/{}", folder, name);
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

void read_file(int fd, const std::string& path, int64_t offset, std::span<std::byte> out) {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(fd, out.data() + done, out.size() - done, off_t(offset + int64_t(done)));
    if (n < 0 && errno == EINTR) continue;
    BOREAS_CHECK(n >= 0, io, "reading {} bytes at offset {} of {} failed: {}", out.size(), offset, path, reason(errno));
    BOREAS_CHECK(n > 0, io,
                 "{} ends at byte {}, while {} bytes were to be read from offset {}: it shrank while it was open", path,
                 offset + int64_t(done), out.size(), offset);
    done += size_t(n);
  }
}

}  // namespace

// --- Blob --------------------------------------------------------------------------------------------------

Blob::Blob(std::string name, Bytes bytes) : name_(std::move(name)), size_(int64_t(bytes.size())) {
  reader_ = [held = std::make_shared<const Bytes>(std::move(bytes))](int64_t offset, std::span<std::byte> out) {
    std::copy_n(held->data() + offset, out.size(), out.data());
  };
}

void Blob::read(int64_t offset, std::span<std::byte> out) const {
  const int64_t length = int64_t(out.size());
  BOREAS_CHECK(offset >= 0 && length <= size_ && offset <= size_ - length, corrupt_data,
               "{} has {} bytes, which do not include {} bytes at offset {}", name_, size_, length, offset);
  if (length > 0) reader_(begin_ + offset, out);
}

Bytes Blob::read_all() const {
  Bytes bytes(static_cast<size_t>(size_));
  read(0, bytes);
  return bytes;
}

Blob Blob::slice(int64_t offset, int64_t size) const {
  BOREAS_CHECK(offset >= 0 && size >= 0 && size <= size_ && offset <= size_ - size, corrupt_data,
               "{} has {} bytes, which do not include {} bytes at offset {}", name_, size_, size, offset);
  Blob part = *this;
  part.begin_ += offset;
  part.size_ = size;
  return part;
}

// --- Store -------------------------------------------------------------------------------------------------

void check_key(std::string_view key, std::string_view where) {
  bool valid = !key.empty() && key.find('\0') == key.npos && key.find('\\') == key.npos;
  for (size_t begin = 0; valid && begin <= key.size();) {
    const size_t end = std::min(key.find('/', begin), key.size());
    const std::string_view component = key.substr(begin, end - begin);
    valid = !component.empty() && component != "." && component != "..";
    begin = end + 1;
  }
  if (valid) return;
  std::string printable(key);
  std::replace_if(
      printable.begin(), printable.end(), [](char c) { return c >= 0 && c < ' '; }, '?');
  BOREAS_FAIL(invalid_argument,
              "'{}' is not a key of store {}: a key has no empty, '.' or '..' component, no backslash and no NUL",
              printable, where);
}

std::optional<int64_t> Store::size(const std::string& key) const {
  const auto blob = open(key);
  return blob ? std::optional(blob->size()) : std::nullopt;
}

std::optional<Bytes> Store::get(const std::string& key, int64_t max_size) const {
  const auto blob = open(key);
  if (!blob) return std::nullopt;
  BOREAS_CHECK(blob->size() <= max_size, corrupt_data, "{} has {} bytes, more than the {} that it may have",
               blob->name(), blob->size(), max_size);
  return blob->read_all();
}

std::optional<Bytes> Store::get_range(const std::string& key, int64_t offset, int64_t length) const {
  const auto blob = open(key);
  return blob ? std::optional(blob->slice(offset, length).read_all()) : std::nullopt;
}

void Store::put(const std::string& key, std::string_view text) { put(key, std::as_bytes(std::span(text))); }

namespace {

// --- a directory -------------------------------------------------------------------------------------------

// Files that a writer has not renamed yet carry this in their name, and are not listed.
constexpr std::string_view kPartial = ".partial-";

class DirectoryStore final : public Store {
 public:
  explicit DirectoryStore(std::string path)
      : path_(std::move(path)), root_(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    BOREAS_CHECK(root_, io, "opening the directory {} failed: {}", path_, reason(errno));
  }

  const std::string& name() const override { return path_; }

  std::optional<Blob> open(const std::string& key) const override {
    check_key(key, path_);
    // O_NONBLOCK: a named pipe must not hang the reader before it is refused.
    const auto file =
        std::make_shared<FileDescriptor>(::openat(root_.get(), key.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    const std::string path = path_of(key);
    if (!*file) {
      BOREAS_CHECK(errno == ENOENT, io, "opening {} failed: {}", path, reason(errno));
      return std::nullopt;
    }
    struct stat status;
    BOREAS_CHECK(::fstat(file->get(), &status) == 0, io, "{}: {}", path, reason(errno));
    if (S_ISDIR(status.st_mode)) return std::nullopt;
    BOREAS_CHECK(S_ISREG(status.st_mode), io, "{} is not a regular file", path);
    check_inside(file->get(), path);
    return Blob(path, status.st_size,
                [file, path](int64_t offset, std::span<std::byte> out) { read_file(file->get(), path, offset, out); });
  }

  void put(const std::string& key, std::span<const std::byte> bytes) override {
    check_key(key, path_);
    const std::string path = path_of(key);
    static std::atomic<int64_t> counter = 0;
    const std::string aside = fmt::format("{}{}{}-{}", key, kPartial, ::getpid(), counter++);
    constexpr int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    int fd = ::openat(root_.get(), aside.c_str(), flags, 0666);
    if (fd < 0 && errno == ENOENT) {
      for (size_t slash = key.find('/'); slash != key.npos; slash = key.find('/', slash + 1)) {
        const int made = ::mkdirat(root_.get(), key.substr(0, slash).c_str(), 0777);
        BOREAS_CHECK(made == 0 || errno == EEXIST, io, "making the directory {} failed: {}",
                     path_of(key.substr(0, slash)), reason(errno));
      }
      fd = ::openat(root_.get(), aside.c_str(), flags, 0666);
    }
    BOREAS_CHECK(fd >= 0, io, "creating {} failed: {}", path_of(aside), reason(errno));
    try {
      {
        const FileDescriptor file(fd);
        check_inside(fd, path);
        for (size_t done = 0; done < bytes.size();) {
          const ssize_t n = ::write(fd, bytes.data() + done, bytes.size() - done);
          if (n < 0 && errno == EINTR) continue;
          BOREAS_CHECK(n >= 0, io, "writing {} bytes to {} failed after {}: {}", bytes.size(), path, done,
                       reason(errno));
          done += size_t(n);
        }
      }
      BOREAS_CHECK(::renameat(root_.get(), aside.c_str(), root_.get(), key.c_str()) == 0, io, "replacing {} failed: {}",
                   path, reason(errno));
    } catch (...) {
      ::unlinkat(root_.get(), aside.c_str(), 0);
      throw;
    }
  }

  void erase(const std::string& key) override {
    check_key(key, path_);
    const size_t slash = key.rfind('/');
    const std::string folder = slash == key.npos ? "." : key.substr(0, slash);
    const FileDescriptor parent(::openat(root_.get(), folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!parent && errno == ENOENT) return;
    BOREAS_CHECK(parent, io, "opening {} failed: {}", path_of(folder), reason(errno));
    check_inside(parent.get(), path_of(folder));
    std::error_code error;
    std::filesystem::remove_all(path_of(key), error);  // a symbolic link is removed, not followed
    BOREAS_CHECK(!error, io, "removing {} failed: {}", path_of(key), error.message());
  }

  std::vector<std::string> list(const std::string& prefix) const override {
    if (!prefix.empty()) check_key(prefix, path_);
    const std::string path = prefix.empty() ? path_ : path_of(prefix);
    const int fd = ::openat(root_.get(), prefix.empty() ? "." : prefix.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) return {};
    BOREAS_CHECK(fd >= 0, io, "opening the directory {} failed: {}", path, reason(errno));
    const std::unique_ptr<DIR, int (*)(DIR*)> folder(::fdopendir(fd), &::closedir);
    if (!folder) {
      const int error = errno;
      ::close(fd);
      BOREAS_FAIL(io, "reading the directory {} failed: {}", path, reason(error));
    }
    check_inside(fd, path);
    std::vector<std::string> names;
    for (errno = 0; const dirent* entry = ::readdir(folder.get()); errno = 0) {
      const std::string_view name = entry->d_name;
      if (name == "." || name == ".." || name.find(kPartial) != name.npos) continue;
      struct stat status;
      bool is_folder = entry->d_type == DT_DIR;
      if (entry->d_type == DT_LNK || entry->d_type == DT_UNKNOWN) {
        is_folder = ::fstatat(fd, entry->d_name, &status, 0) == 0 && S_ISDIR(status.st_mode);
      }
      names.push_back(std::string(name) + (is_folder ? "/" : ""));
    }
    BOREAS_CHECK(errno == 0, io, "reading the directory {} failed: {}", path, reason(errno));
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::string path_of(const std::string& key) const { return join(path_, key); }

  static std::string real_path(int fd) {
    char target[4096];
    const ssize_t n = ::readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), target, sizeof target);
    BOREAS_CHECK(n >= 0 && n < ssize_t(sizeof target), io, "finding the path of an open file failed: {}",
                 n < 0 ? reason(errno) : "it is too long");
    return std::string(target, size_t(n));
  }

  // The file that was opened is asked for its path: no time passes between a check and the use of what it checked. The
  // root is asked as well, each time, because it may have been renamed.
  void check_inside(int fd, const std::string& path) const {
    const std::string root = real_path(root_.get()), real = real_path(fd);
    const bool inside = real == root || (real.starts_with(root) && (root == "/" || real[root.size()] == '/'));
    BOREAS_CHECK(inside, io, "{} is a link to {}, outside of the store {}", path, real, path_);
  }

  std::string path_;
  FileDescriptor root_;
};

// Names directly under a prefix, from sorted keys.
template <class Map>
std::vector<std::string> list_sorted(const Map& entries, const std::string& prefix) {
  const std::string begin = prefix.empty() ? "" : prefix + "/";
  std::vector<std::string> names;
  for (auto it = entries.lower_bound(begin); it != entries.end() && it->first.starts_with(begin); ++it) {
    const size_t slash = it->first.find('/', begin.size());
    std::string name = it->first.substr(begin.size(), slash == std::string::npos ? slash : slash + 1 - begin.size());
    if (names.empty() || names.back() != name) names.push_back(std::move(name));
  }
  return names;
}

// --- memory ------------------------------------------------------------------------------------------------

class MemoryStore final : public Store {
 public:
  explicit MemoryStore(std::string name) : name_(std::move(name)) {}
  const std::string& name() const override { return name_; }

  std::optional<Blob> open(const std::string& key) const override {
    check_key(key, name_);
    std::shared_lock lock(mutex_);
    const auto it = values_.find(key);
    return it == values_.end() ? std::nullopt : std::optional(it->second);
  }
  void put(const std::string& key, std::span<const std::byte> bytes) override {
    check_key(key, name_);
    Blob blob(join(name_, key), Bytes(bytes.begin(), bytes.end()));
    std::unique_lock lock(mutex_);
    values_.insert_or_assign(key, std::move(blob));
  }
  void erase(const std::string& key) override {
    check_key(key, name_);
    std::unique_lock lock(mutex_);
    values_.erase(key);
    values_.erase(values_.lower_bound(key + "/"), values_.lower_bound(key + "0"));  // '0' follows '/'
  }
  std::vector<std::string> list(const std::string& prefix) const override {
    if (!prefix.empty()) check_key(prefix, name_);
    std::shared_lock lock(mutex_);
    return list_sorted(values_, prefix);
  }

 private:
  std::string name_;
  mutable std::shared_mutex mutex_;
  std::map<std::string, Blob> values_;
};

// --- a zip archive -----------------------------------------------------------------------------------------

#ifdef BOREAS_WITH_MINIZIP
// minizip reads the directory, finds where an entry's bytes lie, and inflates; stored entries are then read in place,
// in parallel, from a descriptor of our own. minizip keeps a position, so one lock guards all calls of it.
class ZipStore final : public Store {
 public:
  explicit ZipStore(std::string path)
      : path_(std::move(path)), file_(std::make_shared<FileDescriptor>(::open(path_.c_str(), O_RDONLY | O_CLOEXEC))) {
    BOREAS_CHECK(*file_, io, "opening the zip archive {} failed: {}", path_, reason(errno));
    struct stat status;
    BOREAS_CHECK(::fstat(file_->get(), &status) == 0, io, "{}: {}", path_, reason(errno));
    BOREAS_CHECK(S_ISREG(status.st_mode), io, "the zip archive {} is not a regular file", path_);
    file_size_ = status.st_size;
    zip_.reset(::unzOpen64(path_.c_str()));
    BOREAS_CHECK(zip_ != nullptr, corrupt_data, "{} is not a zip archive, or its directory is damaged or cut off",
                 path_);
    int state = ::unzGoToFirstFile(zip_.get());
    unz_global_info64 global;
    BOREAS_CHECK(::unzGetGlobalInfo64(zip_.get(), &global) == UNZ_OK, corrupt_data, "{}: damaged zip directory", path_);
    BOREAS_CHECK(global.number_entry > 0, corrupt_data, "the zip archive {} has no entries, or its end is cut off",
                 path_);
    std::string key;
    for (; state == UNZ_OK; state = ::unzGoToNextFile(zip_.get())) add_entry(key);
    BOREAS_CHECK(state == UNZ_END_OF_LIST_OF_FILE, corrupt_data,
                 "the directory of the zip archive {} is damaged after entry {} of {}", path_, entries_.size(),
                 global.number_entry);
  }

  const std::string& name() const override { return path_; }

  std::optional<Blob> open(const std::string& key) const override {
    check_key(key, path_);
    const auto it = entries_.find(key);
    if (it == entries_.end()) return std::nullopt;
    const Entry& entry = it->second;
    const std::string where = fmt::format("entry {} of zip archive {}", key, path_);
    BOREAS_CHECK(!entry.encrypted, unsupported, "{} is encrypted", where);
    BOREAS_CHECK(entry.method == 0 || entry.method == Z_DEFLATED, unsupported,
                 "{} has compression method {}; boreas reads stored (0) and deflated (8) entries", where, entry.method);
    // Metadata goes through minizip as well, which verifies its checksum.
    const std::string_view base = std::string_view(key).substr(key.rfind('/') + 1);
    const bool is_metadata = base.starts_with('.') || base == "zarr.json";
    std::lock_guard lock(mutex_);
    unz64_file_pos position = entry.position;
    BOREAS_CHECK(::unzGoToFilePos64(zip_.get(), &position) == UNZ_OK && ::unzOpenCurrentFile(zip_.get()) == UNZ_OK,
                 corrupt_data, "{}: its header does not agree with the archive's directory", where);
    if (entry.method != 0 || is_metadata) return Blob(where, read_entry(entry, where));
    const int64_t begin = int64_t(::unzGetCurrentFileZStreamPos64(zip_.get()));
    ::unzCloseCurrentFile(zip_.get());
    BOREAS_CHECK(
        begin > 0 && entry.size == entry.stored_size && entry.size <= file_size_ && begin <= file_size_ - entry.size,
        corrupt_data, "{}: {} bytes at offset {} are not inside the archive of {} bytes", where, entry.size, begin,
        file_size_);
    const Blob archive(where, file_size_, [file = file_, where](int64_t offset, std::span<std::byte> out) {
      read_file(file->get(), where, offset, out);
    });
    return archive.slice(begin, entry.size);
  }

  void put(const std::string& key, std::span<const std::byte>) override { refuse_to_write(key); }
  void erase(const std::string& key) override { refuse_to_write(key); }
  std::vector<std::string> list(const std::string& prefix) const override {
    if (!prefix.empty()) check_key(prefix, path_);
    return list_sorted(entries_, prefix);
  }

 private:
  struct Entry {
    unz64_file_pos position;
    int64_t size, stored_size;
    unsigned long method;
    bool encrypted;
  };
  struct Close {
    void operator()(void* zip) const { ::unzClose(zip); }
  };

  // `key` is memory to work in.
  void add_entry(std::string& key) {
    unz_file_info64 info;
    key.resize(65536);
    Entry entry;
    BOREAS_CHECK(
        ::unzGetCurrentFileInfo64(zip_.get(), &info, key.data(), uLong(key.size()), nullptr, 0, nullptr, 0) == UNZ_OK &&
            ::unzGetFilePos64(zip_.get(), &entry.position) == UNZ_OK,
        corrupt_data, "the directory of the zip archive {} is damaged after {} entries", path_, entries_.size());
    key.resize(info.size_filename);
    if (key.ends_with('/')) return;
    check_key(key, path_);
    BOREAS_CHECK(info.compressed_size <= uint64_t(file_size_) && info.uncompressed_size <= uint64_t(INT64_MAX),
                 corrupt_data, "entry {} of zip archive {} claims {} compressed bytes in a file of {}", key, path_,
                 info.compressed_size, file_size_);
    entry.size = int64_t(info.uncompressed_size);
    entry.stored_size = int64_t(info.compressed_size);
    entry.method = info.compression_method;
    entry.encrypted = (info.flag & 1) != 0;
    entries_.insert_or_assign(key, entry);  // of duplicates the last one counts
  }

  // The whole of the current entry. Memory grows with what is decoded, not with what the header claims.
  Bytes read_entry(const Entry& entry, const std::string& where) const {
    Bytes bytes;
    constexpr int64_t kStep = 1 << 20;
    for (;;) {
      const size_t done = bytes.size();
      const int64_t step = std::min(kStep, entry.size - int64_t(done));
      if (step == 0) break;
      bytes.resize(done + size_t(step));
      const int n = ::unzReadCurrentFile(zip_.get(), bytes.data() + done, unsigned(step));
      if (n <= 0) {
        ::unzCloseCurrentFile(zip_.get());
        BOREAS_FAIL(corrupt_data, "{}: {} bytes decode to {}, expected {}", where, entry.stored_size, done, entry.size);
      }
      bytes.resize(done + size_t(n));
    }
    BOREAS_CHECK(::unzCloseCurrentFile(zip_.get()) == UNZ_OK, corrupt_data, "{}: its checksum does not match its bytes",
                 where);
    return bytes;
  }

  [[noreturn]] void refuse_to_write(const std::string& key) const {
    BOREAS_FAIL(unsupported, "cannot write {} into the zip archive {}: boreas only reads zip archives; use a directory",
                key, path_);
  }

  std::string path_;
  std::shared_ptr<FileDescriptor> file_;
  int64_t file_size_ = 0;
  std::map<std::string, Entry> entries_;
  mutable std::mutex mutex_;
  std::unique_ptr<void, Close> zip_;
};
#endif

}  // namespace

std::shared_ptr<Store> open_store(const std::string& path) {
  std::error_code error;
  if (path.ends_with(".zip") && !std::filesystem::is_directory(path, error)) {
#ifdef BOREAS_WITH_MINIZIP
    return std::make_shared<ZipStore>(path);
#else
    BOREAS_FAIL(unsupported,
                "{} is a zip archive and this boreas was built without minizip; install libminizip-dev and "
                "configure again, or unpack the archive",
                path);
#endif
  }
  return std::make_shared<DirectoryStore>(path);
}

std::shared_ptr<Store> create_directory_store(const std::string& path) {
  const bool made = ::mkdir(path.c_str(), 0777) == 0;
  BOREAS_CHECK(made || errno == EEXIST, io, "making the directory {} failed: {}", path, reason(errno));
  auto store = std::make_shared<DirectoryStore>(path);
  BOREAS_CHECK(made || store->list("").empty(), io,
               "{} is there already and is not empty; remove it or choose another name", path);
  return store;
}

std::shared_ptr<Store> make_memory_store(std::string name) { return std::make_shared<MemoryStore>(std::move(name)); }

}  // namespace boreas
