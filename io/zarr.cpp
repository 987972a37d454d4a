#include "io/zarr.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "io/scratch.h"
#include "io/zarr_metadata.h"
#include "kernels/core/error.h"

namespace boreas {

namespace {

constexpr int64_t kMaxReadAllBytes = int64_t(4) << 30;

// Blocks of a chunk are decoded in groups of about this many bytes: large enough to hide the cost of a call and a read,
// small enough to stay in a core's cache and to keep all threads busy.
constexpr int64_t kGroupBytes = 1 << 20;

// Pieces in which a chunk without compression is read where it does not lie contiguous in the box.
constexpr int64_t kRawBlock = 64 << 10;

// --- boxes -------------------------------------------------------------------------------------------------

int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

// Bytes between neighbours of each dimension, C order.
std::vector<int64_t> strides_of(const std::vector<int64_t>& shape, int64_t item_size) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = item_size;
  for (size_t d = shape.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= shape[d];
  }
  return strides;
}

// How a box of a chunk lies in the memory of the caller, one dimension of it.
struct Axis {
  int64_t begin, count;  // in the chunk
  int64_t stride;        // of the caller's memory, in bytes
};

// A box of a chunk as runs that are contiguous in the chunk, in the order in which they lie in it. In the caller's
// memory the items of a run are `item_stride` bytes apart.
class Runs {
 public:
  Runs(const std::vector<int64_t>& chunk_shape, const std::vector<Axis>& axes, int64_t item_size)
      : item_size_(item_size), item_stride_(item_size) {
    const std::vector<int64_t> strides = strides_of(chunk_shape, item_size);
    // From the innermost dimension outwards: each joins the one inside of it where both memories go on without a gap.
    std::vector<Level> levels;
    for (size_t d = axes.size(); d-- > 0;) {
      begin_ += axes[d].begin * strides[d];
      if (axes[d].count == 1) continue;
      const Level level{axes[d].count, strides[d], axes[d].stride};
      if (!levels.empty() && level.chunk_stride == levels.back().count * levels.back().chunk_stride &&
          level.out_stride == levels.back().count * levels.back().out_stride) {
        levels.back().count *= level.count;
      } else {
        levels.push_back(level);
      }
    }
    int64_t run_items = 1;
    if (!levels.empty() && levels.front().chunk_stride == item_size) {
      run_items = levels.front().count;
      item_stride_ = levels.front().out_stride;
      levels.erase(levels.begin());
    }
    run_bytes_ = run_items * item_size;
    levels_.assign(levels.rbegin(), levels.rend());
    for (const Level& level : levels_) count_ *= level.count;
  }

  struct Run {
    int64_t chunk, out;  // first byte, in the chunk and in the caller's memory
  };

  int64_t count() const { return count_; }
  int64_t run_bytes() const { return run_bytes_; }
  bool contiguous() const { return item_stride_ == item_size_; }

  Run operator[](int64_t index) const {
    Run run{begin_, 0};
    for (size_t d = levels_.size(); d-- > 0;) {
      const Level& level = levels_[d];
      run.chunk += (index % level.count) * level.chunk_stride;
      run.out += (index % level.count) * level.out_stride;
      index /= level.count;
    }
    return run;
  }

