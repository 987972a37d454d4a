#include "engine/forecast_output.h"

#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <thread>

#include "engine/text_file.h"
#include "io/atomic_replace.h"
#include "kernels/core/partition.h"

namespace boreas {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr double kMargin = 0.5;  // by which a packed range exceeds that of the dataset on either side

std::vector<int64_t> output_columns(const StepModel& model, const ForecastConfig& config) {
  std::vector<int64_t> columns;
  for (const std::string& name : config.variables)
    columns.push_back(model.variables().output_index(name, "forecast.variables"));
  if (columns.empty()) {
    columns.resize(model.variables().output_names().size());
    std::iota(columns.begin(), columns.end(), 0);
  }
  return columns;
}

/// Places of the cells inside of forecast.area, ascending.
std::vector<int64_t> cells_inside(const Coordinates& all, const std::vector<double>& area) {
  std::vector<int64_t> cells;
  const double north = area[0], west = area[1], south = area[2], width = std::min(area[3] - area[1], 360.0);
  for (size_t c = 0; c < all.latitudes.size(); ++c) {
    const double latitude = all.latitudes[c];
    const double east_of_west = std::fmod(std::fmod(all.longitudes[c] - west, 360.0) + 360.0, 360.0);
    if (latitude <= north && latitude >= south && east_of_west <= width) cells.push_back(int64_t(c));
  }
  return cells;
}

/// Rows and columns of what an area leaves of a grid of `num_columns`; nothing if it is no such grid.
std::vector<int64_t> shape_of(const std::vector<int64_t>& cells, int64_t num_columns) {
  int64_t columns = 0;
  while (columns < int64_t(cells.size()) && cells[size_t(columns)] / num_columns == cells[0] / num_columns) ++columns;
  if (int64_t(cells.size()) % columns != 0) return {};
  for (size_t i = 0; i < cells.size(); ++i) {
    const int64_t row = int64_t(i) / columns;
    if (cells[i] != cells[i % size_t(columns)] + row * num_columns) return {};
  }
  return {int64_t(cells.size()) / columns, columns};
}

std::string compressor_hint() { return "none, lz4, lz4hc, zstd, zlib or blosclz"; }

Codec codec_of(const ForecastConfig& config) {
  Codec codec;
  if (config.compressor == "none") {
    codec.kind = Codec::Kind::none;
  } else {
    codec.cname = config.compressor;
  }
  codec.level = int(config.compression_level);
  try {
    check_codec(codec);
  } catch (const Error& error) {
    BOREAS_FAIL(config, "forecast.compressor is {}, level {}; expected {}, level 0 to 9: {}", config.compressor,
                config.compression_level, compressor_hint(), error.what());
  }
  return codec;
}

struct Selection {
  std::vector<int64_t> cells;  // of the dataset, ascending; all: empty
  ForecastLayout layout;       // but for start dates
};

Selection select(const StepModel& model, const ForecastConfig& config) {
  const ModelSetup& setup = model.setup();
  Selection selection;
  ForecastLayout& layout = selection.layout;
  const std::vector<std::string> outputs = model.variables().output_names();
  for (const int64_t column : output_columns(model, config)) {
    const std::string& name = outputs[size_t(column)];
    const auto v = size_t(model.variables().index(name, "forecast"));
    ForecastLayout::Variable variable{name, setup.units[v], ""};
    if (config.packing == ForecastPacking::int16) {
      const double least = setup.statistics.minimum[v], most = setup.statistics.maximum[v];
      const double margin = most > least ? kMargin * (most - least) : std::max(1.0, std::abs(most));
      variable.packed_range = {least - margin, most + margin};
    }
    layout.variables.push_back(std::move(variable));
  }
  BOREAS_CHECK(config.lead_steps >= 1, config, "forecast.lead_steps is {}; expected at least 1", config.lead_steps);
  BOREAS_CHECK(config.every_steps >= 1 && config.every_steps <= config.lead_steps, config,
               "forecast.every_steps is {}; expected 1 to forecast.lead_steps, {}", config.every_steps,
               config.lead_steps);
  for (int64_t k = config.every_steps; k <= config.lead_steps; k += config.every_steps) layout.steps.push_back(k);
  layout.step = setup.step;
  Coordinates all = all_coordinates(setup);
  layout.field_shape = setup.field_shape;
  BOREAS_CHECK(config.chunk_cells >= 1, config, "forecast.chunk_cells is {}; expected at least 1", config.chunk_cells);
  layout.chunk_cells = config.chunk_cells;
  layout.compressor = codec_of(config);
  if (config.area.empty()) {
    layout.latitudes = std::move(all.latitudes);
    layout.longitudes = std::move(all.longitudes);
    return selection;
  }

  BOREAS_CHECK(config.area.size() == 4 && config.area[0] > config.area[2] && config.area[3] > config.area[1], config,
               "forecast.area is [{}]; expected [north, west, south, east] in degrees, north above south, east above "
               "west",
               fmt::join(config.area, ", "));
  selection.cells = cells_inside(all, config.area);
  BOREAS_CHECK(!selection.cells.empty(), config, "forecast.area is [{}], which holds no cell of the grid",
               fmt::join(config.area, ", "));
  for (const int64_t c : selection.cells) {
    layout.latitudes.push_back(all.latitudes[size_t(c)]);
    layout.longitudes.push_back(all.longitudes[size_t(c)]);
  }
  layout.field_shape =
      setup.field_shape.size() == 2 ? shape_of(selection.cells, setup.field_shape[1]) : std::vector<int64_t>{};
  return selection;
}

/// What each rank computes of the cells in the files: those of its part of the dataset's that are chosen.
std::vector<Range> held_cells(const StepModel& model, const std::vector<int64_t>& chosen) {
  const Partition parts = Partition::balanced(model.setup().num_cells(), model.ranks().size());
  std::vector<Range> held;
  for (int r = 0; r < model.ranks().size(); ++r) {
    Range part = parts[r];
    if (!chosen.empty()) {
      const auto place = [&](int64_t cell) {
        return std::lower_bound(chosen.begin(), chosen.end(), cell) - chosen.begin();
      };
      part = {place(part.begin), place(part.end)};
    }
    held.push_back(part);
  }
  return held;
}

std::string suffix_of(ForecastFormat format) {
  return format == ForecastFormat::netcdf ? ".nc" : format == ForecastFormat::zarr ? ".zarr" : ".grib";
}

std::vector<ForecastPart> parts_of(const std::string& path, const ForecastLayout& layout, int num_ranks) {
  std::vector<ForecastPart> parts;
  for (int r = 0; r < num_ranks; ++r) parts.push_back(forecast_part(path, layout, r, num_ranks));
  return parts;
}

int64_t values_in(const ForecastPart& part) { return part.variables.size() * part.cells.size(); }

Range common(Range a, Range b) {
  const int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

int64_t num_threads(const ForecastConfig& config) {
  BOREAS_CHECK(config.num_threads >= 1, config, "forecast.num_threads is {}; expected at least 1", config.num_threads);
  return config.num_threads;
}

/// Sum over the cells of a mix of place and bits, modulo 2^64: in any order, and of any parts.
uint64_t checksum(std::span<const float> values, int64_t first_cell) {
  uint64_t sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &values[i], 4);
    uint64_t x = uint64_t(first_cell + int64_t(i)) * 0x9e3779b97f4a7c15u + bits;  // the finaliser of splitmix64
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    sum += x ^ (x >> 31);
  }
  return sum;
}

