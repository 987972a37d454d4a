#include "io/hdf5_file.h"

#include <hdf5.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <optional>

#include "io/atomic_replace.h"
#include "kernels/core/error.h"
#include "kernels/core/near_names.h"

namespace boreas {
namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

// Owner of an HDF5 identifier.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&&) = delete;
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  operator hid_t() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

// HDF5's own account of its last failure: the innermost message, and the system's reason if there is one.
std::string reason() {
  struct Found {
    std::string innermost, system;
  } found;
  const auto visit = [](unsigned, const H5E_error2_t* error, void* data) -> herr_t {
    auto& found = *static_cast<Found*>(data);
    const std::string text = error->desc ? error->desc : "";
    if (found.innermost.empty()) found.innermost = text;
    if (const size_t at = text.find("error message = '"); at != std::string::npos && found.system.empty()) {
      const size_t begin = at + 17;
      found.system = text.substr(begin, text.find('\'', begin) - begin);
    }
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, visit, &found);
  if (!found.system.empty()) return found.system;
  return found.innermost.empty() ? "HDF5 gives no reason" : found.innermost;
}

// HDF5 prints failures unless told not to, once per thread of control.
void be_quiet() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

hid_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return H5T_NATIVE_DOUBLE;
    case DType::f32:
      return H5T_NATIVE_FLOAT;
    case DType::bf16:
      return H5T_NATIVE_UINT16;
    case DType::i32:
      return H5T_NATIVE_INT32;
    case DType::i64:
      return H5T_NATIVE_INT64;
    case DType::u8:
      return H5T_NATIVE_UINT8;
  }
  BOREAS_FAIL(internal, "unknown dtype tag {}", int(dtype));
}

Handle text_type() {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

// Reads one string, of fixed or variable length, with `read(memory type, destination)`.
std::optional<std::string> read_string(hid_t object_type, hid_t space,
                                       const std::function<herr_t(hid_t, void*)>& read) {
  if (H5Tget_class(object_type) != H5T_STRING || H5Sget_simple_extent_npoints(space) != 1) return {};
  if (H5Tis_variable_str(object_type) > 0) {
    Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5Tget_cset(object_type));
    char* text = nullptr;
    if (read(type, &text) < 0) return {};
    std::string result = text ? text : "";
    H5Dvlen_reclaim(type, space, H5P_DEFAULT, &text);
    return result;
  }
  const size_t size = H5Tget_size(object_type);
  std::string result(size, '\0');
  if (read(object_type, result.data()) < 0) return {};
  result.resize(std::min(size, result.find('\0')));
  return result;
}

std::string clean(const std::string& name) {
  const size_t begin = name.find_first_not_of('/');
  return begin == std::string::npos ? "" : name.substr(begin, name.find_last_not_of('/') - begin + 1);
}

bool link_exists(hid_t file, const std::string& name) {
  if (name.empty()) return true;
  for (size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1))
    if (H5Lexists(file, name.substr(0, slash).c_str(), H5P_DEFAULT) <= 0) return false;
  return H5Lexists(file, name.c_str(), H5P_DEFAULT) > 0 && H5Oexists_by_name(file, name.c_str(), H5P_DEFAULT) > 0;
}

}  // namespace

std::recursive_mutex& hdf5_mutex() {
  static std::recursive_mutex mutex;
  static const herr_t told [[maybe_unused]] = H5dont_atexit();
  return mutex;
}

Hdf5File::Hdf5File(std::string path, std::string written_path, int64_t file)
    : path_(std::move(path)), written_path_(std::move(written_path)), file_(file) {}

Hdf5File::Hdf5File(Hdf5File&& other) noexcept
    : path_(std::move(other.path_)),
      written_path_(std::exchange(other.written_path_, {})),
      file_(std::exchange(other.file_, -1)) {}

Hdf5File& Hdf5File::operator=(Hdf5File&& other) noexcept {
  if (this != &other) {
    discard();
    path_ = std::move(other.path_);
    written_path_ = std::exchange(other.written_path_, {});
    file_ = std::exchange(other.file_, -1);
  }
  return *this;
}

Hdf5File::~Hdf5File() { discard(); }

