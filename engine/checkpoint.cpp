#include "engine/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <map>

#include "io/hdf5_file.h"

namespace boreas {

namespace fs = std::filesystem;

namespace {

// A tensor as the host sees it: itself, or a copy.
class HostView {
 public:
  explicit HostView(const Tensor& tensor) : tensor_(tensor), host_(tensor) {
    if (!tensor.device().is_cuda()) return;
    storage_ = Buffer(Device::cpu(), Buffer::Kind::host, tensor.bytes(), "checkpoint");
    host_ = storage_.tensor(tensor.dtype(), tensor.shape());
    copy_now(host_.data(), Device::cpu(), tensor.data(), tensor.device(), tensor.bytes());
  }
  const Tensor& host() const { return host_; }
  void write_back() const {
    if (storage_.data()) copy_now(tensor_.data(), tensor_.device(), host_.data(), Device::cpu(), tensor_.bytes());
  }

 private:
  Buffer storage_;
  Tensor tensor_, host_;
};

constexpr int64_t kSlabBytes = int64_t{1} << 20;

// The shape of an array in the file; `rows`: of this rank.
Shape whole_shape(const Tensor& rows, const ShardSpec& shards) {
  return shards ? Shape{shards.num_rows, rows.shape()[1]} : rows.shape();
}

// Where the arrays of a store lie in a vector that has one element for each of the flat vectors', or only those that
// this rank trains.
enum class Layout : uint8_t { flat, state };

// A checkpoint that all ranks write together: rank 0 has the file, to which the others send what is theirs.
class Writer {
 public:
  Writer(const std::string& path, const StepModel& model, const FlatShards& shards)
      : store_(model.parameters()),
        shards_(shards),
        world_(*shards.ranks().world),
        model_(*shards.ranks().model),
        arena_(Buffer(Device::cpu(), Buffer::Kind::host, 1, "checkpoint")),
        ctx_(Device::cpu(), arena_) {
    if (world_.rank() == 0) file_.emplace(Hdf5File::create(path));
  }
  // Null on the other ranks.
  Hdf5File* file() { return file_ ? &*file_ : nullptr; }

  void write_constant(const std::string& name, const Tensor& rows, const ShardSpec& shards) {
    if (shards)
      write_shards(name, rows, shards);
    else if (file_)
      file_->write(name, rows);
  }
  void write_named(const std::string& group, const Tensor& vector, Layout layout) {
    const HostView view(vector);
    for (const ParameterStore::Place& place : store_.places()) {
      const std::string name = group + "/" + place.name;
      if (place.shards)
        write_shards(name, own_part(view.host(), layout, place.flat).reshape(place.shape), place.shards);
      else
        write_pieces(name, view.host(), layout, place);
    }
  }

 private:
  // A range of the flat vectors that lies in one piece of this rank.
  Tensor own_part(const Tensor& host, Layout layout, Range flat) const {
    if (layout == Layout::flat || flat.size() == 0) return host.columns(layout == Layout::flat ? flat : Range{});
    for (const FlatShards::Piece& piece : shards_.pieces()) {
      if (flat.begin < piece.flat.begin || flat.end > piece.flat.end) continue;
      const int64_t begin = piece.state.begin + flat.begin - piece.flat.begin;
      return host.columns({begin, begin + flat.size()});
    }
    BOREAS_FAIL(internal, "rank {} does not train parameters {} to {}", world_.rank(), flat.begin, flat.end);
  }

  // Of a replicated array: each part from the rank that trains it.
  void write_pieces(const std::string& name, const Tensor& host, Layout layout, const ParameterStore::Place& place) {
    const std::vector<FlatShards::Owned> owners = shards_.owners_of(place.flat);
    if (world_.size() == 1) return file_->write(name, own_part(host, layout, place.flat).reshape(place.shape));
    Buffer storage;
    Tensor whole;
    if (file_) {
      storage = Buffer(Device::cpu(), Buffer::Kind::host,
                       std::max<int64_t>(1, place.flat.size() * size_of(host.dtype())), "checkpoint");
      whole = storage.tensor(host.dtype(), {place.flat.size()});
    }
    for (const FlatShards::Owned& part : owners) {
      const Range at{part.flat.begin - place.flat.begin, part.flat.end - place.flat.begin};
      if (part.rank == world_.rank()) {
        const Tensor own = own_part(host, layout, part.flat);
        const Communicator::Rows sent{0, own};
        if (file_)
          std::memcpy(whole.columns(at).data(), own.data(), size_t(own.bytes()));
        else
          world_.exchange(ctx_, {&sent, 1}, {});
      } else if (file_) {
        const Communicator::Rows received{part.rank, whole.columns(at)};
        world_.exchange(ctx_, {}, {&received, 1});
      }
    }
    if (file_) file_->write(name, whole.reshape(place.shape));
  }