/// The lines of a record; one that was cut off by the end of a run does not count.
std::vector<std::string> whole_lines(const std::string& path) {
  std::vector<std::string> lines;
  if (!fs::exists(path)) return lines;
  const std::string text = read_text_file(path);
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
    lines.push_back(text.substr(begin, end - begin));
  return lines;
}

}  // namespace

int64_t ForecastOutput::staging_bytes(const StepModel& model, const ForecastConfig& config) {
  const ForecastLayout layout = select(model, config).layout;
  std::vector<ForecastPart> parts;
  int64_t values = 0;
  for (const ForecastFormat format : config.formats) {
    parts.push_back(forecast_part(suffix_of(format), layout, model.ranks().rank(), model.ranks().size()));
    if (std::find(parts.begin(), parts.end() - 1, parts.back()) == parts.end() - 1) values += values_in(parts.back());
  }
  return config.num_buffers * values * 4;
}

std::string ForecastOutput::record_path() const { return paths_.back(); }

ForecastOutput::ForecastOutput(const StepModel& model, const RunConfig& config, std::vector<int64_t> starts,
                               std::vector<int64_t> members, const std::string& source, bool resume)
    : model_(model),
      config_(config.forecast),
      columns_(output_columns(model, config_)),
      arena_(Buffer(Device::cpu(), Buffer::Kind::host, 1, "staging")),
      ctx_(Device::cpu(), arena_),
      pool_(int(num_threads(config_))) {
  BOREAS_CHECK(!config_.formats.empty(), config, "forecast.formats is empty; expected netcdf, zarr or grib");
  BOREAS_CHECK(config_.num_buffers >= 1, config, "forecast.num_buffers is {}; expected at least 1",
               config_.num_buffers);
  Communicator& ranks = model.ranks();
  Selection selection = select(model, config_);
  layout_ = std::move(selection.layout);
  layout_.start_dates = std::move(starts);
  layout_.members = std::move(members);
  layout_.attributes = {{"title", "boreas forecast"}, {"source", "boreas, checkpoint " + source}};
  held_ = held_cells(model, selection.cells);
  const Range held = held_[size_t(ranks.rank())];
  for (int64_t i = held.begin; i < held.end && !selection.cells.empty(); ++i)
    chosen_.push_back(selection.cells[size_t(i)] - model.cells().begin);
  checksums_.resize(size_t(layout_.num_forecasts()));

  const fs::path base = fs::path(config.output) / config_.output;
  size_t most_sent = 0, most_received = 0;
  int64_t num_values = 0;
  for (const ForecastFormat format : config_.formats) {
    paths_.push_back(base.string() + suffix_of(format));
    std::vector<ForecastPart> parts = parts_of(paths_.back(), layout_, ranks.size());
    const auto same = std::find_if(routes_.begin(), routes_.end(), [&](const Route& r) { return r.parts == parts; });
    route_of_.push_back(size_t(same - routes_.begin()));
    if (same != routes_.end()) continue;
    routes_.push_back({std::move(parts), {}, num_values});
    const Route& route = routes_.back();
    num_values += values_in(route.parts[size_t(ranks.rank())]);
    size_t sent = 0, received = 0;
    for (int peer = 0; peer < ranks.size(); ++peer)
      if (peer != ranks.rank()) {
        sent += size_t(values_in(sent_to(route, ranks.rank(), peer)));
        received += size_t(values_in(sent_to(route, peer, ranks.rank())));
      }
    most_sent = std::max(most_sent, sent);
    most_received = std::max(most_received, received);
  }
  sent_.resize(most_sent);
  received_.resize(most_received);
  paths_.push_back(base.string() + ".checksums.jsonl");
  std::vector<std::string> names, dates;
  for (const auto& variable : layout_.variables) names.push_back(variable.name);
  for (const int64_t start : layout_.start_dates) dates.push_back(format_date(start));
  Json identity = {{"source", source},
                   {"variables", names},
                   {"starts", dates},
                   {"steps", layout_.steps},
                   {"formats", paths_},
                   {"cells", layout_.num_cells()},
                   {"area", config_.area},
                   {"packing", to_string(config_.packing)},
                   {"compressor", layout_.compressor.to_string()},
                   {"chunk_cells", layout_.cells_per_chunk()}};
  if (!config_.state.empty()) identity["state"] = config_.state;
  if (!layout_.members.empty()) identity["members"] = layout_.members;

  try {
    open(identity.dump(), resume);
  } catch (...) {
    abandon();
    throw;
  }
}