Hdf5File Hdf5File::open(const std::string& path) {
  const Lock lock(hdf5_mutex());
  be_quiet();
  std::error_code error;
  BOREAS_CHECK(std::filesystem::is_regular_file(path, error), io, "{}: there is no such file", path);
  check_seal(path);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  BOREAS_CHECK(file >= 0, corrupt_data, "{}: is not an HDF5 file, or is damaged: {}", path, reason());
  return Hdf5File(path, "", file);
}

Hdf5File Hdf5File::create(const std::string& path) {
  const Lock lock(hdf5_mutex());
  be_quiet();
  const std::string partial = partial_path(path);
  // Format 1.8: attributes may be larger than 64 KiB, and groups may hold thousands of arrays.
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18);
  const hid_t file = H5Fcreate(partial.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access);
  BOREAS_CHECK(file >= 0, io, "{}: cannot be created: {}", partial, reason());
  return Hdf5File(path, partial, file);
}

void Hdf5File::discard() noexcept {
  if (file_ < 0) return;
  const Lock lock(hdf5_mutex());
  be_quiet();
  H5Fclose(file_);
  file_ = -1;
  if (!written_path_.empty()) remove_quietly(written_path_);
  written_path_.clear();
}

void Hdf5File::commit() {
  const Lock lock(hdf5_mutex());
  BOREAS_CHECK(!written_path_.empty() && file_ >= 0, invalid_argument,
               "{}: commit() of a file that is not being written", path_);
  be_quiet();
  if (H5Fflush(file_, H5F_SCOPE_GLOBAL) < 0) fail_write("", reason());
  const std::vector<ByteRange> arrays = places_of_arrays("");
  if (H5Fclose(std::exchange(file_, -1)) < 0) fail_write("", reason());
  try {
    seal_file(written_path_, arrays);
    replace_path(written_path_, path_);
  } catch (...) {
    remove_quietly(std::exchange(written_path_, {}));
    throw;
  }
  written_path_.clear();
}

// Where the values of all arrays of a group lie in the file.
std::vector<ByteRange> Hdf5File::places_of_arrays(const std::string& group) const {
  std::vector<ByteRange> places;
  for (const std::string& child : list(group)) {
    const std::string name = group.empty() ? child : group + "/" + child;
    if (is_group(name)) {
      const std::vector<ByteRange> inside = places_of_arrays(name);
      places.insert(places.end(), inside.begin(), inside.end());
      continue;
    }
    const Handle array(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose);
    const Handle type(H5Dget_type(array), H5Tclose);
    const haddr_t offset = array ? H5Dget_offset(array) : HADDR_UNDEF;
    if (offset == HADDR_UNDEF || H5Tis_variable_str(type) != 0) continue;  // text lies elsewhere
    places.push_back({int64_t(offset), int64_t(offset + H5Dget_storage_size(array))});
  }
  return places;
}

void Hdf5File::fail_write(const std::string& name, const std::string& why) {
  discard();
  remove_quietly(std::exchange(written_path_, {}));
  BOREAS_FAIL(io, "{}: cannot be written{}: {}; the file that was begun has been removed", path_,
              name.empty() ? "" : fmt::format(" (array or group '{}')", name), why);
}

void Hdf5File::require_writable() const {
  BOREAS_CHECK(!written_path_.empty() && file_ >= 0, io, "{}: is not open for writing", path_);
}

void Hdf5File::require(const std::string& name) const {
  BOREAS_CHECK(file_ >= 0, io, "{}: is closed", path_);
  if (link_exists(file_, name)) return;
  const size_t slash = name.rfind('/');
  const std::string group = slash == std::string::npos ? "" : name.substr(0, slash);
  const std::vector<std::string> siblings = link_exists(file_, group) ? list(group) : std::vector<std::string>{};
  BOREAS_FAIL(invalid_argument, "{}: holds nothing named '{}'{}", path_, name,
              near_names(name.substr(slash == std::string::npos ? 0 : slash + 1), siblings));
}

void Hdf5File::make_group(const std::string& full_name) {
  const Lock lock(hdf5_mutex());
  require_writable();
  const std::string name = clean(full_name);
  if (link_exists(file_, name)) return;
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  const Handle group(H5Gcreate2(file_, name.c_str(), links, H5P_DEFAULT, H5P_DEFAULT), H5Gclose);
  if (!group) fail_write(name, reason());
}