  // Of an array that is split over the ranks that share a sample: from the first group.
  void write_shards(const std::string& name, const Tensor& rows, const ShardSpec& shards) {
    if (shards_.ranks().replicas->rank() > 0) return;
    if (file_) file_->reserve(name, rows.dtype(), whole_shape(rows, shards));
    const auto stored_of = model_.all_to_all(lists_for_root(shards.stored_rows({0, rows.rows()})));
    const int64_t slab_rows = std::max<int64_t>(1, kSlabBytes / (rows.cols() * size_of(rows.dtype())));
    if (!file_) {
      for (int64_t at = 0; at < rows.rows(); at += slab_rows) {
        const Communicator::Rows sent{0, rows.slice({at, std::min(rows.rows(), at + slab_rows)})};
        model_.exchange(ctx_, {&sent, 1}, {});
      }
      return;
    }
    Buffer storage;
    for (int rank = 0; rank < model_.size(); ++rank) {
      const std::vector<Range> stored = ranges_of(stored_of[size_t(rank)]);
      int64_t num_rows = 0;
      for (const Range run : stored) num_rows += run.size();
      for (int64_t at = 0; at < num_rows; at += slab_rows) {
        const Range slab{at, std::min(num_rows, at + slab_rows)};
        Tensor values = rank == 0 ? rows.slice(slab) : Tensor();
        if (rank > 0) {
          if (!storage.data())
            storage = Buffer(Device::cpu(), Buffer::Kind::host, slab_rows * rows.cols() * size_of(rows.dtype()),
                             "checkpoint");
          values = storage.tensor(rows.dtype(), {slab.size(), rows.cols()});
          const Communicator::Rows received{rank, values};
          model_.exchange(ctx_, {}, {&received, 1});
        }
        write_runs(name, cut(stored, slab), values);
      }
    }
  }

  // Rows that stand in these places of the file.
  void write_runs(const std::string& name, const std::vector<Range>& stored, const Tensor& values) {
    int64_t at = 0;
    for (const Range run : stored) {
      file_->write_rows(name, run.begin, values.slice({at, at + run.size()}));
      at += run.size();
    }
  }

  // For all_to_all, which moves numbers: the first rank gets them all.
  std::vector<std::vector<int64_t>> lists_for_root(const std::vector<Range>& ranges) const {
    std::vector<std::vector<int64_t>> lists{size_t(model_.size())};
    for (const Range range : ranges) lists[0].insert(lists[0].end(), {range.begin, range.end});
    return lists;
  }
  static std::vector<Range> ranges_of(const std::vector<int64_t>& numbers) {
    std::vector<Range> ranges;
    for (size_t i = 0; i + 1 < numbers.size(); i += 2) ranges.push_back({numbers[i], numbers[i + 1]});
    return ranges;
  }

