#include "engine/checkpoint.h"

#include <algorithm>
#include <charconv>
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

// A checkpoint that the ranks of a model write together: rank 0 has the file, to which the others send their rows.
class Writer {
 public:
  Writer(const std::string& path, Communicator& ranks)
      : ranks_(ranks), arena_(Buffer(Device::cpu(), Buffer::Kind::host, 1, "checkpoint")), ctx_(Device::cpu(), arena_) {
    if (ranks_.rank() == 0) file_.emplace(Hdf5File::create(path));
  }
  // Null on the other ranks.
  Hdf5File* file() { return file_ ? &*file_ : nullptr; }

  void write(const std::string& name, const Tensor& rows, const ShardSpec& shards) {
    if (shards)
      write_shards(name, rows, shards);
    else if (file_)
      file_->write(name, rows);
  }
  void write_named(const std::string& group, const ParameterStore& store, const Tensor& flat) {
    const HostView view(flat);
    store.for_each_in(view.host(), [&](const std::string& name, Tensor rows) {
      write(group + "/" + name, rows, store.shards_of(name));
    });
  }

 private:
  void write_shards(const std::string& name, const Tensor& rows, const ShardSpec& shards) {
    if (file_) file_->reserve(name, rows.dtype(), whole_shape(rows, shards));
    const auto range_of = ranks_.all_to_all(
        std::vector<std::vector<int64_t>>(size_t(ranks_.size()), {shards.rows.begin, shards.rows.end}));
    const int64_t slab_rows = std::max<int64_t>(1, kSlabBytes / (rows.cols() * size_of(rows.dtype())));
    Buffer storage;
    for (int rank = 0; rank < ranks_.size(); ++rank)
      for (int64_t first = range_of[size_t(rank)][0], end = range_of[size_t(rank)][1]; first < end;) {
        const int64_t size = std::min(slab_rows, end - first), at = first - shards.rows.begin;
        const Tensor own = rank == ranks_.rank() ? rows.slice({at, at + size}) : Tensor();
        if (file_ && rank > 0) {
          if (!storage.data())
            storage = Buffer(Device::cpu(), Buffer::Kind::host, slab_rows * rows.cols() * size_of(rows.dtype()),
                             "checkpoint");
          const Communicator::Rows received{rank, storage.tensor(rows.dtype(), {size, rows.cols()})};
          ranks_.exchange(ctx_, {}, {&received, 1});
          file_->write_rows(name, first, received.rows);
        } else if (file_) {
          file_->write_rows(name, first, own);
        } else if (own) {
          const Communicator::Rows sent{0, own};
          ranks_.exchange(ctx_, {&sent, 1}, {});
        }
        first += size;
      }
  }

  Communicator& ranks_;
  Arena arena_;
  Context ctx_;
  std::optional<Hdf5File> file_;
};

void read_named(const Hdf5File& file, const std::string& group, const ParameterStore& store, const Tensor& flat) {
  const HostView view(flat);
  store.for_each_in(view.host(), [&](const std::string& name, Tensor rows) {
    const ShardSpec shards = store.shards_of(name);
    if (!shards)
      file.read_into(group + "/" + name, rows);
    else if (shards.rows.size() > 0)
      file.read_rows(group + "/" + name, shards.rows.begin, rows);
  });
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
  if (model.ranks().rank() == 0) fs::create_directories(fs::path(path).parent_path());
  Writer writer(path, model.ranks());
  writer.write_named("parameters", store, store.flat_masters());
  store.for_each_constant([&](const std::string& name, Tensor value) {
    writer.write("constants/" + name, HostView(value).host(), store.shards_of(name));
  });
  writer.write_named("optimizer/first_moment", store, optimizer.first_moment());
  writer.write_named("optimizer/second_moment", store, optimizer.second_moment());
  if (optimizer.averages()) writer.write_named("ema", store, optimizer.average());
  Hdf5File* const file = writer.file();
  if (!file) return;
  file->make_group("training");
  visit_state(state, [&](const char* name, auto value) { file->write_attribute("training", name, value); });
  write_setup(*file, model.setup());
  file->commit();
}

TrainingState load_checkpoint(const std::string& path, StepModel& model, Optimizer& optimizer) {
  const Hdf5File file = Hdf5File::open(path);
  std::vector<std::string> found = differences(read_setup(file), model.setup(), "checkpoint", "config");
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
  read_named(file, "optimizer/first_moment", store, optimizer.first_moment());
  read_named(file, "optimizer/second_moment", store, optimizer.second_moment());
  if (optimizer.averages()) read_named(file, "ema", store, optimizer.average());
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

ModelSetup load_setup(const std::string& path) { return read_setup(Hdf5File::open(path)); }

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