void Hdf5File::copy_from(const Hdf5File& source, const std::string& source_name, const std::string& full_name) {
  const Lock lock(hdf5_mutex());
  require_writable();
  const std::string name = clean(full_name);
  const std::string from = source_name.empty() ? "." : clean(source_name);
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  if (H5Ocopy(source.file_, from.c_str(), file_, name.c_str(), H5P_DEFAULT, links) < 0)
    fail_write(name, source.path() + ": " + reason());
}

void Hdf5File::reserve(const std::string& full_name, DType dtype, const Shape& shape) {
  const Lock lock(hdf5_mutex());
  require_writable();
  const std::string name = clean(full_name);
  BOREAS_CHECK(!name.empty() && !link_exists(file_, name), invalid_argument, "{}: array '{}' is already written", path_,
               name);
  BOREAS_CHECK(shape.rank() > 0, shape, "{}: array '{}' has no shape", path_, name);
  hsize_t sizes[4] = {};
  for (int i = 0; i < shape.rank(); ++i) sizes[i] = hsize_t(shape[i]);
  const Handle space(H5Screate_simple(shape.rank(), sizes, nullptr), H5Sclose);
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  const Handle array(H5Dcreate2(file_, name.c_str(), type_of(dtype), space, links, H5P_DEFAULT, H5P_DEFAULT), H5Dclose);
  if (!array) fail_write(name, reason());
  if (dtype == DType::bf16) write_attribute(name, "dtype", "bf16");
}

// Moves the rows [first_row, first_row + size(0)) between the file and the tensor. A row stride is a selection in
// memory, so nothing is copied aside. Returns why it failed, or nothing: closing the handles forgets HDF5's reason.
std::string Hdf5File::transfer(const std::string& name, int64_t first_row, const Tensor& tensor, bool to_file) const {
  if (tensor.size() == 0) return {};
  const Handle array(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!array) return reason();
  const Handle space(H5Dget_space(array), H5Sclose);
  hsize_t begin[4] = {hsize_t(first_row)}, count[4] = {};
  for (int i = 0; i < tensor.rank(); ++i) count[i] = hsize_t(tensor.size(i));
  if (H5Sselect_hyperslab(space, H5S_SELECT_SET, begin, nullptr, count, nullptr) < 0) return reason();
  const bool contiguous = tensor.contiguous();
  const hsize_t extent[2] = {contiguous ? hsize_t(tensor.size()) : hsize_t(tensor.rows()),
                             hsize_t(tensor.row_stride())};
  const Handle memory(H5Screate_simple(contiguous ? 1 : 2, extent, nullptr), H5Sclose);
  if (!contiguous) {
    const hsize_t from[2] = {0, 0}, size[2] = {hsize_t(tensor.rows()), hsize_t(tensor.cols())};
    H5Sselect_hyperslab(memory, H5S_SELECT_SET, from, nullptr, size, nullptr);
  }
  const hid_t type = type_of(tensor.dtype());
  const herr_t status = to_file ? H5Dwrite(array, type, memory, space, H5P_DEFAULT, tensor.data())
                                : H5Dread(array, type, memory, space, H5P_DEFAULT, tensor.data());
  return status >= 0 ? std::string() : reason();
}

void Hdf5File::write(const std::string& full_name, const Tensor& tensor) {
  const Lock lock(hdf5_mutex());
  reserve(full_name, tensor.dtype(), tensor.shape());
  const std::string why = transfer(clean(full_name), 0, tensor, true);
  if (!why.empty()) fail_write(clean(full_name), why);
}

void Hdf5File::require_rows(const std::string& name, int64_t first_row, const Tensor& rows) const {
  const ArrayInfo array = info(name);
  bool fits = array.dtype == rows.dtype() && array.shape.rank() == rows.rank() && first_row >= 0 &&
              first_row + rows.size(0) <= array.shape[0];
  for (int i = 1; fits && i < rows.rank(); ++i) fits = array.shape[i] == rows.size(i);
  BOREAS_CHECK(fits, shape, "{}: array '{}' is {} {}, which has no rows {}..{} like {}", path_, name,
               to_string(array.dtype), to_string(array.shape), first_row, first_row + (rows.empty() ? 0 : rows.size(0)),
               to_string(rows));
}

void Hdf5File::write_rows(const std::string& full_name, int64_t first_row, const Tensor& rows) {
  const Lock lock(hdf5_mutex());
  const std::string name = clean(full_name);
  require_writable();
  require_rows(name, first_row, rows);
  const std::string why = transfer(name, first_row, rows, true);
  if (!why.empty()) fail_write(name, why);
}

