/* boreas as a library: forecasts and training steps inside a C, C++ or Fortran program. See docs/library.md.
 *
 * Every function that returns int gives a status, BOREAS_OK or what went wrong; boreas_error() then says in a sentence
 * what it was and what to do. Nothing is thrown, printed or ended. Structs begin with struct_size, which the caller
 * sets to sizeof; all other members may be zero, which stands for the usual. Arrays of cells hold one value for each
 * cell that this rank has (see boreas_model_set_cells). Dates are seconds since 1970-01-01T00:00:00 UTC.
 *
 * A model and its states are used by one thread at a time; different models by different threads. Of a model over
 * several ranks the functions marked "collective" are called by all of them alike: an error on one is one on all. */
#ifndef BOREAS_H
#define BOREAS_H

#include <stddef.h>
#include <stdint.h>

#define BOREAS_API_VERSION 1

#if defined(__GNUC__)
#define BOREAS_API __attribute__((visibility("default")))
#else
#define BOREAS_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct boreas_model boreas_model;
typedef struct boreas_state boreas_state;

enum {
  BOREAS_OK = 0,
  BOREAS_INVALID_ARGUMENT = 1, /* a name, date, option or pointer that makes no sense */
  BOREAS_SHAPE = 2,            /* an array of another size */
  BOREAS_CONFIG = 3,           /* what the checkpoint was configured with does not fit */
  BOREAS_IO = 4,               /* a file cannot be read or written */
  BOREAS_CORRUPT_DATA = 5,     /* a damaged file; NaN in a field */
  BOREAS_OUT_OF_MEMORY = 6,
  BOREAS_DEVICE = 7, /* a GPU failed */
  BOREAS_COMM = 8,   /* MPI failed, or another rank: the text is that rank's */
  BOREAS_UNSUPPORTED = 9,
  BOREAS_INTERNAL = 10,
  BOREAS_BAD_HANDLE = 11, /* null, closed, or never a handle */
  BOREAS_WRONG_ORDER = 12 /* something else must be called first */
};

enum { BOREAS_PROGNOSTIC = 0, BOREAS_FORCING = 1, BOREAS_DIAGNOSTIC = 2 };
enum { BOREAS_F32 = 0, BOREAS_F64 = 1 };
enum { BOREAS_HOST = 0, BOREAS_DEVICE_MEMORY = 1 };
enum { BOREAS_AUTO = 0, BOREAS_CPU = 1, BOREAS_CUDA = 2 };

/* What went wrong in the last call of this thread; "" after one that went well. Valid until its next call. */
BOREAS_API const char* boreas_error(void);
BOREAS_API const char* boreas_version(void);
BOREAS_API int boreas_api_version(void);

/* "2020-01-31T06" to a date and back; `size` of at least 20. */
BOREAS_API int boreas_parse_date(const char* text, int64_t* date);
BOREAS_API int boreas_format_date(int64_t date, char* text, size_t size);

/* ---- models ----------------------------------------------------------------------------------------------------- */

typedef void (*boreas_log)(const char* line, void* user);

typedef struct boreas_model_options {
  size_t struct_size;
  int32_t device;           /* BOREAS_AUTO: as the checkpoint was configured */
  int32_t training;         /* not 0: for training steps too, with gradients and the optimizer's state */
  const void* mpi_comm;     /* address of an MPI_Comm whose ranks share the model; null: this process alone */
  int32_t has_fortran_comm; /* not 0: the communicator is fortran_comm, as Fortran programs hold it */
  int32_t fortran_comm;
  int64_t memory_budget; /* bytes; 0: no limit. Work is cut into chunks until it fits */
  boreas_log log;        /* called with what is worth knowing; null: nothing is said */
  void* log_user;
} boreas_model_options;

typedef struct boreas_model_info {
  size_t struct_size;
  int64_t num_variables;    /* for boreas_model_variable */
  int64_t num_cells;        /* of the whole grid */
  int64_t num_local_cells;  /* of this rank: the size of arrays */
  int64_t first_cell;       /* global number of the first one, unless boreas_model_set_cells said otherwise */
  int64_t num_input_times;  /* states that a forecast starts from */
  int64_t num_output_times; /* states that a step makes */
  int64_t step_seconds;     /* between states; 0 if it is in months */
  int64_t step_months;
  int64_t num_parameters;
  int64_t grid_rank; /* sizes of the grid as the dataset had it: 1, or 2 for latitudes and longitudes */
  int64_t grid_shape[4];
  int32_t rank, num_ranks;
  int32_t cuda_device; /* -1: the CPU */
  int32_t training;
  int64_t batch_size;  /* samples of a training step of this rank */
  int64_t max_rollout; /* of training */
  int64_t num_updates; /* training steps behind it */
} boreas_model_info;

typedef struct boreas_variable_info {
  size_t struct_size;
  const char* name; /* texts are valid until the model is closed */
  const char* units;
  int32_t role;        /* BOREAS_PROGNOSTIC in and out, BOREAS_FORCING in, BOREAS_DIAGNOSTIC out */
  int32_t is_computed; /* not 0: known from date and place, so it need not be set */
  int32_t is_constant; /* not 0: the same on all dates, so it is set at the start only */
  int32_t has_level;
  double level;
  double mean, stdev, minimum, maximum; /* in the training data */
} boreas_variable_info;

