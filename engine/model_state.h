// ModelState: the state of one forecast on this rank's cells, and its steps. It knows no dataset.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "engine/replay.h"
#include "engine/step_model.h"

namespace boreas {

/// A forecast is, from the first call again whenever a new one begins:
///
///   begin(start_date)
///   initial(v, t) = ...               fields at T_i times, the last one that of the start date
///   step(); fetch(); fields()         T_o states from it
///   forcing(v, t) = ...               of their dates, what the next step needs of them
///   step(); fetch(); fields()         ... and so on
///
/// Values are in physical units. What is not given is computed if it is a computed forcing, and held if it is a
/// constant forcing; anything else that a step needs is an error. All memory is taken at construction; a GPU queues its
/// steps (as recordings, see Replay), so that the host may read the next forcings and take the fields of the step
/// before while it computes. Fetched fields leave while the network of the next step computes, which waits for them
/// only before it writes its own.
///
/// Of a model over several ranks each has the state of its own cells; all of them take the same steps.
class ModelState {
 public:
  /// The model must outlive it.
  explicit ModelState(const StepModel& model);
  ModelState(const ModelState&) = delete;

  const StepModel& model() const { return model_; }
  Context& context() { return ctx_; }

  /// A start date; takes back all that was given.
  void begin(int64_t start_date);
  /// Date of input time t < T_i, and of the newest states' time t < T_o, which are inputs before the first step.
  int64_t initial_date(int64_t time) const;
  int64_t forcing_date(int64_t time) const;
  int64_t start_date() const { return start_date_; }
  int64_t num_steps() const { return num_steps_; }

  /// Whether the model starts from a variable: from all but the diagnostic ones.
  bool needs_initial(int64_t variable) const;
  /// Whether it needs its values on later dates: those of forcings that change.
  bool needs_forcing(int64_t variable) const;
  /// Where values go, f32 [cells of this rank] on the host; asking for the place gives the variable.
  std::span<float> initial(int64_t variable, int64_t time);
  std::span<float> forcing(int64_t variable, int64_t time);

  /// The same of values that lie on the model's device, f32 [1, cells], without missing ones: they are read where they
  /// are, and must stay until the next step is done. Not where the model imputes.
  void use_initial(int64_t variable, int64_t time, const Tensor& values);
  void use_forcing(int64_t variable, int64_t time, const Tensor& values);

  /// Checks and completes what was given, as step does at its begin; of this rank only. Throws invalid_argument naming
  /// what is lacking, and corrupt_data for a value that is not finite and not imputed, naming variable and date.
  void prepare();
  /// Queues the next T_o states. Collective; prepares, if that was not done.
  void step();
  /// Queues their way to the host; what fields() showed before is no longer wanted.
  void fetch();
  /// Waits for what was fetched: f32 [T_o * V_o, cells] on the host, missing where imputed variables were at the start.
  Tensor fields();
  /// On the device, as the last step leaves them: without missing values.
  const Tensor& device_fields() const { return steps_.outputs; }

  /// What construction takes besides the model: the arena, at the high-water mark of a planned step; host memory for
  /// (T_i + T_o) times of all variables and T_o times of the outputs; on a GPU memory for T_o times of the forcings
  /// that change and of the outputs. In the arena stand the features of the data nodes with the input states, in the
  /// network's type, the newest states y and, with forecast.fold, what weights and graph alone decide.
  static Arena::Peak plan(const StepModel& model, Device device);
  static int64_t staging_bytes(const StepModel& model);
  static int64_t device_bytes(const StepModel& model, Device device);
  int64_t arena_peak_bytes() const { return arena_.peak_bytes(); }  ///< of the steps that really ran

 private:
  // Fields on the host: the window it starts from, that of the forcings, and its outputs.
  struct HostFields {
    HostFields(const StepModel& model, void* data);
    FieldWindow initial, forcings;
    Tensor outputs;
    int64_t bytes = 0;
  };
  // Forcings that change, on the device (on the CPU as rows of the host's window), and where a step puts them.
  struct Forcings {
    Forcings(const StepModel& model, bool compact);
    struct Run {
      int64_t column;             // of an input state, the first of
      std::vector<int32_t> rows;  // these fields side by side
    };
    std::vector<int32_t> variables;      // of the rows of one time
    std::vector<double> mul, add, fill;  // by row
    std::vector<Run> runs;
  };
  // What steps work on, and what they do.
  struct Steps {
    Steps(Context& ctx, const StepModel& model, const HostFields& host, void* device_memory);
    Tensor slot(int64_t time) const;           // columns of the features that are an input state
    Tensor newest(int64_t output_step) const;  // columns of y
    Tensor forcings_at(int64_t output_step) const;
    /// Initial values of these variables at one time, f32 [variables, cells].
    void take(Context& ctx, const Tensor& fields, Range variables, int64_t time) const;
    /// What weights and graph alone decide; the memory of an earlier call is taken again.
    void fix(Context& ctx);
    void compute(Context& ctx, bool first) const;
    /// From y to fields in their units.
    void show(Context& ctx) const;

    const StepModel& model;
    Forcings changing;
    Tensor features, y;
    Tensor forcings, outputs;
    Arena::Mark before_fixed;
    std::optional<EncoderProcessorDecoder::Fixed> fixed;
    int64_t version = -1;  // of the weights that it was made of

   private:
    void advance(Context& ctx) const;
  };
  const ModelSetup& setup() const { return model_.setup(); }
  std::span<float> place(const FieldWindow& window, std::vector<uint8_t>& given, int64_t variable, int64_t time,
                         bool needed);
  void complete(const Tensor& fields, std::span<const uint8_t> given, int64_t date, bool initial);
  void take_initial();
  void take_forcings();
  // A field that lies on the device.
  struct Source {
    int64_t variable, time;
    Tensor values;
  };
  void use(std::span<float> place, const Source& source);
  void check_sources();

  const StepModel& model_;
  std::vector<double> latitudes_, longitudes_;  // of this rank's cells
  Buffer staging_memory_, device_memory_;
  HostFields host_;
  Stream fetching_;
  Event uploaded_, shown_, fetched_;
  NanMask nan_mask_;  // where the start date has no values
  Arena arena_;
  Context ctx_;
  Replay replay_;
  Steps steps_;
  std::vector<uint8_t> initial_given_, forcing_given_;  // by time and variable
  std::vector<Source> sources_;                         // of the next step
  int64_t start_date_ = 0, num_steps_ = 0;
  bool begun_ = false, prepared_ = false;
};

}  // namespace boreas