void Hdf5File::read_rows(const std::string& full_name, int64_t first_row, const Tensor& rows) const {
  const Lock lock(hdf5_mutex());
  const std::string name = clean(full_name);
  require_rows(name, first_row, rows);
  const std::string why = transfer(name, first_row, rows, false);
  BOREAS_CHECK(why.empty(), corrupt_data, "{}: array '{}' cannot be read: {}", path_, name, why);
}

Hdf5File::ArrayInfo Hdf5File::info(const std::string& full_name) const {
  const Lock lock(hdf5_mutex());
  const std::string name = clean(full_name);
  require(name);
  const Handle array(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose);
  BOREAS_CHECK(array, corrupt_data, "{}: '{}' is not an array", path_, name);
  const Handle type(H5Dget_type(array), H5Tclose);
  const Handle space(H5Dget_space(array), H5Sclose);
  const int rank = H5Sget_simple_extent_ndims(space);
  hsize_t sizes[H5S_MAX_RANK] = {1};
  H5Sget_simple_extent_dims(space, sizes, nullptr);

  ArrayInfo result;
  const H5T_class_t kind = H5Tget_class(type);
  const size_t bytes = H5Tget_size(type);
  const bool is_signed = kind == H5T_INTEGER && H5Tget_sign(type) == H5T_SGN_2;
  bool known = true;
  if (kind == H5T_FLOAT && bytes == 8)
    result.dtype = DType::f64;
  else if (kind == H5T_FLOAT && bytes == 4)
    result.dtype = DType::f32;
  else if (is_signed && bytes == 8)
    result.dtype = DType::i64;
  else if (is_signed && bytes == 4)
    result.dtype = DType::i32;
  else if (kind == H5T_INTEGER && !is_signed && bytes == 1)
    result.dtype = DType::u8;
  else if (kind == H5T_INTEGER && !is_signed && bytes == 2 && has_attribute(name, "dtype") &&
           read_text_attribute(name, "dtype") == "bf16")
    result.dtype = DType::bf16;
  else
    known = false;
  BOREAS_CHECK(known, unsupported, "{}: array '{}' has elements of another type than f64, f32, bf16, i64, i32 or u8",
               path_, name);
  BOREAS_CHECK(rank >= 0 && rank <= 4, unsupported, "{}: array '{}' has {} dimensions; at most 4 are supported", path_,
               name, rank);
  switch (rank) {
    case 0:
      result.shape = {1};
      break;
    case 1:
      result.shape = {int64_t(sizes[0])};
      break;
    case 2:
      result.shape = {int64_t(sizes[0]), int64_t(sizes[1])};
      break;
    case 3:
      result.shape = {int64_t(sizes[0]), int64_t(sizes[1]), int64_t(sizes[2])};
      break;
    default:
      result.shape = {int64_t(sizes[0]), int64_t(sizes[1]), int64_t(sizes[2]), int64_t(sizes[3])};
  }
  return result;
}

