#include "engine/forecaster.h"

#include <cmath>

#include "io/forcings.h"

namespace boreas {

namespace {

constexpr double kSamePlace = 1e-5;  // degrees

}  // namespace

Arena::Peak Forecaster::plan(const StepModel& model, Device device) { return ModelState::plan(model, device); }
int64_t Forecaster::staging_bytes(const StepModel& model) { return ModelState::staging_bytes(model); }

Forecaster::Forecaster(const StepModel& model, const DatasetReader& reader)
    : model_(model), reader_(reader), state_(model) {
  const ModelSetup& setup = model.setup();
  BOREAS_CHECK(reader.num_cells() == setup.num_cells(), config,
               "dataset {} has {} cells but the model was trained on {}: use a dataset of the same grid", reader.name(),
               reader.num_cells(), setup.num_cells());
  for (size_t c = 0; c < setup.latitudes.size(); ++c) {
    const double latitude = reader.latitudes()[c], longitude = reader.longitudes()[c];
    BOREAS_CHECK(std::abs(latitude - setup.latitudes[c]) < kSamePlace &&
                     std::abs(std::remainder(longitude - setup.longitudes[c], 360.0)) < kSamePlace,
                 config,
                 "dataset {} has another grid than the model was trained on: cell {} lies at latitude {}, longitude {} "
                 "and for the model at {}, {}",
                 reader.name(), c, latitude, longitude, setup.latitudes[c], setup.longitudes[c]);
  }
  BOREAS_CHECK(reader.step() == setup.step, config, "dataset {} has a step of {} but the model makes steps of {}",
               reader.name(), format_step(reader.step()), format_step(setup.step));
  const std::vector<std::string>& known = reader.variables();
  for (const std::string& name : model.variables().names()) {
    const bool stored = std::find(known.begin(), known.end(), name) != known.end();
    column_of_.push_back(!stored && is_computed_forcing(name) ? -1 : reader.index_of(name));
  }
}

void Forecaster::read(int64_t v, int64_t date, int64_t member, std::span<float> values) {
  const auto index = reader_.index_of_date(date);
  BOREAS_CHECK(index && !reader_.missing(*index), invalid_argument,
               "the forecast needs {} on {}, which {} {}; it holds {} to {}, step {}", model_.variables().name(v),
               format_date(date), reader_.name(), index ? "marks as missing" : "does not hold",
               format_date(reader_.dates().front()), format_date(reader_.dates().back()), format_step(reader_.step()));
  reader_.read(*index, {column_of_[size_t(v)]}, {member, member + 1}, model_.cells(), values.data());
}

void Forecaster::read_initial(int64_t member) {
  for (int64_t t = 0; t < num_input_steps(); ++t)
    for (int64_t v = 0; v < model_.variables().size(); ++v)
      if (state_.needs_initial(v) && column_of_[size_t(v)] >= 0)
        read(v, state_.initial_date(t), member, state_.initial(v, t));
}

// The dates of a forecast may lie beyond the dataset's, so here a formula comes before what is stored.
void Forecaster::read_forcings(int64_t member) {
  for (int64_t t = 0; t < num_output_steps(); ++t)
    for (int64_t v = 0; v < model_.variables().size(); ++v)
      if (state_.needs_forcing(v) && !is_computed_forcing(model_.variables().name(v)))
        read(v, state_.forcing_date(t), member, state_.forcing(v, t));
}

void Forecaster::run(int64_t start_date, int64_t lead_steps, const Sink& sink, int64_t member) {
  BOREAS_CHECK(lead_steps >= 1, invalid_argument, "a forecast has at least one step, not {}", lead_steps);
  BOREAS_CHECK(member >= 0 && member < reader_.num_members(), invalid_argument, "{} has no member {}; it has {}",
               reader_.name(), member, reader_.num_members());
  state_.begin(start_date);
  read_initial(member);
  const auto deliver = [&](int64_t done) {
    const Tensor fields = state_.fields();
    const int64_t num_outputs = fields.rows() / num_output_steps();
    for (int64_t o = 0; o < std::min(num_output_steps(), lead_steps - done); ++o)
      sink(done + o + 1, advance(start_date, model_.setup().step, done + o + 1),
           {fields.row<float>(o * num_outputs), size_t(num_outputs * fields.cols())});
  };
  const bool overlaps = model_.device().is_cuda();  // a GPU makes the next step while the host takes this one
  for (int64_t done = 0; done < lead_steps; done += num_output_steps()) {
    if (done > 0) read_forcings(member);
    state_.step();
    if (overlaps && done > 0) deliver(done - num_output_steps());
    state_.fetch();
    if (!overlaps || done + num_output_steps() >= lead_steps) deliver(done);
  }
}

}  // namespace boreas