void ForecastOutput::open(const std::string& identity, bool resume) {
  Communicator& ranks = model_.ranks();
  // Rank 0 looks what is there and makes what is not; the others are told where values go.
  Json told = {{"first_forecast", 0}, {"places", Json::array()}};
  if (ranks.rank() == 0) {
    fs::create_directories(fs::path(record_path()).parent_path());
    const std::string record = partial_path(record_path());
    std::vector<std::string> lines;
    const bool finished = !fs::exists(record);
    if (resume) lines = whole_lines(finished ? record_path() : record);
    if (!lines.empty()) {
      BOREAS_CHECK(
          lines.front() == identity, config,
          "{} cannot be resumed: it is of another forecast, {}, and this one is {}; go on with its settings, or "
          "leave out --resume to start anew",
          record_path(), lines.front(), identity);
      first_forecast_ = int64_t(lines.size()) - 1;
    }
    int64_t length = 0;
    for (const std::string& line : lines) length += int64_t(line.size()) + 1;
    if (finished && first_forecast_ == num_forecasts())
      fs::rename(record_path(), record);
    else if (finished)
      length = first_forecast_ = 0;
    record_ = std::make_unique<JsonLines>(record, length);
    if (length == 0) record_->write(identity);
    for (size_t f = 0; f + 1 < paths_.size(); ++f) {
      const bool published =
          first_forecast_ == num_forecasts() && fs::exists(paths_[f]) && !fs::exists(partial_path(paths_[f]));
      if (first_forecast_ == 0) create_forecast(paths_[f], layout_);
      told["places"].push_back(published ? Json(nullptr) : Json(forecast_places(paths_[f], layout_)));
    }
    told["first_forecast"] = first_forecast_;
  }
  told = Json::parse(ranks.text_of(0, told.dump()));
  first_forecast_ = num_complete_ = told["first_forecast"].get<int64_t>();
  if (first_forecast_ == num_forecasts()) return;
  int64_t num_values = 0;
  for (const Route& route : routes_) num_values += values_in(route.parts[size_t(ranks.rank())]);
  for (size_t f = 0; f + 1 < paths_.size(); ++f) {
    Route& route = routes_[route_of_[f]];
    route.writers.emplace_back(paths_[f], layout_, told["places"][f].get<std::string>(),
                               route.parts[size_t(ranks.rank())]);
    if (first_forecast_ == 0) route.writers.back().clear(pool_);
  }
  slots_.resize(size_t(config_.num_buffers));
  for (Slot& slot : slots_) slot.memory = Buffer(Device::cpu(), Buffer::Kind::host, num_values * 4, "output");
}