void Hdf5File::read_whole(const std::string& name, DType dtype, void* values) const {
  const Handle array(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose);
  BOREAS_CHECK(array && H5Dread(array, type_of(dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0, corrupt_data,
               "{}: array '{}' cannot be read: {}", path_, name, reason());
}

std::pair<Buffer, Tensor> Hdf5File::read(const std::string& full_name) const {
  const Lock lock(hdf5_mutex());
  const std::string name = clean(full_name);
  const ArrayInfo array = info(name);
  // A contiguous array cannot be larger than its file: a claimed size does not drive the allocation.
  const int64_t bytes = array.shape.size() * size_of(array.dtype);
  require_stored(name, bytes);
  Buffer buffer(Device::cpu(), Buffer::Kind::host, bytes, name);
  const Tensor tensor = buffer.tensor(array.dtype, array.shape);
  if (tensor.size() > 0) read_whole(name, array.dtype, tensor.data());
  return {std::move(buffer), tensor};
}

void Hdf5File::require_stored(const std::string& name, int64_t bytes) const {
  const Handle array(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose);
  const Handle plan(H5Dget_create_plist(array), H5Pclose);
  if (!array || H5Pget_layout(plan) != H5D_CONTIGUOUS) return;
  const int64_t stored = int64_t(H5Dget_storage_size(array));
  std::error_code error;
  const auto file_bytes = std::filesystem::file_size(path_, error);
  BOREAS_CHECK(
      stored >= bytes && stored <= int64_t(file_bytes), corrupt_data,
      "{}: array '{}' should hold {} bytes, but {} are stored in a file of {} bytes: it was never written, or the file "
      "is truncated",
      path_, name, bytes, stored, int64_t(file_bytes));
}

void Hdf5File::read_into(const std::string& full_name, const Tensor& tensor) const {
  const Lock lock(hdf5_mutex());
  const std::string name = clean(full_name);
  const ArrayInfo array = info(name);
  BOREAS_CHECK(array.dtype == tensor.dtype() && array.shape == tensor.shape(), shape,
               "{}: array '{}' is {} {} where {} is expected", path_, name, to_string(array.dtype),
               to_string(array.shape), to_string(tensor));
  const std::string why = transfer(name, 0, tensor, false);
  BOREAS_CHECK(why.empty(), corrupt_data, "{}: array '{}' cannot be read: {}", path_, name, why);
}

int64_t Hdf5File::checked_size(const std::string& full_name, DType dtype) const {
  const Lock lock(hdf5_mutex());
  const std::string name = clean(full_name);
  const ArrayInfo array = info(name);
  BOREAS_CHECK(array.dtype == dtype, shape, "{}: array '{}' is {} where {} is expected", path_, name,
               to_string(array.dtype), to_string(dtype));
  require_stored(name, array.shape.size() * size_of(dtype));
  return array.shape.size();
}

void Hdf5File::read_flat(const std::string& full_name, DType dtype, void* values) const {
  const Lock lock(hdf5_mutex());
  const std::string name = clean(full_name);
  if (info(name).shape.size() > 0) read_whole(name, dtype, values);
}

void Hdf5File::write_text(const std::string& full_name, const std::string& text) {
  const Lock lock(hdf5_mutex());
  require_writable();
  const std::string name = clean(full_name);
  BOREAS_CHECK(!name.empty() && !link_exists(file_, name), invalid_argument, "{}: text '{}' is already written", path_,
               name);
  BOREAS_CHECK(text.find('\0') == std::string::npos, invalid_argument, "{}: text '{}' holds a NUL byte", path_, name);
  const Handle type = text_type();
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  const Handle object(H5Dcreate2(file_, name.c_str(), type, space, links, H5P_DEFAULT, H5P_DEFAULT), H5Dclose);
  const char* pointer = text.c_str();
  const bool written = object && H5Dwrite(object, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, &pointer) >= 0;
  if (!written) fail_write(name, reason());
}

std::string Hdf5File::read_text(const std::string& full_name) const {
  const Lock lock(hdf5_mutex());
  const std::string name = clean(full_name);
  require(name);
  const Handle object(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose);
  const Handle type(H5Dget_type(object), H5Tclose);
  const Handle space(H5Dget_space(object), H5Sclose);
  const auto text = object ? read_string(type, space,
                                         [&](hid_t memory_type, void* out) {
                                           return H5Dread(object, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out);
                                         })
                           : std::nullopt;
  BOREAS_CHECK(text, corrupt_data, "{}: '{}' is not a text", path_, name);
  return *text;
}

void Hdf5File::write_raw_attribute(const std::string& object_name, const std::string& name, int64_t type,
                                   const void* value) {
  require_writable();
  const std::string object = object_name.empty() ? "/" : clean(object_name);
  if (object != "/") require(object);
  if (H5Aexists_by_name(file_, object.c_str(), name.c_str(), H5P_DEFAULT) > 0)
    H5Adelete_by_name(file_, object.c_str(), name.c_str(), H5P_DEFAULT);
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(
      H5Acreate_by_name(file_, object.c_str(), name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
      H5Aclose);
  const bool written = attribute && H5Awrite(attribute, type, value) >= 0;
  if (!written) fail_write(object + ", attribute " + name, reason());
}

void Hdf5File::write_attribute(const std::string& object, const std::string& name, const std::string& text) {
  const Lock lock(hdf5_mutex());
  const Handle type = text_type();
  const char* pointer = text.c_str();
  write_raw_attribute(object, name, type, &pointer);
}
void Hdf5File::write_attribute(const std::string& object, const std::string& name, int64_t value) {
  const Lock lock(hdf5_mutex());
  write_raw_attribute(object, name, H5T_NATIVE_INT64, &value);
}
void Hdf5File::write_attribute(const std::string& object, const std::string& name, double value) {
  const Lock lock(hdf5_mutex());
  write_raw_attribute(object, name, H5T_NATIVE_DOUBLE, &value);
}

bool Hdf5File::has_attribute(const std::string& object, const std::string& name) const {
  const Lock lock(hdf5_mutex());
  const std::string at = clean(object);
  return file_ >= 0 && link_exists(file_, at) &&
         H5Aexists_by_name(file_, at.empty() ? "/" : at.c_str(), name.c_str(), H5P_DEFAULT) > 0;
}

std::string Hdf5File::read_text_attribute(const std::string& object, const std::string& name) const {
  const Lock lock(hdf5_mutex());
  const Handle attribute(open_attribute(object, name), H5Aclose);
  const Handle type(H5Aget_type(attribute), H5Tclose);
  const Handle space(H5Aget_space(attribute), H5Sclose);
  const auto text =
      read_string(type, space, [&](hid_t memory_type, void* out) { return H5Aread(attribute, memory_type, out); });
  BOREAS_CHECK(text, corrupt_data, "{}: attribute '{}' of '/{}' is not a text", path_, name, clean(object));
  return *text;
}

int64_t Hdf5File::open_attribute(const std::string& object, const std::string& name) const {
  const std::string at = clean(object);
  require(at);
  const hid_t attribute = H5Aopen_by_name(file_, at.empty() ? "/" : at.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
  BOREAS_CHECK(attribute >= 0, invalid_argument, "{}: '/{}' has no attribute '{}'", path_, at, name);
  return attribute;
}

void Hdf5File::read_number(const std::string& object, const std::string& name, bool integer, void* value) const {
  const Handle attribute(open_attribute(object, name), H5Aclose);
  const Handle type(H5Aget_type(attribute), H5Tclose);
  const Handle space(H5Aget_space(attribute), H5Sclose);
  const H5T_class_t kind = H5Tget_class(type);
  const bool number = H5Sget_simple_extent_npoints(space) == 1 &&
                      (kind == H5T_INTEGER || (!integer && kind == H5T_FLOAT)) &&
                      H5Aread(attribute, integer ? H5T_NATIVE_INT64 : H5T_NATIVE_DOUBLE, value) >= 0;
  BOREAS_CHECK(number, corrupt_data, "{}: attribute '{}' of '/{}' is not {}", path_, name, clean(object),
               integer ? "an integer" : "a number");
}

int64_t Hdf5File::read_integer_attribute(const std::string& object, const std::string& name) const {
  const Lock lock(hdf5_mutex());
  int64_t value = 0;
  read_number(object, name, true, &value);
  return value;
}

double Hdf5File::read_real_attribute(const std::string& object, const std::string& name) const {
  const Lock lock(hdf5_mutex());
  double value = 0;
  read_number(object, name, false, &value);
  return value;
}

bool Hdf5File::exists(const std::string& name) const {
  const Lock lock(hdf5_mutex());
  return file_ >= 0 && link_exists(file_, clean(name));
}

bool Hdf5File::is_group(const std::string& full_name) const {
  const Lock lock(hdf5_mutex());
  const std::string name = clean(full_name);
  if (file_ < 0 || !link_exists(file_, name)) return false;
  const Handle object(H5Oopen(file_, name.empty() ? "/" : name.c_str(), H5P_DEFAULT), H5Oclose);
  return object && H5Iget_type(object) == H5I_GROUP;
}

std::vector<std::string> Hdf5File::list(const std::string& group) const {
  const Lock lock(hdf5_mutex());
  const std::string name = clean(group);
  require(name);
  BOREAS_CHECK(is_group(name), corrupt_data, "{}: '/{}' is not a group", path_, name);
  const Handle object(H5Gopen2(file_, name.empty() ? "/" : name.c_str(), H5P_DEFAULT), H5Gclose);
  std::vector<std::string> names;
  const auto visit = [](hid_t, const char* link, const H5L_info_t*, void* data) -> herr_t {
    static_cast<std::vector<std::string>*>(data)->emplace_back(link);
    return 0;
  };
  BOREAS_CHECK(H5Literate(object, H5_INDEX_NAME, H5_ITER_INC, nullptr, visit, &names) >= 0, corrupt_data,
               "{}: group '/{}' cannot be listed: {}", path_, name, reason());
  return names;
}

}  // namespace boreas