  // The first run that ends after this byte of the chunk; count() when there is none.
  int64_t first_after(int64_t byte) const {
    int64_t low = 0, high = count_;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if ((*this)[middle].chunk + run_bytes_ > byte) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  // Copies what the bytes [begin, begin + part.size()) of the chunk have in common with the box.
  void scatter(int64_t begin, std::span<const std::byte> part, std::byte* out) const {
    const int64_t end = begin + int64_t(part.size());
    for (int64_t r = first_after(begin); r < count_; ++r) {
      const Run run = (*this)[r];
      const int64_t from = std::max(begin, run.chunk), to = std::min(end, run.chunk + run_bytes_);
      if (from >= to) break;
      copy(part.data() + (from - begin), from - run.chunk, to - from, out + run.out);
    }
  }

  // Collects the box from the caller's memory into a whole chunk.
  void gather(const std::byte* in, std::byte* chunk) const {
    for (int64_t r = 0; r < count_; ++r) {
      const Run run = (*this)[r];
      for (int64_t item = 0; item < run_bytes_; item += contiguous() ? run_bytes_ : item_size_) {
        std::memcpy(chunk + run.chunk + item, in + run.out + item / item_size_ * item_stride_,
                    size_t(contiguous() ? run_bytes_ : item_size_));
      }
    }
  }

  // Sets every item of the box.
  void fill(const std::vector<std::byte>& item, std::byte* out) const {
    const bool same = std::all_of(item.begin(), item.end(), [&](std::byte b) { return b == item[0]; });
    for (int64_t r = 0; r < count_; ++r) {
      std::byte* to = out + (*this)[r].out;
      if (same && contiguous()) {
        std::memset(to, int(item[0]), size_t(run_bytes_));
      } else {
        for (int64_t i = 0; i < run_bytes_ / item_size_; ++i) {
          std::memcpy(to + i * item_stride_, item.data(), item.size());
        }
      }
    }
  }

 private:
  struct Level {
    int64_t count, chunk_stride, out_stride;
  };

  // `length` bytes, which are the bytes from `offset` on of a run that begins at `run`. An item may be cut: blocks of
  // other writers need not end between items.
  void copy(const std::byte* from, int64_t offset, int64_t length, std::byte* run) const {
    if (contiguous()) {
      std::memcpy(run + offset, from, size_t(length));
      return;
    }
    for (int64_t done = 0; done < length;) {
      const int64_t in_item = (offset + done) % item_size_;
      const int64_t n = std::min(item_size_ - in_item, length - done);
      std::memcpy(run + (offset + done) / item_size_ * item_stride_ + in_item, from + done, size_t(n));
      done += n;
    }
  }

  int64_t item_size_, item_stride_, begin_ = 0, run_bytes_ = 0, count_ = 1;
  std::vector<Level> levels_;  // outermost first, without the run itself
};

std::vector<int64_t> permute(const std::vector<int64_t>& sizes, const std::vector<int>& order) {
  if (order.empty()) return sizes;
  std::vector<int64_t> result;
  for (const int d : order) result.push_back(sizes[size_t(d)]);
  return result;
}

double half_to_double(uint16_t half) {
  const int exponent = (half >> 10) & 31, fraction = half & 1023;
  const double sign = half & 0x8000 ? -1.0 : 1.0;
  if (exponent == 31) return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * HUGE_VAL;
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

void swap_items(std::byte* items, int64_t count, int64_t item_size) {
  for (int64_t i = 0; i < count; ++i) std::reverse(items + i * item_size, items + (i + 1) * item_size);
}

// --- reading chunks ----------------------------------------------------------------------------------------

// What all chunks of one call share.
struct Job {
  int64_t item_size;
  const std::vector<std::byte>& fill;
  ThreadPool& pool;
  std::atomic<int64_t> bytes_read = 0, chunks_read = 0, chunks_missing = 0, blocks_decoded = 0, bytes_decoded = 0;
};

// Decodes the blocks of a chunk that meet the box. `decode(first, count, memory)` decodes neighbouring blocks.
template <class Decode>
void read_blocks(Job& job, const Runs& runs, std::byte* out, int64_t size, int64_t block_size, const Decode& decode) {
  // Groups of neighbouring blocks. Those that lie as a whole in one run go straight to their place in the box.
  struct Group {
    int64_t first, count;
    std::byte* place;  // null: by way of a buffer
  };
  std::vector<Group> groups;
  const int64_t num_blocks = ceil_div(size, block_size), max_count = std::max<int64_t>(1, kGroupBytes / block_size);
  for (int64_t block = 0; block < num_blocks; ++block) {
    const int64_t run = runs.first_after(block * block_size);
    if (run == runs.count()) break;
    const Runs::Run found = runs[run];
    block = std::max(block, found.chunk / block_size);
    const int64_t begin = block * block_size, end = std::min(size, begin + block_size);
    const bool direct = runs.contiguous() && found.chunk <= begin && end <= found.chunk + runs.run_bytes();
    std::byte* place = direct ? out + found.out + (begin - found.chunk) : nullptr;
    if (!groups.empty()) {
      Group& last = groups.back();
      const bool follows = last.first + last.count == block && last.count < max_count;
      const bool same_run = direct ? last.place && last.place + last.count * block_size == place : !last.place;
      if (follows && same_run) {
        ++last.count;
        continue;
      }
    }
    groups.push_back({block, 1, place});
  }

  job.pool.parallel_for(int64_t(groups.size()), [&](int64_t g) {
    const Group& group = groups[size_t(g)];
    const int64_t begin = group.first * block_size;
    const int64_t length = std::min(size, begin + group.count * block_size) - begin;
    if (group.place) {
      decode(group.first, group.count, std::span(group.place, size_t(length)));
    } else {
      const Scratch buffer(length);
      decode(group.first, group.count, std::span(buffer.data(), size_t(length)));
      runs.scatter(begin, {buffer.data(), size_t(length)}, out);
    }
    job.blocks_decoded += group.count;
    job.bytes_decoded += length;
  });
}

void read_chunk(Job& job, const ZarrPipeline& pipeline, Blob blob, std::vector<int64_t> shape, std::vector<Axis> axes,
                std::byte* out, const std::string& where);

// Reads the chunks of a shard that meet the box: the index first, then only their bytes.
void read_shard(Job& job, const ZarrPipeline& pipeline, const Blob& blob, const std::vector<int64_t>& shape,
                const std::vector<Axis>& axes, std::byte* out, const std::string& where) {
  const std::vector<int64_t>& inner = pipeline.inner_shape;
  std::vector<int64_t> grid, first, last;  // of chunks: all; those that meet the box
  int64_t num_entries = 1, num_read = 1;
  for (size_t d = 0; d < shape.size(); ++d) {
    grid.push_back(shape[d] / inner[d]);
    first.push_back(axes[d].begin / inner[d]);
    last.push_back((axes[d].begin + axes[d].count - 1) / inner[d]);
    num_entries *= grid[d];
    num_read *= last[d] - first[d] + 1;
  }
  const int64_t index_bytes = 16 * num_entries + (pipeline.index_has_checksum ? 4 : 0);
  BOREAS_CHECK(blob.size() >= index_bytes, corrupt_data, "{}: a shard of {} bytes cannot hold its index of {} bytes",
               where, blob.size(), index_bytes);
  const int64_t index_begin = pipeline.index_at_end ? blob.size() - index_bytes : 0;
  Bytes encoded = blob.slice(index_begin, index_bytes).read_all();
  job.bytes_read += index_bytes;
  std::vector<uint64_t> index(size_t(2 * num_entries));
  const std::span index_span = std::as_writable_bytes(std::span(index));
  decode({.kind = pipeline.index_has_checksum ? Codec::Kind::crc32c : Codec::Kind::none}, encoded, index_span,
         where + ", shard index");
  const int64_t body_begin = pipeline.index_at_end ? 0 : index_bytes, body_end = body_begin + blob.size() - index_bytes;

  job.pool.parallel_for(num_read, [&](int64_t n) {
    int64_t entry = 0, scale = 1;
    std::byte* place = out;
    std::vector<Axis> part(axes.size());
    std::vector<int64_t> position(axes.size());
    for (size_t d = axes.size(); d-- > 0;) {
      const int64_t extent = last[d] - first[d] + 1;
      position[d] = first[d] + n % extent;
      n /= extent;
      entry += position[d] * scale;
      scale *= grid[d];
      const int64_t from = std::max(axes[d].begin, position[d] * inner[d]);
      const int64_t to = std::min(axes[d].begin + axes[d].count, (position[d] + 1) * inner[d]);
      part[d] = {from - position[d] * inner[d], to - from, axes[d].stride};
      place += (from - axes[d].begin) * axes[d].stride;
    }
    const uint64_t offset = index[size_t(2 * entry)], length = index[size_t(2 * entry + 1)];
    if (offset == UINT64_MAX && length == UINT64_MAX) {
      Runs(inner, part, job.item_size).fill(job.fill, place);
      ++job.chunks_missing;
      return;
    }
    const std::string inner_where = fmt::format("{}, inner chunk [{}]", where, fmt::join(position, ", "));
    BOREAS_CHECK(
        offset >= uint64_t(body_begin) && offset <= uint64_t(body_end) && length <= uint64_t(body_end) - offset,
        corrupt_data, "{}: the shard index says {} bytes at offset {}; chunks lie between {} and {}", inner_where,
        length, offset, body_begin, body_end);
    read_chunk(job, *pipeline.inner, blob.slice(int64_t(offset), int64_t(length)), inner, std::move(part), place,
               inner_where);
  });
}

// Reads the box that `axes` describe of a chunk of this shape.
void read_chunk(Job& job, const ZarrPipeline& pipeline, Blob blob, std::vector<int64_t> shape, std::vector<Axis> axes,
                std::byte* out, const std::string& where) {
  if (!pipeline.order.empty()) {
    shape = permute(shape, pipeline.order);
    std::vector<Axis> permuted;
    for (const int d : pipeline.order) permuted.push_back(axes[size_t(d)]);
    axes = std::move(permuted);
  }

  // Checksums that wrap everything else are verified first; what is inside of them is then read from memory.
  size_t num_codecs = pipeline.codecs.size();
  bool in_memory = false;
  for (; num_codecs > 0 && pipeline.codecs[num_codecs - 1].kind == Codec::Kind::crc32c; --num_codecs) {
    const Bytes wrapped = blob.read_all();
    if (!in_memory) job.bytes_read += blob.size();
    in_memory = true;
    Bytes body(wrapped.size() - std::min<size_t>(4, wrapped.size()));
    decode(pipeline.codecs[num_codecs - 1], wrapped, body, where);
    blob = Blob(blob.name(), std::move(body));
  }
  const auto count_read = [&](int64_t bytes) {
    if (!in_memory) job.bytes_read += bytes;
  };
  if (pipeline.inner) {
    read_shard(job, pipeline, blob, shape, axes, out, where);
    return;
  }
  ++job.chunks_read;

  int64_t size = job.item_size;
  for (const int64_t extent : shape) size *= extent;
  const Runs runs(shape, axes, job.item_size);
  if (num_codecs == 0) {
    BOREAS_CHECK(blob.size() == size, corrupt_data, "{}: it has {} bytes, expected {}", where, blob.size(), size);
    read_blocks(job, runs, out, size, std::min(size, kRawBlock),
                [&](int64_t first, int64_t, std::span<std::byte> memory) {
                  blob.read(first * std::min(size, kRawBlock), memory);
                  count_read(int64_t(memory.size()));
                });
    return;
  }
  if (num_codecs == 1 && pipeline.codecs[0].kind == Codec::Kind::blosc) {
    const BloscFrame frame(std::move(blob), size, where);
    count_read(frame.header_bytes());
    read_blocks(job, runs, out, size, frame.block_size(),
                [&](int64_t first, int64_t count, std::span<std::byte> memory) {
                  count_read(frame.decode(first, count, memory));
                });
    return;
  }

  // The other compressors give all or nothing. Checksums inside of the compressor add four bytes each.
  const Codec& compressor = pipeline.codecs[num_codecs - 1];
  const int64_t decoded_size = size + 4 * int64_t(num_codecs - 1);
  check_expansion(compressor, blob.size(), decoded_size, where);
  const Bytes encoded = blob.read_all();
  count_read(blob.size());
  ++job.blocks_decoded;
  job.bytes_decoded += decoded_size;
  if (num_codecs == 1 && runs.contiguous() && runs.run_bytes() == size) {
    decode(compressor, encoded, {out, size_t(size)}, where);
    return;
  }
  const Scratch decoded(decoded_size);
  decode(compressor, encoded, {decoded.data(), size_t(decoded_size)}, where);
  int64_t checked_size = decoded_size;
  for (size_t k = num_codecs - 1; k-- > 0; checked_size -= 4) {
    const std::span wrapped(decoded.data(), size_t(checked_size));
    decode(pipeline.codecs[k], wrapped, wrapped.first(size_t(checked_size - 4)), where);
  }
  runs.scatter(0, {decoded.data(), size_t(size)}, out);
}

// The chunks of a grid that meet a box.
class ChunkBoxes {
 public:
  ChunkBoxes(const IndexBox& box, const std::vector<int64_t>& chunks, int64_t item_size) : box_(box), chunks_(chunks) {
    std::vector<int64_t> extents;
    for (size_t d = 0; d < chunks.size(); ++d) {
      extents.push_back(box.end[d] - box.begin[d]);
      count_ *= (box.end[d] - 1) / chunks[d] - box.begin[d] / chunks[d] + 1;
    }
    strides_ = strides_of(extents, item_size);
  }

  int64_t count() const { return count_; }

  struct Part {
    std::vector<int64_t> index;  // in the grid of chunks
    std::vector<Axis> axes;
    int64_t offset = 0;  // of its first element in the caller's memory, in bytes
  };

  Part operator[](int64_t n) const {
    Part part{std::vector<int64_t>(chunks_.size()), std::vector<Axis>(chunks_.size())};
    for (size_t d = chunks_.size(); d-- > 0;) {
      const int64_t first = box_.begin[d] / chunks_[d], extent = (box_.end[d] - 1) / chunks_[d] - first + 1;
      const int64_t index = first + n % extent;
      n /= extent;
      const int64_t from = std::max(box_.begin[d], index * chunks_[d]);
      const int64_t to = box_.end[d] - index * chunks_[d] < chunks_[d] ? box_.end[d] : (index + 1) * chunks_[d];
      part.index[d] = index;
      part.axes[d] = {from - index * chunks_[d], to - from, strides_[d]};
      part.offset += (from - box_.begin[d]) * strides_[d];
    }
    return part;
  }

 private:
  const IndexBox& box_;
  const std::vector<int64_t>& chunks_;
  std::vector<int64_t> strides_;
  int64_t count_ = 1;
};

void check_box(const IndexBox& box, const std::vector<int64_t>& shape, const std::string& where) {
  bool valid = box.begin.size() == shape.size() && box.end.size() == shape.size();
  for (size_t d = 0; valid && d < shape.size(); ++d) {
    valid = 0 <= box.begin[d] && box.begin[d] <= box.end[d] && box.end[d] <= shape[d];
  }
  BOREAS_CHECK(valid, invalid_argument, "{}: the box [{}] to [{}] does not lie in the shape [{}]", where,
               fmt::join(box.begin, ", "), fmt::join(box.end, ", "), fmt::join(shape, ", "));
}

}  // namespace

// --- ZarrArray ---------------------------------------------------------------------------------------------

ReadStats& ReadStats::operator+=(const ReadStats& other) {
  bytes_read += other.bytes_read;
  chunks_read += other.chunks_read;
  chunks_missing += other.chunks_missing;
  blocks_decoded += other.blocks_decoded;
  bytes_decoded += other.bytes_decoded;
  return *this;
}

int64_t IndexBox::size() const {
  int64_t n = 1;
  for (size_t d = 0; d < begin.size(); ++d) n *= std::max<int64_t>(0, end[d] - begin[d]);
  return n;
}

struct ZarrArray::State : ZarrMetadata {
  std::shared_ptr<Store> store;
};

ZarrArray ZarrArray::open(std::shared_ptr<Store> store, const std::string& name) {
  State state{read_zarr_metadata(*store, name), store};
  return ZarrArray(std::make_shared<const State>(std::move(state)));
}

ZarrArray ZarrArray::create(std::shared_ptr<Store> store, const std::string& name, const ZarrSpec& spec) {
  write_zarr_metadata(*store, name, spec);
  return open(std::move(store), name);
}

const std::string& ZarrArray::name() const { return state_->name; }
int ZarrArray::format() const { return state_->format; }
const std::vector<int64_t>& ZarrArray::shape() const { return state_->shape; }
const std::vector<int64_t>& ZarrArray::chunks() const { return state_->chunks; }
const std::vector<int64_t>& ZarrArray::stored_chunks() const { return state_->stored_chunks; }
const ZarrDType& ZarrArray::dtype() const { return state_->dtype; }
const std::string& ZarrArray::compressor() const { return state_->compressor; }
const std::vector<std::string>& ZarrArray::dimension_names() const { return state_->dimension_names; }
IndexBox ZarrArray::whole() const { return {std::vector<int64_t>(state_->shape.size(), 0), state_->shape}; }
int64_t ZarrArray::num_elements() const { return state_->num_elements; }

void ZarrArray::read(const IndexBox& box, void* out, ThreadPool& pool, ReadStats* stats) const {
  const State& state = *state_;
  const std::string& where = state.where;
  check_box(box, state.shape, where);
  if (box.size() == 0) return;
  const int64_t item_size = state.dtype.size;
  Job job{item_size, state.fill, pool};
  auto* memory = static_cast<std::byte*>(out);
  const ChunkBoxes boxes(box, state.stored_chunks, item_size);
  pool.parallel_for(boxes.count(), [&](int64_t n) {
    ChunkBoxes::Part part = boxes[n];
    const std::string key = state.chunk_key(part.index);
    std::byte* place = memory + part.offset;
    if (std::optional<Blob> blob = state.store->open(key)) {
      const std::string chunk_where = fmt::format("{}, chunk {} in {}", where, key, blob->name());
      read_chunk(job, state.pipeline, std::move(*blob), state.stored_chunks, std::move(part.axes), place, chunk_where);
    } else {
      Runs(state.stored_chunks, part.axes, item_size).fill(state.fill, place);
      ++job.chunks_missing;
    }
  });
  if (state.dtype.big_endian) {
    constexpr int64_t kItems = 1 << 18;
    pool.parallel_for(ceil_div(box.size(), kItems), [&](int64_t n) {
      swap_items(memory + n * kItems * item_size, std::min(kItems, box.size() - n * kItems), item_size);
    });
  }
  if (stats) {
    *stats += {job.bytes_read, job.chunks_read, job.chunks_missing, job.blocks_decoded, job.bytes_decoded};
  }
}

bool ZarrArray::has_chunk(const std::vector<int64_t>& grid_index) const {
  bool valid = grid_index.size() == state_->shape.size();
  for (size_t d = 0; valid && d < grid_index.size(); ++d) {
    valid = 0 <= grid_index[d] && grid_index[d] < ceil_div(state_->shape[d], state_->stored_chunks[d]);
  }
  BOREAS_CHECK(valid, invalid_argument, "{}: there is no chunk [{}] in the shape [{}] with chunks [{}]", state_->where,
               fmt::join(grid_index, ", "), fmt::join(state_->shape, ", "), fmt::join(state_->stored_chunks, ", "));
  return state_->store->exists(state_->chunk_key(grid_index));
}

void ZarrArray::write(const IndexBox& box, const void* in, ThreadPool& pool) {
  const State& state = *state_;
  const std::string& where = state.where;
  BOREAS_CHECK(state.format == 2 && !state.dtype.big_endian && state.pipeline.order.empty(), unsupported,
               "{}: boreas writes arrays of format 2, little-endian, C order; this one is of format {}, {}{}", where,
               state.format, state.dtype.to_string(), state.pipeline.order.empty() ? "" : ", transposed");
  check_box(box, state.shape, where);
  if (box.size() == 0) return;
  const int64_t item_size = state.dtype.size;
  const auto* source = static_cast<const std::byte*>(in);
  const Codec compressor = state.pipeline.codecs.empty() ? Codec{.kind = Codec::Kind::none} : state.pipeline.codecs[0];
  check_codec(compressor);
  const ChunkBoxes boxes(box, state.stored_chunks, item_size);
  pool.parallel_for(boxes.count(), [&](int64_t n) {
    const ChunkBoxes::Part part = boxes[n];
    const std::string key = state.chunk_key(part.index);
    const Runs runs(state.stored_chunks, part.axes, item_size);
    const std::byte* chunk = source + part.offset;
    std::unique_ptr<std::byte[]> buffer;
    if (!runs.contiguous() || runs.run_bytes() != state.chunk_bytes) {
      buffer = std::make_unique_for_overwrite<std::byte[]>(size_t(state.chunk_bytes));
      // The chunk as it is, or as it would be if it were there; then the box over it.
      std::vector<Axis> all;
      bool covered = true;
      const std::vector<int64_t> strides = strides_of(state.stored_chunks, item_size);
      for (size_t d = 0; d < part.axes.size(); ++d) {
        all.push_back({0, state.stored_chunks[d], strides[d]});
        const int64_t in_array = state.shape[d] - part.index[d] * state.stored_chunks[d];
        covered &= part.axes[d].count == std::min(state.stored_chunks[d], in_array);
      }
      std::optional<Blob> blob = covered ? std::nullopt : state.store->open(key);
      if (blob) {
        Job job{item_size, state.fill, pool};
        const std::string chunk_where = fmt::format("{}, chunk {} in {}", where, key, blob->name());
        read_chunk(job, state.pipeline, std::move(*blob), state.stored_chunks, all, buffer.get(), chunk_where);
      } else {
        Runs(state.stored_chunks, all, item_size).fill(state.fill, buffer.get());
      }
      runs.gather(source + part.offset, buffer.get());
      chunk = buffer.get();
    }
    const std::span bytes(chunk, size_t(state.chunk_bytes));
    if (compressor.kind == Codec::Kind::none) {
      state.store->put(key, bytes);
    } else {
      state.store->put(key, encode(compressor, bytes, item_size));
    }
  });
}

template <class T>
std::vector<T> ZarrArray::read_values(const IndexBox& box, ThreadPool& pool) const {
  const State& state = *state_;
  const ZarrDType& dtype = state.dtype;
  const int64_t n = box.size();
  BOREAS_CHECK(n <= kMaxReadAllBytes / std::max<int64_t>(dtype.size, sizeof(T)), unsupported,
               "{}: {} elements of {} are too many to read as a whole (limit {} bytes); read boxes of it", state.where,
               n, dtype.to_string(), kMaxReadAllBytes);
  constexpr char target = std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 'i' : 'u';
  std::vector<T> values(static_cast<size_t>(n));
  const bool is_time = dtype.kind == 'M' || dtype.kind == 'm';
  if ((dtype.kind == target || (is_time && target == 'i')) && dtype.size == int64_t(sizeof(T))) {
    read(box, values.data(), pool);
    return values;
  }
  const bool converts =
      std::is_floating_point_v<T> ? !is_time : dtype.kind == 'b' || dtype.kind == 'i' || dtype.kind == 'u';
  BOREAS_CHECK(converts, unsupported, "{}: data type {} does not convert to {} of {} bytes{}", state.where,
               dtype.to_string(), target == 'f' ? "floats" : "integers", sizeof(T),
               is_time ? "; times are read as seconds" : "");
  Bytes raw(size_t(n * dtype.size));
  read(box, raw.data(), pool);
  const auto convert = [&]<class S>(S) {
    for (size_t i = 0; i < values.size(); ++i) {
      S value;
      std::memcpy(&value, raw.data() + i * sizeof(S), sizeof(S));
      if constexpr (!std::is_floating_point_v<T> && !std::is_floating_point_v<S>) {
        BOREAS_CHECK(std::in_range<T>(value), corrupt_data, "{}: element {} is {}, which does not fit {} bytes",
                     state.where, i, value, sizeof(T));
      }
      values[i] = static_cast<T>(value);
    }
  };
  if (dtype.kind == 'f') {
    if (dtype.size == 2) {
      for (size_t i = 0; i < values.size(); ++i) {
        uint16_t half;
        std::memcpy(&half, raw.data() + 2 * i, 2);
        values[i] = static_cast<T>(half_to_double(half));
      }
    } else {
      dtype.size == 4 ? convert(float()) : convert(double());
    }
  } else if (dtype.kind == 'i') {
    dtype.size == 1   ? convert(int8_t())
    : dtype.size == 2 ? convert(int16_t())
    : dtype.size == 4 ? convert(int32_t())
                      : convert(int64_t());
  } else {
    dtype.size == 1   ? convert(uint8_t())
    : dtype.size == 2 ? convert(uint16_t())
    : dtype.size == 4 ? convert(uint32_t())
                      : convert(uint64_t());
  }
  return values;
}

template std::vector<double> ZarrArray::read_values<double>(const IndexBox&, ThreadPool&) const;
template std::vector<float> ZarrArray::read_values<float>(const IndexBox&, ThreadPool&) const;
template std::vector<int64_t> ZarrArray::read_values<int64_t>(const IndexBox&, ThreadPool&) const;
template std::vector<int32_t> ZarrArray::read_values<int32_t>(const IndexBox&, ThreadPool&) const;
template std::vector<uint8_t> ZarrArray::read_values<uint8_t>(const IndexBox&, ThreadPool&) const;

std::vector<int64_t> ZarrArray::read_seconds(ThreadPool& pool) const {
  const ZarrDType& dtype = state_->dtype;
  const auto ratio = seconds_per(dtype.unit);
  BOREAS_CHECK((dtype.kind == 'M' || dtype.kind == 'm') && ratio, unsupported,
               "{}: data type {} is not a time or duration with a unit", state_->where, dtype.to_string());
  std::vector<int64_t> values = read_all<int64_t>(pool);
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == kNotATime) continue;
    int64_t scaled = 0;
    BOREAS_CHECK(!__builtin_mul_overflow(values[i], ratio->first, &scaled) && scaled % ratio->second == 0, corrupt_data,
                 "{}: element {} is {} x {}, which is not a whole number of seconds", state_->where, i, values[i],
                 dtype.unit);
    values[i] = scaled / ratio->second;
  }
  return values;
}

}  // namespace boreas
