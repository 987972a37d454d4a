// HDF5 files: arrays, text and attributes by path, replaced atomically.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "io/file_seal.h"
#include "kernels/core/buffer.h"

namespace boreas {

/// One HDF5 file, open for reading or being written.
///
/// Names are paths such as "parameters/encoder.proj.weight"; groups are made as needed. Element types f64, f32, i32,
/// i64, u8 are the native HDF5 types; bf16 is stored as 16-bit unsigned with the attribute dtype = "bf16". Arrays of
/// any size are moved in slabs of bounded size, so tensors with a row stride need no copy of the whole.
///
/// A file being written lies beside its final name as `.<name>.partial` until `commit()`, which flushes it to the disk,
/// renames it over the final name, and flushes the folder: a reader sees the old file or the new one, never half. A
/// file that is not committed, or whose write failed (disk full), is removed. The commit seals the file (see
/// io/file_seal.h): HDF5 crashes over some damaged structures, so `open` checks the seal before HDF5 reads anything.
///
/// The HDF5 library is not thread safe: every method holds one lock of the process, so methods may be called from
/// several threads. Errors: io (file, object, what HDF5 or the system said), corrupt_data (not an HDF5 file,
/// truncated, damaged), shape (array of another type or shape than asked for), invalid_argument (unknown name: near
/// names).
class Hdf5File {
 public:
  static Hdf5File open(const std::string& path);
  static Hdf5File create(const std::string& path);
  Hdf5File(Hdf5File&& other) noexcept;
  Hdf5File& operator=(Hdf5File&& other) noexcept;
  ~Hdf5File();

  const std::string& path() const { return path_; }
  void commit();

  // --- arrays
  void write(const std::string& name, const Tensor& tensor);
  template <class T>
  void write(const std::string& name, std::span<const T> values) {
    write(name, Tensor(const_cast<T*>(values.data()), dtype_of<T>, {int64_t(values.size())}));
  }
  /// Makes an array whose rows are written later, in any order, by write_rows: for arrays that exist nowhere as a
  /// whole.
  void reserve(const std::string& name, DType dtype, const Shape& shape);
  void write_rows(const std::string& name, int64_t first_row, const Tensor& rows);

  struct ArrayInfo {
    DType dtype = DType::f32;
    Shape shape;
  };
  ArrayInfo info(const std::string& name) const;
  std::pair<Buffer, Tensor> read(const std::string& name) const;
  void read_into(const std::string& name, const Tensor& tensor) const;  ///< dtype and shape must agree
  void read_rows(const std::string& name, int64_t first_row, const Tensor& rows) const;
  template <class T>
  std::vector<T> read_vector(const std::string& name) const {
    std::vector<T> values(checked_size(name, dtype_of<T>));
    read_flat(name, dtype_of<T>, values.data());
    return values;
  }

  // --- text and attributes; `object` is "" for the file, else the path of an existing group or array
  void write_text(const std::string& name, const std::string& text);
  std::string read_text(const std::string& name) const;
  void write_attribute(const std::string& object, const std::string& name, const std::string& text);
  void write_attribute(const std::string& object, const std::string& name, int64_t value);
  void write_attribute(const std::string& object, const std::string& name, double value);
  std::string read_text_attribute(const std::string& object, const std::string& name) const;
  int64_t read_integer_attribute(const std::string& object, const std::string& name) const;
  double read_real_attribute(const std::string& object, const std::string& name) const;
  bool has_attribute(const std::string& object, const std::string& name) const;

  // --- structure
  void make_group(const std::string& name);
  /// Copies a group or an array with all that belongs to it from another file, without holding it in memory. "" is that
  /// file's root.
  void copy_from(const Hdf5File& source, const std::string& source_name, const std::string& name);
  bool exists(const std::string& name) const;
  bool is_group(const std::string& name) const;
  std::vector<std::string> list(const std::string& group) const;  ///< names in the group, sorted; "" is the root

 private:
  Hdf5File(std::string path, std::string written_path, int64_t file);
  // These take cleaned names and need the lock.
  void require(const std::string& name) const;
  void require_writable() const;
  void require_rows(const std::string& name, int64_t first_row, const Tensor& rows) const;
  void require_stored(const std::string& name, int64_t bytes) const;
  std::string transfer(const std::string& name, int64_t first_row, const Tensor& tensor, bool to_file) const;
  void read_whole(const std::string& name, DType dtype, void* values) const;
  void write_raw_attribute(const std::string& object, const std::string& name, int64_t type, const void* value);
  int64_t open_attribute(const std::string& object, const std::string& name) const;
  void read_number(const std::string& object, const std::string& name, bool integer, void* value) const;
  [[noreturn]] void fail_write(const std::string& name, const std::string& why);
  std::vector<ByteRange> places_of_arrays(const std::string& group) const;
  void discard() noexcept;
  // These take the lock.
  int64_t checked_size(const std::string& name, DType dtype) const;
  void read_flat(const std::string& name, DType dtype, void* values) const;

  std::string path_;          // the name that users know
  std::string written_path_;  // where the bytes go until commit; empty for a file open for reading
  int64_t file_ = -1;         // hid_t
};

/// The lock that every call into HDF5 must hold, also those made by other libraries (NetCDF-4) on our behalf. The first
/// caller also tells HDF5 not to close files when the process ends, unless the host has used HDF5 before: boreas closes
/// its own, and HDF5 crashes there over a file that could not be written because the disk was full.
std::recursive_mutex& hdf5_mutex();

}  // namespace boreas