ForecastOutput::~ForecastOutput() {
  for (Slot& slot : slots_)
    if (slot.done.valid()) slot.done.wait();
  if (!closed_) abandon();
}

/// Removes what holds nothing yet.
void ForecastOutput::abandon() {
  routes_.clear();
  if (!record_ || num_sets_ > 0 || first_forecast_ > 0) return;
  record_.reset();
  for (const std::string& path : paths_) remove_quietly(partial_path(path));
}

/// What one rank computes of what another writes.
ForecastPart ForecastOutput::sent_to(const Route& route, int from, int to) const {
  const ForecastPart& part = route.parts[size_t(to)];
  return {part.variables, common(held_[size_t(from)], part.cells)};
}

/// From who computes to who writes: `out` gets this rank's part.
void ForecastOutput::exchange(const Route& route, std::span<const float> fields, float* out) {
  Communicator& ranks = model_.ranks();
  const int me = ranks.rank();
  const int64_t first_held = held_[size_t(me)].begin, num_cells = model_.num_cells();
  const auto copy = [&](int64_t v, Range cells, float* to) {
    const float* const from = fields.data() + columns_[size_t(v)] * num_cells;
    const int64_t first = cells.begin - first_held;
    if (chosen_.empty()) {
      std::copy_n(from + first, cells.size(), to);
    } else {
      for (int64_t i = 0; i < cells.size(); ++i) to[i] = from[chosen_[size_t(first + i)]];
    }
  };
  const auto message = [](int peer, float* at, const ForecastPart& part) {
    return Communicator::Rows{peer, Tensor(at, DType::f32, {part.variables.size(), part.cells.size()})};
  };
  std::vector<Communicator::Rows> send, receive;
  float *to = sent_.data(), *from = received_.data();
  for (int peer = 0; peer < ranks.size(); ++peer) {
    if (peer == me) continue;
    if (const ForecastPart part = sent_to(route, me, peer); values_in(part) > 0) {
      send.push_back(message(peer, to, part));
      for (int64_t v = part.variables.begin; v < part.variables.end; ++v, to += part.cells.size())
        copy(v, part.cells, to);
    }
    if (const ForecastPart part = sent_to(route, peer, me); values_in(part) > 0) {
      receive.push_back(message(peer, from, part));
      from += values_in(part);
    }
  }
  ranks.exchange(ctx_, send, receive);
  const ForecastPart own = sent_to(route, me, me), whole = route.parts[size_t(me)];
  pool_.parallel_for(whole.variables.size(), [&](int64_t i) {
    float* const field = out + i * whole.cells.size();
    if (own.cells.size() > 0) copy(whole.variables.begin + i, own.cells, field + (own.cells.begin - whole.cells.begin));
    for (const Communicator::Rows& rows : receive) {
      const Range cells = sent_to(route, rows.rank, me).cells;
      std::copy_n(rows.rows.as<float>() + i * cells.size(), cells.size(), field + (cells.begin - whole.cells.begin));
    }
  });
}

