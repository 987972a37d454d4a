// The command line. Each command reads its arguments, calls the engine, and prints what came out.
#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <new>
#include <optional>
#include <system_error>

#include "comm/communicator.h"
#include "engine/checkpoint.h"
#include "engine/commands.h"
#include "engine/memory_plan.h"
#include "engine/progress.h"
#include "engine/trainer.h"
#include "io/dataset_writer.h"
#include "kernels/core/near_names.h"

namespace boreas {
namespace {

constexpr int kUserError = 2, kInternalError = 1;

/// The ranks that mpirun or srun started, one without them. What fails on any of them ends all.
class Session {
 public:
  explicit Session(std::unique_ptr<Communicator> world) : world_(std::move(world)) {}

  Communicator& world() const { return *world_; }
  bool is_root() const { return world_->rank() == 0; }
  const ProcessGrid& grid(const ParallelConfig& config) {
    grid_.emplace(ProcessGrid::make(world_->split(0), config.model_ranks, config.ensemble_ranks));
    return *grid_;
  }
  template <class... Args>
  void print(fmt::format_string<Args...> format, Args&&... args) const {
    if (is_root()) fmt::print(format, std::forward<Args>(args)...);
  }
  void check_command(const std::string& name) const {
    const bool shares = name == "plan" || name == "train" || name == "forecast" || name == "evaluate";
    check_agreement(*world_, "command", name);
    BOREAS_CHECK(shares || world_->size() == 1, unsupported, "`boreas {}` runs on one rank, and {} were started", name,
                 world_->size());
  }
  /// Tells what went wrong, in one line; returns the exit status.
  int fail(int status, const std::string& message) const {
    if (world_->size() > 1) world_->abort(message, status);
    fmt::print(stderr, "boreas: {}\n", message);
    return status;
  }

 private:
  std::unique_ptr<Communicator> world_;
  std::optional<ProcessGrid> grid_;  // lives as long as this: its end would wait for ranks that have not failed
};

/// What all commands on a configuration take.
struct ConfigArguments {
  std::string path;
  std::vector<std::string> overrides;

  void add_to(CLI::App* command) {
    command->add_option("config", path, "configuration file; see `boreas config` for all settings")->required();
    command->add_option("--set", overrides, "override a setting, may be repeated: --set training.max_steps=100")
        ->type_name("KEY=VALUE")
        ->allow_extra_args(false);
  }
  RunConfig load() const { return load_config(path, overrides); }
  /// Before anything that the ranks do in turn with each other.
  RunConfig load(const Session& session) const {
    RunConfig config = load();
    check_agreement(session.world(), "configuration", resolved_config(config));
    return config;
  }
};

/// Shows the progress of work that calls back with (done, total).
class CallbackProgress {
 public:
  CallbackProgress(std::string task, std::string unit) : task_(std::move(task)), unit_(std::move(unit)) {}
  void operator()(int64_t done, int64_t total) {
    if (!progress_) progress_ = std::make_shared<Progress>(task_, total, unit_);
    progress_->advance(done - std::exchange(done_, done));
    if (done == total) progress_->finish();
  }

