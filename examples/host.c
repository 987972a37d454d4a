/* A toy host model in C: it deals its cells out to its ranks one by one, and lets boreas make two steps.
 *   mpirun -n 2 host_c CHECKPOINT */
#include <boreas.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static void check(int status) {
  if (status == BOREAS_OK) return;
  fprintf(stderr, "host_c: %s\n", boreas_error());
  MPI_Abort(MPI_COMM_WORLD, 1);
}

/* What the host would have computed. */
static double host_value(const boreas_variable_info* info, int64_t variable, int64_t cell, int64_t date) {
  return info->mean + info->stdev * sin(0.1 * (double)cell + (double)variable + (double)date / 86400.0);
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  MPI_Comm comm = MPI_COMM_WORLD;
  int rank, size;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);

  boreas_model_options options = {sizeof options};
  options.mpi_comm = &comm;
  boreas_model* model;
  check(boreas_model_open(argc > 1 ? argv[1] : "", &options, &model));
  boreas_model_info info = {sizeof info};
  check(boreas_model_describe(model, &info));

  int64_t count = 0, *cells = malloc((size_t)info.num_cells * sizeof *cells);
  for (int64_t cell = rank; cell < info.num_cells; cell += size) cells[count++] = cell;
  check(boreas_model_set_cells(model, cells, count));
  double* values = malloc((size_t)(count + 1) * sizeof *values);

  boreas_state* state;
  check(boreas_state_open(model, NULL, &state));
  int64_t start, date;
  check(boreas_parse_date("1970-01-03", &start));
  check(boreas_state_begin(state, start));
  for (int step = 0; step < 2; ++step) { /* first all inputs, then the forcings of the new date */
    check(boreas_state_date(state, &date));
    for (int64_t v = 0; v < info.num_variables; ++v) {
      boreas_variable_info variable = {sizeof variable};
      check(boreas_model_variable(model, v, &variable));
      if (variable.is_computed || variable.role == BOREAS_DIAGNOSTIC) continue;
      if (step > 0 && (variable.role != BOREAS_FORCING || variable.is_constant)) continue;
      boreas_field field = {sizeof field, variable.name, variable.units, BOREAS_F64, BOREAS_HOST, count, 1, values};
      for (int64_t t = step == 0 ? info.num_input_times - 1 : 0; t >= 0; --t) {
        for (int64_t i = 0; i < count; ++i)
          values[i] = host_value(&variable, v, cells[i], date - t * info.step_seconds);
        check(boreas_state_set(state, date - t * info.step_seconds, &field));
      }
    }
    check(boreas_state_step(state));
  }

  check(boreas_state_date(state, &date));
  for (int64_t v = 0; v < info.num_variables; ++v) {
    boreas_variable_info variable = {sizeof variable};
    check(boreas_model_variable(model, v, &variable));
    if (variable.role == BOREAS_FORCING) continue;
    boreas_field field = {sizeof field, variable.name, variable.units, BOREAS_F64, BOREAS_HOST, count, 1, values};
    check(boreas_state_read(state, date, &field));
    double sum = 0, total;
    for (int64_t i = 0; i < count; ++i) sum += values[i] * (double)(cells[i] + 1); /* tells cells apart */
    MPI_Allreduce(&sum, &total, 1, MPI_DOUBLE, MPI_SUM, comm);
    if (rank == 0) printf("%s %.9e\n", variable.name, total / (double)info.num_cells);
  }
  check(boreas_state_close(state));
  check(boreas_model_close(model));
  MPI_Finalize();
  return 0;
}