void ForecastOutput::write(int64_t forecast, int64_t lead_steps, std::span<const float> fields) {
  if (lead_steps % config_.every_steps != 0) return;
  const int64_t step = lead_steps / config_.every_steps - 1, num_variables = int64_t(columns_.size());
  Slot& slot = slots_[size_t(num_sets_ % int64_t(slots_.size()))];
  if (slot.done.valid()) slot.done.get();
  slot.forecast = forecast;
  std::vector<int64_t>& sums = checksums_[size_t(forecast)];
  sums.resize(layout_.steps.size() * size_t(num_variables));
  float* const values = static_cast<float*>(slot.memory.data());
  for (const Route& route : routes_) exchange(route, fields, values + route.place);
  ++num_sets_;
  const auto me = size_t(model_.ranks().rank());
  slot.done = pool_.submit([this, me, forecast, step, values, sums = sums.data() + step * num_variables] {
    const ForecastPart& part = routes_[0].parts[me];
    pool_.parallel_for(part.variables.size(), [&](int64_t i) {
      sums[part.variables.begin + i] =
          int64_t(checksum({values + i * part.cells.size(), size_t(part.cells.size())}, part.cells.begin));
    });
    for (const Route& route : routes_)
      for (const ForecastWriter& writer : route.writers) writer.write(forecast, step, values + route.place, pool_);
  });
  // The forecast before this one has long been written: to ask for it does not wait.
  if (step + 1 == int64_t(layout_.steps.size())) complete(forecast);
}

/// Records the forecasts before `end_forecast`, which all ranks then have written.
void ForecastOutput::complete(int64_t end_forecast) {
  for (Slot& slot : slots_)
    if (slot.done.valid() && slot.forecast < end_forecast) slot.done.get();
  Communicator& ranks = model_.ranks();
  for (; num_complete_ < end_forecast; ++num_complete_) {
    std::vector<std::vector<int64_t>> lists(size_t(ranks.size()));
    lists[0] = std::move(checksums_[size_t(num_complete_)]);
    const auto parts = ranks.all_to_all(lists);
    if (!record_) continue;
    Json sums = Json::object();
    const size_t num_variables = columns_.size();
    for (size_t v = 0; v < num_variables; ++v)
      for (size_t k = 0; k < layout_.steps.size(); ++k) {
        uint64_t sum = 0;
        for (const auto& part : parts) sum += uint64_t(part[k * num_variables + v]);
        sums[layout_.variables[v].name].push_back(fmt::format("{:016x}", sum));
      }
    const int64_t num_members = layout_.num_members();
    Json line = Json::object();
    line["start"] = format_date(layout_.start_dates[size_t(num_complete_ / num_members)]);
    if (!layout_.members.empty()) line["member"] = layout_.members[size_t(num_complete_ % num_members)];
    line["checksums"] = std::move(sums);
    record_->write(line.dump());
  }
}

std::vector<std::string> ForecastOutput::close() {
  complete(num_forecasts());
  double clipped[] = {0};
  for (const Route& route : routes_)
    for (const ForecastWriter& writer : route.writers) clipped[0] += double(writer.num_clipped());
  Communicator& ranks = model_.ranks();
  ranks.sum_values(clipped);
  if (clipped[0] > 0)
    spdlog::warn(
        "{:.0f} values lay outside of the range that they are packed in, and were cut; see the comments of the "
        "variables, or set forecast.packing to none",
        clipped[0]);
  routes_.clear();
  ranks.barrier();  // all have written
  if (record_) {
    record_.reset();
    for (const std::string& path : paths_)
      if (fs::exists(partial_path(path))) publish_forecast(path);
  }
  ranks.barrier();  // the files are whole
  closed_ = true;
  return paths_;
}

}  // namespace boreas
