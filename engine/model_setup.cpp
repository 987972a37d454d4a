#include "engine/model_setup.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <numbers>
#include <numeric>
#include <sstream>

#include "engine/checkpoint.h"
#include "io/graph_file.h"
#include "io/hdf5_file.h"
#include "io/yaml.h"

namespace boreas {

namespace {

constexpr double kDegree = std::numbers::pi / 180;

std::vector<ResolvedBounding> resolve_boundings(const ModelSetup& setup) {
  const Preprocess preprocess = setup.preprocess();
  std::vector<ResolvedBounding> resolved;
  for (const BoundingConfig& config : setup.config.model.bounding) {
    ResolvedBounding bounding;
    bounding.kind = config.kind;
    bounding.minimum = config.minimum;
    bounding.maximum = config.maximum;
    const bool normalized =
        config.kind == BoundingKind::normalized_relu || config.kind == BoundingKind::normalized_leaky_relu;
    const bool fraction = config.kind == BoundingKind::fraction || config.kind == BoundingKind::leaky_fraction;
    for (const std::string& name : config.variables) {
      if (!setup.variables.find(name)) continue;
      bounding.columns.push_back(int32_t(setup.variables.output_index(name, "model.bounding.variables")));
      if (normalized) bounding.offsets.push_back(preprocess.normalise(*setup.variables.find(name), config.minimum));
    }
    if (bounding.columns.empty()) continue;
    if (fraction)
      bounding.total_column =
          int32_t(setup.variables.output_index(config.total_variable, "model.bounding.total_variable"));
    resolved.push_back(std::move(bounding));
  }
  return resolved;
}

// Where the cells of these nodes stand in the dataset.
std::vector<Range> stored_rows(const NodeSet& nodes) {
  if (nodes.part && !nodes.part->stored.empty()) return nodes.part->stored;
  return {nodes.rows()};
}

int64_t stored_row(const NodeSet& nodes, size_t k) {
  return cut(stored_rows(nodes), {int64_t(k), int64_t(k) + 1})[0].begin;
}

// In the order of the nodes. Of a patch the band around it is read.
Coordinates coordinates_of(const DatasetReader& reader, const NodeSet& nodes) {
  const std::vector<Range> stored = stored_rows(nodes);
  const Range band{stored.front().begin, stored.back().end};
  Coordinates all{reader.latitudes(band), reader.longitudes(band)};
  if (stored.size() == 1) return all;
  Coordinates own;
  for (const Range run : stored)
    for (int64_t cell = run.begin; cell < run.end; ++cell) {
      own.latitudes.push_back(all.latitudes[size_t(cell - band.begin)]);
      own.longitudes.push_back(all.longitudes[size_t(cell - band.begin)]);
    }
  return own;
}

// Where the points of the graph are not those of the dataset, in words; empty if they are.
std::string misfit(const GraphData& graph, const DatasetReader& reader) {
  const NodeSet& nodes = graph.node_set(kDataNodes);
  if (nodes.size() != reader.num_cells())
    return fmt::format("it has {} data nodes and the dataset {} cells", nodes.size(), reader.num_cells());
  const Coordinates found = coordinates_of(reader, nodes);
  const std::vector<double>&latitudes = found.latitudes, &longitudes = found.longitudes;
  for (size_t k = 0; k < nodes.latitudes.size(); ++k) {
    const double turn = std::remainder(nodes.longitudes[k] - longitudes[k] * kDegree, 2 * std::numbers::pi);
    if (std::abs(nodes.latitudes[k] - latitudes[k] * kDegree) > 1e-9 || std::abs(turn) > 1e-9)
      return fmt::format(
          "data node {} lies at latitude {:.6f}, longitude {:.6f} and cell {} of the dataset at {:.6f}, {:.6f}",
          stored_row(nodes, k), nodes.latitudes[k] / kDegree, nodes.longitudes[k] / kDegree, stored_row(nodes, k),
          latitudes[k], longitudes[k]);
  }
  return {};
}

bool is_of_another_training(const std::string& output, const GraphData& graph) {
  const std::optional<std::string> checkpoint = latest_checkpoint(output);
  return checkpoint && stored_graph_hash(Hdf5File::open(*checkpoint), "graph") != graph.hash();
}

void find_or_build_graph(const RunConfig& config, const DatasetReader& reader, GraphCache cache,
                         const GraphShare& share, ModelSetup& setup) {
  if (!config.graph.file.empty()) {
    const Hdf5File file = Hdf5File::open(config.graph.file);
    setup.graph_source = {config.graph.file, file.exists("graph") ? "graph" : ""};
    setup.graph = load_graph(file, setup.graph_source.group, share);
    const std::string why = misfit(setup.graph, reader);
    BOREAS_CHECK(why.empty(), config,
                 "{}: this graph does not belong to the dataset: {}. Make it again with `boreas graph`, or leave "
                 "graph.file empty",
                 config.graph.file, why);
    return;
  }
  namespace fs = std::filesystem;
  const std::string kept = (fs::path(config.output) / "graph.h5").string();
  const std::string recipe = to_yaml(config.graph.build);
  setup.graph_source = {kept, "graph"};
  if (fs::exists(kept)) {
    try {
      const Hdf5File file = Hdf5File::open(kept);
      if (file.has_attribute("", "recipe") && file.read_text_attribute("", "recipe") == recipe) {
        setup.graph = load_graph(file, "graph", share);
        if (misfit(setup.graph, reader).empty()) return;
      }
    } catch (const Error& error) {
      spdlog::warn("the graph is built again: {}", error.what());
    }
  }
  setup.graph = build_graph(config.graph.build, reader.latitudes(), reader.longitudes());
  if (cache == GraphCache::keep_of_training && is_of_another_training(config.output, setup.graph))
    cache = GraphCache::read_only;
  if (cache == GraphCache::read_only) {
    if (share.count > 1 && share.partition == GraphPartition::patches)
      setup.graph = part_of(in_patches(setup.graph, share.count), share.index, share.count);
    return;
  }
  fs::create_directories(config.output);
  Hdf5File file = Hdf5File::create(kept);
  save_graph(file, "graph", setup.graph);
  file.write_attribute("", "recipe", recipe);
  file.commit();
  if (share.count > 1) setup.graph = load_graph(Hdf5File::open(kept), "graph", share);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::string text_of(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

// Keys of `data` and `model` that do not change what the weights mean.
bool is_free(const std::string& key) {
  static const char* const free[] = {"data.dataset",
                                     "data.training",
                                     "data.validation",
                                     "data.prefetch",
                                     "data.num_threads",
                                     "model.recompute",
                                     "model.processor.attention_kernel",
                                     "model.encoder.num_chunks",
                                     "model.decoder.num_chunks"};
  return std::any_of(std::begin(free), std::end(free), [&](const std::string& prefix) {
    return key.starts_with(prefix) && (key.size() == prefix.size() || key[prefix.size()] == '.');
  });
}

std::map<std::string, std::string> binding_keys(const RunConfig& config) {
  std::map<std::string, std::string> keys;
  for (const auto& [key, value] : flatten_yaml(parse_yaml(resolved_config(config), "config")))
    if ((key.starts_with("data.") || key.starts_with("model.") || key == "precision") && !is_free(key))
      keys[key] = value;
  if (config.precision == Precision::bf16) keys["precision"] = to_string(Precision::f32);  // the type of its masters
  return keys;
}

}  // namespace

ModelShape ModelSetup::shape() const {
  ModelShape shape;
  shape.num_input_steps = config.data.num_input_steps;
  shape.num_output_steps = config.data.num_output_steps;
  shape.num_inputs = variables.num_inputs();
  shape.num_outputs = variables.num_outputs();
  shape.input_prognostic.assign(variables.input_prognostic().begin(), variables.input_prognostic().end());
  shape.output_prognostic.assign(variables.output_prognostic().begin(), variables.output_prognostic().end());
  shape.boundings = resolve_boundings(*this);
  shape.data_name = kDataNodes;
  shape.hidden_name = kHiddenNodes;
  return shape;
}

GraphShare graph_share(const RunConfig& config, const Communicator& ranks) {
  if (config.parallel.shard == ShardKind::heads) return {};
  return {ranks.rank(), ranks.size()};
}

int64_t ModelSetup::num_cells() const {
  return std::accumulate(field_shape.begin(), field_shape.end(), int64_t{1}, std::multiplies<>());
}

namespace {

std::span<const double> part_of_cells(const ModelSetup& setup, const std::vector<double>& values, Range cells) {
  const std::optional<GraphRows>& part = setup.graph.node_set(kDataNodes).part;
  BOREAS_ASSERT(!part || part->stored.empty());
  const bool all = int64_t(values.size()) == setup.num_cells();
  const int64_t first = all ? 0 : setup.graph.node_set(kDataNodes).rows().begin;
  return std::span(values).subspan(size_t(cells.begin - first), size_t(cells.size()));
}

std::vector<double> read_rows(const Hdf5File& file, const std::string& name, Range rows) {
  std::vector<double> values(static_cast<size_t>(rows.size()));
  if (!values.empty()) file.read_rows(name, rows.begin, Tensor(values.data(), DType::f64, {rows.size()}));
  return values;
}

}  // namespace

std::span<const double> ModelSetup::latitudes_of(Range cells) const { return part_of_cells(*this, latitudes, cells); }
std::span<const double> ModelSetup::longitudes_of(Range cells) const { return part_of_cells(*this, longitudes, cells); }

Coordinates all_coordinates(const ModelSetup& setup) {
  if (int64_t(setup.latitudes.size()) == setup.num_cells()) return {setup.latitudes, setup.longitudes};
  const Hdf5File file = Hdf5File::open(setup.graph_source.file);
  if (file.exists("variables/latitudes"))
    return {file.read_vector<double>("variables/latitudes"), file.read_vector<double>("variables/longitudes")};
  const std::string& group = setup.graph_source.group;
  const std::string nodes = fmt::format("{}{}nodes/{}/", group, group.empty() ? "" : "/", kDataNodes);
  Coordinates all{file.read_vector<double>(nodes + "latitudes"), file.read_vector<double>(nodes + "longitudes")};
  for (double& latitude : all.latitudes) latitude /= kDegree;
  for (double& longitude : all.longitudes) longitude /= kDegree;
  return all;
}

ModelSetup make_setup(const RunConfig& config, const DatasetReader& reader, GraphCache cache, const GraphShare& share) {
  ModelSetup setup;
  setup.config = config;
  setup.variables = VariableTable(reader.variables(), config.data.roles);
  for (int64_t v = 0; v < reader.num_variables(); ++v) {
    setup.units.push_back(reader.units(v));
    setup.constant.push_back(reader.constant(v));
    setup.computed.push_back(reader.computed(v));
  }
  const Statistics& statistics = reader.statistics();
  setup.step = reader.step();
  setup.statistics = {.mean = statistics.mean,
                      .stdev = statistics.stdev,
                      .minimum = statistics.minimum,
                      .maximum = statistics.maximum,
                      .tendency_stdev = {}};
  if (const auto tendency = reader.tendency_statistics(setup.step)) setup.statistics.tendency_stdev = tendency->stdev;
  setup.field_shape = reader.field_shape();
  setup.num_members = reader.num_members();
  (void)setup.preprocess();  // its errors before the longer work
  find_or_build_graph(config, reader, cache, share, setup);
  Coordinates coordinates;
  if (share.index == 0)
    coordinates = {reader.latitudes(), reader.longitudes()};
  else
    coordinates = coordinates_of(reader, setup.graph.node_set(kDataNodes));
  setup.latitudes = std::move(coordinates.latitudes);
  setup.longitudes = std::move(coordinates.longitudes);
  return setup;
}

std::span<const double> node_areas(const ModelSetup& setup, std::optional<Range> nodes) {
  const NodeSet& set = setup.graph.node_set(kDataNodes);
  const auto areas = set.attributes.find("area_weight");
  BOREAS_CHECK(areas != set.attributes.end(), config,
               "the graph has no area_weight of its data nodes; make it again with "
               "`boreas graph`");
  const Range rows = nodes.value_or(set.rows());
  return std::span(areas->second).subspan(size_t(rows.begin - set.rows().begin), size_t(rows.size()));
}

void write_setup(Hdf5File& file, const ModelSetup& setup) {
  file.write_text("config", resolved_config(setup.config));
  file.write_text("variables/names", text_of(setup.variables.names()));
  file.write_text("variables/units", text_of(setup.units));
  file.write<uint8_t>("variables/constant", setup.constant);
  file.write<uint8_t>("variables/computed", setup.computed);
  file.write_attribute("variables", "step", format_step(setup.step));
  file.write<double>("variables/latitudes", setup.latitudes);
  file.write<double>("variables/longitudes", setup.longitudes);
  file.write<int64_t>("variables/field_shape", setup.field_shape);
  file.write<int64_t>("variables/num_members", std::vector<int64_t>{setup.num_members});
  file.write<double>("statistics/mean", setup.statistics.mean);
  file.write<double>("statistics/stdev", setup.statistics.stdev);
  file.write<double>("statistics/minimum", setup.statistics.minimum);
  file.write<double>("statistics/maximum", setup.statistics.maximum);
  if (!setup.statistics.tendency_stdev.empty())
    file.write<double>("statistics/tendency_stdev", setup.statistics.tendency_stdev);
  if (setup.graph.is_part())
    file.copy_from(Hdf5File::open(setup.graph_source.file), setup.graph_source.group, "graph");
  else
    save_graph(file, "graph", setup.graph);
}

ModelSetup read_setup(const Hdf5File& file, std::optional<GraphShare> share) {
  BOREAS_ASSERT(!share || share->partition == GraphPartition::bands);
  BOREAS_CHECK(file.exists("config") && file.exists("variables/names"), corrupt_data,
               "{}: this HDF5 file is no boreas checkpoint: it has no /config and /variables", file.path());
  ModelSetup setup;
  setup.config = parse_config(file.read_text("config"), file.path() + "/config");
  setup.variables = VariableTable(lines_of(file.read_text("variables/names")), setup.config.data.roles);
  setup.units = lines_of(file.read_text("variables/units"));
  setup.constant = file.read_vector<uint8_t>("variables/constant");
  setup.computed = file.read_vector<uint8_t>("variables/computed");
  setup.step = parse_step(file.read_text_attribute("variables", "step"));
  setup.field_shape = file.read_vector<int64_t>("variables/field_shape");
  if (file.exists("variables/num_members"))
    setup.num_members = file.read_vector<int64_t>("variables/num_members").at(0);
  setup.statistics.mean = file.read_vector<double>("statistics/mean");
  setup.statistics.stdev = file.read_vector<double>("statistics/stdev");
  setup.statistics.minimum = file.read_vector<double>("statistics/minimum");
  setup.statistics.maximum = file.read_vector<double>("statistics/maximum");
  if (file.exists("statistics/tendency_stdev"))
    setup.statistics.tendency_stdev = file.read_vector<double>("statistics/tendency_stdev");
  setup.graph_source = {file.path(), "graph"};
  if (share) {
    setup.graph = load_graph(file, "graph", *share);
    const int64_t num_latitudes = file.info("variables/latitudes").shape.size(),
                  num_longitudes = file.info("variables/longitudes").shape.size(),
                  num_nodes = setup.graph.node_set(kDataNodes).size();
    BOREAS_CHECK(
        num_latitudes == setup.num_cells() && num_longitudes == setup.num_cells() && num_nodes == setup.num_cells(),
        corrupt_data, "{}: {} latitudes, {} longitudes and {} nodes of the graph do not belong together", file.path(),
        num_latitudes, num_longitudes, num_nodes);
    const Range cells = share->index == 0 ? Range{0, setup.num_cells()} : setup.graph.node_set(kDataNodes).rows();
    setup.latitudes = read_rows(file, "variables/latitudes", cells);
    setup.longitudes = read_rows(file, "variables/longitudes", cells);
  } else {
    setup.graph.stated_hash = stored_graph_hash(file, "graph");
  }
  const size_t num_variables = size_t(setup.variables.size());
  BOREAS_CHECK(setup.units.size() == num_variables && setup.constant.size() == num_variables &&
                   setup.computed.size() == num_variables && setup.statistics.mean.size() == num_variables,
               corrupt_data, "{}: its lists of variables have different lengths", file.path());
  return setup;
}

std::vector<std::string> differences(const ModelSetup& a, const ModelSetup& b, const std::string& a_name,
                                     const std::string& b_name) {
  std::vector<std::string> found;
  const auto differ = [&](const std::string& what, const std::string& in_a, const std::string& in_b) {
    found.push_back(fmt::format("{}: {} in the {}, {} in the {}", what, in_a, a_name, in_b, b_name));
  };
  const auto keys_a = binding_keys(a.config), keys_b = binding_keys(b.config);
  for (const auto& [key, value] : keys_a) {
    const auto other = keys_b.find(key);
    if (other == keys_b.end() || other->second != value)
      differ(key, value, other == keys_b.end() ? "absent" : other->second);
  }
  for (const auto& [key, value] : keys_b)
    if (!keys_a.count(key)) differ(key, "absent", value);

  for (const std::string& name : a.variables.names())
    if (!b.variables.find(name)) differ("variable " + name, "present", "absent");
  for (const std::string& name : b.variables.names())
    if (!a.variables.find(name)) differ("variable " + name, "absent", "present");
  const bool same_set = std::is_permutation(a.variables.names().begin(), a.variables.names().end(),
                                            b.variables.names().begin(), b.variables.names().end());
  if (same_set && a.variables.names() != b.variables.names())
    differ("order of variables", fmt::format("{}", fmt::join(a.variables.names(), ", ")),
           fmt::format("{}", fmt::join(b.variables.names(), ", ")));
  if (a.step != b.step) differ("step", format_step(a.step), format_step(b.step));
  if (a.graph.hash() != b.graph.hash()) differ("graph", "hash " + a.graph.hash(), "hash " + b.graph.hash());
  if (a.variables.names() == b.variables.names())
    for (size_t v = 0; v < a.statistics.mean.size(); ++v)
      if (a.statistics.mean[v] != b.statistics.mean[v] || a.statistics.stdev[v] != b.statistics.stdev[v])
        differ("statistics of " + a.variables.name(int64_t(v)),
               fmt::format("mean {}, stdev {}", a.statistics.mean[v], a.statistics.stdev[v]),
               fmt::format("mean {}, stdev {}", b.statistics.mean[v], b.statistics.stdev[v]));
  return found;
}

}  // namespace boreas