  const ParameterStore& store_;
  const FlatShards& shards_;
  Communicator &world_, &model_;
  Arena arena_;
  Context ctx_;
  std::optional<Hdf5File> file_;
};

// Own rows of a sharded array, counted from this rank's first.
void read_shard(const Hdf5File& file, const std::string& name, const ShardSpec& shards, Range own, const Tensor& to) {
  int64_t at = 0;
  for (const Range run : shards.stored_rows(own)) {
    if (run.size() > 0) file.read_rows(name, run.begin, to.slice({at, at + run.size()}));
    at += run.size();
  }
}

void read_named(const Hdf5File& file, const std::string& group, const ParameterStore& store, const Tensor& flat) {
  const HostView view(flat);
  for (const ParameterStore::Place& place : store.places()) {
    const Tensor rows = view.host().columns(place.flat).reshape(place.shape);
    if (!place.shards)
      file.read_into(group + "/" + place.name, rows);
    else
      read_shard(file, group + "/" + place.name, place.shards, {0, rows.rows()}, rows);
  }
  view.write_back();
}

// Of a vector of what this rank trains: of replicated arrays the rows in which this rank's pieces lie.
void read_state(const Hdf5File& file, const std::string& group, const ParameterStore& store, const FlatShards& shards,
                const Tensor& state) {
  const HostView view(state);
  for (const ParameterStore::Place& place : store.places())
    for (const FlatShards::Piece& piece : shards.pieces()) {
      const Range common{std::max(place.flat.begin, piece.flat.begin), std::min(place.flat.end, piece.flat.end)};
      if (common.size() <= 0) continue;
      const std::string name = group + "/" + place.name;
      const bool is_matrix = place.shape.rank() > 1;
      const int64_t width = is_matrix ? place.shape[1] : place.shape[0];
      const int64_t first = (common.begin - place.flat.begin) / width;
      const int64_t last = (common.end - place.flat.begin + width - 1) / width;
      Buffer storage(Device::cpu(), Buffer::Kind::host, (last - first) * width * size_of(state.dtype()), "checkpoint");
      const Tensor rows = storage.tensor(state.dtype(), {last - first, width});
      if (is_matrix)
        read_shard(file, name, place.shards, {first, last}, rows);
      else
        file.read_into(name, rows.reshape({width}));
      const int64_t skipped = common.begin - place.flat.begin - first * width;
      const int64_t at = piece.state.begin + common.begin - piece.flat.begin;
      const Tensor to = view.host().columns({at, at + common.size()});
      std::memcpy(to.data(), rows.reshape({rows.size()}).columns({skipped, skipped + common.size()}).data(),
                  size_t(to.bytes()));
    }
  view.write_back();
}

// One line for each parameter that the file lacks, has too much, or has in another shape or type.
std::vector<std::string> parameter_differences(const Hdf5File& file, const ParameterStore& store) {
  std::vector<std::string> found;
  std::map<std::string, bool> known;
  store.for_each([&](const std::string& name, Tensor value, Tensor) {
    known[name] = true;
    const std::string path = "parameters/" + name;
    if (!file.exists(path)) {
      found.push_back(fmt::format("parameter {}: absent in the checkpoint, {} in the model", name, to_string(value)));
      return;
    }
    const Hdf5File::ArrayInfo info = file.info(path);
    const Shape shape = whole_shape(value, store.shards_of(name));
    if (info.dtype != value.dtype() || !(info.shape == shape))
      found.push_back(fmt::format("parameter {}: {} {} in the checkpoint, {} {} in the model", name,
                                  to_string(info.dtype), to_string(info.shape), to_string(value.dtype()),
                                  to_string(shape)));
  });
  for (const std::string& name : file.list("parameters"))
    if (!known.count(name))
      found.push_back(fmt::format("parameter {}: {} in the checkpoint, absent in the model", name,
                                  to_string(file.info("parameters/" + name).shape)));
  return found;
}

void check_fits(const std::string& path, const std::vector<std::string>& found) {
  BOREAS_CHECK(found.empty(), config,
               "{} does not fit this run:\n  {}\nUse the config of the checkpoint, or start a new "
               "run in another output folder",
               path, fmt::join(found, "\n  "));
}

// Calls visit(name, member) for each number of the state.
void visit_state(auto& state, auto&& visit) {
  visit("step", state.step);
  visit("epoch", state.epoch);
  visit("step_in_epoch", state.step_in_epoch);
  visit("rollout", state.rollout);
  visit("num_samples", state.num_samples);
  visit("best_loss", state.best_loss);
  visit("best_step", state.best_step);
  visit("validations_since_best", state.validations_since_best);
  visit("num_threads", state.num_threads);
  visit("metrics_bytes", state.metrics_bytes);
  visit("timing_bytes", state.timing_bytes);
}

std::optional<int64_t> step_of(const std::string& file_name) {
  constexpr std::string_view prefix = "step_", suffix = ".h5";
  if (!file_name.starts_with(prefix) || !file_name.ends_with(suffix)) return {};
  int64_t step = 0;
  const char* const end = file_name.data() + file_name.size() - suffix.size();
  const auto [stop, error] = std::from_chars(file_name.data() + prefix.size(), end, step);
  if (error != std::errc() || stop != end) return {};
  return step;
}

std::map<int64_t, fs::path> step_checkpoints(const std::string& output) {
  std::map<int64_t, fs::path> found;
  if (!fs::is_directory(checkpoint_folder(output))) return found;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoint_folder(output)))
    if (const auto step = step_of(entry.path().filename().string())) found[*step] = entry.path();
  return found;
}

}  // namespace

