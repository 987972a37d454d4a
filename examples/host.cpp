// The host of host.c in C++.
//   mpirun -n 2 host_cpp CHECKPOINT
#include <mpi.h>

#include <boreas.hpp>
#include <cmath>
#include <cstdio>

using namespace boreas::host;

namespace {

// What the host would have computed.
double host_value(const boreas_variable_info& info, size_t variable, int64_t cell, int64_t date) {
  return info.mean + info.stdev * std::sin(0.1 * double(cell) + double(variable) + double(date) / 86400.0);
}

void run(MPI_Comm comm, const char* checkpoint) {
  int rank = 0, size = 1;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  auto options = make<boreas_model_options>();
  options.mpi_comm = &comm;
  Model model(checkpoint, options);
  const boreas_model_info info = model.info();
  const std::vector<boreas_variable_info> variables = model.variables();

  std::vector<int64_t> cells;
  for (int64_t cell = rank; cell < info.num_cells; cell += size) cells.push_back(cell);
  model.set_cells(cells);
  std::vector<double> values(cells.size());

  State state(model);
  state.begin(parse_date("1970-01-03"));
  for (int step = 0; step < 2; ++step) {  // first all inputs, then the forcings of the new date
    for (size_t v = 0; v < variables.size(); ++v) {
      const boreas_variable_info& variable = variables[v];
      if (variable.is_computed || variable.role == BOREAS_DIAGNOSTIC) continue;
      if (step > 0 && (variable.role != BOREAS_FORCING || variable.is_constant)) continue;
      for (int64_t t = step == 0 ? info.num_input_times - 1 : 0; t >= 0; --t) {
        const int64_t date = state.date() - t * info.step_seconds;
        for (size_t i = 0; i < cells.size(); ++i) values[i] = host_value(variable, v, cells[i], date);
        state.set(date, variable.name, values);
      }
    }
    state.step();
  }

  for (const boreas_variable_info& variable : variables) {
    if (variable.role == BOREAS_FORCING) continue;
    state.read(state.date(), variable.name, values);
    double sum = 0, total = 0;
    for (size_t i = 0; i < cells.size(); ++i) sum += values[i] * double(cells[i] + 1);  // tells cells apart
    MPI_Allreduce(&sum, &total, 1, MPI_DOUBLE, MPI_SUM, comm);
    if (rank == 0) std::printf("%s %.9e\n", variable.name, total / double(info.num_cells));
  }
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  try {
    run(MPI_COMM_WORLD, argc > 1 ? argv[1] : "");
  } catch (const Error& error) {
    std::fprintf(stderr, "host_cpp: %s\n", error.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
}
