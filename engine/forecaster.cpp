#include "engine/forecaster.h"

#include "io/forcings.h"

namespace boreas {

Arena::Peak Forecaster::plan(const StepModel& model, Device device) { return ModelState::plan(model, device); }

Forecaster::Forecaster(const StepModel& model, std::unique_ptr<ForecastSource> source)
    : model_(model), source_(std::move(source)), state_(model) {}
Forecaster::Forecaster(const StepModel& model, const DatasetReader& reader)
    : Forecaster(model, dataset_source(model, reader)) {}

void Forecaster::read_initial() {
  for (int64_t t = 0; t < num_input_steps(); ++t)
    for (int64_t v = 0; v < model_.variables().size(); ++v)
      if (state_.needs_initial(v) && source_->holds(v))
        source_->read(v, state_.initial_date(t), member_, state_.initial(v, t));
}

// The dates of a forecast may lie beyond the source's, so here a formula comes before what is stored.
void Forecaster::read_forcings() {
  for (int64_t t = 0; t < num_output_steps(); ++t)
    for (int64_t v = 0; v < model_.variables().size(); ++v)
      if (state_.needs_forcing(v) && !is_computed_forcing(model_.variables().name(v)))
        source_->read(v, state_.forcing_date(t), member_, state_.forcing(v, t));
}

// What the state holds on the host: the states after `done` of the lead_steps that are wanted.
void Forecaster::deliver(int64_t done, int64_t lead_steps, const Sink& sink) {
  const Tensor fields = state_.fields();
  const int64_t num_outputs = fields.rows() / num_output_steps();
  for (int64_t o = 0; o < std::min(num_output_steps(), lead_steps - done); ++o)
    sink(done + o + 1, advance(state_.start_date(), model_.setup().step, done + o + 1),
         {fields.row<float>(o * num_outputs), size_t(num_outputs * fields.cols())});
}

void Forecaster::begin(int64_t start_date, int64_t member) {
  BOREAS_CHECK(member >= 0 && member < source_->num_members(), invalid_argument, "{} has no member {}; it has {}",
               source_->name(), member, source_->num_members());
  state_.begin(start_date);
  member_ = member;
  read_initial();
}

void Forecaster::next(const Sink& sink) {
  const int64_t done = num_done();
  if (done > 0) read_forcings();
  state_.step();
  state_.fetch();
  deliver(done, done + num_output_steps(), sink);
}

void Forecaster::run(int64_t start_date, int64_t lead_steps, const Sink& sink, int64_t member) {
  BOREAS_CHECK(lead_steps >= 1, invalid_argument, "a forecast has at least one step, not {}", lead_steps);
  begin(start_date, member);
  const bool overlaps = model_.device().is_cuda();  // a GPU makes the next step while the host takes this one
  for (int64_t done = 0; done < lead_steps; done += num_output_steps()) {
    if (done > 0) read_forcings();
    state_.step();
    if (overlaps && done > 0) deliver(done - num_output_steps(), lead_steps, sink);
    state_.fetch();
    if (!overlaps || done + num_output_steps() >= lead_steps) deliver(done, lead_steps, sink);
  }
}

}  // namespace boreas