 private:
  std::string task_, unit_;
  std::shared_ptr<Progress> progress_;  // shared, because the callee copies its callback
  int64_t done_ = 0;
};

void add_dataset_commands(CLI::App& app) {
  CLI::App* const dataset = app.add_subcommand("dataset", "create, inspect and rechunk Anemoi datasets");
  dataset->require_subcommand(1);

  {
    CLI::App* const command =
        dataset->add_subcommand("create", "make a dataset from NetCDF or GRIB files, or Zarr stores");
    auto config = std::make_shared<DatasetCreateConfig>();
    auto rename = std::make_shared<std::vector<std::string>>();
    command->add_option("output", config->output, "dataset to write, a name ending in .zarr")->required();
    command->add_option("--from", config->inputs, "NetCDF or GRIB files, or Zarr stores")
        ->required()
        ->check(CLI::ExistingPath);
    command->add_option("--variables", config->variables, "variables to take: u (all levels) or u_500; default: all")
        ->delimiter(',');
    command->add_option("--rename", *rename, "new names: OLD=NEW")->delimiter(',');
    command->add_option("--forcings", config->forcings, "computed forcings to add: cos_latitude, insolation, ...")
        ->delimiter(',');
    command->add_option("--start", config->start, "first date");
    command->add_option("--end", config->end, "last date, inclusive");
    command->add_option("--statistics-start", config->statistics_start, "first date of the statistics");
    command->add_option("--statistics-end", config->statistics_end,
                        "last date of the statistics; default: without the last 20 % or years");
    command->add_option("--tendencies", config->tendencies, "lags of tendency statistics: 6h, 1M")->delimiter(',');
    command->add_option("--grid-chunks", config->storage.grid_chunks, "chunks of each date along the grid")
        ->check(CLI::PositiveNumber);
    command->add_option("--compressor", config->storage.compressor, "lz4, lz4hc, zstd, zlib, blosclz or none");
    command->add_option("--level", config->storage.level, "compression level");
    command->add_option("--description", config->description, "what the dataset is");
    command->add_flag("--allow-nans", config->allow_nans, "fields may hold NaN");
    command->add_flag("--overwrite", config->overwrite, "replace an existing dataset");
    command->callback([=] {
      for (const std::string& pair : *rename) {
        const size_t equals = pair.find('=');
        BOREAS_CHECK(equals != std::string::npos && equals > 0 && equals + 1 < pair.size(), invalid_argument,
                     "--rename {}: expected OLD=NEW", pair);
        config->rename[pair.substr(0, equals)] = pair.substr(equals + 1);
      }
      create_dataset(*config, CallbackProgress("create", "dates"));
      fmt::print("wrote {}\n", config->output);
    });
  }
  {
    CLI::App* const command = dataset->add_subcommand("inspect", "show what a dataset holds");
    auto path = std::make_shared<std::string>();
    command->add_option("path", *path, "dataset")->required();
    command->callback([=] { fmt::print("{}", inspect_dataset(*path)); });
  }
  {
    CLI::App* const command =
        dataset->add_subcommand("rechunk", "write a dataset again with other chunks or compression");
    auto input = std::make_shared<std::string>(), output = std::make_shared<std::string>();
    auto storage = std::make_shared<DatasetStorage>();
    auto overwrite = std::make_shared<bool>(false);
    command->add_option("input", *input, "dataset to read")->required();
    command->add_option("output", *output, "dataset to write")->required();
    command->add_option("--grid-chunks", storage->grid_chunks, "chunks of each date along the grid")
        ->check(CLI::PositiveNumber);
    command->add_option("--compressor", storage->compressor, "lz4, lz4hc, zstd, zlib, blosclz or none");
    command->add_option("--level", storage->level, "compression level");
    command->add_flag("--overwrite", *overwrite, "replace an existing dataset");
    command->callback([=] {
      rechunk_dataset(*input, *output, *storage, *overwrite, CallbackProgress("rechunk", "dates"));
      fmt::print("wrote {}\n", *output);
    });
  }
}

void add_run_commands(CLI::App& app, Session& session) {
  const auto on_config = [&](const std::string& name, const std::string& help, auto&& body) {
    CLI::App* const command = app.add_subcommand(name, help);
    auto arguments = std::make_shared<ConfigArguments>();
    arguments->add_to(command);
    body(command, arguments);
  };

  on_config("graph", "build the graph of a configuration, and show it", [](CLI::App* command, auto arguments) {
    command->callback([=] { fmt::print("{}", make_graph(arguments->load())); });
  });

  on_config("plan", "work out the memory that a run will need, before it runs", [&](CLI::App* command, auto arguments) {
    auto num_ranks = std::make_shared<int64_t>(0);
    command->add_option(
        "--ranks", *num_ranks,
        "and what so many ranks would need and send, and how long an update might take; none need to be there");
    command->callback([=, &session] {
      const RunConfig config = arguments->load(session);
      // The groups of a configuration are of as many ranks as --ranks says, not of those that work it out.
      const ParallelConfig here = *num_ranks != 0 ? ParallelConfig{} : config.parallel;
      session.print("{}", make_plan(config, session.grid(here)));
      if (*num_ranks != 0 && session.is_root()) fmt::print("{}", make_communication_plan(config, *num_ranks));
    });
  });

  on_config("train", "train a model", [&](CLI::App* command, auto arguments) {
    auto options = std::make_shared<TrainOptions>();
    command->add_flag("--resume", options->resume,
                      "go on from the latest checkpoint of the output folder, if there is one");
    command->add_option("--from", options->initial_weights, "checkpoint whose weights a new training starts from");
    command->callback([=, &session] {
      const RunConfig config = arguments->load(session);
      check_agreement(session.world(), "options",
                      fmt::format("--resume {}\n--from {}", options->resume, options->initial_weights));
      const TrainingSummary summary = train(config, *options, session.grid(config.parallel));
      session.print("wrote {}\n", summary.checkpoint);
    });
  });

  const auto add_checkpoint = [](CLI::App* command) {
    auto checkpoint = std::make_shared<std::string>();
    command->add_option("--checkpoint", *checkpoint,
                        "checkpoint file; default: the best of the output folder, else the latest");
    return checkpoint;
  };
  on_config("forecast", "forecast from dates of a dataset or a state in files, and write NetCDF, Zarr or GRIB",
            [&](CLI::App* command, auto arguments) {
              auto checkpoint = add_checkpoint(command);
              auto resume = std::make_shared<bool>(false);
              command->add_flag("--resume", *resume, "go on with the same forecast where a run was ended");
              command->callback([=, &session] {
                const RunConfig config = arguments->load(session);
                for (const std::string& path : make_forecasts(config, checkpoint->empty() ? config.output : *checkpoint,
                                                              session.world(), *resume))
                  session.print("wrote {}\n", path);
              });
            });

  on_config("evaluate", "score forecasts against persistence and climatology; maps and an HTML report",
            [&](CLI::App* command, auto arguments) {
              auto checkpoint = add_checkpoint(command);
              command->callback([=, &session] {
                const RunConfig config = arguments->load(session);
                const auto scores =
                    make_evaluation(config, checkpoint->empty() ? config.output : *checkpoint, session.world());
                session.print("{}\nwrote {}/evaluation.json, maps/*.png and report.html\n", score_table(scores),
                              config.output);
              });
            });

  on_config("import", "make a checkpoint from weights under their Anemoi names (HDF5 or safetensors)",
            [](CLI::App* command, auto arguments) {
              auto weights = std::make_shared<std::string>();
              command->add_option("weights", *weights, "HDF5 or safetensors file")->required();
              command->callback([=] { fmt::print("{}", make_import(arguments->load(), *weights)); });
            });

  CLI::App* const export_command =
      app.add_subcommand("export", "write the weights of a checkpoint under their Anemoi names");
  auto checkpoint = std::make_shared<std::string>(), output = std::make_shared<std::string>();
  export_command->add_option("checkpoint", *checkpoint, "checkpoint file, or output folder of a training")->required();
  export_command->add_option("output", *output, "file to write, ending in .h5, .hdf5 or .safetensors")->required();
  export_command->callback([=] {
    make_export(*checkpoint, *output);
    fmt::print("wrote {}\n", *output);
  });

  CLI::App* const config = app.add_subcommand("config", "print all settings with their defaults and meanings");
  auto arguments = std::make_shared<ConfigArguments>();
  config->add_option("config", arguments->path, "print this configuration resolved instead");
  config->add_option("--set", arguments->overrides, "override a setting")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  config->callback(
      [=] { fmt::print("{}", arguments->path.empty() ? config_reference() : resolved_config(arguments->load())); });
}

/// What is wrong with the arguments, on one line.
std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* command = &app;
  std::string name = app.get_name();
  while (!command->get_subcommands().empty()) {
    command = command->get_subcommands().front();
    name += " " + command->get_name();
  }
  std::string problem = error.what();
  std::vector<std::string> known;
  for (const CLI::App* const subcommand : command->get_subcommands({})) known.push_back(subcommand->get_name());
  if (const auto rest = command->remaining(); !known.empty() && !rest.empty())
    problem = fmt::format("there is no command '{}'{}", rest[0], near_names(rest[0], known));
  return fmt::format("{}; see {} --help", problem, name);
}

}  // namespace