void save_checkpoint(const std::string& path, const StepModel& model, const Optimizer& optimizer,
                     const TrainingState& state) {
  const ParameterStore& store = model.parameters();
  if (optimizer.shards().ranks().is_root()) fs::create_directories(fs::path(path).parent_path());
  Writer writer(path, model, optimizer.shards());
  writer.write_named("parameters", store.flat_masters(), Layout::flat);
  store.for_each_constant([&](const std::string& name, Tensor value) {
    writer.write_constant("constants/" + name, HostView(value).host(), store.shards_of(name));
  });
  writer.write_named("optimizer/first_moment", optimizer.first_moment(), Layout::state);
  writer.write_named("optimizer/second_moment", optimizer.second_moment(), Layout::state);
  if (optimizer.averages()) writer.write_named("ema", optimizer.average(), Layout::state);
  Hdf5File* const file = writer.file();
  if (!file) return;
  file->make_group("training");
  visit_state(state, [&](const char* name, auto value) { file->write_attribute("training", name, value); });
  write_setup(*file, model.setup());
  file->commit();
}

TrainingState load_checkpoint(const std::string& path, StepModel& model, Optimizer& optimizer) {
  const Hdf5File file = Hdf5File::open(path);
  std::vector<std::string> found = differences(read_setup(file, std::nullopt), model.setup(), "checkpoint", "config");
  for (std::string& line : parameter_differences(file, model.parameters())) found.push_back(std::move(line));
  if (file.exists("ema") != optimizer.averages())
    found.push_back(
        fmt::format("training.ema_decay: the checkpoint has {} running average of the weights, the config "
                    "asks for {}",
                    file.exists("ema") ? "a" : "no", optimizer.averages() ? "one" : "none"));
  check_fits(path, found);

  const ParameterStore& store = model.parameters();
  read_named(file, "parameters", store, store.flat_masters());
  model.parameters().round_masters();
  read_state(file, "optimizer/first_moment", store, optimizer.shards(), optimizer.first_moment());
  read_state(file, "optimizer/second_moment", store, optimizer.shards(), optimizer.second_moment());
  if (optimizer.averages()) read_state(file, "ema", store, optimizer.shards(), optimizer.average());
  TrainingState state;
  visit_state(state, [&]<class T>(const char* name, T& value) {
    if constexpr (std::same_as<T, double>)
      value = file.read_real_attribute("training", name);
    else
      value = file.read_integer_attribute("training", name);
  });
  return state;
}

void load_weights(const std::string& path, StepModel& model, Weights which) {
  const Hdf5File file = Hdf5File::open(path);
  BOREAS_CHECK(file.exists("parameters"), corrupt_data,
               "{}: this HDF5 file is no boreas checkpoint: it has no "
               "/parameters",
               path);
  check_fits(path, parameter_differences(file, model.parameters()));
  const bool averaged = which == Weights::best_known && file.exists("ema");
  read_named(file, averaged ? "ema" : "parameters", model.parameters(), model.parameters().flat_masters());
  model.parameters().round_masters();
}

ModelSetup load_setup(const std::string& path, const GraphShare& share) {
  return read_setup(Hdf5File::open(path), share);
}

std::string checkpoint_folder(const std::string& output) { return (fs::path(output) / "checkpoints").string(); }

std::string step_checkpoint(const std::string& output, int64_t step) {
  return (fs::path(checkpoint_folder(output)) / fmt::format("step_{:08}.h5", step)).string();
}

std::string best_checkpoint(const std::string& output) {
  return (fs::path(checkpoint_folder(output)) / "best.h5").string();
}

std::optional<std::string> latest_checkpoint(const std::string& output) {
  const auto found = step_checkpoints(output);
  if (found.empty()) return {};
  return found.rbegin()->second.string();
}

std::string resolve_checkpoint(const std::string& path) {
  if (fs::is_regular_file(path)) return path;
  BOREAS_CHECK(fs::is_directory(path), io, "{}: no such checkpoint or output folder", path);
  if (fs::is_regular_file(best_checkpoint(path))) return best_checkpoint(path);
  const auto latest = latest_checkpoint(path);
  BOREAS_CHECK(latest, io, "{}: this folder has no checkpoint; expected {} or {}", path, best_checkpoint(path),
               step_checkpoint(path, 0));
  return *latest;
}

void prune_checkpoints(const std::string& output, int64_t keep) {
  auto found = step_checkpoints(output);
  while (int64_t(found.size()) > keep) {
    fs::remove(found.begin()->second);
    found.erase(found.begin());
  }
  if (!fs::is_directory(checkpoint_folder(output))) return;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoint_folder(output)))
    if (entry.path().extension() == ".partial") fs::remove(entry.path());
}

}  // namespace boreas