typedef struct boreas_memory {
  size_t struct_size;
  int64_t forecast_bytes; /* on the device, of a model and one state */
  int64_t training_bytes;
  int64_t forecast_host_bytes; /* pinned memory of a GPU's host */
  int64_t training_host_bytes;
  int64_t context_bytes; /* what a GPU needs besides */
} boreas_memory;

/* A checkpoint file, or the output folder of a training. Collective. */
BOREAS_API int boreas_model_open(const char* checkpoint, const boreas_model_options* options, boreas_model** model);
/* States that are still open keep it alive. Null is an error, not a crash; so is a second close. */
BOREAS_API int boreas_model_close(boreas_model* model);
BOREAS_API int boreas_model_describe(const boreas_model* model, boreas_model_info* info);
BOREAS_API int boreas_model_variable(const boreas_model* model, int64_t index, boreas_variable_info* info);
BOREAS_API int boreas_model_find(const boreas_model* model, const char* name, int64_t* index);
/* Degrees, of all cells of the grid: count = num_cells. */
BOREAS_API int boreas_model_coordinates(const boreas_model* model, double* latitudes, double* longitudes,
                                        int64_t count);
/* The cells of the grid that the host has on this rank, by their global numbers, in its own order; every cell on
 * exactly one rank. Arrays are in this order from then on. Before the first state is opened. Collective. */
BOREAS_API int boreas_model_set_cells(boreas_model* model, const int64_t* cells, int64_t count);
/* What a model takes, before it is opened; `model` options as for opening. Collective. */
BOREAS_API int boreas_plan_memory(const char* checkpoint, const boreas_model_options* options, boreas_memory* memory);

/* ---- fields ----------------------------------------------------------------------------------------------------- */

/* An array of the host: one variable at one date. */
typedef struct boreas_field {
  size_t struct_size;
  const char* name;
  const char* units; /* null: not checked, else they must be the variable's */
  int32_t dtype;     /* BOREAS_F32 or BOREAS_F64 */
  int32_t location;  /* BOREAS_DEVICE_MEMORY: on the model's GPU, f32 without gaps; read and written there */
  int64_t count;     /* cells */
  int64_t stride;    /* elements from one cell to the next; 0 is 1 */
  void* data;
} boreas_field;

/* ---- forecasts -------------------------------------------------------------------------------------------------- */

typedef struct boreas_state_options {
  size_t struct_size;
  void* stream;       /* cudaStream_t of the host: work comes after what is queued there, and before what follows */
  int32_t has_stream; /* not 0: stream is one; null is then CUDA's default stream */
  int32_t reserved;
} boreas_state_options;

typedef struct boreas_timings {
  size_t struct_size;
  int64_t num_steps;
  double set_seconds, step_seconds, read_seconds; /* in the calls, of all steps since the state was opened */
} boreas_timings;

BOREAS_API int boreas_state_open(boreas_model* model, const boreas_state_options* options, boreas_state** state);
BOREAS_API int boreas_state_close(boreas_state* state);
/* A forecast begins. Its inputs are those of this date and of the num_input_times - 1 steps before it. */
BOREAS_API int boreas_state_begin(boreas_state* state, int64_t start_date);
/* A variable at a date: before the first step inputs, afterwards, on the dates of the last step's states, forcings that
 * are neither computed nor constant. Arrays on the host are copied; those on a GPU are read by the next step. */
BOREAS_API int boreas_state_set(boreas_state* state, int64_t date, const boreas_field* field);
/* The next num_output_times states. Collective. */
BOREAS_API int boreas_state_step(boreas_state* state);
/* So many steps, for models whose forcings are all computed or constant. Collective. */
BOREAS_API int boreas_state_rollout(boreas_state* state, int64_t num_steps);
/* Of the newest state. */
BOREAS_API int boreas_state_date(const boreas_state* state, int64_t* date);
/* A prognostic or diagnostic variable at a date that the last step made, into field->data. */
BOREAS_API int boreas_state_read(boreas_state* state, int64_t date, const boreas_field* field);
/* The same without a copy: fills dtype, location, count, stride and data; valid until the next step. */
BOREAS_API int boreas_state_view(boreas_state* state, int64_t date, const char* name, boreas_field* field);
BOREAS_API int boreas_state_timings(const boreas_state* state, boreas_timings* timings);

/* ---- training --------------------------------------------------------------------------------------------------- */

typedef struct boreas_training_options {
  size_t struct_size;
  int64_t rollout;      /* model steps to train through; 0: 1 */
  double learning_rate; /* 0: the checkpoint's schedule at this update */
} boreas_training_options;

typedef struct boreas_training_result {
  size_t struct_size;
  double loss;          /* mean over samples, ranks and rollout */
  double gradient_norm; /* before clipping; nothing was changed if it is not finite */
  double seconds;
  int64_t num_updates; /* behind the model now */
} boreas_training_result;

/* A variable of sample 0 .. batch_size - 1 at time 0 .. num_input_times + rollout * num_output_times - 1. All variables
 * of all these times are needed, targets too. */
BOREAS_API int boreas_training_set(boreas_model* model, int64_t sample, int64_t time, const boreas_field* field);
/* One update from the samples that were set; the next begins with none. Collective. */
BOREAS_API int boreas_training_step(boreas_model* model, const boreas_training_options* options,
                                    boreas_training_result* result);
/* A checkpoint that boreas train goes on from, and that can be opened. Needs a model opened for training. Collective.
 */
BOREAS_API int boreas_model_save(boreas_model* model, const char* path);

#ifdef __cplusplus
}
#endif

#endif