int run_command_line(int argc, char** argv, Session& session) {
  CLI::App app("boreas: an engine for data-driven weather models", "boreas");
  app.set_version_flag("--version", "boreas " BOREAS_VERSION);
  app.require_subcommand(1);
  bool verbose = false;
  app.add_flag("-v,--verbose", verbose, "say where errors come from, and log details");
  spdlog::set_default_logger(spdlog::stderr_logger_mt("boreas"));
  spdlog::set_pattern("%v");
  app.parse_complete_callback([&] {
    spdlog::set_level(!session.is_root() ? spdlog::level::off : verbose ? spdlog::level::debug : spdlog::level::info);
    for (const CLI::App* const command : app.get_subcommands()) session.check_command(command->get_name());
  });
  add_dataset_commands(app);
  add_run_commands(app, session);
  try {
    check_agreement(session.world(), "version", BOREAS_VERSION);
    app.parse(argc, argv);
    BOREAS_CHECK(std::fflush(stdout) == 0, io, "the standard output cannot be written: {}", std::strerror(errno));
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return session.is_root() ? app.exit(error) : 0;  // prints help or version
    return session.fail(kUserError, explain(app, error));
  } catch (const Error& error) {
    return session.fail(
        error.code() == ErrorCode::internal ? kInternalError : kUserError,
        verbose ? fmt::format("{}\n({} at {})", error.what(), to_string(error.code()), error.origin()) : error.what());
  } catch (const std::filesystem::filesystem_error& error) {
    return session.fail(kUserError, fmt::format("{}: {}", error.path1().string(), error.code().message()));
  } catch (const std::system_error& error) {
    return session.fail(kUserError, error.what());
  } catch (const std::bad_alloc&) {
    return session.fail(kUserError, "out of memory; `boreas plan` says how much a run needs");
  } catch (const std::exception& error) {
    return session.fail(
        kInternalError,
        fmt::format("unexpected failure: {}\nThis is a defect of boreas; please report it.", error.what()));
  }
}

}  // namespace boreas

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file that grows over the limit is then a failed write, as on a full disk
  std::unique_ptr<boreas::Communicator> world;
  try {
    world = boreas::make_world_communicator();
  } catch (const boreas::Error& error) {
    fmt::print(stderr, "boreas: {}\n", error.what());
    return boreas::kUserError;
  }
  boreas::Session session(std::move(world));
  return boreas::run_command_line(argc, argv, session);
}
